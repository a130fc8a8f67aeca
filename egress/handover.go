package egress

import (
	"context"
	"errors"

	"github.com/millrace/millrace/router/mail"
)

// What becomes of a message whose owner was lost.
const (
	deliveredHere = "peer lost, delivered from here"
	handedOn      = "peer lost, handed to another"
	leftToUs      = "peer does not take this next hop, delivered from here"
	reachedHere   = "peer could not reach it, delivered from here"
	reachedThere  = "not reached from here, delivered by a peer"
)

// A handover is a transaction at the node that owns its Site. If that node is lost before the end of data was sent, and
// before the first octets of the message are gone, the transaction begins again at the node that owns the Site by then,
// once, or at this node. So it does at this node if the owner says that it reached no host of the destination: that is
// never said of a message whose end of data was sent. A transaction that the owner itself begins at the next node, for
// that reason, is not begun again.
type handover struct {
	local *Local
	d     mail.Delivery
	at    destination
	node  string // that owns the Site

	tx       mail.Transaction
	here     bool          // tx is this node's own, or has failed here and at the next: no way is left
	moved    bool          // tx was begun again at another node than the one that owned the Site first
	own      bool          // this node owns the Site and has tried in vain
	unable   *mail.Refusal // of the node that reached no host; whether the other one does is not known yet
	accepted []mail.Path   // in the order of Rcpt
	failed   error         // ended the transaction when it could not be begun again
	form     mail.Form
	stream   context.Context // of Stream, once that was called
	data     context.Context // of Data, once that was called
	wrote    bool            // octets of the message are gone
}

// handOver begins a transaction for d at node, or at this node if that is lost.
func handOver(ctx context.Context, l *Local, node string, at destination, d mail.Delivery) (mail.Transaction, error) {
	tx, err := l.cfg.Cluster.Begin(ctx, node, d)
	if err == nil {
		return &handover{local: l, d: d, at: at, node: node, tx: tx}, nil
	}
	if peer, _ := isPeerError(err); !peer {
		return nil, err
	}
	emitPeerError(l, &d, node, deliveredHere, err)
	tx, err = l.beginAt(ctx, at, d)
	if err != nil && isWaivable(&at, &d, err) {
		return &waiting{relay: &Relay{l}, d: d, refused: err}, nil
	}
	return tx, err
}

// handOn begins a transaction for d at the next node of the ring, where this one owns the Site and reached no host of
// it, as err says. That is the error where there is no other node, or it does not get as far either.
func handOn(ctx context.Context, l *Local, at destination, d mail.Delivery, err error) (mail.Transaction, error) {
	unable := unreached(err)
	if at.spare != nextNode || unable == nil || !isOfSite(unable) && unable.Reason != reasonNoTime || mail.IsOver(ctx) {
		return nil, err
	}
	node, ok := l.cfg.Cluster.Next(at.site, d.RecipientDomain)
	if !ok {
		return nil, err
	}
	d.Site = at.site
	d.Settle(ctx)
	d.TLS.Least = uint8(at.demands.Highest(at.hosts))
	tx, failed := l.cfg.Cluster.Begin(ctx, node, d)
	if failed != nil {
		return nil, err
	}
	return &handover{local: l, d: d, at: at, node: node, tx: tx, own: true, unable: unable}, nil
}

// isPeerError reports whether err says that a peer was lost, and whether the end of data may have reached it.
func isPeerError(err error) (peer, sent bool) {
	var l interface{ Sent() bool }
	if errors.As(err, &l) {
		return true, l.Sent()
	}
	return false, false
}

// emitPeerError tells the operator that a message goes another way because its owner was lost.
func emitPeerError(l *Local, d *mail.Delivery, node, reason string, cause error) {
	var peer interface{ Declined() bool }
	if errors.As(cause, &peer) && peer.Declined() && reason == deliveredHere {
		reason = leftToUs
	}
	l.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: l.cfg.Now(), Trace: d.Trace, NextHop: d.NextHop, Site: d.Site, Host: node,
		Reason: reason, Cause: cause,
	})
}

// Rcpt adds a recipient; see mail.Transaction.
func (h *handover) Rcpt(ctx context.Context, forward mail.Path) error {
	if h.failed != nil {
		return h.failed
	}
	err := h.tx.Rcpt(ctx, forward)
	for h.failover(ctx, err) {
		if err = h.failed; err == nil {
			err = h.tx.Rcpt(ctx, forward)
		}
	}
	if err != nil && len(h.accepted) == 0 && isWaivable(&h.at, &h.d, err) {
		h.tx.Abort()
		h.tx, h.here, h.failed = &waiting{relay: &Relay{h.local}, d: h.d, refused: err}, true, nil
		err = h.tx.Rcpt(ctx, forward)
	}
	if err == nil {
		h.accepted = append(h.accepted, forward)
		h.reaches()
	}
	return err
}

// failover begins the transaction again if err says that the owner was lost, or reached no host, and nothing of the
// message is gone: at the node that owns the Site by now, if that is another one, else at this node, which has but a
// small part of the Site's limits. What the owner could not reach is tried from here at once. It reports whether it
// tried; failed is set if that was in vain.
func (h *handover) failover(ctx context.Context, err error) bool {
	unable := unreached(err)
	if peer, sent := isPeerError(err); unable == nil && !peer || sent || h.here || h.wrote {
		return false
	}
	h.tx.Abort()
	if h.own {
		h.here = true
		h.settle(h.ownError(err))
		return true
	}
	if unable != nil {
		h.unable = unable
		h.beginHere(ctx)
		return true
	}
	node, self := h.local.cfg.Cluster.Owner(h.at.site, h.d.RecipientDomain)
	if !self && node != h.node && !h.moved {
		emitPeerError(h.local, &h.d, h.node, handedOn, err)
		h.node, h.moved = node, true
		tx, err := h.local.cfg.Cluster.Begin(ctx, node, h.d)
		if err = h.replay(ctx, tx, err); !h.failover(ctx, err) {
			h.settle(err)
		}
		return true
	}
	emitPeerError(h.local, &h.d, h.node, deliveredHere, err)
	h.beginHere(ctx)
	return true
}

// beginHere begins the transaction again at this node.
func (h *handover) beginHere(ctx context.Context) {
	h.here = true
	tx, err := h.local.beginAt(ctx, h.at, h.d)
	h.settle(h.replay(ctx, tx, err))
	if h.failed == nil && len(h.accepted) > 0 {
		h.reaches()
	}
}

// ownError returns what kept this node from the destination if the next one did not get as far either, else err.
func (h *handover) ownError(err error) error {
	if h.unable != nil {
		return h.unable
	}
	return err
}

// reaches notes that the destination has accepted a recipient, and tells of it if the owner did not get as far.
func (h *handover) reaches() {
	if h.unable == nil {
		return
	}
	node, reason := h.node, reachedHere
	if h.own {
		node, reason = "", reachedThere
	}
	if isOfSite(h.unable) && countsForNodes(&h.d) {
		h.local.cfg.Cluster.Unable(h.at.site, node)
	}
	h.unable = nil
	h.local.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: h.local.cfg.Now(), Trace: h.d.Trace, Client: h.d.Client.Addr(), NextHop: h.d.NextHop,
		Site: h.d.Site, Host: h.node, Reason: reason,
	})
}

// replay repeats on tx what was said so far, unless err says that there is no tx.
func (h *handover) replay(ctx context.Context, tx mail.Transaction, err error) error {
	h.tx = gone{}
	if err != nil {
		return err
	}
	h.tx = tx
	for _, f := range h.accepted {
		err := tx.Rcpt(ctx, f)
		if peer, _ := isPeerError(err); peer || unreached(err) != nil {
			return err
		}
		if err != nil {
			return mail.Refuse(451, 3, 0, "The destination no longer accepts every recipient, try again",
				"refused at the replay", err)
		}
	}
	if h.stream != nil {
		if err := tx.Stream(h.stream); err != nil {
			return err
		}
	}
	if h.data != nil {
		return tx.Data(h.data, h.form)
	}
	return nil
}

// settle ends the transaction if its replay failed.
func (h *handover) settle(err error) {
	if err == nil {
		return
	}
	h.tx.Abort()
	h.failed, h.tx = err, gone{}
}

// Stream waits for a place to stream at the Site; see mail.Transaction.
func (h *handover) Stream(ctx context.Context) error {
	if h.failed != nil {
		return h.failed
	}
	err := h.tx.Stream(ctx)
	h.stream = ctx
	if h.failover(ctx, err) {
		return h.failed
	}
	return err
}

// Data opens the message; see mail.Transaction.
func (h *handover) Data(ctx context.Context, form mail.Form) error {
	if h.failed != nil {
		return h.failed
	}
	err := h.tx.Data(ctx, form)
	h.form, h.data = form, ctx
	if h.failover(ctx, err) {
		return h.failed
	}
	return err
}

// Write sends a piece; see mail.Transaction. The first piece is still in hand when it fails.
func (h *handover) Write(o mail.Octets) error {
	if h.failed != nil {
		return h.failed
	}
	err := h.tx.Write(o)
	for h.failover(h.data, err) {
		if err = h.failed; err == nil {
			err = h.tx.Write(o)
		}
	}
	h.wrote = true
	return err
}

// Commit sends the last piece and the end of data; see mail.Transaction. A held message is in hand whole, so that it is
// sent from here if the owner was lost before it had all of it; never if the owner may have had all of it.
func (h *handover) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	if h.failed != nil {
		return h.same(h.failed)
	}
	out := h.tx.Commit(ctx, last)
	for len(out) > 0 && !out[0].InDoubt && h.failover(ctx, out[0].Cause) {
		if h.failed != nil {
			return h.same(h.failed)
		}
		out = h.tx.Commit(ctx, last)
	}
	return out
}

// same returns one outcome for every recipient.
func (h *handover) same(err error) []mail.Outcome {
	out := make([]mail.Outcome, len(h.accepted))
	for i := range out {
		out[i] = mail.Outcome{Reply: mail.ReplyFor(err), Cause: err}
	}
	return out
}

// Abort leaves the message undelivered; see mail.Transaction.
func (h *handover) Abort() { h.tx.Abort() }

// Lend hands the session at the destination back; see mail.Transaction.
func (h *handover) Lend() bool { return h.tx.Lend() }

// Renew begins again what was lent; see mail.Transaction.
func (h *handover) Renew(ctx context.Context) error {
	if h.failed != nil {
		return h.failed
	}
	err := h.tx.Renew(ctx)
	if h.failover(ctx, err) {
		return h.failed
	}
	return err
}

// Wanted reports whether the message is to give way; see mail.Transaction.
func (h *handover) Wanted() bool { return h.tx.Wanted() }

// SMTPUTF8 reports whether the destination offers it; see mail.Transaction.
func (h *handover) SMTPUTF8() bool { return h.tx.SMTPUTF8() }

// gone stands in a handover for the transaction that could not be begun again. Only Abort is called on it.
type gone struct{ mail.Transaction }

// Abort has nothing to end.
func (gone) Abort() {}
