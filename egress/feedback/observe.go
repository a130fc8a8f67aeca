// Package feedback decides what a destination's reply says of its Site: whether a rule asks to send more slowly, over
// fewer sessions or not at all for a while; whether the Site refuses us rather than a message; and whether a recipient
// does not exist.
//
// It owns the rules, their format and those that come with the program, the count of client networks that met a
// refusal, and the memory of unknown recipients. It refuses to know sessions and rates: its caller carries a Decision
// out.
//
// Invariants: no single client network brings it about that a Site is cooled, slowed or suspended by what it wrote in a
// message, unless it is favoured; memory is bounded.
package feedback

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

// A Reply is what a destination said, and in which circumstances.
type Reply struct {
	Site  mail.Site
	Verb  string     // of the command it answers
	Reply mail.Reply // as it came; the zero Reply if the destination said nothing that can be quoted
	// Heard is the reply's text in lower case, with every run of blanks and line ends as one blank, and without what
	// the destination only repeats of the envelope and of our name.
	Heard string

	Client    netip.Prefix // the network of the client whose message it is
	Favoured  bool         // the client is trusted not to provoke replies
	AboutUs   bool         // it refuses us rather than the message
	InMessage bool         // the destination has read octets of the message
}

// A Decision is what follows from a Reply for its Site.
type Decision struct {
	// Action is that of the first rule that matches. Its Kind is Nothing if no rule does.
	Action Action
	// Withheld says that Action is not to be carried out, because too few client networks have met the reply yet.
	Withheld bool
	// Cool says that the Site refuses us and is to be left alone for a while. Only where no rule matches.
	Cool bool
}

// An Observer decides about the replies of all Sites. All methods are safe for concurrent use.
type Observer struct {
	rules      atomic.Pointer[Table]
	complaints *complaints
	unknown    *lru.Cache[recipient, unknownRecipient]
	now        func() time.Time
}

// New returns an Observer. rules may be nil, which matches no reply; now reads the wall clock.
func New(rules *Table, now func() time.Time) *Observer {
	o := &Observer{
		complaints: newComplaints(),
		unknown:    lru.New[recipient, unknownRecipient](unknownCache),
		now:        now,
	}
	o.rules.Store(rules)
	return o
}

// Use replaces the rules from now on.
func (o *Observer) Use(rules *Table) { o.rules.Store(rules) }

// Observe decides about a reply. A reply inside a message is counted for its client network where that matters.
func (o *Observer) Observe(r Reply) Decision {
	if action, ok := o.rules.Load().Match(r.Site, r.Reply.Code, r.Reply.Enhanced, r.Heard); ok {
		// What one client writes must not close a Site to all others, or make it slow for them.
		withheld := r.InMessage && action.Kind != Fewer && !r.Favoured && !o.complaints.add(r.Site, r.Client, o.now())
		return Decision{Action: action, Withheld: withheld}
	}
	switch {
	case !r.AboutUs:
		return Decision{}
	case r.InMessage:
		return Decision{Cool: o.complaints.add(r.Site, r.Client, o.now())}
	case isSyntax(r.Reply.Code) && (r.Verb == "MAIL" || r.Verb == "RCPT"):
		// A client could provoke this reply with a crafted address. Cooling the Site for it would let one sender block
		// all mail.
		return Decision{}
	}
	return Decision{Cool: true}
}

// isSyntax reports whether a reply is about how a command was written.
func isSyntax(code int) bool { return code >= 500 && code <= 504 || code == 555 }
