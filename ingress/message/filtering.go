package message

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// A filtering is what content filters have of a message. The methods of nil do nothing: no filter is shown it.
type filtering struct {
	panel  *filter.Panel // nil before the message is judged
	added  []byte        // the fields that filters add above it
	waited time.Duration // that it waited for them
}

// errDiscarded means that a content filter wants a message accepted and delivered nowhere.
var errDiscarded = errors.New("a content filter discards the message")

// fields returns the fields that filters add above the message.
func (f *filtering) fields() []byte {
	if f == nil {
		return nil
	}
	return f.added
}

// close ends the dialogues with the filters.
func (f *filtering) close() {
	if f != nil && f.panel != nil {
		f.panel.Close()
	}
}

// filterEnvelope returns what filters are told of the message beside its octets, of which there are size, or 0 while
// that is not known.
func (m *Message) filterEnvelope(size int) filter.Envelope {
	c := m.Client
	e := filter.Envelope{
		Hostname: m.cfg.Hostname, Name: c.Name, Helo: c.Helo, TLS: c.TLSVersion(), User: c.LoggedIn(),
		Reverse: m.Reverse, Trace: m.report.Event.Trace, Size: int64(size),
		Score: m.report.Event.Score, Scored: m.report.Event.Signals != "",
	}
	if m.cfg.Auth != nil {
		e.AuthservID = m.cfg.Auth.ID()
	}
	if !c.Unknown {
		e.Client = c.Addr
	}
	if !m.Reputation.Trusted && !m.Reputation.KnownGood {
		e.Share = network.Widest(c.Addr.Addr())
	}
	for i := range m.Recipients {
		if r := &m.Recipients[i]; !r.Further && r.Route.Action != mail.Drop {
			e.Forwards = append(e.Forwards, r.Forward)
		}
	}
	return e
}

// consult shows the filters what the window holds, below the results of our own. A message that is whole is decided on;
// of one that streams they see the rest as it comes. While that takes long, the session at the next hop is lent.
func (m *Message) consult(ctx context.Context) error {
	f := m.filtering
	if f == nil {
		return nil
	}
	var results []byte
	var removed []mail.Span
	if m.auth != nil {
		results, removed = m.auth.Results(nil, m.mode), m.auth.Removals()
	}
	shown := m.window.beside(m.window.parted(append(results, m.lacked...)), removed)
	size := 0
	if m.window.last {
		size = shown.LenAs(mail.Plain)
	}
	f.panel = m.cfg.Filters.Begin(m.filterEnvelope(size))
	return m.body.Await(ctx, func(ctx context.Context) error {
		defer m.lendAfter(m.cfg.Lend)()
		if err := m.showFilters(ctx, shown); err != nil || !m.window.last {
			return err
		}
		return m.askFilters(ctx)
	})
}

// lendAfter has the session at the next hop lent when that time is over, unless the function that it returns is called
// before. The session is not to be used between the two calls.
func (m *Message) lendAfter(d time.Duration) (stop func()) {
	if m.lent {
		return func() {}
	}
	lent := make(chan struct{})
	timer := time.AfterFunc(d, func() {
		m.lent = m.up.Lend()
		close(lent)
	})
	return func() {
		if !timer.Stop() {
			<-lent
		}
	}
}

// showFilters shows octets to the filters, and returns the refusal of a message that one puts off or refuses by now.
func (m *Message) showFilters(ctx context.Context, o mail.Octets) error {
	f := m.filtering
	if f == nil {
		return nil
	}
	began := time.Now()
	refused := f.panel.Write(ctx, o)
	f.waited += time.Since(began)
	if !refused {
		return nil
	}
	return m.filtered(f.panel.Decide())
}

// askFilters tells the filters that the message has ended, and returns its refusal, or an error for one that is to be
// discarded.
func (m *Message) askFilters(ctx context.Context) error {
	f := m.filtering
	if f == nil {
		return nil
	}
	began := time.Now()
	d := f.panel.End(ctx)
	f.waited += time.Since(began)
	return m.filtered(d)
}

// filtered takes what the filters decided, and reports it.
func (m *Message) filtered(d filter.Decision) error {
	m.report.Filtered(d.Filtered, m.filtering.waited)
	m.filtering.added = d.Fields
	switch d.Action {
	case filter.Accept:
		return nil
	case filter.Discard:
		return &mail.Refusal{Reason: d.Reason, Cause: errDiscarded}
	}
	m.ours = d.Refusal
	return d.Refusal
}
