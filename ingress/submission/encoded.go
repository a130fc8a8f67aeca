package submission

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// A charset says how the octets of a display name part into characters, as far as that tells which of them are ASCII.
type charset uint8

const (
	noCharset charset = iota
	utf8Set
	single   // each octet is a character, those below 128 are ASCII
	eucJP    // an octet above 128 has another such one behind it: EUC-JP
	eucKR    // the same: EUC-KR
	shiftJIS // an octet from 0x81 to 0x9f or from 0xe0 to 0xfc has another one behind it, which may be below 128
	gbk      // the same from 0x81 to 0xfe
	big5     // as gbk
	switched // ISO-2022-JP: escapes part ASCII from pairs
)

// charsets are those that can be read, in lower case. UTF-7 and the like are none: in these an "@" has other octets.
var charsets = map[string]charset{
	"utf-8": utf8Set, "us-ascii": single, "koi8-r": single, "koi8-u": single, "tis-620": single, "macintosh": single,
	"gb2312": gbk, "gbk": gbk, "gb18030": gbk, "big5": big5, "euc-kr": eucKR, "ks_c_5601-1987": eucKR,
	"euc-jp": eucJP, "shift_jis": shiftJIS, "cp932": shiftJIS, "windows-31j": shiftJIS, "windows-949": eucKR,
	"iso-2022-jp": switched,
}

// charsetOf returns how a charset is read.
func charsetOf(name string) charset {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "iso-8859-") || strings.HasPrefix(name, "windows-125") {
		return single
	}
	return charsets[name]
}

// decodeWords returns a display name with its encoded words (RFC 2047) decoded, also those within quotes and those that
// stand beside others without a blank, as some readers do. Of charsets but UTF-8 what is not ASCII becomes "?". It
// reports false if something stands there that begins as an encoded word and cannot be read.
func decodeWords(s string) (string, bool) {
	var out strings.Builder
	joined := false // the last thing was an encoded word
	for {
		before, rest, found := strings.Cut(s, "=?")
		if !found {
			out.WriteString(s)
			return out.String(), true
		}
		if !joined || strings.Trim(before, " \t") != "" {
			out.WriteString(before)
		}
		name, rest, ok1 := strings.Cut(rest, "?")
		encoding, rest, ok2 := strings.Cut(rest, "?")
		text, rest, ok3 := strings.Cut(rest, "?=")
		if !ok1 || !ok2 || !ok3 {
			return "", false
		}
		name, _, _ = strings.Cut(name, "*") // its language (RFC 2231 section 5)
		octets, ok := decodeWord(encoding, text)
		plain, ok4 := asciiOf(octets, charsetOf(name))
		if !ok || !ok4 {
			return "", false
		}
		out.WriteString(plain)
		s, joined = rest, true
	}
}

// decodeWord decodes the text of an encoded word.
func decodeWord(encoding, text string) (string, bool) {
	switch encoding {
	case "B", "b":
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			b, err = base64.RawStdEncoding.DecodeString(text)
		}
		return string(b), err == nil
	case "Q", "q":
		return decodeQ(text)
	}
	return "", false
}

// decodeQ decodes what is like quoted-printable (RFC 2047 section 4.2).
func decodeQ(text string) (string, bool) {
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '_':
			b = append(b, ' ')
		case '=':
			if i+2 >= len(text) {
				return "", false
			}
			high, low := unhex(text[i+1]), unhex(text[i+2])
			if high > 15 || low > 15 {
				return "", false
			}
			b = append(b, high<<4|low)
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b), true
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// asciiOf returns octets of a charset with "?" for each character that is not ASCII, and UTF-8 as it is. It reports
// false if they cannot be read.
func asciiOf(s string, set charset) (string, bool) {
	switch set {
	case utf8Set:
		return s, utf8.ValidString(s)
	case single:
		return strings.Map(func(r rune) rune {
			if r >= utf8.RuneSelf {
				return '?'
			}
			return r
		}, s), true
	case eucJP, eucKR, shiftJIS, gbk, big5:
		return asciiOfPairs(s, set), true
	case switched:
		return asciiOfSwitched(s)
	}
	return "", false
}

// wide are the pairs that are a fullwidth "@", "<" or ">", each of which is one to a reader.
var wide = map[charset]map[string]byte{
	eucJP:    {"\xa1\xf7": '@', "\xa1\xe3": '<', "\xa1\xe4": '>'},
	eucKR:    {"\xa3\xc0": '@', "\xa3\xbc": '<', "\xa3\xbe": '>'},
	shiftJIS: {"\x81\x97": '@', "\x81\x83": '<', "\x81\x84": '>'},
	gbk:      {"\xa3\xc0": '@', "\xa3\xbc": '<', "\xa3\xbe": '>'},
	big5:     {"\xa2\x49": '@', "\xa1\xd5": '<', "\xa1\xd6": '>'},
}

// asciiOfPairs is asciiOf where some octets above 128 have another one behind them.
func asciiOfPairs(s string, set charset) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c < utf8.RuneSelf:
			b.WriteByte(c)
		case i+1 < len(s) && set.pairs(c, s[i+1]):
			ascii, ok := wide[set][s[i:i+2]]
			if !ok {
				ascii = '?'
			}
			b.WriteByte(ascii)
			i++
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// pairs reports whether two octets, of which the first is not below 128, may be one character.
func (set charset) pairs(first, second byte) bool {
	switch set {
	case eucJP, eucKR:
		return second >= utf8.RuneSelf
	case shiftJIS:
		return second >= '@' && (first > 0x80 && first < 0xa0 || first >= 0xe0 && first < 0xfd)
	}
	return first > 0x80 && first < 0xff && (second >= '@' || '0' <= second && second <= '9') // digits: GB18030
}

// asciiOfSwitched is asciiOf of ISO-2022-JP (RFC 1468). A fullwidth "@" is one to a reader.
func asciiOfSwitched(s string) (string, bool) {
	var b strings.Builder
	pairs := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == 0x1b && i+2 < len(s):
			switch s[i+1 : i+3] {
			case "(B", "(J":
				pairs = false
			case "$@", "$B":
				pairs = true
			default:
				return "", false
			}
			i += 2
		case s[i] == 0x1b:
			return "", false
		case !pairs:
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i:i+2] == "!w":
			b.WriteByte('@')
			i++
		default:
			b.WriteByte('?')
			i++
		}
	}
	return b.String(), !pairs
}
