package egress

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxRetries bounds how often one transaction replaces its session by itself, and maxElsewhere for the sake of
	// addresses that have not been tried.
	maxRetries, maxElsewhere = 2, 5
	// maxCrowded bounds how often one transaction waits for another session because its destination takes no more of
	// them.
	maxCrowded = 3
	// resetWait bounds the RSET of a session before another transaction uses it.
	resetWait = 5 * time.Second
	// fairTry is how long a Site must have been tried when time runs out, to be called unreachable.
	fairTry = 10 * time.Second
)

// A lease is a transaction's hold on a session of the pool, one after another. slot and conn are nil together.
type lease struct {
	*resources
	d  mail.Delivery
	at destination

	slot    *slot           // nil while the session is lent back
	conn    *client         // that of slot
	fresh   bool            // conn was opened for us, so that its refusals are believed
	others  int             // addresses that the Site has besides the one that conn leads to, where that is fresh
	begun   bool            // MAIL may have been sent on conn
	utf8    bool            // conn offers SMTPUTF8, or the last one did
	counted bool            // the message was counted against the rate
	avoid   []feedback.Spot // where sessions that were opened for us did not serve the message
	retries int             // how often conn was replaced
	tried   int             // addresses that were connected to for the present recipient
	asked   *question       // the refusal for which conn is replaced; nil for none
	wait    time.Duration   // spent waiting for sessions, dialling included
}

// acquire gets a session, from the pool or by opening one: all hosts in their order, addresses that failed lately last,
// until one takes us or ctx's deadline passes. A slot that is held already is empty, and a session is opened in it at
// once.
//
// The error is a *mail.Refusal, and then no slot is held. Its Cause tells of each host; the Site is cooled then, unless
// the client left or left too little time.
func (l *lease) acquire(ctx context.Context) error {
	begun := time.Now()
	defer func() { l.wait += time.Since(begun) }()
	ctx = askingFor(ctx, &l.d)
	tries := 0 // of slots from the pool
	if l.slot != nil {
		tries = -1
	}
	for ; ; tries++ {
		if l.slot == nil {
			if full, err := l.take(ctx, tries); full || err != nil {
				return err
			}
		}
		if r := l.connects.spent(&l.d); r != nil {
			l.discard()
			return r
		}
		password, refusal := l.password()
		if refusal != nil {
			l.discard()
			return refusal
		}
		dialled := time.Now()
		step := l.d.Leg.Enter(mail.StepDial)
		conn, failed := l.dialer.Dial(ctx, l.target(password))
		l.tried = conn.Tried
		l.connects.draw(&l.d, failed.Connects())
		if conn.Client != nil {
			l.fill(step, conn)
			return nil
		}
		err := noHost(failed, l.at.demands.Required)
		hurried := time.Since(dialled) < fairTry && (mail.IsOver(ctx) || l.hasSpare() && failed.AreSlow())
		if hurried && err.Unreached {
			err.Reason = reasonNoTime
		}
		l.d.Leg.Leave(step, err)
		crowded := l.unreachable(ctx, failed, err, hurried)
		l.discard()
		if !crowded || tries == maxCrowded || tries >= 0 && mail.IsOver(ctx) {
			return err
		}
	}
}

// take gets a slot from the pool, and reports whether there is a session in it. tries counts the slots before.
func (l *lease) take(ctx context.Context, tries int) (full bool, err error) {
	if l.counted && tries == 0 { // there was a session before, and much may have become of the Site since
		if err := l.suspended(l.at.site); err != nil {
			return false, err
		}
		l.at.limits = l.limits(l.at.site)
	}
	if err := l.putOff(&l.d, l.at.way.User); err != nil {
		return false, err
	}
	sender := l.sender(&l.d, "")
	step := l.d.Leg.Enter(mail.StepPool)
	s, err := l.pool.Get(ctx, pool.Request{
		Site: l.at.site, Limits: l.at.limits, Way: l.at.way, Demands: l.at.demands, Hosts: l.at.hosts,
		Client: network.Widest(l.d.Client.Addr()), Favoured: l.d.Favoured, Again: l.counted,
		NotIPv6: l.marks.AvoidsIPv6(&sender), Chosen: l.d.Chosen,
	})
	if err != nil {
		refusal := noSession(err)
		l.d.Leg.Leave(step, refusal)
		return false, refusal
	}
	l.d.Leg.Leave(step, nil)
	l.slot, l.counted = s, true
	conn, full := s.Conn()
	if full && conn.IsOld() && needsEHLO(&l.d) {
		s.Drop()
		full = false
	}
	if full && s.Dirty() && conn.Reset(mail.Until(ctx, time.Now().Add(resetWait))) != nil {
		s.Drop()
		full = false
	}
	if full {
		l.use(conn, false)
	}
	return full, nil
}

// target returns what to open a session with.
func (l *lease) target(password string) dial.Target {
	way := &l.at.way
	return dial.Target{
		Site: l.at.site, Transport: way.Transport, Port: way.Port, TLS: smtpclient.TLSPolicy(way.TLS),
		Demands: l.at.demands, User: way.User, Password: password, Hosts: l.at.hostNames(), Fixed: l.at.fixed,
		Of: l.of(), Avoid: l.avoid,
		Elsewhere: l.hasSpare(), Tried: l.tried, Proxy: way.Proxy,
		Without: l.without, Leg: l.d.Leg,
		EHLO: needsEHLO(&l.d),
	}
}

// needsEHLO reports whether a message cannot do without an extension.
func needsEHLO(d *mail.Delivery) bool {
	p := &d.Params
	return p.SMTPUTF8 || p.RequireTLS || !d.Reverse.IsASCII() ||
		p.Body == mail.Body8BitMIME && d.EightBit == mail.EightBitRefuse
}

// hasSpare reports whether another node tries where no host can be reached.
func (l *lease) hasSpare() bool {
	if l.at.spare != nextNode {
		return l.at.spare == asker
	}
	_, ok := l.cfg.Cluster.Next(l.at.site, l.d.RecipientDomain)
	return ok
}

// fill puts a session that was just opened into the slot. step is that of its dialling.
func (l *lease) fill(step int, conn dial.Conn) {
	if leg := l.d.Leg; leg != nil && leg.Steps != nil {
		if began, took := conn.Client.Handshake(); !began.IsZero() {
			leg.Steps.Add(mail.StepTLS, began, took, mail.Note{})
		}
		leg.Steps.At(step, conn.Host, conn.Client.Taken().Addr)
		leg.Leave(step, nil)
	}
	l.slot.Fill(pool.Key{
		Way: l.at.way, Host: conn.Host, Addr: conn.Addr, Source: conn.Source, Trust: conn.Trust,
	}, conn.Client)
	l.use(conn.Client, true)
	l.others = conn.Others
	l.hearing().opened()
}

// password returns the password that a session needs, "" if it needs no authentication.
func (l *lease) password() (string, *mail.Refusal) {
	user := l.at.way.User
	if user == "" {
		return "", nil
	}
	if l.cfg.Password != nil {
		if password, ok := l.cfg.Password(user, l.at.hosts[0].Name, l.at.way.Port); ok {
			return password, nil
		}
	}
	r := mail.Refuse(451, 3, 5, "System is not configured for this destination", reasonCredentials,
		errors.New("no password for "+user+" at "+string(l.at.site)))
	r.Unreached = true
	return "", r
}

// of says whose mail a session is for.
func (l *lease) of() feedback.Of {
	sender := l.sender(&l.d, "")
	return sender.Of()
}

// unreachable draws the consequences for the Site when no host took us. err is what the client gets for the failures,
// hurried that there was too little time to say anything of the Site. crowded says that the Site has enough of our
// sessions and that one of those is to be waited for.
func (l *lease) unreachable(ctx context.Context, failed dial.Failures, err error, hurried bool) (crowded bool) {
	for _, f := range failed {
		_, wait := l.reactTo(l.slot, &l.d, "", f, opening)
		crowded = crowded || wait
	}
	if crowded || errors.Is(ctx.Err(), context.Canceled) || hurried || failed.AreOurs() || failed.IsCut() {
		return crowded // which says nothing of the Site, or nothing bad
	}
	if l.at.demands.Required && slices.ContainsFunc(failed, lacksTLS) {
		return false // others demand less
	}
	refused := false
	for _, f := range failed {
		if r := aboutUs(f); r != nil {
			refused = true
			l.anomaly(&l.d, r, "")
		}
	}
	switch user := l.at.way.User; {
	case user != "" && isAuth(failed): // which says nothing of other users
		l.feedback.RefusedUser(l.at.site, user)
	case !isPolicy(err) || refused:
		l.slot.Unreachable(err)
	}
	return false
}

// use makes conn, which is that of the slot, the session of the transaction.
func (l *lease) use(conn *client, fresh bool) {
	l.conn, l.fresh, l.begun = conn, fresh, false
	l.utf8 = conn.SMTPUTF8()
	if leg := l.d.Leg; leg != nil {
		taken := conn.Taken()
		if !fresh {
			taken.Kind = mail.SessionWarm
		}
		leg.Took(taken)
	}
}

// begin tells the session that a transaction begins, which sends nothing.
func (l *lease) begin() {
	d := l.d
	if d.Leg != nil {
		d.Leg.Reverse, d.Leg = d.Reverse, nil // which the session is not to keep alive
	}
	l.conn.Begin(d)
	l.begun = true
}

// maxLocal is the length of a local part that every host has to take (RFC 5321 section 4.5.3.1.1).
const maxLocal = 64

// usesOwn reports whether err refuses a reverse-path that we wrote for a local part that the host need not take, and
// the sender's own path is to be tried in its place, which is once.
func (l *lease) usesOwn(err error) bool {
	reply, _ := replyOf(err)
	if !reply.OfReverse || l.d.Own.IsNull() || l.d.UsesOwn() || len(l.d.Reverse.LocalPart()) <= maxLocal {
		return false
	}
	l.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: l.cfg.Now(), Trace: l.d.Trace, Client: l.d.Client.Addr(), NextHop: l.d.NextHop,
		Site: l.d.Site, Host: l.conn.Host(), Verb: reply.Verb, Reply: reply.Reply,
		Reason: "rewritten reverse-path refused, the sender's own tried", Cause: err,
	})
	l.d.Reverse = l.d.Own
	return true
}

// retryable reports whether err, from MAIL or RCPT or DATA, is to be met with another session: a broken connection is,
// as nothing was sent that counts; so is a refusal by a session that was used before which is doubtful, because it may
// be about that session (its server is closing, has seen enough messages of us, has moved) and not about the message;
// and what another host may answer otherwise.
func (l *lease) retryable(ctx context.Context, err error) bool {
	if !l.mayRetry() || mail.IsOver(ctx) {
		return false
	}
	if !isReply(err) {
		return true
	}
	reply, ok := replyOf(err)
	if l.fresh {
		return l.isElsewhere() && (isHosts(err) || refusesIPv6(err))
	}
	return ok && (reply.Reply.Code == 421 || l.hearing().isDoubtful(ctx, &reply))
}

// settle ends a call. The next one may try as many addresses again; the first recipient shares them with the beginning.
func (l *lease) settle() { l.tried = 0 }

// mayRetry reports whether the session may be replaced once more.
func (l *lease) mayRetry() bool {
	return l.tried < dial.MostAddrs &&
		(l.retries < maxRetries || l.fresh && l.isElsewhere() && l.retries < maxElsewhere)
}

// isElsewhere reports whether there is an address besides that of the session, which was opened for us, and those that
// have not served the message.
func (l *lease) isElsewhere() bool { return len(l.avoid) < l.others }

// isHosts reports whether err, an answer to MAIL, RCPT or DATA, is one of the host rather than of the destination:
// another host may answer otherwise. So are 421, what is no reply, a command that it does not know or finds out of
// order, and 4yz to MAIL.
func isHosts(err error) bool {
	reply, ok := replyOf(err)
	if !ok {
		var broken *smtpclient.ProtocolError
		return errors.As(err, &broken)
	}
	switch reply.Reply.Code {
	case 421, 500, 502, 503:
		return true
	}
	return reply.Verb == "MAIL" && reply.Reply.Class() == 4
}

// refusesIPv6 reports whether err refuses the IPv6 address that we come from.
func refusesIPv6(err error) bool {
	reply, _ := replyOf(err)
	return reply.OurIPv6 && aboutUs(err) != nil
}

// leaveTime has the next command before DATA leave half of the time to another session, where one could be tried.
func (l *lease) leaveTime(ctx context.Context) {
	var until time.Time
	if at, ok := ctx.Deadline(); ok && l.mayRetry() && (!l.fresh || l.isElsewhere()) {
		until = time.Now().Add(time.Until(at) / 2)
	}
	l.conn.LeaveTime(until)
}

// mark remembers that an answer of the host kept the message from it, or that none came, so that other addresses are
// tried before this one. What is said of the message, its sender or the authentication of it marks nothing.
func (l *lease) mark(err error) {
	reply, said := replyOf(err)
	switch e := reply.Reply.Enhanced; {
	case errors.Is(err, context.Canceled): // we did not wait for one
	case refusesIPv6(err):
		l.marks.RefusedIPv6(l.at.site, l.of())
	case said && reply.Reply.Code != 421 && (e.Subject == 1 && (e.Detail == 7 || e.Detail == 8) ||
		e.Subject == 7 && e.Detail >= 20 && e.Detail <= 29):
	case smtpclient.Verb(err) == "MAIL" || smtpclient.Verb(err) == "RSET":
		l.marks.Failed(l.spot(), feedback.AtMail, l.of())
	default:
		l.marks.Failed(l.spot(), feedback.AtRcpt, l.of())
	}
}

// accepts notes that MAIL and a recipient were accepted.
func (l *lease) accepts(sender *feedback.Sender) {
	l.marks.Accepted(l.spot(), sender)
}

// spot returns which address of which host the session leads to.
func (l *lease) spot() feedback.Spot {
	key := l.slot.Key()
	return feedback.Spot{Host: key.Host, Addr: key.Addr, Port: key.Way.Port}
}

// isTooMuch reacts to err, which came before the message, and reports whether it says that there is too much mail from
// us, which another session does not change.
func (l *lease) isTooMuch(err error) bool {
	if l.asked != nil && l.asked.of.Addr.IsValid() {
		return false // it is not believed yet
	}
	if done, _ := l.reactTo(l.slot, &l.d, "", err, retried); !isTooMuch(done) {
		return false
	}
	if l.asked != nil { // it stands as it is
		l.again.set(*l.asked, believed)
		l.asked = nil
	}
	return true
}

// replace opens another session in place of one that ended in err, or is to be left for it. MAIL and the recipients are
// not on it yet.
func (l *lease) replace(ctx context.Context, err error) error {
	if l.fresh {
		l.mark(err)
		l.avoid = append(l.avoid, l.spot())
	}
	if lost, ok := errors.AsType[*smtpclient.ConnError](err); ok && l.fresh && lost.Verb == "MAIL" &&
		!errors.Is(err, os.ErrDeadlineExceeded) {
		l.dialer.LostAtMail(l.spot(), l.conn)
	}
	verb := smtpclient.Verb(err)
	if !l.fresh && errors.Is(err, os.ErrDeadlineExceeded) && (verb == "MAIL" || verb == "RSET") {
		// What idles there has died as silently.
		host := l.slot.Key().Host
		l.slot.CloseIdle(func(k pool.Key) bool { return k.Host == host })
	}
	l.tryFailed(err)
	l.slot.Drop()
	l.retries++
	return l.acquire(ctx)
}

// tryFailed tells the operator of a session that is left for err.
func (l *lease) tryFailed(err error) {
	if l.d.Leg == nil {
		return
	}
	cause := err
	if lost, ok := errors.AsType[*smtpclient.ConnError](err); ok {
		cause = errors.New(lost.Verb + ": " + lost.Err.Error())
	} else if reply, ok := replyOf(err); ok {
		cause = &reply
	}
	l.d.Leg.Try(mail.Try{Host: l.conn.Host(), Addr: l.spot().AddrPort(), Cause: cause.Error()})
}

// release hands the session back, after RSET where something is open on it.
func (l *lease) release() {
	if l.begun {
		ctx := mail.Until(context.Background(), time.Now().Add(resetWait))
		if l.conn.Reset(ctx) != nil || !l.conn.Reusable() {
			l.discard()
			return
		}
	}
	l.giveBack()
}

// giveBack puts the session, on which nothing is open, back into the pool.
func (l *lease) giveBack() {
	l.slot.Put()
	l.forget()
}

// discard closes the session and the slot with it.
func (l *lease) discard() {
	if l.slot != nil {
		l.slot.Discard()
	}
	l.forget()
}

// forget lets go of a slot that is not ours any more.
func (l *lease) forget() {
	l.hearing().unask()
	l.slot, l.conn, l.begun = nil, nil, false
}
