package karma

import (
	"context"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Store sums up votes and remembers who is known good. A *store.Store is one.
type Store interface {
	// Vote counts a vote and tells whether it changed anything.
	Vote(ctx context.Context, v mail.Vote) bool
	// KnowGood marks the network of a client for ttl, which replaces what was left of an earlier one.
	KnowGood(ctx context.Context, client netip.Addr, ttl time.Duration)
}

// Weights are what a vote for each Lesson weighs.
type Weights struct {
	Accepted float64 // above zero; 0: +1
	Unknown  float64 // below zero; 0: -0.5
	Policy   float64 // below zero; 0: -1
	Spam     float64 // below zero; 0: -3
}

// A Config says from whom is learnt, and how much. Zero fields but Store have defaults.
type Config struct {
	Store Store // required
	// Exempt tells whose mail teaches nothing, such as clients on the allow list. It is called by the worker and must
	// not block. Nil: nobody.
	Exempt func(client netip.Addr) bool
	// A destination domain is believed once it took Volume messages from about Networks different client networks
	// within Window. 0: 100, 8 and 7 days. Networks is at most 32. Volume 1 and Networks 1 believe everybody.
	Volume   int
	Networks int
	Window   time.Duration
	Weights  Weights
	// A refusal by spam or policy is a vote if such refusals are SpamShare of what the client brought to that domain
	// lately (half of it is forgotten in 12 hours), one of an unknown recipient if they are UnknownShare and three at
	// least. Both between 0 and 1; 0: 0.1 and 0.5.
	SpamShare    float64
	UnknownShare float64
	// GoodFor is how long a network is known good, and the least time between two of its standings; 0: 7 days, at most
	// 31.
	GoodFor time.Duration
	// GoodDomains is how many believed domains must have taken its mail before, 1 to 4; 0: 3.
	GoodDomains int
	// FallAfter is the number of refusals by spam within a day or so after which it may end early; 0: 5.
	FallAfter int
	// Queue is how many Outcomes may wait; 0: 4096. Each takes some 140 octets and the text of its Reply.
	Queue int
	// Entries bounds each of the three tables of domains, clients and networks; 0: 16384. An entry takes up to 200
	// octets.
	Entries int
	// Timeout bounds one call of the store; 0: 1 s.
	Timeout time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Validate names the first field that is wrong, as a *mail.FieldError.
func (c *Config) Validate() error {
	w := c.Weights
	for _, f := range [...]struct {
		bad           bool
		field, reason string
	}{
		{c.Store == nil, "store", "is required"},
		{c.Volume < 0, "volume", "is negative"},
		{c.Networks < 0 || c.Networks > 32, "networks", "is not from 0 to 32"},
		{c.Window < 0, "window", "is negative"},
		{!(w.Accepted >= 0 && w.Accepted <= 100), "weights.accepted", "is not from 0 to 100"},
		{!(w.Unknown <= 0 && w.Unknown >= -100), "weights.unknown", "is not from -100 to 0"},
		{!(w.Policy <= 0 && w.Policy >= -100), "weights.policy", "is not from -100 to 0"},
		{!(w.Spam <= 0 && w.Spam >= -100), "weights.spam", "is not from -100 to 0"},
		{!(c.SpamShare >= 0 && c.SpamShare <= 1), "spam_share", "is not from 0 to 1"},
		{!(c.UnknownShare >= 0 && c.UnknownShare <= 1), "unknown_share", "is not from 0 to 1"},
		{c.GoodFor < 0 || c.GoodFor > 31*24*time.Hour, "good_for", "is not from 0 to 31 days"},
		{c.GoodDomains < 0 || c.GoodDomains > mostDomains, "good_domains", "is not from 0 to 4"},
		{c.FallAfter < 0, "fall_after", "is negative"},
		{c.Queue < 0, "queue", "is negative"},
		{c.Entries < 0, "entries", "is negative"},
		{c.Timeout < 0, "timeout", "is negative"},
	} {
		if f.bad {
			return &mail.FieldError{Field: f.field, Reason: f.reason}
		}
	}
	return nil
}

// defaults gives c with its zero fields filled in.
func (c Config) defaults() Config {
	if c.Exempt == nil {
		c.Exempt = func(netip.Addr) bool { return false }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	w := &c.Weights
	fill(&c.Volume, 100)
	fill(&c.Networks, 8)
	fill(&c.Window, 7*24*time.Hour)
	fill(&w.Accepted, 1)
	fill(&w.Unknown, -0.5)
	fill(&w.Policy, -1)
	fill(&w.Spam, -3)
	fill(&c.SpamShare, 0.1)
	fill(&c.UnknownShare, 0.5)
	fill(&c.GoodFor, 7*24*time.Hour)
	fill(&c.GoodDomains, 3)
	fill(&c.FallAfter, 5)
	fill(&c.Queue, 4096)
	fill(&c.Entries, 16384)
	fill(&c.Timeout, time.Second)
	return c
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
