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
	crlf    = []byte("\r\n")
	dotCRLF = []byte(".\r\n")
	crlfDot = []byte("\r\n.\r\n")
)

// copies are the buffers of pieces that are gathered by a copy. They grow to the largest piece, which the hold window
// bounds.
var copies = sync.Pool{New: func() any { return new([]byte) }}

// appendAs appends to vec the slices of a piece in the form it is to be sent in. In a flood of dots that is one slice
// of a buffer, which goes back to copies after the send.
func appendAs(vec [][]byte, o mail.Octets, to mail.Form) (_ [][]byte, borrowed *[]byte) {
	if o.Form == to || len(o.Dots) <= maxDots {
		return o.Slices(vec, to), nil
	}
	buf, ok := copies.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	*buf = o.AppendAs((*buf)[:0], to)
	return append(vec, *buf), buf
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
// end a line gets a CRLF first.
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
