package activity

import (
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"
)

// A Status says what became of a message for one recipient.
type Status string

// The statuses.
const (
	Delivered Status = "delivered" // the destination took it
	Deferred  Status = "deferred"  // the sender was told to try again, by the destination or by us
	Bounced   Status = "bounced"   // the destination refused it for good
	Rejected  Status = "rejected"  // we refused it for good
	Failed    Status = "failed"    // it ended without an answer: the client broke off
	InDoubt   Status = "in_doubt"  // the destination may have it, and did not say so
	Dropped   Status = "dropped"   // a drop rule took it
)

// Statuses returns all statuses.
func Statuses() []Status {
	return []Status{Delivered, Deferred, Bounced, Rejected, Failed, InDoubt, Dropped}
}

// isMail reports whether a stranger has to do more for such a row than to name a recipient.
func (s Status) isMail() bool { return s == Delivered || s == Dropped || s == InDoubt }

// An Action is what was done with a message, in the words that users of Cloudflare know.
type Action string

// The actions.
const (
	Forwarded      Action = "forwarded"
	DroppedByRule  Action = "dropped"
	RejectedByUs   Action = "rejected"
	DeferredByUs   Action = "deferred"
	DeliveryFailed Action = "delivery_failed" // the destination refused it or put it off
	Broken         Action = "error"           // it broke off, or is in doubt
)

// Actions returns all actions.
func Actions() []Action {
	return []Action{Forwarded, DroppedByRule, RejectedByUs, DeferredByUs, DeliveryFailed, Broken}
}

// ActionOf returns the action of a status. byHost says that the destination's answer settled it.
func ActionOf(s Status, byHost bool) Action {
	switch {
	case s == Delivered:
		return Forwarded
	case s == Dropped:
		return DroppedByRule
	case s == Bounced, s == Deferred && byHost:
		return DeliveryFailed
	case s == Rejected:
		return RejectedByUs
	case s == Deferred:
		return DeferredByUs
	}
	return Broken
}

// A Row is what became of a message for one recipient, or of a client that came to none. What does not apply is empty.
// The first row of a transaction has its steps.
type Row struct {
	At        time.Time `json:"time"`
	Node      string    `json:"node"`
	ID        string    `json:"id"`                   // of the transaction, as our replies name it
	MessageID string    `json:"message_id,omitempty"` // a keyed hash of it
	From      string    `json:"from"`                 // "<>" is the null sender, "" none at all
	To        string    `json:"to"`                   // "": it came to no recipient
	Status    Status    `json:"status"`
	Action    Action    `json:"action"`
	Client    string    `json:"client,omitempty"`
	Helo      string    `json:"helo,omitempty"`
	User      string    `json:"user,omitempty"`
	TLS       string    `json:"tls,omitempty"` // of the client's connection
	Rule      string    `json:"rule,omitempty"`
	Host      string    `json:"host,omitempty"`         // of the next hop
	Reply     string    `json:"reply,omitempty"`        // that settled it
	Detail    string    `json:"error_detail,omitempty"` // why, in our words
	Octets    int64     `json:"octets,omitempty"`
	More      int       `json:"more,omitempty"` // rows of the client's network that were left out before this one
	Steps     []Step    `json:"steps,omitempty"`

	Judgement
}

// A Judgement is what was found of a message and of its client.
type Judgement struct {
	SPF     string  `json:"spf,omitempty"`
	DKIM    string  `json:"dkim,omitempty"`
	DMARC   string  `json:"dmarc,omitempty"`
	ARC     string  `json:"arc,omitempty"`
	Score   float64 `json:"score"` // of the client; higher is worse
	Signals string  `json:"signals,omitempty"`
}

// A Step is a part of a transaction.
type Step struct {
	Name string        `json:"name"`
	Text string        `json:"text,omitempty"`
	Took time.Duration `json:"took,omitempty"` // nanoseconds
}

// IsNDR reports whether the message is a report about another one: its sender is null.
func (r *Row) IsNDR() bool { return r.From == "<>" }

const (
	// maxText and maxStep are the most octets of a text of a row and of a step, and maxSteps the most steps.
	maxText  = 512
	maxStep  = 256
	maxSteps = 32
)

// texts returns where the texts of a row are, in the order in which they are packed.
func (r *Row) texts() [20]*string {
	return [...]*string{
		&r.ID, &r.MessageID, &r.From, &r.To, (*string)(&r.Status), (*string)(&r.Action), &r.Client, &r.Helo, &r.User,
		&r.TLS, &r.Rule, &r.Host, &r.Reply, &r.Detail, &r.SPF, &r.DKIM, &r.DMARC, &r.ARC, &r.Signals, &r.Node,
	}
}

// pack appends a row to b, for unpack. The time comes first. Texts are cut.
func (r *Row) pack(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.At.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(r.Score))
	b = binary.AppendUvarint(b, uint64(max(r.Octets, 0)))
	b = binary.AppendUvarint(b, uint64(max(r.More, 0)))
	for _, s := range r.texts() {
		b = appendText(b, *s, maxText)
	}
	steps := r.Steps[:min(len(r.Steps), maxSteps)]
	b = append(b, byte(len(steps)))
	for i := range steps {
		b = appendText(b, steps[i].Name, maxStep)
		b = appendText(b, steps[i].Text, maxStep)
		b = binary.AppendUvarint(b, uint64(max(steps[i].Took, 0)))
	}
	return b
}

// appendText appends a text of most octets at most, and its length in front.
func appendText(b []byte, s string, most int) []byte {
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// A packed is a row as it is kept: one string, of which the texts of the row are parts.
type packed string

// at returns when the row was, in nanoseconds of Unix time.
func (p packed) at() int64 {
	var n int64
	for i := range 8 {
		n = n<<8 | int64(p[i])
	}
	return n
}

// unpack returns the row that pack made p of.
func (p packed) unpack() (r Row) {
	r.At = time.Unix(0, p.at())
	r.Score = math.Float64frombits(uint64(p[8:].at()))
	p = p[16:]
	r.Octets, r.More = int64(p.uvarint()), int(p.uvarint())
	for _, s := range r.texts() {
		*s = p.text()
	}
	n := int(p[0])
	p = p[1:]
	if n > 0 {
		r.Steps = make([]Step, n)
	}
	for i := range r.Steps {
		r.Steps[i] = Step{Name: p.text(), Text: p.text(), Took: time.Duration(p.uvarint())}
	}
	return r
}

// uvarint takes a number off p.
func (p *packed) uvarint() (n uint64) {
	for shift := 0; ; shift += 7 {
		c := (*p)[0]
		*p = (*p)[1:]
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return n
		}
	}
}

// text takes a text off p.
func (p *packed) text() string {
	n := p.uvarint()
	s := (*p)[:n]
	*p = (*p)[n:]
	return string(s)
}
