package message

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/router/leaf/abreast"
	"github.com/millrace/millrace/router/mail"
)

// blockedFor is how long one next hop of several may take nothing of a message, or less than mail.LeastRate. The others
// wait for it as long.
const blockedFor = 15 * time.Second

// A Member is a transaction at one of the next hops that a message goes to at a time.
type Member struct {
	Tx   mail.Transaction
	Want auth.Want // which signatures of ours it gets
	Own  []int     // its forward-paths, by their indexes among all that were accepted, in the order of the recipients
}

// A Fan is a mail.Transaction at several next hops. Each piece is lent to one member after the other, so that none is
// further than one piece ahead of another, and no octet is copied; all else is done at all members at a time. A member
// that fails before the end of data is aborted alone, and its error is the outcome of its recipients. The methods that
// return an error do so when no member is left: what became of the message is in its outcomes.
type Fan struct {
	members []member
	others  variants // the first piece for the members that get less of our signatures than others
	began   bool     // the first piece has gone out
}

// A member is a Member under way. Its Tx is nil once it has ended.
type member struct {
	Member
	failed  error // why it was aborted
	results []mail.Outcome
}

// NewFan returns the transaction at members, which are open and hold their recipients, ready for Data.
func NewFan(members []Member) *Fan {
	f := &Fan{members: make([]member, len(members))}
	for i := range members {
		f.members[i].Member = members[i]
	}
	return f
}

var (
	errNoMember = errors.New("every next hop has failed")
	errOpened   = errors.New("recipients are added before the next hops are one transaction")
)

// fail aborts a member alone.
func (m *member) fail(err error) {
	m.Tx.Abort()
	m.Tx, m.failed = nil, err
}

// each calls do for each member that is left, for all at a time, and awaits them. A member for which it returns an
// error has failed.
func (f *Fan) each(do func(m *member) error) error {
	abreast.Do(len(f.members), func(i int) {
		m := &f.members[i]
		if m.Tx == nil {
			return
		}
		if err := do(m); err != nil {
			m.fail(err)
		}
	})
	return f.left()
}

// left returns an error if no member is left.
func (f *Fan) left() error {
	for i := range f.members {
		if f.members[i].Tx != nil {
			return nil
		}
	}
	return errNoMember
}

// Rcpt is not called: the members have their recipients.
func (*Fan) Rcpt(context.Context, mail.Path) error { return errOpened }

// Stream waits for a place to stream at each Site; see mail.Transaction.
func (f *Fan) Stream(ctx context.Context) error {
	return f.each(func(m *member) error { return m.Tx.Stream(ctx) })
}

// Data opens the message at each member; see mail.Transaction.
func (f *Fan) Data(ctx context.Context, form mail.Form) error {
	ctx = mail.WithStall(ctx, blockedFor)
	return f.each(func(m *member) error { return m.Tx.Data(ctx, form) })
}

// piece returns what a member gets for a piece: another first one if it gets less of our signatures than others.
func (f *Fan) piece(m *member, o mail.Octets) mail.Octets {
	for i := range f.others {
		if v := &f.others[i]; !f.began && v.want == m.Want {
			return v.piece
		}
	}
	return o
}

// Write lends a piece to one member after the other; see mail.Transaction.
func (f *Fan) Write(o mail.Octets) error {
	for i := range f.members {
		m := &f.members[i]
		if m.Tx == nil {
			continue
		}
		if err := m.Tx.Write(f.piece(m, o)); err != nil {
			m.fail(err)
		}
	}
	f.began = true
	return f.left()
}

// Commit releases the end of data at each member that is left, and returns one outcome per accepted forward-path, in
// the order of the recipients; see mail.Transaction. Each asks the ledger for its own recipients.
func (f *Fan) Commit(ctx context.Context, last mail.Octets) []mail.Outcome {
	a := mail.AttemptOf(ctx)
	_ = f.each(func(m *member) error { // what became of each is its outcome
		c := ctx
		if a != nil {
			c = mail.WithAttempt(ctx, a.Part(m.Own))
		}
		m.results = m.Tx.Commit(c, f.piece(m, last))
		m.Tx = nil // Commit has ended it
		return nil
	})
	return f.outcomes()
}

// outcomes returns what became of each forward-path.
func (f *Fan) outcomes() []mail.Outcome {
	n := 0
	for i := range f.members {
		n += len(f.members[i].Own)
	}
	out := make([]mail.Outcome, n)
	for i := range f.members {
		m := &f.members[i]
		for n, at := range m.Own {
			switch {
			case m.failed != nil:
				out[at] = outcomeOf(m.failed)
			case len(m.results) == len(m.Own):
				out[at] = m.results[n]
			default:
				out[at] = miscounted(len(m.results), len(m.Own))
			}
		}
	}
	return out
}

// outcomeOf returns the outcome of a recipient whose message ended with err before the end of data.
func outcomeOf(err error) mail.Outcome {
	o := mail.Outcome{Reply: mail.ReplyFor(err), Cause: err}
	var r *mail.Refusal
	if errors.As(err, &r) {
		o.Host, o.AboutUs = r.Host, r.AboutUs
	}
	return o
}

// Abort leaves the message undelivered at each member that is left; see mail.Transaction.
func (f *Fan) Abort() {
	for i := range f.members {
		if m := &f.members[i]; m.Tx != nil {
			m.Tx.Abort()
			m.Tx = nil
		}
	}
}

// Lend is not called: the members are lent by themselves.
func (*Fan) Lend() bool { return false }

// Renew is not called: the members are renewed by themselves.
func (*Fan) Renew(context.Context) error { return nil }

// errGaveWay is the answer of a member whose session another client waits for.
func errGaveWay() error {
	return mail.Refuse(451, 4, 5, "Others wait for this destination, try again", "gave way", nil)
}

// Wanted ends the members whose sessions others wait for, and reports whether none is left; see mail.Transaction.
func (f *Fan) Wanted() bool {
	for i := range f.members {
		if m := &f.members[i]; m.Tx != nil && m.Tx.Wanted() {
			m.fail(errGaveWay())
		}
	}
	return f.left() != nil
}

// SMTPUTF8 ends the members whose hosts do not offer it, and reports whether one is left; see mail.Transaction. It is
// asked for a message that needs it.
func (f *Fan) SMTPUTF8() bool {
	for i := range f.members {
		if m := &f.members[i]; m.Tx != nil && !m.Tx.SMTPUTF8() {
			m.fail(errNoUTF8())
		}
	}
	return f.left() == nil
}

// errNoUTF8 is the answer to a message that needs SMTPUTF8 where the next hop has none.
func errNoUTF8() error {
	return mail.Refuse(550, 6, 7, "The destination does not support SMTPUTF8", "smtputf8", nil)
}
