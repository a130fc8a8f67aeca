package mail

import (
	"net/netip"
	"time"
)

// A Rate is a limit on how often something may happen, kept by the generic cell rate algorithm (GCRA): Burst at once,
// then one for each Per/Count. What is counted is named by Group, Client and Name together.
type Rate struct {
	// Group is what the counter belongs to, such as a domain. Counters of one Group lie on one node of a Redis Cluster.
	// With a Client it may be empty: then the client's network stands for it.
	Group string
	// Client is whom the counter is kept for, an address as a prefix of full length or its network; zero for nobody.
	Client netip.Prefix
	// Name tells counters of one Group and Client apart, such as "connections".
	Name string
	// Unit joins rates that stand one after another in a query and have the same number here: they are drawn all
	// together or, if one of them is used up, not at all. A counter stands only once in a Unit.
	Unit int
	// Count in Per is the rate, both above zero; Per is at most 31 days.
	Count int
	Per   time.Duration
	// Burst is how many may come at once, at most 1<<20; 0 means Count.
	Burst int
	// Cost is how many are drawn now, at most 1<<20; 0 means 1. More than Burst is never allowed.
	Cost int
	// Peek asks and draws nothing.
	Peek bool
}

// A RateResult is the answer to a Rate.
type RateResult struct {
	Allowed    bool          // this rate is not used up; nothing is drawn if another one of its Unit is
	RetryAfter time.Duration // when it would be allowed if nothing else were drawn; 0 if it is
}

// A ListState is what is known of an address on a DNS list.
type ListState uint8

// The states of a ListAnswer.
const (
	ListUnknown    ListState = iota // nothing, and nobody was asked to find out
	ListKnown                       // the answer is here
	ListAskedOfYou                  // nothing is known; the caller is to look the address up, and holds the lock on it
	ListPending                     // nothing is known yet; another caller looks the address up
)

// A ListAnswer is what a DNS list (RFC 5782) says of one address.
type ListAnswer struct {
	State ListState
	Codes []netip.Addr  // the A records, if State is ListKnown; none: not listed. Shared and not to be changed
	TTL   time.Duration // how long the answer still holds
}

// Karma is the standing of a client or network, made of votes that lose half their weight in each half-life.
type Karma struct {
	Score float64 // sum of the weights; above zero is good
	Votes float64 // how many votes that is worth; 0: nothing is known
}

// A Vote says what became of a client's mail at a destination.
type Vote struct {
	Client netip.Addr
	Domain string  // the destination's domain, which has one vote per client and hour
	Weight float64 // above zero for mail that was taken, below for spam
}

// A ClientQuery is what is asked of the store when a client has connected. With Lock 0 and all Rates peeking, nothing
// changes by asking.
type ClientQuery struct {
	Addr  netip.Addr
	Rates []Rate        // of this client or its network: Client of each lies in it, and Group is empty
	Lists []string      // zones of the DNS lists whose answers are wanted
	Lock  time.Duration // how long this caller may take to look up what is not known; 0: it does not intend to
}

// Facts are what the store knows of a client.
type Facts struct {
	Rates     []RateResult // one for each of the query
	Lists     []ListAnswer // one for each of the query
	Address   Karma
	Network   Karma // of the /24 or /64
	KnownGood bool  // its network was marked as known good
	Degraded  bool  // the shared store did not answer; this is what the node knows by itself
}

// A Triplet is what greylisting remembers: a client network, and Key, which stands for reverse-path and recipient.
type Triplet struct {
	Client netip.Addr
	Key    string
	Delay  time.Duration // how long the first attempt is put off
	Window time.Duration // within which it has to come again, counted from the first attempt; longer than Delay
	Keep   time.Duration // how long one that came again is remembered, counted from its last attempt
}

// A GreylistAnswer is the answer to a Triplet.
type GreylistAnswer struct {
	Passed bool
	Wait   time.Duration // until it passes
}

// A RcptQuery is what is asked of the store for a group of recipients.
type RcptQuery struct {
	Rates    []Rate
	Marks    []string
	Triplets []Triplet
}

// RcptFacts are the answers to a RcptQuery, one for each part of it.
type RcptFacts struct {
	Rates    []RateResult
	Marked   []bool
	Grey     []GreylistAnswer
	Degraded bool // the shared store did not answer; this is what the node knows by itself
}
