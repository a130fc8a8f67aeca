package client

import (
	"strings"

	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/router/mail"
)

// An Outcome is what became of a recipient or of a message of the client.
type Outcome struct {
	Reply    mail.Reply
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
	if c.clients == nil {
		return
	}
	cfg := &c.clients.cfg
	if o.Rcpt && o.Reply.Class() == 5 && cfg.Limits != nil && cfg.Refused != nil {
		if r, limited := cfg.Limits.Refused(c.addr); limited {
			cfg.Refused.Draw(r)
		}
	}
	if o.Host == "" || cfg.Karma == nil {
		return
	}
	k := karma.Outcome{
		Client: c.addr, Domain: strings.ToLower(o.Domain), Reply: o.Reply, AboutUs: o.AboutUs,
		NullSender: t.reverse.IsNull(),
	}
	switch {
	case o.Accepted:
		k.Answer = karma.MessageTaken
	case o.Rcpt:
		k.Answer = karma.RcptRefused
	}
	if c.score != nil {
		f := c.score.Facts()
		k.KnownGood, k.Allowed, k.Address, k.Network = f.KnownGood, c.score.Allowed() != 0, f.Address, f.Network
	}
	cfg.Karma.Record(k)
}
