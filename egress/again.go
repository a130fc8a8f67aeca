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

// A state is how far a question is.
type state uint8

// The states. The zero value is that of nothing known.
const (
	asking   state = iota + 1 // another session was opened to hear the refusal again, and has not answered yet
	believed                  // it was heard again, and for a machine: it is a present one
	left                      // the host has left the machine, as far as is known
)

// A standing is what is known until a time of a machine, or of what is said about a topic.
type standing struct {
	until time.Time
	state state
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
	topics *lru.Cache[topic, standing]
}

func newRehearings(now func() time.Time) *rehearings {
	return &rehearings{
		now: now, spots: lru.New[feedback.Spot, standing](againCache), topics: lru.New[topic, standing](againCache),
	}
}

// spot returns how far the question about a machine is.
func (r *rehearings) spot(at feedback.Spot) state {
	s, ok := r.spots.Get(at)
	if !ok || !r.now().Before(s.until) {
		return 0
	}
	return s.state
}

// topic is spot for a topic.
func (r *rehearings) topic(about topic) state {
	s, ok := r.topics.Get(about)
	if !ok || !r.now().Before(s.until) {
		return 0
	}
	return s.state
}

// set notes how far a question is; 0 has the next refusal ask again.
func (r *rehearings) set(q question, to state) {
	switch now := r.now(); {
	case q.of.Addr.IsValid():
		r.spots.Put(q.of, standing{until: now.Add(presentFor), state: to}, 1)
	case q.class != 0:
		r.topics.Put(q.about, standing{until: now.Add(againEvery), state: to}, 1)
	}
}

// A hearing is a lease as far as refusals are concerned that may be of the session, or of a machine that was left, and
// not of what was asked.
type hearing struct{ *lease }

// hearing returns that side of the lease.
func (l *lease) hearing() hearing { return hearing{l} }

// doubt returns the question that a refusal by a session that was used before raises, and how far that is: a machine
// that the host has left does not take the host's mail any more, and what is said to MAIL, or of the session, may be no
// word about the message. A refusal that is believed as it stands raises none.
func (l hearing) doubt(ctx context.Context, reply *smtpclient.ReplyError) (question, state) {
	q := question{class: reply.Reply.Class()}
	if at := l.spot(); at.Addr.IsValid() {
		known := l.again.spot(at)
		if known == asking || known == left || known == 0 && l.isAbsent(ctx, at) {
			q.of = at
			return q, known
		}
	}
	q.about = topic{site: l.at.site}
	switch {
	case reply.Verb == "MAIL":
		q.about.domain, q.about.atMail = ascii.Fold(l.d.Reverse.Domain), true
	case reply.OfSession:
		q.about.domain = ascii.Fold(l.d.RecipientDomain)
	default:
		return question{}, believed
	}
	return q, l.again.topic(q.about)
}

// isDoubtful reports whether a refusal by a session that was used before is to be heard again on a fresh one.
func (l hearing) isDoubtful(ctx context.Context, reply *smtpclient.ReplyError) bool {
	q, known := l.doubt(ctx, reply)
	switch known {
	case asking, believed:
		return false
	case left: // its other sessions were closed, and this one was in use
	default:
		l.again.set(q, asking)
	}
	l.asked = &q
	return true
}

// believe draws the consequences of err, the answer for a recipient of domain, and returns what the client gets: 451 in
// place of a refusal for good by a session that was used before, where it should be heard again and cannot be, or was
// not answered yet. A machine that the host may have left says nothing of the Site.
func (l hearing) believe(ctx context.Context, domain string, err error) error {
	q, known := question{}, believed
	if reply, ok := replyOf(err); ok && !l.fresh && mail.ReplyFor(err).Class() == 5 {
		q, known = l.doubt(ctx, &reply)
	}
	if !q.of.Addr.IsValid() {
		l.learn(l.slot, &l.d, domain, err)
	}
	if known == believed {
		return err
	}
	r := mail.Refuse(451, 4, 1, "Destination may have moved, try again later", "not heard again", err)
	r.Host = l.conn.Host()
	return r
}

// isAbsent reports whether an address is not among the present ones of the host.
func (l hearing) isAbsent(ctx context.Context, at feedback.Spot) bool {
	lookUp := l.finder.Addrs
	if l.at.fixed {
		lookUp = l.finder.FixedAddrs
	}
	present, err := lookUp(ctx, at.Host)
	return err == nil && !slices.Contains(present, at.Addr)
}

// heard ends the open question by what the fresh session said to the same command: nil if it accepted. The same class
// confirms the refusal, and its machine counts as a present one. If it is another, no idle session with that machine is
// used any more. What is no reply of the host answers nothing.
func (l hearing) heard(err error) {
	if l.asked == nil || !l.fresh {
		return
	}
	q := *l.asked
	class := 2
	if err != nil {
		reply, ok := replyOf(err)
		if !ok {
			l.unask() // a lost connection, or our own word
			return
		}
		class = reply.Reply.Class()
	}
	switch {
	case class == q.class:
		l.again.set(q, believed)
	case q.of.Addr.IsValid():
		l.leave(q.of)
	default:
		l.again.set(q, 0) // it was about the session, and may be so again
	}
	l.asked = nil
}

// unask ends the open question without an answer, so that the next refusal asks again.
func (l hearing) unask() {
	if l.asked == nil {
		return
	}
	if q := *l.asked; !q.of.Addr.IsValid() || l.again.spot(q.of) == asking {
		l.again.set(q, 0)
	}
	l.asked = nil
}

// leave closes the idle sessions with a machine that its host has left, and has refusals by the others doubted.
func (l hearing) leave(at feedback.Spot) {
	l.again.set(question{of: at}, left)
	l.slot.CloseIdle(func(k pool.Key) bool { return k.Host == at.Host && k.Addr == at.Addr })
}

// opened notes that a session was opened with a machine, which is a present one then.
func (l hearing) opened() {
	if at := l.spot(); l.again.spot(at) == left {
		l.again.set(question{of: at}, believed)
	}
}

// asOfOld turns refusals for good of a message, by a session whose machine its host has left, into 451: it cannot be
// heard again, and the next attempt uses another session. It reports whether it did.
func (l hearing) asOfOld(ctx context.Context, outcomes []mail.Outcome) bool {
	refused := slices.ContainsFunc(outcomes, func(o mail.Outcome) bool { return o.Reply.Class() == 5 })
	if !refused || l.fresh {
		return false
	}
	at := l.spot()
	known := l.again.spot(at)
	if !at.Addr.IsValid() || known == believed || known == 0 && !l.isAbsent(ctx, at) {
		return false
	}
	l.leave(at)
	for i := range outcomes {
		if o := &outcomes[i]; o.Reply.Class() == 5 {
			o.Reply = mail.NewReply(451, 4, 1, "Destination has moved, try again later")
		}
	}
	return true
}
