package message

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

const (
	// splitMark is how long recipients are taken one at a time whose outcomes did not fit into one reply.
	splitMark = 5 * 24 * time.Hour
	// maxGuarded is the most recipients of a message that the ledger guards.
	maxGuarded = 1000
)

// A Receipt is what the ledger remembers of a message that the next hop took. The zero Receipt is of none.
type Receipt struct {
	Attempt *mail.Attempt
	Entries []mail.TraceID // the attempts by whose entries the recipients were answered
}

// IsOfBefore reports whether a recipient was answered by the entry of an attempt before.
func (r *Receipt) IsOfBefore() bool {
	return slices.ContainsFunc(r.Entries, func(id mail.TraceID) bool { return !id.IsZero() && id != r.Attempt.ID })
}

// receiptOf returns the Receipt of an attempt, which may be nil.
func receiptOf(a *mail.Attempt, outcomes []mail.Outcome) Receipt {
	if a == nil || len(outcomes) != len(a.Keys[0].Recipients) {
		return Receipt{}
	}
	r := Receipt{Attempt: a, Entries: make([]mail.TraceID, len(outcomes))}
	for i := range outcomes {
		r.Entries[i] = outcomes[i].Entry
	}
	return r
}

// Forget tells the ledger that the client has read the answer that a receipt is about, or with keep above 0 that it may
// have: then it is remembered for so long.
func (m *Messages) Forget(r Receipt, keep time.Duration) {
	m.cfg.Once.Forget(r.Attempt, r.Entries, keep)
}

// attempt returns what the ledger knows the message by, and ctx for a Commit that it guards. It is nil without the
// ledger, and for a client that shows nothing by which it could be known again.
func (m *Message) attempt(ctx context.Context) (context.Context, *mail.Attempt) {
	if m.digest == nil {
		return ctx, nil
	}
	recipients := make([]once.Recipient, 0, len(m.Recipients))
	for i := range m.Recipients {
		r := &m.Recipients[i]
		if r.Route.Action == mail.Drop {
			continue
		}
		for _, f := range r.Accepted {
			recipients = append(recipients, once.Recipient{Forward: r.Forward, Target: r.target(f)})
		}
	}
	if len(recipients) > maxGuarded {
		return ctx, nil
	}
	a := m.digest.Attempt(m.report.Event.Trace, m.sender(ctx), recipients)
	if a == nil {
		return ctx, nil
	}
	if r := m.Previous; r != nil && r.Attempt != nil && m.Client.Heard() == wire.HeardSurely {
		m.Forget(*r, 0) // before this one, which may be the same message, and is meant
		*r = Receipt{}
	}
	m.cfg.Once.Prepare(ctx, a)
	return mail.WithAttempt(ctx, a), a
}

// sender returns what the client showed of itself. It waits for nothing: SPF that is not known by now is left out, and
// the client is known by the rest.
func (e *Envelope) sender(ctx context.Context) *once.Sender {
	s := &once.Sender{User: e.Client.LoggedIn(), Name: e.Reputation.Name}
	if !e.Client.Unknown {
		s.Client = e.Client.Addr.Addr().Unmap()
	}
	if e.SPF != nil && e.SPF.IsMailKnown() {
		if result, domain := e.SPF.Wait(ctx); result == spf.Pass.String() {
			s.SPF = domain
		}
	}
	return s
}

// reportOnce reports what the ledger did about the message.
func (m *Message) reportOnce(outcomes []mail.Outcome) {
	if m.digest == nil {
		return
	}
	repeated := false
	for i := range outcomes {
		o := &outcomes[i]
		repeated = repeated || !o.Entry.IsZero() && o.Entry != m.report.Event.Trace
		if o.Again { // one event for each copy
			m.report.Anomaly("delivered again, in doubt", nil)
		}
	}
	if repeated {
		m.report.Anomaly("delivered before", nil)
	}
}

// markSplit marks the recipients if their outcomes, one for each, do not fit into one reply: they are taken one at a
// time then, so that each ends with its own.
func (m *Message) markSplit(ctx context.Context, each []mail.Outcome) {
	if m.digest == nil || !differ(each) {
		return
	}
	for i := range m.Recipients {
		m.cfg.Store.Mark(ctx, m.splitMark(m.Reverse, m.Recipients[i].Forward), splitMark)
	}
}

// splitMark returns the mark of a recipient that is to be alone in a transaction of its reverse-path.
func (m *Messages) splitMark(reverse, forward mail.Path) string {
	mac := hmac.New(sha256.New, m.cfg.MarkKeys[0])
	mac.Write([]byte("split\x00" + reverse.String() + "\x00" + forward.String()))
	return "split:" + hex.EncodeToString(mac.Sum(nil)[:16])
}

// IsSplit reports whether one of the recipients of a transaction is to be alone in it.
func (m *Messages) IsSplit(ctx context.Context, reverse mail.Path, forwards ...mail.Path) bool {
	if m.cfg.Once == nil {
		return false
	}
	keys := make([]string, len(forwards))
	for i, f := range forwards {
		keys[i] = m.splitMark(reverse, f)
	}
	marked, _ := m.cfg.Store.Marked(ctx, keys...)
	for _, is := range marked {
		if is {
			return true
		}
	}
	return false
}
