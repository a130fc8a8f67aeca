package ingress

import (
	"context"
	"time"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// isOpenFor reports whether the transaction upstream is open and a recipient with this route can join it.
func (t *transaction) isOpenFor(route *mail.Route) bool {
	return t.tx != nil && !t.stale && sameDelivery(&t.route, route)
}

// sameDelivery reports whether two routes can share a transaction at the next hop.
func sameDelivery(a, b *mail.Route) bool {
	return a.NextHop == b.NextHop && a.Reverse == b.Reverse && a.Rewrite == b.Rewrite &&
		a.Policy.Seal == b.Policy.Seal && a.Policy.EightBit == b.Policy.EightBit
}

// A rewritten is the reverse-path of a transaction as SRS writes it. It is zero until SPF has said what it opens to.
type rewritten struct {
	path   mail.Path
	own    mail.Path // the client's, where it may be tried in place of path; else null
	remark string    // a short fixed word about one that could not be rewritten
	made   bool
}

// rewrite returns the rewritten reverse-path. It awaits what SPF says of the client's, which is decided once a
// transaction: a look-up that was too slow for the first recipient counts for all.
func (t *transaction) rewrite(ctx context.Context) (reverse, own mail.Path) {
	if t.srs.made {
		return t.srs.path, t.srs.own
	}
	s := t.session
	opens := mail.OpensToBounces // a trusted client answers for its reverse-paths
	if !s.trusted {
		opens = message.Opens(ctx, t.spf)
	}
	if opens == mail.OpensToBounces { // others do not leave with the name of one who may not have sent them
		t.srs.own = t.reverse
	}
	t.srs.path, t.srs.remark = s.cfg.Router.Rewrite(mail.Query{Reverse: t.reverse, Client: widest(s.conn)}, opens)
	t.srs.made = true
	if t.srs.remark == "" {
		t.report.Event.SRS = opens.String()
	}
	return t.srs.path, t.srs.own
}

// setReverse sets the reverse-path of a delivery. One that waits for SPF is awaited while the next hop is sought.
func (t *transaction) setReverse(ctx context.Context, d *mail.Delivery) {
	switch {
	case !t.route.Rewrite:
		d.Reverse = t.route.Reverse
	case t.srs.made || t.spf == nil || t.spf.IsMailKnown():
		d.Reverse, d.Own = t.rewrite(ctx)
	default:
		d.Rewrite = t.rewrite
	}
}

// begin opens the transaction at the next hop of t.route, and offers it again the recipients that were accepted before.
// The error is a *mail.Refusal.
func (t *transaction) begin(ctx context.Context) error {
	s := t.session
	ctx, stage := t.report.Enter(ctx, mail.StageBegin)
	d := mail.Delivery{
		NextHop:         t.route.NextHop,
		Leg:             t.record.begin(t.route.NextHop),
		Params:          t.params,
		Extra:           s.messages.Extra(&t.route, s.trusted),
		RecipientDomain: t.route.Forwards[0].Domain,
		Client:          network.Of(s.conn.Addr.Addr()),
		Addr:            s.conn.Addr.Addr().Unmap(),
		Favoured:        s.trusted,
		Chosen:          t.route.Alone && !s.client.IsFavoured(), // a rewritten path leads where its client chose
		Trace:           t.report.Event.Trace,
		Seal:            t.route.Policy.Seal,
		EightBit:        t.route.Policy.EightBit,
	}
	t.setReverse(ctx, &d)
	tx, err := s.cfg.Relay.Begin(ctx, d)
	stage.End(err)
	if err != nil {
		return err
	}
	t.tx, t.stale, t.lent = tx, false, false
	for i := range t.rcpts {
		r := &t.rcpts[i]
		if r.Route.Action == mail.Drop {
			continue
		}
		err := offer(ctx, tx, r)
		if err != nil && !mixedAccepted(r, err) {
			t.abort()
			t.stale = true
			return mail.Refuse(451, 3, 0, "The destination no longer accepts every recipient, try again",
				"refused at the replay", err)
		}
	}
	return nil
}

// offer offers all forward-paths of a recipient to the next hop, notes which it accepted, and returns the error that
// stands for the recipient: the first 4yz, else the first 5yz.
func offer(ctx context.Context, tx mail.Transaction, r *message.Recipient) (worst error) {
	r.Accepted = r.Accepted[:0]
	for i, f := range r.Route.Forwards {
		err := tx.Rcpt(ctx, f)
		switch {
		case err == nil && len(r.Accepted) == i: // all so far: no memory of its own
			r.Accepted = r.Route.Forwards[:i+1]
		case err == nil:
			r.Accepted = append(r.Accepted[:len(r.Accepted):len(r.Accepted)], f)
		case worst == nil || isWorse(err, worst):
			worst = err
		}
	}
	return worst
}

// mixedAccepted reports whether a fan-out in which some targets were refused for good is accepted all the same.
func mixedAccepted(r *message.Recipient, err error) bool {
	return len(r.Accepted) > 0 && mail.ReplyFor(err).Class() == 5 && r.Route.Policy.Mixed == mail.MixedAccept
}

// maxRenew bounds the wait before our 354, for which a client waits 2 minutes (RFC 5321 section 4.5.3.2.4).
const maxRenew = 110 * time.Second

// Renew returns the transaction upstream, ready for Data. It begins again what was lent or became stale.
func (t *transaction) Renew(ctx context.Context) (mail.Transaction, error) {
	ctx = mail.Until(ctx, time.Now().Add(min(t.session.cfg.Rcpt, maxRenew)))
	if t.stale || t.tx == nil {
		t.abort()
		err := t.begin(ctx)
		return t.tx, err
	}
	ctx, stage := t.report.Enter(ctx, mail.StageBegin)
	err := t.tx.Renew(ctx) // also if nothing was lent: the relay may have taken the session for another client
	stage.End(err)
	if err != nil {
		t.abort()
		t.stale = true
		return nil, err
	}
	t.lent = false
	return t.tx, nil
}

// Lend hands the session upstream back, if there is one and that was not done yet. It reports whether the session is
// handed back.
func (t *transaction) Lend() bool {
	if t.tx != nil && !t.lent {
		t.lent = t.tx.Lend()
	}
	return t.lent
}

// abort ends the transaction upstream, if one is open, and leaves the message undelivered.
func (t *transaction) abort() {
	if t.tx != nil {
		t.tx.Abort()
		t.tx = nil
	}
}
