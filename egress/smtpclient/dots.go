package smtpclient

import (
	"bytes"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

// maxDots is the number of dots in a piece up to which it is sent in slices around them. More are gathered by one copy,
// because a flood of lines that open with a dot must not make thousands of vectors.
const maxDots = 64

var (
	crlf      = []byte("\r\n")
	dotCRLF   = []byte(".\r\n")
	crlfDot   = []byte("\r\n.\r\n")
	singleDot = []byte(".")
)

// copies are the buffers of pieces that are gathered by a copy. They grow to the largest piece, which the hold window
// bounds.
var copies = sync.Pool{New: func() any { return new([]byte) }}

// appendStuffed appends to vec the slices of o, which is Plain, with a dot before each that opens a line.
func appendStuffed(vec [][]byte, o mail.Octets) [][]byte {
	at, dots := 0, o.Dots // at: the offset of the segment's first octet
	for _, s := range o.Segments {
		from := 0
		for len(dots) > 0 && int(dots[0])-at < len(s) {
			i := int(dots[0]) - at
			if i > from {
				vec = append(vec, s[from:i])
			}
			vec, from, dots = append(vec, singleDot), i, dots[1:]
		}
		if from < len(s) {
			vec = append(vec, s[from:])
		}
		at += len(s)
	}
	return vec
}

// appendPlain appends to vec the slices of o, which is Stuffed, without the added dots.
func appendPlain(vec [][]byte, o mail.Octets) [][]byte {
	at, dots := 0, o.Dots
	for _, s := range o.Segments {
		from := 0
		for len(dots) > 0 && int(dots[0])-at < len(s) {
			i := int(dots[0]) - at
			if i > from {
				vec = append(vec, s[from:i])
			}
			from, dots = i+1, dots[1:]
		}
		if from < len(s) {
			vec = append(vec, s[from:])
		}
		at += len(s)
	}
	return vec
}

// appendAs appends to vec the slices of a piece in the form it is to be sent in. In a flood of dots that is one slice
// of a buffer, which is to be given back to copies after the send.
func appendAs(vec [][]byte, o mail.Octets, from, to mail.Form) (_ [][]byte, borrowed *[]byte) {
	if from == to || len(o.Dots) == 0 {
		for _, s := range o.Segments {
			if len(s) > 0 {
				vec = append(vec, s)
			}
		}
		return vec, nil
	}
	convert := appendStuffed
	if to == mail.Plain {
		convert = appendPlain
	}
	if len(o.Dots) <= maxDots {
		return convert(vec, o), nil
	}
	buf, ok := copies.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	*buf = copyAs((*buf)[:0], o, to)
	return append(vec, *buf), buf
}

// copyAs appends to b the octets of o in the form to, which is not the one they have.
func copyAs(b []byte, o mail.Octets, to mail.Form) []byte {
	at, dots := 0, o.Dots
	for _, s := range o.Segments {
		from := 0
		for len(dots) > 0 && int(dots[0])-at < len(s) {
			i := int(dots[0]) - at
			b = append(b, s[from:i]...)
			from, dots = i, dots[1:]
			if to == mail.Plain {
				from++
				continue
			}
			b = append(b, '.')
		}
		b = append(b, s[from:]...)
		at += len(s)
	}
	return b
}

// lengthAs is the number of octets of o in the form to.
func lengthAs(o mail.Octets, from, to mail.Form) int {
	n := o.Len()
	switch {
	case from == to:
		return n
	case to == mail.Plain:
		return n - len(o.Dots)
	}
	return n + len(o.Dots)
}

// A tail remembers the last two octets of the message so far, to know whether it ends a line.
type tail struct {
	last [2]byte
	n    int64
}

func (t *tail) add(o mail.Octets) {
	for _, s := range o.Segments {
		t.n += int64(len(s))
		switch len(s) {
		case 0:
		case 1:
			t.last = [2]byte{t.last[1], s[0]}
		default:
			t.last = [2]byte(s[len(s)-2:])
		}
	}
}

// endsLine reports whether the message is empty or ends in CRLF.
func (t *tail) endsLine() bool { return t.n == 0 || t.last == [2]byte{'\r', '\n'} }

// appendEnd appends the end of data to vec, the last piece of a message sent by DATA. Where the octets of the dot line
// were read right behind the last segment, that segment is made longer and nothing is added. A message that does not
// end a line is given a CRLF first.
func appendEnd(vec [][]byte, o mail.Octets, t *tail) [][]byte {
	if !t.endsLine() {
		return append(vec, crlfDot)
	}
	if len(vec) == 0 || len(o.Segments) == 0 {
		return append(vec, dotCRLF)
	}
	last, segment := vec[len(vec)-1], o.Segments[len(o.Segments)-1]
	if len(segment) == 0 || &last[len(last)-1] != &segment[len(segment)-1] || cap(segment) < len(segment)+len(dotCRLF) {
		return append(vec, dotCRLF)
	}
	if behind := segment[len(segment) : len(segment)+len(dotCRLF)]; !bytes.Equal(behind, dotCRLF) {
		return append(vec, dotCRLF)
	}
	vec[len(vec)-1] = last[:len(last)+len(dotCRLF)]
	return vec
}
