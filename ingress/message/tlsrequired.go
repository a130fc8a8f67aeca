package message

import (
	"bytes"
	"context"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// waiverName is the name of the field by which a sender waives what destinations ask of TLS, in lower case.
const waiverName = "tls-required:"

// maxWaiver is how many octets of its value are read. A longer one waives nothing.
const maxWaiver = 200

// A waiverScan looks for TLS-Required (RFC 8689 section 5). Of several fields none counts.
type waiverScan struct {
	fields int
	open   bool // the field has begun, and may go on
	value  []byte
}

// line takes one line of the header section with its end.
func (s *waiverScan) line(l []byte) {
	switch {
	case ascii.IsWSP(l[0]):
	case len(l) >= len(waiverName) && bytes.EqualFold(l[:len(waiverName)], []byte(waiverName)):
		l = l[len(waiverName):]
		s.fields++
		s.open = true
	default:
		s.open = false
	}
	if s.open {
		s.value = append(s.value, l[:min(len(l), maxWaiver+1-len(s.value))]...)
	}
}

// waives reports whether the one field says No.
func (s *waiverScan) waives() bool {
	return s.fields == 1 && len(s.value) <= maxWaiver && isNo(s.value)
}

// isNo reports whether a value is No in any case, with blanks and comments around it.
func isNo(value []byte) bool {
	rest, ok := skipComments(value)
	if !ok || len(rest) < 2 || !bytes.EqualFold(rest[:2], []byte("no")) {
		return false
	}
	rest, ok = skipComments(rest[2:])
	return ok && len(rest) == 0
}

// skipComments returns what stands behind blanks, line ends and comments (RFC 5322 section 3.2.2). ok is false if a
// comment does not end.
func skipComments(b []byte) (rest []byte, ok bool) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			i++
		case depth == 0 && !ascii.IsFWS(c):
			return b[i:], true
		}
	}
	return nil, depth == 0
}

// waiving returns ctx for the transaction at the next hop: it says so if the message waives what the destination asks
// of TLS. That counts for nothing where the sender demands TLS (RFC 8689 section 5), nor where the header section is
// larger than what was read before the next hop hears of the message.
func (m *Message) waiving(ctx context.Context) context.Context {
	if head := &m.window.head; head.done && head.waiver.waives() && !m.Params.RequireTLS {
		return mail.WaiveTLS(ctx)
	}
	return ctx
}
