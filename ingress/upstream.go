package ingress

import (
	"context"
	"net/netip"
	"time"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A member is the transaction at one next hop.
type member struct {
	route mail.Route       // of its recipients; NextHop says where tx is open
	tx    mail.Transaction // nil: no transaction is open
	rcpts int              // that it holds of those that were accepted
	leg   *mail.Leg        // what the way to the next hop is written down in; nil before it is sought
	lent  bool             // the session of tx is handed back
	stale bool             // tx does not hold what we answered: it begins again before DATA
}

// isOpen reports whether the transaction is open and a recipient can join it.
func (m *member) isOpen() bool { return m.tx != nil && !m.stale }

// abort ends the transaction, if one is open, and leaves the message undelivered.
func (m *member) abort() {
	if m.tx != nil {
		m.tx.Abort()
		m.tx = nil
	}
}

// An upstream is what a mail transaction has at its next hops: a transaction at each of them.
type upstream struct {
	t        *transaction // to which it belongs
	members  []member
	first    [1]member    // where members begins
	firstLeg [1]mail.Leg  // what the way of the first member is written down in
	fan      *message.Fan // the members while a message goes to several; nil elsewhere
	places   int          // of its client's share of further next hops
}

// memberOf returns the index of the member that a recipient with this route joins, and of one that is yet to begin if
// there is none. One without recipients makes place for it.
func (u *upstream) memberOf(route *mail.Route) int {
	empty := -1
	for i := range u.members {
		if sameDelivery(&u.members[i].route, route) {
			return i
		}
		if u.members[i].rcpts == 0 {
			empty = i
		}
	}
	if empty < 0 {
		if u.members == nil {
			u.members = u.first[:0]
		}
		empty = len(u.members)
		u.members = append(u.members, member{})
	}
	m := &u.members[empty]
	m.abort()
	*m = member{route: *route}
	return empty
}

// sameDelivery reports whether two routes can share a transaction at the next hop.
func sameDelivery(a, b *mail.Route) bool {
	return a.NextHop == b.NextHop && a.Reverse == b.Reverse && a.Rewrite == b.Rewrite &&
		a.Policy.Seal == b.Policy.Seal && a.Policy.EightBit == b.Policy.EightBit &&
		a.Policy.Client == b.Policy.Client
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
func (t *transaction) setReverse(ctx context.Context, route *mail.Route, d *mail.Delivery) {
	switch {
	case !route.Rewrite:
		d.Reverse = route.Reverse
	case t.srs.made || t.spf == nil || t.spf.IsMailKnown():
		d.Reverse, d.Own = t.rewrite(ctx)
	default:
		d.Rewrite = t.rewrite
	}
}

// begin opens the transaction of a member and offers it again the recipients that were accepted before. The error is a
// *mail.Refusal.
func (u *upstream) begin(ctx context.Context, at int) error {
	t := u.t
	stage := t.report.Enter(mail.StageBegin)
	d := u.delivery(ctx, at)
	tx, err := t.session.cfg.Relay.Begin(ctx, d)
	stage.End(err)
	return u.begun(ctx, at, tx, err)
}

// delivery returns what the transaction of a member begins with.
func (u *upstream) delivery(ctx context.Context, at int) mail.Delivery {
	t, s, route := u.t, u.t.session, &u.members[at].route
	d := mail.Delivery{
		NextHop:         route.NextHop,
		Leg:             u.leg(at),
		Params:          t.params,
		Extra:           s.messages.Extra(route, s.trusted),
		RecipientDomain: route.Forwards[0].Domain,
		Client:          network.Of(s.conn.Addr.Addr()),
		Addr:            s.conn.Addr.Addr().Unmap(),
		Favoured:        s.trusted,
		Chosen:          route.Alone && !s.client.IsFavoured(), // a rewritten path leads where its client chose
		Trace:           t.report.Event.Trace,
		Seal:            route.Policy.Seal,
		EightBit:        route.Policy.EightBit,
	}
	t.setReverse(ctx, route, &d)
	hop, by := &route.NextHop, route.Policy.Client
	// XCLIENT would end the authentication of the session.
	if by != mail.ClientUntold && hop.Transport != mail.MX && !(by == mail.ClientXclient && hop.User != "") {
		d.Origin = originOf(s.conn, by)
	}
	return d
}

// originOf returns what a next hop is told of a client.
func originOf(c *wire.Client, by mail.Client) *mail.Origin {
	o := &mail.Origin{By: by, Name: c.Name, Helo: c.Helo, ESMTP: c.ESMTP}
	if !c.Unknown {
		o.Addr = netip.AddrPortFrom(c.Addr.Addr().Unmap(), c.Addr.Port())
	}
	return o
}

// begun takes what Begin returned for a member and offers it again the recipients that were accepted before.
func (u *upstream) begun(ctx context.Context, at int, tx mail.Transaction, err error) error {
	m := &u.members[at]
	if err != nil {
		return err
	}
	m.tx, m.stale, m.lent = tx, false, false
	for i := range u.t.rcpts {
		r := &u.t.rcpts[i]
		if r.Route.Action == mail.Drop || r.Member != at {
			continue
		}
		err := offer(ctx, tx, r)
		if err != nil && !mixedAccepted(r, err) {
			m.abort()
			m.stale = true
			return notAll(err)
		}
	}
	return nil
}

// notAll is the refusal of a message some of whose recipients are not accepted any more.
func notAll(err error) error {
	return mail.Refuse(451, 3, 0, "The destination no longer accepts every recipient, try again",
		"refused at the replay", err)
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
func (u *upstream) Renew(ctx context.Context) (mail.Transaction, error) {
	ctx = mail.Until(ctx, time.Now().Add(min(u.t.session.cfg.Rcpt, maxRenew)))
	if len(u.members) > 1 {
		return u.renewAll(ctx)
	}
	m := &u.members[0]
	if !m.isOpen() {
		m.abort()
		err := u.begin(ctx, 0)
		return m.tx, err
	}
	stage := u.t.report.Enter(mail.StageBegin)
	err := m.tx.Renew(ctx) // also if nothing was lent: the relay may have taken the session for another client
	stage.End(err)
	if err != nil {
		m.abort()
		m.stale = true
		return nil, err
	}
	m.lent = false
	return m.tx, nil
}

// Lend hands the sessions upstream back that were not yet. It reports whether all are handed back.
func (u *upstream) Lend() bool {
	all := len(u.members) > 0
	for i := range u.members {
		m := &u.members[i]
		if m.tx != nil && !m.lent {
			m.lent = m.tx.Lend()
		}
		all = all && m.lent
	}
	return all
}

// abort ends the transactions upstream that are open, and leaves the message undelivered.
func (u *upstream) abort() {
	if u.fan != nil {
		u.fan.Abort()
		u.committed()
		return
	}
	for i := range u.members {
		u.members[i].abort()
	}
}

// committed forgets the transactions upstream, which Commit has ended.
func (u *upstream) committed() {
	u.fan = nil
	for i := range u.members {
		u.members[i].tx = nil
	}
}
