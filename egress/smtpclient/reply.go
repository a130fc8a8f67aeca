package smtpclient

import (
	"bytes"
	"errors"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// The ways in which a reply can be malformed.
var (
	errReplySyntax = errors.New("malformed reply")
	errReplyCode   = errors.New("reply with differing codes")
	errReplyLength = errors.New("reply too long")
)

// A reply is one reply of the server. text belongs to the parser and lasts until its next feed.
type reply struct {
	code     int // 200 to 599
	enhanced mail.EnhancedCode
	text     []byte // lines separated by "\n", without code and enhanced code
}

func (r reply) class() int { return r.code / 100 }

// mail returns the reply as a value of its own. The code is as it came, 421 included.
func (r reply) mail() mail.Reply {
	return mail.Reply{Code: r.code, Enhanced: r.enhanced, Text: string(r.text)}
}

// A parser reads replies (RFC 5321 section 4.2) from octets that come in any pieces. Lines may end in a bare LF. What
// is over the limits is an error: the server chooses a reply's length, but not how much of our memory it takes.
type parser struct {
	maxLine, maxLines, maxOctets int

	line   []byte // an incomplete line
	lines  int
	octets int
	reply  reply
}

// partial reports whether a reply has begun and not ended.
func (p *parser) partial() bool { return p.lines > 0 || len(p.line) > 0 }

// feed reads octets up to the end of one reply. It returns the number of octets it took, which is less than len(b) only
// where a reply ended or an error was found. The reply lasts until the next feed.
func (p *parser) feed(b []byte) (n int, r reply, done bool, err error) {
	for n < len(b) {
		i := bytes.IndexByte(b[n:], '\n')
		if i < 0 {
			p.line = append(p.line, b[n:]...)
			if len(p.line) > p.maxLine {
				return n, reply{}, false, errReplyLength
			}
			return len(b), reply{}, false, nil
		}
		line := b[n : n+i+1]
		n += i + 1
		if len(p.line) > 0 {
			p.line = append(p.line, line...)
			line = p.line
		}
		done, err = p.take(line)
		p.line = p.line[:0]
		if err != nil {
			return n, reply{}, false, err
		}
		if done {
			p.lines, p.octets = 0, 0
			return n, p.reply, true, nil
		}
	}
	return n, reply{}, false, nil
}

// take reads one line with its LF and reports whether it was the last of its reply.
func (p *parser) take(line []byte) (last bool, err error) {
	p.octets += len(line)
	if len(line) > p.maxLine || p.octets > p.maxOctets || p.lines == p.maxLines {
		return false, errReplyLength
	}
	line = line[:len(line)-1]
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !ascii.IsDigit(line[1]) || !ascii.IsDigit(line[2]) {
		return false, errReplySyntax
	}
	code := int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if p.lines == 0 {
		p.reply = reply{code: code, text: p.reply.text[:0]}
	} else {
		p.reply.text = append(p.reply.text, '\n')
	}
	if code != p.reply.code {
		return false, errReplyCode
	}
	p.lines++
	if len(line) == 3 {
		return true, nil
	}
	sep, text := line[3], line[4:]
	if sep != ' ' && sep != '-' {
		return false, errReplySyntax
	}
	if e, rest, ok := cutEnhanced(text, line[0]); ok {
		p.reply.enhanced, text = e, rest
	}
	p.reply.text = append(p.reply.text, text...)
	return sep == ' ', nil
}

// cutEnhanced reads an enhanced status code (RFC 3463 section 2) from the start of text. One whose class is not the
// reply's stays in the text, where it can still be read: a Reply cannot hold it.
func cutEnhanced(text []byte, class byte) (e mail.EnhancedCode, rest []byte, ok bool) {
	if len(text) < 5 || text[0] != class || class == '3' || text[1] != '.' {
		return e, nil, false
	}
	subject, text := cutNumber(text[2:])
	if len(text) == 0 || text[0] != '.' {
		return e, nil, false
	}
	detail, text := cutNumber(text[1:])
	if subject < 0 || detail < 0 {
		return e, nil, false
	}
	if len(text) > 0 && text[0] != ' ' {
		return e, nil, false
	}
	if len(text) > 0 {
		text = text[1:]
	}
	return mail.EnhancedCode{Subject: uint16(subject), Detail: uint16(detail)}, text, true
}

// cutNumber reads one to three digits. The number is -1 where there is no digit.
func cutNumber(b []byte) (int, []byte) {
	n, i := 0, 0
	for i < len(b) && i < 3 && ascii.IsDigit(b[i]) {
		n = n*10 + int(b[i]-'0')
		i++
	}
	if i == 0 {
		return -1, b
	}
	return n, b[i:]
}
