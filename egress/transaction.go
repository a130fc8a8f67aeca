package egress

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/router/mail"
	"go.opentelemetry.io/otel/trace"
)

// A transaction is a mail.Transaction at a destination that this node speaks with
// itself.
//
// Its session may change for as long as no octet of the message went out: MAIL and the accepted recipients are replayed
// then. While it waits for its client between two calls its slot is parked, and the pool may take the session away.
type transaction struct {
	local *Local
	d     mail.Delivery
	place place

	slot    *slot    // nil while the session is lent back
	session *session // that of slot
	fresh   bool     // the session was opened for us, so that its refusals are believed
	begun   bool     // MAIL may have been sent on session
	retries int      // how often a session was replaced
	counted bool     // its message was counted against the rate

	accepted []mail.Path  // each forward-path that the destination accepted, once
	first    [1]mail.Path // where accepted begins
	order    []int        // per accepted Rcpt, where in accepted it is; nil while it is simply the same
	failed   error        // what ended the transaction early: a refused MAIL, or a replay that was refused
	replayed bool         // failed comes from a replay

	utf8   bool // session offers SMTPUTF8, or the last one did
	spoke  bool // SMTPUTF8 was promised to the caller
	opened bool // Data was called and did not fail
	octets trace.Span
	wait   time.Duration
}

const (
	// maxRetries bounds how often one transaction replaces its session by itself.
	maxRetries = 2
	// maxLost bounds how often it goes on, for the recipients that were accepted, after one at which the connection
	// broke.
	maxLost = 5
)

// acquire gets a session for the transaction, from the pool or by opening one. The error is a *mail.Refusal.
func (t *transaction) acquire(ctx context.Context) error {
	begun := time.Now()
	defer func() { t.wait += time.Since(begun) }()
	return t.get(ctx)
}

// get is acquire without the time it takes.
func (t *transaction) get(ctx context.Context) error {
	l, p := t.local, &t.place
	if t.counted { // it had a session before, and much may have become of the Site since
		if err := l.suspended(p.site); err != nil {
			return err
		}
		p.limits = l.limits(p.site)
	}
	for tries := 0; ; tries++ {
		c, span := l.span(ctx, "egress.pool")
		s, err := l.pool.Get(c, pool.Request{
			Site: p.site, Limits: p.limits, Way: p.way, Hosts: p.hosts, Client: t.d.Client, Favoured: t.d.Favoured,
			Again: t.counted,
		})
		end(span, err)
		if err != nil {
			return noSession(err)
		}
		t.slot, t.counted = s, true
		open, full := s.Conn()
		if full && s.Dirty() && open.Reset(mail.Until(ctx, time.Now().Add(resetWait))) != nil {
			s.Drop()
			full = false
		}
		if full {
			t.use(open, false)
			return nil
		}
		if crowded, err := t.open(ctx); !crowded || tries == maxCrowded || over(ctx) {
			return err
		}
	}
}

// open opens a session in the slot, which is empty. The slot is given up if that fails. crowded is that of
// Local.connect.
func (t *transaction) open(ctx context.Context) (crowded bool, err error) {
	if crowded, err = t.local.connect(ctx, &t.place, t.slot, &t.d); err != nil {
		t.discard()
		return crowded, err
	}
	open, _ := t.slot.Conn()
	t.use(open, true)
	return false, nil
}

func (t *transaction) use(open *session, fresh bool) {
	t.session, t.fresh, t.begun = open, fresh, false
	t.utf8 = open.SMTPUTF8()
}

// discard closes the session and gives up the slot.
func (t *transaction) discard() {
	if t.slot != nil {
		t.slot.Discard()
	}
	t.forget()
}

// giveBack puts the session, on which nothing is open, back into the pool.
func (t *transaction) giveBack() {
	t.slot.Put()
	t.forget()
}

func (t *transaction) forget() { t.slot, t.session, t.begun = nil, nil, false }

// replace opens another session in place of one that is gone. MAIL and the recipients are not on it yet.
func (t *transaction) replace(ctx context.Context) error {
	begun := time.Now()
	defer func() { t.wait += time.Since(begun) }()
	if t.fresh && len(t.place.hosts) > 1 {
		t.slot.HostDown(t.slot.Key().Host)
	}
	t.slot.Drop()
	t.retries++
	crowded, err := t.open(ctx)
	if crowded {
		return t.get(ctx)
	}
	return err
}

// retryable reports whether err, from MAIL or RCPT or DATA, is to be met with another session: a broken connection is,
// as nothing was sent that counts, and so is a refusal of MAIL by a session that was used before, because it may be
// about that session (its server is closing, has seen enough messages of us) and not about the message.
func (t *transaction) retryable(ctx context.Context, err error) bool {
	if t.retries >= maxRetries || over(ctx) {
		return false
	}
	if !isVerdict(err) {
		return true
	}
	if t.fresh {
		return false
	}
	reply, ok := said(err)
	return ok && (reply.Verb == "MAIL" || reply.Reply.Code == 421)
}

// begin tells the session that a transaction begins, which sends nothing.
func (t *transaction) begin() {
	t.session.Begin(t.d)
	t.begun = true
}

// Rcpt adds a recipient; see mail.Transaction. A forward-path that was accepted already is not sent again. LMTP takes
// one recipient per transaction, because a mixed answer to the end of data could not be told to a client; another one
// is 452 4.5.3. A refusal of other recipients, at the replay, is 451 4.3.0 to this one.
func (t *transaction) Rcpt(ctx context.Context, forward mail.Path) error {
	if t.failed != nil {
		return t.notAsked()
	}
	if i := slices.Index(t.accepted, forward); i >= 0 {
		t.again(i)
		return nil
	}
	if len(t.accepted) > 0 && t.isLMTP() {
		return mail.Refuse(452, 5, 3, "One recipient at a time for this destination", "lmtp", nil)
	}
	if err := t.local.suspended(t.d.Site); err != nil {
		return err
	}
	ctx = t.local.within(ctx)
	if t.resume(ctx) != nil {
		return t.notAsked()
	}
	if r := t.local.isUnknown(t.d.Site, forward); r != nil {
		t.slot.Park()
		return r
	}
	c, span := t.local.span(ctx, "egress.rcpt")
	err := t.rcpt(c, forward)
	end(span, err)
	if err == nil {
		t.add(forward)
		t.slot.Worked()
	}
	if t.slot != nil {
		t.slot.Park()
	}
	return err
}

// rcpt sends RCPT, and MAIL before the first one.
func (t *transaction) rcpt(ctx context.Context, forward mail.Path) error {
	if !t.begun {
		t.begin()
	}
	for {
		err := t.session.Rcpt(ctx, forward)
		if err == nil {
			return nil
		}
		if !t.retryable(ctx, err) || t.isTold(err) {
			return t.refused(err, forward)
		}
		if err := t.replace(ctx); err != nil {
			return t.fail(err)
		}
		if t.replay(ctx) != nil {
			return t.notAsked()
		}
		if !t.begun {
			t.begin()
		}
	}
}

// refused turns the error of a RCPT that is believed into what the caller gets, and draws the consequences.
func (t *transaction) refused(err error, forward mail.Path) error {
	if !isVerdict(err) {
		err := lost(t.session.Host(), err)
		// The destination may have accepted, or do so yet, what is answered with a 451 here. So this session is done
		// with, and the recipients that stand are replayed on another one by the next call.
		t.discard()
		if t.retries++; len(t.accepted) == 0 || t.retries > maxLost {
			return t.fail(err)
		}
		return err
	}
	reacted := t.learn(err)
	reply, ok := said(err)
	switch {
	case !ok: // ours: SMTPUTF8, SIZE
	case reply.Verb == "MAIL":
		if reply.Reply.Code == 421 { // to a session that was just opened
			if !reacted {
				t.slot.Unreachable(err)
			}
			t.discard()
		}
		return t.fail(err)
	case reply.Reply.Code == 421:
		t.discard() // what was accepted is replayed by the next call
	case aboutUs(err) == nil && isNoSuchUser(reply.Reply):
		t.local.setUnknown(t.d.Site, forward, err)
	}
	return err
}

// again notes that an accepted forward-path was given once more.
func (t *transaction) again(i int) {
	if t.order == nil {
		for n := range t.accepted {
			t.order = append(t.order, n)
		}
	}
	t.order = append(t.order, i)
}

// add notes that a forward-path was accepted.
func (t *transaction) add(forward mail.Path) {
	if t.accepted == nil {
		t.accepted = t.first[:0]
	}
	t.accepted = append(t.accepted, forward)
	if t.order != nil {
		t.order = append(t.order, len(t.accepted)-1)
	}
}

func (t *transaction) isLMTP() bool {
	return t.d.NextHop.Transport == mail.LMTP || t.d.NextHop.Transport == mail.LMTPUnix
}

// Lend resets the transaction and gives its session back; see mail.Transaction.
func (t *transaction) Lend() bool {
	if t.slot == nil || t.opened || t.failed != nil {
		return false
	}
	if !t.slot.Unpark() {
		t.forget()
		return true
	}
	t.release()
	return true
}

// Renew begins again what was lent; see mail.Transaction.
func (t *transaction) Renew(ctx context.Context) error {
	ctx = t.local.within(ctx)
	if err := t.resume(ctx); err != nil {
		return err
	}
	t.slot.Park()
	return nil
}

// release gives the session back, after RSET where something is open on it.
func (t *transaction) release() {
	if t.begun {
		ctx := mail.Until(context.Background(), time.Now().Add(resetWait))
		if t.session.Reset(ctx) != nil || !t.session.Reusable() {
			t.discard()
			return
		}
	}
	t.giveBack()
}

// Data opens the message; see mail.Transaction. A session that turns out to be dead here is replaced, as nothing of the
// message was sent yet.
func (t *transaction) Data(ctx context.Context, form mail.Form) error {
	ctx = t.local.within(ctx)
	if err := t.resume(ctx); err != nil {
		return err
	}
	if len(t.accepted) == 0 {
		return mail.Refuse(451, 3, 0, "Local error, try again later", "no recipient", nil)
	}
	for {
		if t.session.Extensions().Chunking {
			// Nothing goes out and comes back before the end of the message. What came unasked until now would be taken
			// for the reply to it; a session on which something did is of no more use, and Data says so.
			t.session.Alive()
		}
		err := t.session.Data(ctx, form)
		if err == nil {
			break
		}
		if !t.retryable(ctx, err) || t.isTold(err) {
			return t.end(err)
		}
		if err := t.replace(ctx); err != nil {
			return t.fail(err)
		}
		if err := t.replay(ctx); err != nil {
			return err
		}
	}
	t.opened = true
	_, t.octets = t.local.span(ctx, "egress.octets")
	return nil
}

// end turns an error that ends the transaction into a Refusal.
func (t *transaction) end(err error) error {
	if !isVerdict(err) {
		err = lost(t.session.Host(), err)
	}
	t.learn(err)
	return err
}

// Write sends a piece; see mail.Transaction. A *mail.Refusal with another reply than 451 4.4.2 is the destination's
// verdict.
func (t *transaction) Write(o mail.Octets) error {
	if t.failed != nil {
		return t.failed
	}
	if err := t.session.Write(o); err != nil {
		err = t.end(err)
		end(t.octets, err)
		t.octets = nil
		return err
	}
	return nil
}

// Commit sends the last piece and the end of data; see mail.Transaction. A session that dies before all of it was
// written is 451 4.4.2 and not in doubt.
func (t *transaction) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	if t.failed != nil || t.slot == nil {
		return nil
	}
	end(t.octets, nil)
	t.octets = nil
	c, span := t.local.span(ctx, "egress.dot")
	reused := t.session.Messages() > 0
	base := t.session.Commit(c, last)
	host, version := t.session.Host(), t.session.TLS()
	for i := range base {
		o := &base[i]
		o.Reused, o.TLS, o.Wait = reused, version, t.wait
		if o.Host == "" {
			o.Host = host
		}
		if o.AboutUs && (i == 0 || base[i-1].Reply != o.Reply) {
			t.learn(&mail.Refusal{Reply: o.Reply, Reason: "upstream", Host: o.Host, AboutUs: true, Cause: o.Cause})
		}
	}
	t.reactTo(base)
	if len(base) > 0 {
		end(span, base[0].Cause)
	} else {
		end(span, nil)
	}
	if t.session.Reusable() {
		t.giveBack()
	} else {
		t.discard()
	}
	if t.order == nil {
		return base
	}
	out := make([]mail.Outcome, len(t.order))
	for i, n := range t.order {
		out[i] = base[n]
	}
	return out
}

// Abort ends the transaction without delivering; see mail.Transaction. Where nothing of the message went out, or only
// whole BDAT chunks, the session is reset and kept.
func (t *transaction) Abort() {
	end(t.octets, errAborted)
	t.octets = nil
	if t.slot == nil {
		return
	}
	if !t.slot.Unpark() {
		t.forget()
		return
	}
	t.release()
}

// SMTPUTF8 reports whether the host offers it; see mail.Transaction. Once it was said to, a session with a host of the same
// Site that does not is refused as 451 4.3.0.
func (t *transaction) SMTPUTF8() bool {
	t.spoke = t.utf8
	return t.utf8
}

var (
	errAborted = errors.New("aborted")
	errNoUTF8  = errors.New("another host of the Site does not offer SMTPUTF8")
)
