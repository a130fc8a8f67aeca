package egress

import (
	"context"
	"errors"
	"net/netip"

	"github.com/millrace/millrace/router/mail"
)

// A Placement says which node of the cluster a Site belongs to for mail to domain, and whether that is this one. It is
// advice: every node can deliver everything.
type Placement interface {
	Owner(site mail.Site, domain string) (node string, self bool)
}

// A Remote begins transactions at other nodes. An error, and one of the transaction, that has a method Sent() bool
// among its causes says that the node was lost and not the destination; Sent tells whether the end of data may have
// reached it.
type Remote interface {
	Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error)
}

// lostPeer reports whether err says that a peer was lost, and whether the message may be delivered all the same.
func lostPeer(err error) (lost, sent bool) {
	var l interface{ Sent() bool }
	if errors.As(err, &l) {
		return true, l.Sent()
	}
	return false, false
}

// isHere reports whether a next hop means something else on another node.
func isHere(h mail.NextHop) bool {
	if h.Transport == mail.LMTPUnix || h.Host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(h.Host)
	return err == nil && a.Unmap().IsLoopback()
}

// A placed is a transaction at the node that owns its Site. If that is lost before the end of data was sent, and what
// was sent of the message is still in hand, it is taken up by whoever owns the Site then, or by this node.
type placed struct {
	relay *Relay
	d     mail.Delivery
	place place
	node  string

	tx       mail.Transaction
	here     bool        // tx is this node's own
	moved    bool        // it was taken up at another node than the one that owned the Site first
	accepted []mail.Path // in the order of Rcpt
	failed   error       // the end of it, when taking it up failed
	form     mail.Form
	data     context.Context // of Data, once that was called
	wrote    bool            // octets of the message are gone
}

// Rcpt adds a recipient; see mail.Transaction.
func (p *placed) Rcpt(ctx context.Context, forward mail.Path) error {
	if p.failed != nil {
		return p.failed
	}
	err := p.tx.Rcpt(ctx, forward)
	for p.takeUp(ctx, err) {
		if err = p.failed; err == nil {
			err = p.tx.Rcpt(ctx, forward)
		}
	}
	if err == nil {
		p.accepted = append(p.accepted, forward)
	}
	return err
}

// takeUp begins the transaction anew if err says that the owner was lost and nothing is: at the node that owns the Site
// by now, if that is another one, else at this node, which has but a small part of the Site's limits. It reports
// whether it tried; failed is what came of it.
func (p *placed) takeUp(ctx context.Context, err error) bool {
	if lost, sent := lostPeer(err); !lost || sent || p.here || p.wrote {
		return false
	}
	p.tx.Abort()
	node, self := p.relay.placement.Owner(p.place.site, p.d.RecipientDomain)
	if !self && node != p.node && !p.moved {
		p.relay.tellLost(&p.d, p.node, lostThere, err)
		p.node, p.moved = node, true
		tx, err := p.relay.remote.Begin(ctx, node, p.d)
		if err = p.replay(ctx, tx, err); !p.takeUp(ctx, err) {
			p.settle(err)
		}
		return true
	}
	p.relay.tellLost(&p.d, p.node, lostHere, err)
	p.here = true
	tx, err := p.relay.local.beginAt(ctx, p.place, p.d)
	p.settle(p.replay(ctx, tx, err))
	return true
}

// replay repeats on tx what was said so far, unless err says that there is none.
func (p *placed) replay(ctx context.Context, tx mail.Transaction, err error) error {
	p.tx = gone{}
	if err != nil {
		return err
	}
	p.tx = tx
	for _, f := range p.accepted {
		err := tx.Rcpt(ctx, f)
		if lost, _ := lostPeer(err); lost {
			return err
		}
		if err != nil {
			return mail.Refuse(451, 3, 0, "The destination no longer accepts every recipient, try again",
				"refused at the replay", err)
		}
	}
	if p.data != nil {
		return tx.Data(p.data, p.form)
	}
	return nil
}

// settle ends the transaction if its replay failed.
func (p *placed) settle(err error) {
	if err == nil {
		return
	}
	p.tx.Abort()
	p.fail(err)
}

func (p *placed) fail(err error) { p.failed, p.tx = err, gone{} }

// Data opens the message; see mail.Transaction.
func (p *placed) Data(ctx context.Context, form mail.Form) error {
	if p.failed != nil {
		return p.failed
	}
	err := p.tx.Data(ctx, form)
	p.form, p.data = form, ctx
	if p.takeUp(ctx, err) {
		return p.failed
	}
	return err
}

// Write sends a piece; see mail.Transaction. The first one is still in hand when it fails.
func (p *placed) Write(o mail.Octets) error {
	if p.failed != nil {
		return p.failed
	}
	err := p.tx.Write(o)
	for p.takeUp(p.data, err) {
		if err = p.failed; err == nil {
			err = p.tx.Write(o)
		}
	}
	p.wrote = true
	return err
}

// Commit sends the last piece and the end of data; see mail.Transaction. A held message is in hand whole, so that it is
// sent from here if the owner was lost before it had all of it; never if it may have had it.
func (p *placed) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	if p.failed != nil {
		return p.same(p.failed)
	}
	out := p.tx.Commit(ctx, last)
	for len(out) > 0 && p.takeUp(ctx, out[0].Cause) {
		if p.failed != nil {
			return p.same(p.failed)
		}
		out = p.tx.Commit(ctx, last)
	}
	return out
}

// same gives one outcome for every recipient.
func (p *placed) same(err error) []mail.Outcome {
	out := make([]mail.Outcome, len(p.accepted))
	for i := range out {
		out[i] = mail.Outcome{Reply: mail.ReplyFor(err), Cause: err}
	}
	return out
}

// Abort leaves the message undelivered; see mail.Transaction.
func (p *placed) Abort() { p.tx.Abort() }

// Lend gives the session at the destination back; see mail.Transaction.
func (p *placed) Lend() bool {
	return p.tx.Lend()
}

// Renew begins again what was lent; see mail.Transaction.
func (p *placed) Renew(ctx context.Context) error {
	if p.failed != nil {
		return p.failed
	}
	err := p.tx.Renew(ctx)
	if p.takeUp(ctx, err) {
		return p.failed
	}
	return err
}

// Wanted reports whether another client waits for the session; see mail.Transaction.
func (p *placed) Wanted() bool {
	return p.tx.Wanted()
}

// SMTPUTF8 reports whether the destination offers it; see mail.Transaction.
func (p *placed) SMTPUTF8() bool {
	return p.tx.SMTPUTF8()
}

// gone is what is left of a transaction that could not be taken up. Nobody calls it but to end it.
type gone struct{ mail.Transaction }

// Abort has nothing to end.
func (gone) Abort() {}
