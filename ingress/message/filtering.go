package message

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/ingress/report"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A Filtering is what content filters have of a transaction. The methods of nil do nothing: no filter is asked.
type Filtering struct {
	panel  *filter.Panel    // nil before a filter is asked
	added  []byte           // the fields that filters add above it
	waited time.Duration    // that it waited for them
	came   *filter.Decision // what they come to; nil before, and where that is reported alone
}

// errDiscarded means that a content filter wants a message accepted and delivered nowhere.
var errDiscarded = errors.New("a content filter discards the message")

// fields returns the fields that filters add above the message.
func (f *Filtering) fields() []byte {
	if f == nil {
		return nil
	}
	return f.added
}

// decision returns what filters came to; nil where they came to nothing, or that is reported alone.
func (f *Filtering) decision() *filter.Decision {
	if f == nil {
		return nil
	}
	return f.came
}

// Filtered returns what content filters did with the message: they took it, refused it by what is said, or discarded it
// and said nothing. It is false where they came to nothing that speaks for the client or against it.
func (e *Ending) Filtered() (came, took bool, said mail.Reply) {
	d := e.filtered
	switch {
	case d == nil:
		return false, false, said
	case d.Action == filter.Accept:
		return d.Clean(), true, said
	case d.Refusal != nil:
		said = d.Refusal.Reply
	}
	return true, false, said
}

// wanted reports whether the message is to give way to others that a filter is to be shown.
func (f *Filtering) wanted() bool { return f != nil && f.panel != nil && f.panel.Wanted() }

// Close ends the dialogues with the filters. It may be called again.
func (f *Filtering) Close() {
	if f != nil && f.panel != nil {
		f.panel.Close()
	}
}

// Lend ends them while the client is silent, before its message.
func (f *Filtering) Lend() { f.Close() }

// Forget takes back that a recipient was taken in, if it was the last one: the next hop did not take it.
func (f *Filtering) Forget(forward mail.Path) {
	if f != nil {
		f.panel.Forget(forward)
	}
}

// FiltersAtRcpt reports whether content filters are asked about recipients.
func (m *Messages) FiltersAtRcpt() bool { return m.cfg.Filters.AtRcpt() }

// FilterRcpt asks the content filters that want to know about a recipient that could be taken, and returns its refusal,
// unless it is spared or its policy is to report. f is the Filtering of the transaction, nil at first; from then on the
// one that is returned is.
func (m *Messages) FilterRcpt(
	ctx context.Context, f *Filtering, e *Envelope, r *report.Transaction, rcpt *Recipient,
) (*Filtering, error) {
	how := rcpt.Route.Policy.Filter
	if how == mail.FilterOff {
		return f, nil
	}
	if f == nil {
		f = &Filtering{panel: m.cfg.Filters.Begin(m.filterEnvelope(e, &r.Event))}
	}
	began := time.Now()
	d := f.panel.Rcpt(ctx, rcpt.Forward, how == mail.FilterReport || rcpt.Forward.IsPostmasterOrAbuse())
	f.waited += time.Since(began)
	r.Waited(mail.StepFilter, began)
	rcpt.Filtered = d.Filtered
	if d.Refusal == nil { // a nil *Refusal must not become an error
		return f, nil
	}
	return f, d.Refusal
}

// filterEnvelope returns what filters are told of a message beside its recipients and its octets.
func (m *Messages) filterEnvelope(of *Envelope, event *mail.Event) filter.Envelope {
	c := of.Client
	e := filter.Envelope{
		Hostname: m.cfg.Hostname, Name: c.Name, Helo: c.Helo, TLS: c.TLSVersion(), User: c.LoggedIn(),
		Reverse: of.Reverse, Trace: event.Trace, Score: event.Score, Scored: event.Signals != "",
	}
	if m.cfg.Auth != nil {
		e.AuthservID = m.cfg.Auth.ID()
	}
	if !c.Unknown {
		e.Client = c.Addr
	}
	if !of.Reputation.Trusted && !of.Reputation.KnownGood {
		e.Share = network.Widest(c.Addr.Addr())
	}
	return e
}

// consult shows the filters what the window holds, below the results of our own. A message that is whole is decided on;
// of one that streams they see the rest as it comes. While that takes long, the session at the next hop is lent.
func (m *Message) consult(ctx context.Context) error {
	f := m.Filtering
	if f == nil {
		return nil
	}
	var results []byte
	var removed []mail.Span
	if m.auth != nil {
		results, removed = m.auth.Results(nil, m.mode), m.auth.Removals()
	}
	shown := m.window.beside(m.window.parted(append(results, m.lacked...)), removed)
	e := m.filterEnvelope(&m.Envelope, &m.report.Event)
	for i := range m.Recipients {
		if r := &m.Recipients[i]; !r.Further && r.Route.Action != mail.Drop {
			e.Forwards = append(e.Forwards, r.Forward)
		}
	}
	if e.Streams = !m.window.last; m.window.last {
		e.Size = int64(shown.LenAs(mail.Plain))
	}
	if f.panel == nil {
		f.panel = m.cfg.Filters.Begin(e)
	} else {
		f.panel.Message(e)
	}
	return m.body.Await(ctx, func(ctx context.Context) error {
		l := lendAfter(m.cfg.Lend, m.up)
		err := m.showFilters(ctx, shown)
		if err == nil && m.window.last {
			err = m.askFilters(ctx)
		}
		m.lent = l.end() || m.lent
		return err
	})
}

// A lending has the session at the next hop lent when the filters take long. The session is not used meanwhile. It
// holds no Message: that would no more be on the stack of its caller.
type lending struct {
	timer *time.Timer
	lent  chan bool
}

// lendAfter begins a lending of what up has.
func lendAfter(d time.Duration, up Upstream) lending {
	l := lending{lent: make(chan bool, 1)}
	l.timer = time.AfterFunc(d, func() { l.lent <- up.Lend() })
	return l
}

// end ends a lending, and reports whether the session was lent.
func (l lending) end() bool { return !l.timer.Stop() && <-l.lent }

// showFilters shows octets to the filters, and returns the refusal of a message that one puts off or refuses by now.
func (m *Message) showFilters(ctx context.Context, o mail.Octets) error {
	f := m.Filtering
	if f == nil {
		return nil
	}
	if f.wanted() {
		return m.filterGaveWay()
	}
	began := time.Now()
	refused := f.panel.Write(ctx, o)
	f.waited += time.Since(began)
	if !refused || m.Route.Policy.Filter == mail.FilterReport { // then it is asked at the end
		return nil
	}
	return m.filtered(f.panel.Decide())
}

// filterGaveWay refuses the message, which makes room for others that a filter is to be shown.
func (m *Message) filterGaveWay() error {
	m.ours = filter.Unexamined("gave way", nil)
	return m.ours
}

// askFilters tells the filters that the message has ended, and returns its refusal, or an error for one that is to be
// discarded.
func (m *Message) askFilters(ctx context.Context) error {
	f := m.Filtering
	if f == nil {
		return nil
	}
	began := time.Now()
	d := f.panel.End(ctx)
	f.waited += time.Since(began)
	return m.filtered(d)
}

// filtered takes what the filters decided, and reports it. Where the recipients' policy is to report, that is all.
func (m *Message) filtered(d filter.Decision) error {
	m.report.Filtered(d.Filtered, m.Filtering.waited)
	if m.Route.Policy.Filter == mail.FilterReport {
		return nil
	}
	m.Filtering.added, m.Filtering.came = d.Fields, &d
	switch d.Action {
	case filter.Accept:
		return nil
	case filter.Discard:
		return &mail.Refusal{Reason: d.Reason, Cause: errDiscarded}
	}
	m.ours = d.Refusal
	return d.Refusal
}
