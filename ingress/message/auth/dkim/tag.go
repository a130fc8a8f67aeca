package dkim

import (
	"bytes"
	"errors"
	"iter"
	"strconv"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// maxTags bounds the tags of a tag list. The registries name about a dozen.
const maxTags = 64

var (
	errTagSyntax    = errors.New("tag list syntax error")
	errTagDuplicate = errors.New("duplicate tag")
	errTagCount     = errors.New("too many tags")
)

// A Tag is one tag=value of a tag list. Value is a part of the octets that were parsed. It has its folding but not the
// white space around it.
type Tag struct {
	Name  string
	Value []byte
	// Start and End are the offsets of the octets between the equals sign and the next semicolon or the end of the
	// list, white space included. Of b= they are left out when it is hashed (RFC 6376 section 3.7).
	Start, End int
}

// A TagList is a tag list (RFC 6376 section 3.2) in its order. Names are case-sensitive and unique.
type TagList []Tag

// ParseTagList parses a tag list. Octets above 127 are value characters, as in RFC 8616. A list with a duplicate name
// is in error as a whole, as section 3.2 demands; one of more than 64 tags is refused.
//
// Names may have a hyphen, which the RFC does not have and other implementations take. It changes nothing: a name that
// is not known means nothing.
func ParseTagList(s []byte) (TagList, error) { return parseTags(make(TagList, 0, 12), s, false) }

// parseTags is ParseTagList into the memory of list, which is empty. With gaps there may be nothing between two
// semicolons. Implementations in use write such signatures and key records and take them, but no ARC fields (they fail
// in the suite of ValiMail). It is safe: what is nothing cannot change what a tag means, and a signature is over the
// octets as they stand.
func parseTags(list TagList, s []byte, gaps bool) (TagList, error) {
	for at := 0; at < len(s); {
		end := at + bytes.IndexByte(s[at:], ';')
		if end < at {
			end = len(s)
		}
		blank := len(trimFWS(s[at:end])) == 0
		switch {
		case blank && end == len(s) && len(list) > 0:
			return list, nil // white space behind the last semicolon is no tag
		case blank && gaps && validFWS(s[at:end]):
			at = end + 1
			continue
		}
		tag, err := parseTag(s, at, end)
		if err != nil {
			return nil, err
		}
		if len(list) == maxTags {
			return nil, errTagCount
		}
		if _, ok := list.Lookup(tag.Name); ok {
			return nil, errTagDuplicate
		}
		list = append(list, tag)
		at = end + 1
	}
	if len(list) == 0 {
		return nil, errTagSyntax
	}
	return list, nil
}

func parseTag(s []byte, at, end int) (Tag, error) {
	eq := bytes.IndexByte(s[at:end], '=')
	if eq < 0 {
		return Tag{}, errTagSyntax
	}
	eq += at
	name := trimFWS(s[at:eq])
	if !isTagName(name) || !validFWS(s[at:end]) {
		return Tag{}, errTagSyntax
	}
	value := trimFWS(s[eq+1 : end])
	for _, c := range value {
		// No semicolon can be here. NUL and other controls are errors.
		if c < 0x20 && !ascii.IsFWS(c) || c == 0x7f {
			return Tag{}, errTagSyntax
		}
	}
	return Tag{Name: string(name), Value: value, Start: eq + 1, End: end}, nil
}

// Lookup returns the tag with a name, and whether there is one.
func (l TagList) Lookup(name string) (Tag, bool) {
	for _, t := range l {
		if t.Name == name {
			return t, true
		}
	}
	return Tag{}, false
}

// Get returns the value of a tag. It is nil if the list has no tag of that name; an empty value is not nil.
func (l TagList) Get(name string) []byte {
	t, _ := l.Lookup(name)
	return t.Value
}

// maxTimestamp bounds the digits of a time; RFC 6376 section 3.5 asks for values up to 10^12.
const maxTimestamp = 15

// Timestamp returns the time of a tag in seconds since 1970, the zero Time if the list has no tag of that name, and
// whether the tag can be read.
func (l TagList) Timestamp(name string) (time.Time, bool) {
	tag, ok := l.Lookup(name)
	if !ok {
		return time.Time{}, true
	}
	if len(tag.Value) > maxTimestamp {
		return time.Time{}, false
	}
	n, err := strconv.ParseUint(string(tag.Value), 10, 63)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(int64(n), 0).UTC(), true
}

// isTagName reports whether s is an ALPHA followed by letters, digits, underscores and hyphens.
func isTagName(s []byte) bool {
	for i, c := range s {
		if !ascii.IsAlpha(c) && (i == 0 || !ascii.IsDigit(c) && c != '_' && c != '-') {
			return false
		}
	}
	return len(s) > 0
}

// validFWS reports whether each line end in s folds the line: CRLF with white space behind it.
func validFWS(s []byte) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '\r' && s[i] != '\n' {
			continue
		}
		if i+2 >= len(s) || s[i] != '\r' || s[i+1] != '\n' || !ascii.IsWSP(s[i+2]) {
			return false
		}
		i += 2
	}
	return true
}

func trimFWS(s []byte) []byte {
	for len(s) > 0 && ascii.IsFWS(s[0]) {
		s = s[1:]
	}
	for len(s) > 0 && ascii.IsFWS(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// withoutFWS appends to dst the octets of s that are not folding white space.
func withoutFWS(dst, s []byte) []byte {
	for _, c := range s {
		if !ascii.IsFWS(c) {
			dst = append(dst, c)
		}
	}
	return dst
}

// colonList returns the elements of a colon-separated list without the white space around them.
func colonList(s []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for more := true; more; {
			var element []byte
			element, s, more = bytes.Cut(s, []byte{':'})
			if !yield(trimFWS(element)) {
				return
			}
		}
	}
}
