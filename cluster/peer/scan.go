package peer

import (
	"bytes"

	"github.com/millrace/millrace/router/mail"
)

// A scanState says which octet of a message stands before the next one.
type scanState uint8

const (
	atStart  scanState = iota // CRLF, or nothing yet: a line begins
	inLine                    // any other octet
	afterCR                   // a CR
	afterDot                  // the dot that opens a line, in the form Stuffed
)

// A lineScan looks through the pieces of a message for what would end it early at the destination: a peer of ours has
// found the lines and dots of the message, and another program that has its certificate need not. The zero lineScan
// stands at the start of a message.
type lineScan struct{ state scanState }

// smuggles reports whether o, which follows what was scanned before, holds a CR or an LF by itself, a dot that opens a
// line and is not among the dots, or, in the form Stuffed, a line with one dot alone.
func (s *lineScan) smuggles(o mail.Octets) bool {
	base, dots := 0, o.Dots
	for _, p := range o.Segments {
		i, pairs := 0, 0
		for i < len(p) {
			switch s.state {
			case atStart:
				s.state = inLine
				if p[i] != '.' {
					continue
				}
				for len(dots) > 0 && int(dots[0]) < base+i {
					dots = dots[1:]
				}
				if len(dots) == 0 || int(dots[0]) != base+i {
					return true
				}
				i++
				if o.Form == mail.Stuffed {
					s.state = afterDot
				}
			case afterDot:
				if p[i] == '\r' {
					return true
				}
				s.state = inLine
			case inLine:
				j := bytes.IndexByte(p[i:], '\r')
				if j < 0 {
					i = len(p)
					continue
				}
				i += j + 1
				s.state = afterCR
			case afterCR:
				if p[i] != '\n' {
					return true
				}
				i++
				pairs++
				s.state = atStart
			}
		}
		if bytes.Count(p, []byte{'\n'}) != pairs {
			return true
		}
		base += len(p)
	}
	return false
}

// unfinished reports whether the end of data behind what was scanned would make of it what smuggles looks for.
func (s *lineScan) unfinished() bool { return s.state == afterCR || s.state == afterDot }
