package ingress

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/leaf/abreast"
	"github.com/millrace/millrace/router/mail"
)

// What a message, and all messages of a client, may go to at a time, by default.
const (
	DefaultFanOut          = 20
	DefaultFanOutPerClient = 100
)

// A fanLimit bounds the transactions upstream that the messages of a client have besides their first. It is safe for
// concurrent use.
type fanLimit struct {
	most int

	mu    sync.Mutex // guards taken
	taken map[netip.Prefix]int
}

// take takes n places of a client, and reports whether there were so many.
func (l *fanLimit) take(client netip.Prefix, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken[client]+n > l.most {
		return false
	}
	if l.taken == nil {
		l.taken = make(map[netip.Prefix]int)
	}
	l.taken[client] += n
	return true
}

// give puts n places back.
func (l *fanLimit) give(client netip.Prefix, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken[client] -= n; l.taken[client] == 0 {
		delete(l.taken, client)
	}
}

// fanKey is what the places of a transaction's client are counted by.
func (u *upstream) fanKey() netip.Prefix { return widest(u.t.session.conn) }

// end puts back what was taken of the client's share.
func (u *upstream) end() {
	if u.places > 0 {
		u.t.session.fans.give(u.fanKey(), u.places)
	}
}

// take makes a route the way of a recipient.
func (r *asked) take(route *mail.Route) {
	r.Route, r.List = *route, nil
	if route.Else != nil {
		r.List = route
	}
}

// needsSPF reports whether a way of the recipient needs the results of SPF.
func (r *asked) needsSPF(messages *message.Messages) bool {
	needs := r.Route.Rewrite || messages.NeedsSPF(&r.Route)
	for i := range r.others {
		needs = needs || r.others[i].Rewrite || messages.NeedsSPF(&r.others[i])
	}
	return needs
}

// checkMembers returns a 452 for a recipient that would need a transaction at a next hop which this one may not have. A
// message that some next hops have and others do not comes again to all of them, so that there is one without the
// ledger.
func (u *upstream) checkMembers(r *asked) error {
	s := u.t.session
	held, joins := 0, false
	for i := range u.members {
		if m := &u.members[i]; m.rcpts > 0 {
			held++
			joins = joins || sameDelivery(&m.route, &r.Route)
		}
	}
	if !s.messages.Guarded() {
		switch {
		case len(r.others) > 0:
			return mail.Refuse(451, 3, 0, "Recipient has several next hops", "fan-out", nil)
		case held > 0 && !joins:
			return mail.AnotherTransaction(mail.AnotherNextHop)
		case held > 0 && r.Route.NextHop.Transport >= mail.LMTP:
			return mail.AnotherTransaction("lmtp")
		}
		return nil
	}
	need := held + len(r.others)
	if !joins {
		need++
	}
	if need > max(s.cfg.FanOut, 1) {
		return mail.AnotherTransaction(mail.TooManyNextHops)
	}
	if more := need - 1 - u.places; more > 0 && !s.trusted {
		if !s.fans.take(u.fanKey(), more) {
			return mail.AnotherTransaction(mail.TooManyOfClient)
		}
		u.places += more
	}
	return nil
}

// relayToSeveral offers a recipient to several next hops at a time. It is accepted if all accept it. One that puts it
// off defers it, and where some refuse it for good, the rule decides.
func (s *session) relayToSeveral(ctx context.Context, r *asked) error {
	u := &s.t.upstream
	ways := make([]message.Recipient, 0, 1+len(r.others))
	ways = append(ways, r.Recipient)
	for i := range r.others {
		r.take(&r.others[i])
		r.Further = true
		ways = append(ways, r.Recipient)
	}
	for i := range ways {
		ways[i].Member = u.memberOf(&ways[i].Route)
		u.members[ways[i].Member].rcpts++ // so that no other takes its place
	}
	errs := u.offerAll(ctx, ways)
	var held, late []int // members, and ways that a member accepted behind the others
	for i := range ways {
		held = append(held, ways[i].Member)
		if errs[i] == nil || ways[i].Route.Else == nil {
			continue
		}
		if errs[i] = s.tryElse(ctx, &ways[i], errs[i]); errs[i] == nil {
			u.members[ways[i].Member].rcpts++
			held, late = append(held, ways[i].Member), append(late, i)
		}
	}
	for _, at := range held {
		u.members[at].rcpts--
	}
	for n, i := range late { // the outcomes of a member come in the order in which it accepted
		i -= n
		ways, errs = append(ways, ways[i]), append(errs, nil)
		ways, errs = slices.Delete(ways, i, i+1), slices.Delete(errs, i, i+1)
	}
	return s.join(ctx, ways, errs)
}

// join accepts or refuses a recipient by what became of its ways.
func (s *session) join(ctx context.Context, ways []message.Recipient, errs []error) error {
	t := s.t
	var taken []message.Recipient
	failed := -1
	for i := range ways {
		if errs[i] == nil {
			taken = append(taken, ways[i])
		}
		if errs[i] != nil && (failed < 0 || isWorse(errs[i], errs[failed])) {
			failed = i
		}
	}
	policy := ways[0].Route.Policy.Mixed
	mixed := failed >= 0 && len(taken) > 0 && mail.ReplyFor(errs[failed]).Class() == 5 && policy == mail.MixedAccept
	if failed < 0 || mixed {
		if mixed {
			t.report.Anomaly("mixed fan-out accepted", errs[failed])
		}
		taken[0].Further = false
		for i := range taken[1:] {
			taken[1+i].Further = true
		}
		t.accept(&taken[0], taken[1:]...)
		return nil
	}
	for i := range taken {
		m := &t.upstream.members[taken[i].Member]
		m.stale = true // it holds a recipient that we refuse
	}
	return s.refuseRelayed(ctx, &ways[failed], errs[failed])
}

// offerAll offers the ways of a recipient to their next hops, to all at a time, and returns the error of each.
func (u *upstream) offerAll(ctx context.Context, ways []message.Recipient) []error {
	u.settle(ctx)
	stage := u.t.report.Enter(mail.StageRcpt)
	defer stage.End(nil)
	errs := make([]error, len(ways))
	abreast.Do(len(u.members), func(at int) {
		m := &u.members[at]
		var failed error
		for i := range ways {
			w := &ways[i]
			if w.Member != at {
				continue
			}
			c := inTurn(ctx, &w.Route)
			if failed == nil && !m.isOpen() {
				m.abort()
				failed = u.beginQuietly(c, at)
			}
			if errs[i] = failed; failed != nil {
				continue
			}
			err := offer(c, m.tx, w)
			m.lent = false
			if err != nil && !mixedAccepted(w, err) {
				m.stale = m.stale || len(w.Accepted) > 0
				errs[i] = err
			}
		}
	})
	return errs
}

// settle has the reverse-path rewritten, if a member needs that, and the ways written down, before several ask for it
// at a time.
func (u *upstream) settle(ctx context.Context) {
	for i := range u.members {
		if u.members[i].rcpts > 0 {
			u.leg(i)
		}
	}
	for i := range u.members {
		if u.members[i].route.Rewrite {
			u.t.rewrite(ctx)
			return
		}
	}
}

// beginQuietly is begin for one of several at a time, which have one stage.
func (u *upstream) beginQuietly(ctx context.Context, at int) error {
	tx, err := u.t.session.cfg.Relay.Begin(ctx, u.delivery(ctx, at))
	return u.begun(ctx, at, tx, err)
}

// renewAll is Renew for several members. It returns the one that has recipients, or a Fan of those that have.
func (u *upstream) renewAll(ctx context.Context) (mail.Transaction, error) {
	u.fan = nil
	u.settle(ctx)
	stage := u.t.report.Enter(mail.StageBegin)
	errs := make([]error, len(u.members))
	abreast.Do(len(u.members), func(at int) {
		m := &u.members[at]
		switch {
		case m.rcpts == 0:
			m.abort()
			return
		case !m.isOpen():
			m.abort()
			errs[at] = u.beginQuietly(ctx, at)
		default:
			errs[at] = m.tx.Renew(ctx)
		}
		if m.lent = false; errs[at] != nil {
			m.abort()
			m.stale = true
		}
	})
	err := u.oneError(errs)
	stage.End(err)
	if err != nil {
		return nil, err
	}
	return u.fanOut(), nil
}

// oneError returns the error that stands for the members: that of the one with all recipients, or else 451, because the
// others still are accepted.
func (u *upstream) oneError(errs []error) error {
	held := 0
	var first error
	for at := range u.members {
		if u.members[at].rcpts > 0 {
			held++
		}
		if first == nil {
			first = errs[at]
		}
	}
	if first == nil || held == 1 {
		return first
	}
	return notAll(first)
}

// fanOut returns the transaction at the members that have recipients.
func (u *upstream) fanOut() mail.Transaction {
	s := u.t.session
	var members []message.Member
	place := make([]int, len(u.members)) // in members
	for at := range u.members {
		if m := &u.members[at]; m.rcpts > 0 {
			place[at] = len(members)
			members = append(members, message.Member{Tx: m.tx})
		}
	}
	if len(members) == 1 {
		return members[0].Tx
	}
	n := 0
	for i := range u.t.rcpts {
		r := &u.t.rcpts[i]
		if r.Route.Action == mail.Drop {
			continue
		}
		m := &members[place[r.Member]]
		m.Want = s.messages.Wants(r, s.trusted)
		for range r.Accepted {
			m.Own = append(m.Own, n)
			n++
		}
	}
	u.fan = message.NewFan(members)
	return u.fan
}
