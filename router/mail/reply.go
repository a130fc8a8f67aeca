package mail

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// A TraceID names one mail transaction from its first command to its last reply. It is the W3C trace id of the
// transaction's trace. Our refusals and our reply to the dot end with it, and a refusal outside of a transaction with
// one of its own. The zero TraceID names nothing.
type TraceID [16]byte

// NewTraceID returns a random TraceID.
func NewTraceID() (t TraceID) {
	binary.NativeEndian.PutUint64(t[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(t[8:], rand.Uint64())
	return t
}

// String returns 32 hexadecimal digits in lower case.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// IsZero reports whether t is the zero TraceID.
func (t TraceID) IsZero() bool { return t == TraceID{} }

// An EnhancedCode is an enhanced status code of RFC 3463 without its class, which a Reply takes from its code so that
// the two cannot disagree.
type EnhancedCode struct {
	Subject uint16
	Detail  uint16
}

// ParseEnhanced reads class.subject.detail, of one digit and twice one to three (RFC 3463 section 2), as tables and
// rules name such codes. It reports whether s is one.
func ParseEnhanced(s string) (class int, e EnhancedCode, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || len(parts[1]) > 3 || len(parts[2]) > 3 {
		return 0, EnhancedCode{}, false
	}
	var numbers [3]uint16
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return 0, EnhancedCode{}, false
		}
		numbers[i] = uint16(n)
	}
	return int(numbers[0]), EnhancedCode{numbers[1], numbers[2]}, true
}

// A Reply is an SMTP reply (RFC 5321 section 4.2).
type Reply struct {
	Code     int          // 200 to 599
	Enhanced EnhancedCode // written with every 2yz, 4yz and 5yz (RFC 2034)
	Policy   bool         // it refuses by a policy of ours, and refers to the page about refusals if there is one
	Text     string       // lines are separated by "\n"; the code and the enhanced code are not part of it
	ID       TraceID      // written as " id=" and 32 digits at the end of the last line, unless zero
}

// MaxReplyLine is the maximum length of one line of a reply in octets, CRLF included (RFC 5321 section 4.5.3.1.5).
const MaxReplyLine = 512

// NewReply returns a Reply. subject and detail are those of its enhanced code.
func NewReply(code, subject, detail int, text string) Reply {
	return Reply{Code: code, Enhanced: EnhancedCode{uint16(subject), uint16(detail)}, Text: text}
}

// Class returns the first digit of the code: 2 for done, 3 for go on, 4 for try again, 5 for never.
func (r Reply) Class() int { return r.Code / 100 }

// WithID returns r with the trace id that its last line will end with.
func (r Reply) WithID(id TraceID) Reply {
	r.ID = id
	return r
}

// Ours returns r as a reply of this node and of no next hop: a refusal is by policy if its enhanced code is that of a
// policy, X.7 (RFC 3463 section 3.8).
func (r Reply) Ours() Reply {
	r.Policy = r.Class() >= 4 && r.Enhanced.Subject == 7
	return r
}

// String returns the reply on one line for people: code, enhanced code, text with its lines joined by " / ", and id.
func (r Reply) String() string {
	b := r.AppendPlain(nil)
	if !r.ID.IsZero() {
		b = append(b, " id="...)
		b = hex.AppendEncode(b, r.ID[:])
	}
	return string(b)
}

// AppendPlain appends what String returns, without the id.
func (r Reply) AppendPlain(b []byte) []byte {
	b = strconv.AppendInt(b, int64(r.Code), 10)
	b = r.appendEnhanced(append(b, ' '))
	for text := strings.TrimSpace(r.Text); ; {
		line, rest, more := strings.Cut(text, "\n")
		b = append(b, line...)
		if !more {
			return b
		}
		b = append(b, " / "...)
		text = rest
	}
}

// AppendTo is AppendReferring without a page.
func (r Reply) AppendTo(b []byte) []byte { return r.AppendReferring(b, "") }

// AppendReferring appends the reply to b as it goes on the wire. Each line carries the code and the enhanced code (RFC
// 2034 section 4). No line is longer than MaxReplyLine: the text is shortened, never the id. Octets outside printable
// ASCII become "?", so that no text of any origin can add a line or control a terminal. page is what stands in front of
// the id of a refusal by policy, such as "; see https://mx.example.net/why?id="; "" for what stands in front of any
// other.
func (r Reply) AppendReferring(b []byte, page string) []byte {
	text, label := r.Text, " id="
	if r.Policy && page != "" {
		label = page
	}
	for {
		line, rest, more := strings.Cut(text, "\n")
		b = strconv.AppendInt(b, int64(r.Code), 10)
		room := MaxReplyLine - len("250 ") - len("\r\n")
		if more {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
			if !r.ID.IsZero() {
				room -= len(label) + 2*len(r.ID)
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
		b = append(b, label...)
		b = hex.AppendEncode(b, r.ID[:])
	}
	return append(b, "\r\n"...)
}

// appendEnhanced appends the enhanced code and a blank for the classes that have one (RFC 2034 section 4).
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

// appendPrintable appends at most room octets of s, with "?" for octets outside printable ASCII.
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

// A Refusal is an error that carries a negative Reply.
type Refusal struct {
	Reply   Reply  // for the client
	Reason  string // a short fixed word to count and to search by, such as "relaying denied" or "upstream"
	Host    string // the next hop's host that sent the reply, "" if the reply is ours
	AboutUs bool   // the next hop refused us and not the message, so it says nothing about the client
	Cause   error  // for the operator, never on the wire; may be nil
	// Unreached says that no next hop refused anything: this node did not get as far, by a fault of its own or because
	// no host accepted a connection. Another node may.
	Unreached bool
}

// Refuse returns a Refusal of a reason and the parts of its Reply. cause is for the operator and may be nil.
func Refuse(code, subject, detail int, text, reason string, cause error) *Refusal {
	return &Refusal{Reply: NewReply(code, subject, detail, text), Reason: reason, Cause: cause}
}

// ReasonOf returns the reason of the Refusal in an error, "failed" where there is none.
func ReasonOf(err error) string {
	var r *Refusal
	if errors.As(err, &r) && r.Reason != "" {
		return r.Reason
	}
	return "failed"
}

// ReasonNeedsSPF is the reason of a Refusal for now by a rule that depends on what SPF says of the reverse-path: see
// Query.SPF.
const ReasonNeedsSPF = "result of SPF not known"

// ReasonRule is the reason of a Refusal by a rule that rejects or defers.
const ReasonRule = "rule"

// ReasonWithdrawn is the reason of a Refusal of a recipient that the rules before a reload took and no rule takes now.
const ReasonWithdrawn = "withdrawn by a reload"

// Reasons of AnotherTransaction that tell which recipients share a destination: a client may guess by them.
const (
	AnotherNextHop  = "another next hop"
	AnotherPolicy   = "another policy"
	TooManyNextHops = "too many next hops" // of a message
	TooManyOfClient = "too many next hops of the client"
)

// OwnTransaction is the text of each refusal of AnotherTransaction.
const OwnTransaction = "Send this recipient in a transaction of its own"

// AnotherTransaction returns the refusal of a recipient that cannot share the transaction of those before it. Its text
// is the same for every reason: a stranger who tries recipients in pairs is not to learn how they differ.
func AnotherTransaction(reason string) *Refusal {
	return Refuse(452, 5, 3, OwnTransaction, reason, nil)
}

// Error returns the reply, the host that sent it and the cause. It is for the operator, not for the client.
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

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

// ReplyFor returns the Reply to an error, and is the only function that turns an error into one. It is that of a
// *Refusal in err, else 451. An unclassified error is transient because the sender still holds the message: a 4yz costs
// a retry, a 5yz would cost the message.
func ReplyFor(err error) Reply {
	var r *Refusal
	switch {
	case errors.As(err, &r) && (r.Reply.Class() == 4 || r.Reply.Class() == 5):
		if r.Host == "" {
			return r.Reply.Ours()
		}
		return r.Reply
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return NewReply(451, 4, 1, "Destination did not answer in time")
	}
	return NewReply(451, 3, 0, "Local error, try again later")
}
