package client

import (
	"strings"

	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/router/mail"
)

// An Outcome is what became of a recipient or of a message of the client.
type Outcome struct {
	Reply    mail.Reply
	Reason   string // of a refusal of ours
	Host     string // the destination's host that replied; "" if the reply is ours: karma learns nothing from it
	Domain   string // the destination's domain
	Rcpt     bool   // Reply refuses a recipient; else it is the reply to the message
	Accepted bool   // the destination took the message
	AboutUs  bool   // Reply is about us and says nothing of the client
}

// Learn takes note of an outcome and waits for nothing. A recipient that was refused for good is counted, because a
// client that guesses addresses is over a rate some time. Karma learns what a destination replied.
func (t *Transaction) Learn(o Outcome) {
	c := t.client
	if c.clients == nil || c.clients.cfg.Look {
		return
	}
	cfg := &c.clients.cfg
	switch {
	case o.Accepted:
		cfg.Guard.Accepted(c.addr)
	case o.Rcpt && o.Reply.Class() == 5:
		c.countRefused()
	case o.Rcpt && tellsOfNextHops(o.Reason):
		c.countPutOff()
		return
	}
	if o.Host == "" || cfg.Karma == nil {
		return
	}
	k := karma.Outcome{Domain: strings.ToLower(o.Domain), Reply: o.Reply, AboutUs: o.AboutUs}
	switch {
	case o.Accepted:
		k.Answer = karma.MessageTaken
	case o.Rcpt:
		k.Answer = karma.RcptRefused
	}
	t.record(k)
}

// LearnFiltered takes note of what content filters did with a message to a recipient: they took it, refused it by what
// is said, or discarded it and said nothing. Nothing is learnt of a client without a score.
func (t *Transaction) LearnFiltered(forward mail.Path, took bool, said mail.Reply) {
	c := t.client
	if c.score == nil || c.clients.cfg.Look || c.clients.cfg.Karma == nil {
		return
	}
	k := karma.Outcome{
		Domain: strings.ToLower(forward.Domain), Mailbox: forward.Local, Reply: said, Answer: karma.FilterRefused,
	}
	switch {
	case took:
		k.Answer = karma.FilterTook
	case said.Code == 0:
		k.Answer = karma.FilterDiscarded
	}
	t.record(k)
}

// record passes an outcome on with what is known of the client.
func (t *Transaction) record(k karma.Outcome) {
	c := t.client
	k.Client, k.NullSender = c.addr, t.reverse.IsNull()
	if c.score != nil {
		f := c.score.Facts()
		k.KnownGood, k.Sender = c.score.KnownGood(), c.score.Passing()
		k.Allowed, k.Address, k.Network = c.score.Allowed() != 0, f.Address, f.Network.Of(k.Sender)
	}
	c.clients.cfg.Karma.Record(k)
}

// tellsOfNextHops reports whether a reason of mail.AnotherTransaction depends on which recipients share a next hop.
func tellsOfNextHops(reason string) bool {
	switch reason {
	case mail.AnotherNextHop, mail.AnotherPolicy, mail.TooManyNextHops, mail.TooManyOfClient:
		return true
	}
	return false
}

// countRefused counts a recipient that was refused for good, unless the client is on the allow list.
func (c *Client) countRefused() {
	cfg := &c.clients.cfg
	if cfg.Limits != nil && cfg.Counts != nil {
		if r, limited := cfg.Limits.Refused(c.addr); limited {
			cfg.Counts.Draw(r)
		}
	}
	if !c.isAllowed() {
		cfg.Guard.Refused(c.addr)
	}
}

// countPutOff counts a recipient that needs a transaction of its own. A client that is known good or on the allow list
// may have any number of them.
func (c *Client) countPutOff() {
	if c.isAllowed() || c.score != nil && c.score.KnownGood() {
		return
	}
	if c.clients.cfg.Guard.PutOff(c.addr) {
		c.countRefused()
	}
}
