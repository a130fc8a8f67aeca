package mail

import (
	"net/netip"
	"time"
)

// A Rate is a limit on how often something may happen, and one draw on its counter. The counter follows the generic
// cell rate algorithm (GCRA): Burst at once, then one for each Per/Count. Group, Client and Name together name it.
type Rate struct {
	// Group is what the counter belongs to, such as a domain. Counters of one Group lie on one node of a Redis
	// Cluster. It may be empty if Client is set: the client's network is then the group.
	Group string
	// Client is the client that the counter belongs to: its address as a prefix of full length, or its network. The
	// zero Prefix stands for a counter that belongs to no client.
	Client netip.Prefix
	// Name distinguishes counters of one Group and Client, such as "connections".
	Name string
	// Unit joins neighbouring rates of a query that have the same number here. They are drawn all together, or not at
	// all if one of them is used up. A counter may occur once in a Unit.
	Unit int
	// Count in Per is the rate. Both are above zero, and Per is at most 31 days.
	Count int
	Per   time.Duration
	// Burst is how many may be drawn at once, at most 1<<20. 0 means Count.
	Burst int
	// Cost is how many are drawn now, at most 1<<20. 0 means 1. A Cost above Burst is never allowed.
	Cost int
	// Peek asks without drawing.
	Peek bool
	// Happened says that what is drawn has happened: a draw is made though the counter is used up. What is beyond it
	// has to pass before there is room again, up to as much as Burst once more, and 64 draws at least. It is set alike
	// in all draws and looks at a counter.
	Happened bool
}

// A RateResult is the answer to a Rate.
type RateResult struct {
	Allowed    bool          // there is room, or it is drawn all the same; nothing is if another of its Unit has none
	RetryAfter time.Duration // when it would be allowed if nothing else were drawn; 0 if Allowed
}

// A ListState says what the store knows of an address on a DNS list.
type ListState uint8

// The states of a ListAnswer.
const (
	ListUnknown    ListState = iota // no answer, and no caller was asked to look the address up
	ListKnown                       // the answer is here
	ListAskedOfYou                  // no answer yet; the caller is to look the address up, and holds the lock on it
	ListPending                     // no answer yet; another caller looks the address up
)

// A ListAnswer is what a DNS list (RFC 5782) says of one address.
type ListAnswer struct {
	State ListState
	Codes []netip.Addr  // the A records if State is ListKnown, empty if not listed; shared, not to be changed
	TTL   time.Duration // how long the answer stays valid
}

// Karma is the standing of a client or network: the sum of votes that lose half their weight in each half-life.
type Karma struct {
	Score float64 // sum of the weights; above zero is good
	Votes float64 // the number of votes, faded likewise; 0 means that nothing is known
}

// A SenderKarma is the karma of mail from a network: that of a domain for which SPF passes, or that for which SPF
// passes for none.
type SenderKarma struct {
	Sender string // the domain, "" for none
	Karma
}

// Senders are the karma of a network's mail, an element for each domain.
type Senders []SenderKarma

// Of returns the karma of mail for which SPF passes for a domain, or for none if that is "". It is zero if nothing is
// known.
func (s Senders) Of(sender string) Karma {
	for i := range s {
		if s[i].Sender == sender {
			return s[i].Karma
		}
	}
	return Karma{}
}

// A Vote says how a destination answered a client's mail.
type Vote struct {
	Client netip.Addr
	Domain string  // the destination's domain, which has one vote per client and hour, and one for each Sender
	Sender string  // the domain for which SPF passes, "" for none: the client's network is voted on for it alone
	Weight float64 // above zero for accepted mail, below zero for spam
}

// A ClientQuery is the question to the store when a client has connected. It changes nothing in the store if Lock is 0
// and all Rates peek.
type ClientQuery struct {
	Addr  netip.Addr
	Rates []Rate        // of this client or its network: Client of each contains or is Addr, and Group is empty
	Lists []string      // zones of the DNS lists whose answers are wanted
	Lock  time.Duration // how long the caller may take to look up unknown answers; 0 if it will not look them up
}

// Facts are what the store knows of a client.
type Facts struct {
	Rates     []RateResult // one for each of the query, in its order
	Lists     []ListAnswer // one for each of the query, in its order
	Address   Karma        // of the address, for IPv6 of its /64, whatever it sends
	Network   Senders      // of the /24 or /64
	KnownGood []string     // domains with a passing SPF for which its network is known good; "": for mail without
	Degraded  bool         // the shared store did not answer; these are the facts of this node alone
}

// A Triplet is what greylisting remembers: who brings the mail, and Key, which stands for reverse-path and recipient.
type Triplet struct {
	Client netip.Addr // whose network brings it, unless Group stands for a domain that it proved
	Group  string
	Key    string
	Delay  time.Duration // how long attempts are deferred, counted from the first one
	Window time.Duration // how long a later attempt may pass, counted from the first one; longer than Delay
	Keep   time.Duration // how long a triplet that passed is remembered, counted from its last attempt
	Peek   bool          // the attempt is not remembered
}

// A GreylistAnswer is the answer to a Triplet.
type GreylistAnswer struct {
	Passed bool
	Wait   time.Duration // until an attempt passes; 0 if Passed
}

// A RcptQuery is the question to the store for a group of recipients.
type RcptQuery struct {
	Rates    []Rate
	Marks    []string
	Triplets []Triplet
}

// RcptFacts are the answers to a RcptQuery, one for each of its elements, in its order.
type RcptFacts struct {
	Rates    []RateResult
	Marked   []bool // whether the store holds the mark
	Grey     []GreylistAnswer
	Degraded bool // the shared store did not answer; these are the facts of this node alone
}
