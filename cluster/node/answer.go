package node

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Question asks what would become of a message, which is not sent. A nil part was left out of the question.
type Question struct {
	IP   netip.Addr `json:"ip"`
	Helo *string    `json:"helo"`
	From *mail.Path `json:"from"`
	To   *mail.Path `json:"to"`
	// On is the address of the listener that the client would connect to; "": the first.
	On string `json:"on"`
	// User is who has logged in at a listener of users; "" asks a listener of hosts.
	User string `json:"user"`
	// Connect says that the recipient is offered to the next hop, as far as RCPT.
	Connect bool `json:"connect"`
	// Hooks says that the hook of the recipient's rule is asked.
	Hooks bool `json:"hooks"`
	// Message is a whole message, with CRLF at the ends of its lines; nil asks about the envelope alone. It needs Helo,
	// From and To.
	Message []byte `json:"message"`
	// Filters says that the content filters are asked about Message.
	Filters bool `json:"filters,omitempty"`
	// At is the time by which rules begin and end; nil: now. All else is of now.
	At *time.Time `json:"at,omitempty"`
}

// The values of Answer.Verdict.
const (
	Accept = "accept"
	Drop   = "drop"
	Defer  = "defer"
	Reject = "reject"
)

// An Answer says what would become of a message and why, as far as this node decides: the destination is not asked.
type Answer struct {
	Asked   Asked    `json:"asked"`
	Verdict string   `json:"verdict"`
	Reply   string   `json:"reply,omitempty"` // what the client would be answered, unless the message is accepted
	Reason  string   `json:"reason,omitempty"`
	Cause   string   `json:"cause,omitempty"`
	Client  string   `json:"client"`
	On      string   `json:"listener"`
	Trusted bool     `json:"trusted"`
	Helo    string   `json:"helo,omitempty"`
	From    string   `json:"from,omitempty"`
	To      string   `json:"to,omitempty"`
	Rules   *Rules   `json:"rules,omitempty"` // in force; nil if they were not asked
	Score   *Scored  `json:"score,omitempty"`
	Steps   []string `json:"steps,omitempty"`
	Rule    string   `json:"rule,omitempty"`
	Ways    []Way    `json:"ways,omitempty"`
	Message *Judged  `json:"message,omitempty"`
	Skipped []string `json:"skipped"` // what was not looked at, and why
	Notes   []string `json:"notes,omitempty"`
}

// An Asked says who answered a question.
type Asked struct {
	Node string `json:"node,omitempty"` // the running node; "": the configuration, as a node would that starts now
	Why  string `json:"why,omitempty"`  // why no running node was asked
	// At is the time of the question by which rules began and ended; nil: now.
	At *time.Time `json:"at,omitempty"`
}

// A Scored is the score of the client.
type Scored struct {
	Total   float64  `json:"total"`
	Defer   float64  `json:"defer"`
	Reject  float64  `json:"reject"`
	Verdict string   `json:"verdict"` // of the score alone
	Signals []Signal `json:"signals"`
	Grey    bool     `json:"greylisted,omitempty"` // mail of the client is greylisted
}

// A Signal is one thing about the client that was looked at.
type Signal struct {
	Name   string  `json:"name"`
	State  string  `json:"state"` // spoke, silent, unheard or skipped
	Weight float64 `json:"weight"`
	Text   string  `json:"text,omitempty"`
}

// A Way is one next hop of the message.
type Way struct {
	NextHop string   `json:"next_hop"`
	Reverse string   `json:"reverse,omitempty"`
	Forward []string `json:"forward"`
	Try     int      `json:"try,omitempty"` // its place in a list that is tried in turn, from 1
	Site    string   `json:"site,omitempty"`
	Client  string   `json:"client,omitempty"` // how it is told of the client where it offers that: xforward, xclient
	Hosts   []Host   `json:"hosts,omitempty"`

	Contacts []Contact `json:"contacts,omitempty"` // one for each recipient that was offered
}

// A Host is one host that would be tried.
type Host struct {
	Name  string   `json:"name"`
	Pref  *uint16  `json:"preference,omitempty"`
	Addrs []string `json:"addresses,omitempty"`
	Error string   `json:"error,omitempty"`
}
