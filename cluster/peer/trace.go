package peer

import (
	"errors"
	"net/netip"

	"github.com/millrace/millrace/router/mail"
)

// beginTrace begins the trace of a transaction, which goes on from that of the peer. Where the peer traces nothing it
// is one of its own.
func (w *worker) beginTrace(o *opening) {
	tracing := w.conn.srv.cfg.Tracing
	if tracing == nil {
		return
	}
	parent, _ := mail.ParseParent(o.traceparent)
	id := o.d.Trace
	if id.IsZero() {
		id = mail.NewTraceID()
	}
	t := tracing.Begin(id, parent)
	t.Of, t.Client = mail.OfHandover, netip.AddrPortFrom(o.d.Addr, 0)
	t.Event.Reverse, t.Event.NextHop = o.d.Reverse, o.d.NextHop
	t.Way(&w.leg)
	w.t.trace = t
}

// noteOutcomes notes what became of the recipients, for the trace.
func (t *ownedTransaction) noteOutcomes(out []mail.Outcome) {
	if t.trace == nil {
		return
	}
	e := t.trace.Event
	e.Kind, e.Ends, e.Recipients = mail.Relayed, true, len(out)
	for i := range out {
		o := &out[i]
		if e.InDoubt = e.InDoubt || o.InDoubt; o.Reply.Class() != 2 && e.Kind == mail.Relayed {
			e.Kind, e.Reply, e.Cause = mail.RefusedBy(o.Reply), o.Reply, o.Cause
		}
	}
	if e.Reply.Code == 0 && len(out) > 0 {
		e.Reply = out[0].Reply
	}
	t.trace.See(&e)
}

// noteRefused notes that the destination refused a recipient, for the trace.
func (t *ownedTransaction) noteRefused(err error) {
	if t.trace != nil {
		t.trace.See(refusedBy(t.trace.Event, err))
	}
}

// refusedBy returns e as the event of a refusal.
func refusedBy(e mail.Event, err error) *mail.Event {
	e.Reply, e.Reason, e.Cause = mail.ReplyFor(err), mail.ReasonOf(err), err
	e.Kind = mail.RefusedBy(e.Reply)
	return &e
}

// endTrace ends the trace of a transaction that ended with err, unless its outcomes were noted.
func (w *worker) endTrace(err error) {
	t := w.t.trace
	switch {
	case t.Event.Ends:
	case !errors.Is(err, errAborted) && !errors.Is(err, errGone):
		t.See(refusedBy(t.Event, err))
	case w.t.accepted > 0:
		e := t.Event
		e.Kind, e.Recipients, e.Cause = mail.Aborted, w.t.accepted, err
		t.See(&e)
	}
	t.Forget(&w.leg) // which the next transaction writes over
	w.conn.srv.cfg.Tracing.End(t)
}
