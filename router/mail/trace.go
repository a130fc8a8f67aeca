package mail

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// A TraceOf says what a Trace is of.
type TraceOf uint8

// What a Trace can be of.
const (
	OfTransaction TraceOf = iota
	OfHandover            // a transaction that came from another node: over the hop
	OfRefusal             // a refusal outside of a transaction
)

// A Trace is what is known of one transaction at one node for its spans. It is made by Tracing.Begin and ended by
// Tracing.End, and used by one goroutine at a time. It never holds an octet of a message.
type Trace struct {
	Of      TraceOf
	ID      TraceID
	Parent  Parent // what the transaction goes on from; zero if it is a root
	Began   time.Time
	Ended   time.Time
	Client  netip.AddrPort // the port is 0 where it is not known
	Local   netip.AddrPort
	Allowed string // the entry of an allow list that speaks for the client
	Event   Event  // the one that says what became of it; zero if there was none
	Legs    []*Leg
	Steps   Steps // Steps.Parent is the root span

	legs    [1]*Leg
	first   Steps         // of the first leg
	taken   bool          // first has a leg
	slow    time.Duration // see Tracing
	sampled bool
	let     bool // it is known not to be kept, and Event says only that it ends
}

// Tracing makes traces, and decides at the end of each if it is kept. The methods of nil Tracing do nothing. It is safe
// for concurrent use.
type Tracing struct {
	Sample float64       // the share of the traces that are kept for nothing else
	Slow   time.Duration // from which on a transaction is slow, without the time that its client took
	Take   func(*Trace)  // is called with each trace that is kept, which is to be recycled; must not block

	free sync.Pool
}

// Begin returns the trace of a transaction that begins now. It is that of parent, where there is one, and else its id
// is id. Where nothing is traced it is nil.
func (t *Tracing) Begin(id TraceID, parent Parent) *Trace {
	if t == nil {
		return nil
	}
	tr, _ := t.free.Get().(*Trace)
	if tr == nil {
		tr = new(Trace)
	}
	tr.ID, tr.Parent, tr.Began = id, parent, time.Now()
	if !parent.Trace.IsZero() {
		tr.ID = parent.Trace
	}
	tr.sampled = parent.Sampled || parent == (Parent{}) && t.samples(tr.ID)
	tr.slow = t.Slow
	tr.Steps.Start, tr.Steps.Parent = tr.Began, Parent{tr.ID, NewSpanID(), tr.sampled}
	return tr
}

// samples reports whether a trace is one of the share that is kept for nothing else. All programs that sample by the
// trace id as OpenTelemetry does come to the same answer.
func (t *Tracing) samples(id TraceID) bool {
	return float64(binary.BigEndian.Uint64(id[8:])>>1) < t.Sample*(1<<63)
}

// Way has the way to a next hop write its steps down in the trace.
func (tr *Trace) Way(leg *Leg) {
	if tr == nil {
		return
	}
	if tr.taken {
		leg.Steps = new(Steps)
	} else {
		tr.taken, leg.Steps = true, &tr.first
	}
	leg.Steps.Start, leg.Steps.Parent = tr.Began, Parent{tr.ID, NewSpanID(), tr.sampled}
	if tr.Legs == nil {
		tr.Legs = tr.legs[:0]
	}
	tr.Legs = append(tr.Legs, leg)
}

// Forget has the trace keep what was written down of a way, before leg becomes another one.
func (tr *Trace) Forget(leg *Leg) {
	if tr == nil || tr.let || leg.Steps == nil {
		return
	}
	for i := range tr.Legs {
		if tr.Legs[i] == leg {
			old := *leg
			tr.Legs[i] = &old
		}
	}
}

// See notes an event of the transaction that says what became of it, or of one of its recipients. The one that ends it
// stays. Most traces end with one and are not kept: for those it is not copied.
func (tr *Trace) See(e *Event) {
	if tr == nil || !e.Kind.IsOutcome() || tr.Event.Ends {
		return
	}
	if e.Kind == Refused || e.Kind == Deferred {
		tr.Steps.Failed = true
	}
	if e.Ends && !tr.isKept(e, time.Since(tr.Began)) {
		tr.let, tr.Event.Ends = true, true
		return
	}
	tr.Event = *e
}

// End ends a trace, and hands it over if it is kept. What the legs are written down in is the trace's no more.
func (t *Tracing) End(tr *Trace) {
	if tr == nil {
		return
	}
	if tr.let {
		t.Recycle(tr)
		return
	}
	tr.Ended = time.Now()
	if !tr.isKept(&tr.Event, tr.Ended.Sub(tr.Began)) {
		t.Recycle(tr)
		return
	}
	t.Take(tr)
}

// isKept decides on a trace that took all until now, of which e says what became: it is kept if it is one of the share,
// if it was refused, put off, broken off or in doubt, if anything failed on its way, and if it was slow.
func (tr *Trace) isKept(e *Event, all time.Duration) bool {
	if tr.sampled || tr.Steps.Failed || e.Kind == Aborted || e.InDoubt {
		return true
	}
	busy := all - e.Waited
	if tr.Of == OfHandover { // its client is waited for at another node
		busy = 0
	}
	for _, leg := range tr.Legs {
		if leg.Steps.Failed {
			return true
		}
		if tr.Of == OfHandover {
			busy += leg.Steps.busy()
		}
	}
	return busy >= tr.slow
}

// A Handshake is one of TLS.
type Handshake struct {
	Began time.Time // zero: there was none
	Took  time.Duration
	Err   error // why it failed; nil for success
}

// A Visit is what is known of a client's connection outside of a transaction.
type Visit struct {
	Client, Local netip.AddrPort
	Began         time.Time // when the connection was accepted
	Secured       Handshake
	Scored        time.Time // when the wait for the score began; zero: it was not waited for
}

// Refuse hands over the trace of a refusal outside of a transaction, which is kept as each refusal is. e is its event.
func (t *Tracing) Refuse(e *Event, v Visit) {
	if t == nil {
		return
	}
	tr := t.Begin(e.Trace, Parent{})
	tr.Of, tr.Client, tr.Local, tr.Event = OfRefusal, v.Client, v.Local, *e
	tr.Ended = tr.Began
	if !v.Began.IsZero() {
		tr.Began = v.Began
	}
	tr.Secure(v.Secured)
	if !v.Scored.IsZero() {
		tr.Steps.Add(StepScore, v.Scored, tr.Ended.Sub(v.Scored), Note{})
	}
	t.Take(tr)
}

// Secure notes the client's handshake, if there was one.
func (tr *Trace) Secure(h Handshake) {
	if !h.Began.IsZero() {
		tr.Steps.Add(StepTLS, h.Began, h.Took, Note{Err: h.Err})
	}
}

// Spans returns how many spans a trace has.
func (tr *Trace) Spans() int {
	n := 1 + len(tr.Steps.List)
	for _, leg := range tr.Legs {
		n += 1 + len(leg.Steps.List)
	}
	return n
}

// Recycle takes a trace back that was handed over.
func (t *Tracing) Recycle(tr *Trace) {
	if len(tr.Legs) > 1 { // several goroutines wrote them down
		return
	}
	tr.Steps.reset()
	tr.first.reset()
	tr.Of, tr.ID, tr.Parent = OfTransaction, TraceID{}, Parent{}
	tr.Client, tr.Local, tr.Allowed = netip.AddrPort{}, netip.AddrPort{}, ""
	tr.Event, tr.Legs, tr.legs = Event{}, nil, [1]*Leg{}
	tr.taken, tr.sampled, tr.let = false, false, false
	t.free.Put(tr)
}
