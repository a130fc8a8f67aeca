// Package events posts to receivers what became of the messages of their domains: one event for each recipient, signed,
// by HTTPS. docs/events.md is its description for those who write a receiver.
//
// It owns the schema of an event, which receiver is told of it, the queue of each receiver and when a post is repeated.
// It refuses to know how a message is relayed, and how a request is made.
//
// Invariants: Emit never waits, and a receiver that does not answer costs memory up to its bound and nothing else; an
// event holds data of one recipient alone and no octet of a message; its id is the same each time it is posted; what is
// not posted is counted.
package events

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Type says what became of a message for one recipient.
type Type string

// The types.
const (
	Delivered  Type = "delivered"  // the destination took it
	Deferred   Type = "deferred"   // the sender was told to try again, by the destination or by us
	Bounced    Type = "bounced"    // the destination refused it for good
	Rejected   Type = "rejected"   // we refused it for good
	Failed     Type = "failed"     // it ended without an answer: the client broke off, or it is in doubt
	Complained Type = "complained" // a report of abuse (RFC 5965) came for it
)

// Types are all types.
func Types() []Type { return []Type{Delivered, Deferred, Bounced, Rejected, Failed, Complained} }

// An Event is what receivers are told of one recipient of one message. docs/events.md describes its JSON.
type Event struct {
	Type Type
	ID   string // of NewID
	Time time.Time
	Data Data
}

// Data are the fields of an event. What does not apply is "" or zero and left out.
type Data struct {
	Transaction string     `json:"id"` // as our replies name it
	Node        string     `json:"node"`
	Recipient   string     `json:"recipient"`
	Sender      string     `json:"sender"`
	Client      string     `json:"client,omitempty"`
	Rule        string     `json:"rule,omitempty"`
	Host        string     `json:"host,omitempty"`
	Reply       *Reply     `json:"reply,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	InDoubt     bool       `json:"in_doubt,omitempty"`
	Auth        string     `json:"auth,omitempty"`
	Octets      int64      `json:"octets,omitempty"`
	Complaint   *Complaint `json:"complaint,omitempty"`
}

// A Reply is the reply that settled the recipient.
type Reply struct {
	Code     int    `json:"code"`
	Enhanced string `json:"enhanced"`
	Text     string `json:"text,omitempty"`
}

// A Complaint is what a report of abuse says. It is what its sender claims.
type Complaint struct {
	Feedback  string `json:"feedback"`
	Recipient string `json:"recipient,omitempty"`
	Arrived   string `json:"arrived,omitempty"`
	Domain    string `json:"-"` // of Recipient, in lower case and A-labels
}

// NewID returns the id of an event. attempt is the transaction whose entry in the ledger says what became of the
// message, or the transaction itself. A message that its sender repeats because it did not hear our answer has the
// attempt of the first time, and so the same id.
func NewID(attempt mail.TraceID, t Type, recipient string) string {
	digest := sha256.Sum256([]byte(string(t) + " " + recipient))
	return "msg_" + attempt.String() + "_" + base32.StdEncoding.EncodeToString(digest[:10])
}

// body returns the JSON of an event.
func (e *Event) body() ([]byte, error) {
	return json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      *Data     `json:"data"`
	}{"message." + string(e.Type), e.Time.UTC(), &e.Data})
}

// weight returns how many octets an event takes of the memory for events, roughly.
func (e *Event) weight() int64 {
	const fixed = 700 // the item itself, with what hangs on it
	d := &e.Data
	n := fixed + len(e.ID) + len(d.Recipient) + len(d.Sender) + len(d.Rule) + len(d.Host) + len(d.Auth)
	if d.Reply != nil {
		n += len(d.Reply.Text)
	}
	if c := d.Complaint; c != nil {
		n += len(c.Feedback) + len(c.Recipient) + len(c.Arrived)
	}
	return int64(n)
}

// isEarned reports whether a stranger has to do more for such an event than to name a recipient, and to break off.
func (e *Event) isEarned() bool { return e.Type == Delivered || e.Data.InDoubt }
