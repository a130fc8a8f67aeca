package mail

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"strconv"
	"strings"
)

// A TraceID names one mail transaction from its first command to its last reply. It is the W3C trace id of the
// transaction's trace, and stands at the end of our refusals and of our reply to the dot. The zero TraceID is none.
type TraceID [16]byte

// String gives 32 hexadecimal digits.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// IsZero reports whether t names nothing.
func (t TraceID) IsZero() bool { return t == TraceID{} }

// An EnhancedCode is an enhanced status code of RFC 3463 without its class, which a Reply takes from its code so that
// the two cannot disagree.
type EnhancedCode struct {
	Subject uint16
	Detail  uint16
}

// A Reply is an SMTP reply (RFC 5321 section 4.2).
type Reply struct {
	Code     int          // 200 to 599
	Enhanced EnhancedCode // written with every 2yz, 4yz and 5yz (RFC 2034)
	Text     string       // lines are separated by "\n"; the code and the enhanced code are not part of it
	ID       TraceID      // written as " id=" and 32 digits at the end of the last line, unless zero
}

// MaxReplyLine is the most that one line of a reply takes on the wire, CRLF included (RFC 5321 section 4.5.3.1.5).
const MaxReplyLine = 512

// NewReply makes a Reply; subject and detail are those of its enhanced code.
func NewReply(code, subject, detail int, text string) Reply {
	return Reply{Code: code, Enhanced: EnhancedCode{uint16(subject), uint16(detail)}, Text: text}
}

// Class is the first digit of the code: 2 means done, 3 go on, 4 try again, 5 never.
func (r Reply) Class() int { return r.Code / 100 }

// WithID gives r with the trace id that its last line ends in.
func (r Reply) WithID(id TraceID) Reply {
	r.ID = id
	return r
}

// String gives the reply on one line for people: code, enhanced code and text, lines joined by " / ".
func (r Reply) String() string {
	b := strconv.AppendInt(nil, int64(r.Code), 10)
	b = r.appendEnhanced(append(b, ' '))
	b = append(b, strings.ReplaceAll(strings.TrimSpace(r.Text), "\n", " / ")...)
	if !r.ID.IsZero() {
		b = append(b, " id="...)
		b = hex.AppendEncode(b, r.ID[:])
	}
	return string(b)
}

// AppendTo appends the reply as it goes on the wire. Each line carries the code and the enhanced code (RFC 2034 section
// 4). No line is longer than MaxReplyLine: its text is cut, never the id. Octets outside printable ASCII become "?", so
// that no text, whoever wrote it, can add a line or command a terminal.
func (r Reply) AppendTo(b []byte) []byte {
	text := r.Text
	for {
		line, rest, more := strings.Cut(text, "\n")
		b = strconv.AppendInt(b, int64(r.Code), 10)
		room := MaxReplyLine - len("250 ") - len("\r\n")
		if more {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
			if !r.ID.IsZero() {
				room -= len(" id=") + 2*len(r.ID)
			}
		}
		before := len(b)
		b = r.appendEnhanced(b)
		room -= len(b) - before
		b = appendPrintable(b, line, room)
		if !more {
			break
		}
		b = append(b, "\r\n"...)
		text = rest
	}
	if !r.ID.IsZero() {
		b = append(b, " id="...)
		b = hex.AppendEncode(b, r.ID[:])
	}
	return append(b, "\r\n"...)
}

func (r Reply) appendEnhanced(b []byte) []byte {
	c := r.Class()
	if c != 2 && c != 4 && c != 5 {
		return b
	}
	b = strconv.AppendInt(b, int64(c), 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(r.Enhanced.Subject), 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(r.Enhanced.Detail), 10)
	return append(b, ' ')
}

func appendPrintable(b []byte, s string, room int) []byte {
	s = strings.TrimRight(s, "\r")
	if len(s) > room {
		s = s[:room]
	}
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

// A Refusal is a negative Reply travelling as an error.
type Refusal struct {
	Reply   Reply  // for the client
	Reason  string // a short fixed word to count and to search by, such as "relaying denied" or "upstream"
	Host    string // the next hop's host that said it, when it was one
	AboutUs bool   // the next hop refused us rather than the message: nothing may be learnt of the client from it
	Cause   error  // for the operator, never on the wire; may be nil
}

// Refuse makes a Refusal with a reason and the parts of its Reply. cause is for the operator and may be nil.
func Refuse(code, subject, detail int, text, reason string, cause error) *Refusal {
	return &Refusal{Reply: NewReply(code, subject, detail, text), Reason: reason, Cause: cause}
}

// Error gives the reply, the host that said it and the cause: for the operator, not for the client.
func (r *Refusal) Error() string {
	s := r.Reply.String()
	if r.Host != "" {
		s = r.Host + ": " + s
	}
	if r.Cause != nil {
		s += " (" + r.Cause.Error() + ")"
	}
	return s
}

// Unwrap gives the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

// ReplyFor gives the Reply that err deserves, and is the only function that turns an error into one. An error nobody
// classified is transient: the sender still holds the message, so a 4yz costs a retry where a 5yz would cost the
// message.
func ReplyFor(err error) Reply {
	var r *Refusal
	switch {
	case errors.As(err, &r) && (r.Reply.Class() == 4 || r.Reply.Class() == 5):
		return r.Reply
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return NewReply(451, 4, 1, "Destination did not answer in time")
	}
	return NewReply(451, 3, 0, "Local error, try again later")
}
