package egress

import (
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

const (
	// presentFor is how long an address of a host is taken for a present one, or for one that it has left, after
	// another session was asked.
	presentFor = 10 * time.Minute
	// againEvery is how often a refusal by a session that was used before is heard again, for one Site and domain.
	againEvery = time.Minute
	// againCache bounds what is remembered of each.
	againCache = 4096
)

// A standing is what is known of a machine until a time.
type standing struct {
	until time.Time
	left  bool // the host has left it, as far as is known; else it counts as a present one
}

// A topic is what a refusal is about: a domain at a Site, that of the reverse-path at MAIL, else that of the recipient.
type topic struct {
	site   mail.Site
	domain string
	atMail bool
}

// A question is a refusal that is heard again on a session that is opened for it, before it is believed. The zero value
// is none.
type question struct {
	class int // of the refusal
	of    feedback.Spot
	about topic // of a refusal that may be about the session; zero if it is doubted for its machine
}

// Rehearings remember which refusals were heard again, so that a client whose mail is refused costs no session for each
// attempt. They are safe for concurrent use, and only refusals touch them.
type rehearings struct {
	now    func() time.Time
	spots  *lru.Cache[feedback.Spot, standing]
	topics *lru.Cache[topic, time.Time] // and until when it is not heard again
}

func newRehearings(now func() time.Time) *rehearings {
	return &rehearings{
		now: now, spots: lru.New[feedback.Spot, standing](againCache), topics: lru.New[topic, time.Time](againCache),
	}
}

// isDoubtful reports whether a refusal by a session that was used before is to be heard again on a fresh one: a machine
// that the host has left does not take the host's mail any more, and what is said to MAIL, or of the session, may be no
// word about the message.
func (l *lease) isDoubtful(ctx context.Context, reply *smtpclient.ReplyError) bool {
	if l.asked.class != 0 {
		return true // it was asked about before
	}
	q := question{class: reply.Reply.Class()}
	if at := l.spot(); l.hasLeft(ctx, at) {
		q.of = at
		l.asked = q
		return true
	}
	q.about = topic{site: l.at.site}
	switch {
	case reply.Verb == "MAIL":
		q.about.domain, q.about.atMail = ascii.Fold(l.d.Reverse.Domain), true
	case reply.OfSession:
		q.about.domain = ascii.Fold(l.d.RecipientDomain)
	default:
		return false
	}
	now := l.again.now()
	if until, ok := l.again.topics.Get(q.about); ok && now.Before(until) {
		return false
	}
	l.again.topics.Put(q.about, now.Add(againEvery), 1)
	l.asked = q
	return true
}

// hasLeft reports whether a refusal by a machine is to be doubted for it: its address is not among the present ones of
// the host, and that was not asked about within the last ten minutes, or turned out to be so.
func (l *lease) hasLeft(ctx context.Context, at feedback.Spot) bool {
	if !at.Addr.IsValid() {
		return false
	}
	now := l.again.now()
	if s, ok := l.again.spots.Get(at); ok && now.Before(s.until) {
		return s.left
	}
	lookUp := l.finder.Addrs
	if l.at.fixed {
		lookUp = l.finder.FixedAddrs
	}
	if present, err := lookUp(ctx, at.Host); err != nil || slices.Contains(present, at.Addr) {
		return false
	}
	l.again.spots.Put(at, standing{until: now.Add(presentFor)}, 1)
	return true
}

// heard ends the open question by what the fresh session said to the same command: nil if it accepted. The same class
// confirms the refusal, and its machine counts as a present one. If it is another, no idle session with that machine is
// used any more.
func (l *lease) heard(err error) {
	q := l.asked
	if q.class == 0 || !l.fresh {
		return
	}
	class := 2
	if err != nil {
		reply, ok := replyOf(err)
		if !ok {
			return // a lost connection, or our own word
		}
		class = reply.Reply.Class()
	}
	l.asked = question{}
	switch {
	case class == q.class:
	case q.of.Addr.IsValid():
		l.leave(q.of)
	default:
		l.again.topics.Put(q.about, time.Time{}, 1) // it was about the session, and may be so again
	}
}

// leave closes the idle sessions with a machine that its host has left, and has refusals by the others doubted.
func (l *lease) leave(at feedback.Spot) {
	l.again.spots.Put(at, standing{until: l.again.now().Add(presentFor), left: true}, 1)
	l.slot.CloseIdle(func(k pool.Key) bool { return k.Host == at.Host && k.Addr == at.Addr })
}

// opened notes that a session was opened with a machine, which is a present one then.
func (l *lease) opened() {
	at := l.spot()
	if s, ok := l.again.spots.Get(at); ok && s.left {
		l.again.spots.Put(at, standing{until: l.again.now().Add(presentFor)}, 1)
	}
}

// asOfOld turns refusals for good of a message, by a session whose machine its host has left, into 451: it cannot be
// heard again, and the next attempt uses another session. It reports whether it did.
func (l *lease) asOfOld(ctx context.Context, outcomes []mail.Outcome) bool {
	refused := slices.ContainsFunc(outcomes, func(o mail.Outcome) bool { return o.Reply.Class() == 5 })
	if !refused || l.fresh || !l.hasLeft(ctx, l.spot()) {
		return false
	}
	l.leave(l.spot())
	for i := range outcomes {
		if o := &outcomes[i]; o.Reply.Class() == 5 {
			o.Reply = mail.NewReply(451, 4, 1, "Destination has moved, try again later")
		}
	}
	return true
}
