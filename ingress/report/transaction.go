package report

import (
	"errors"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Reporter is where the reports of a node go. All fields but Tracing are required.
type Reporter struct {
	Emit    func(mail.Event) // must not block
	Tracing *mail.Tracing    // nil: nothing is traced
	Now     func() time.Time // stamps events
}

// A Transaction is the report of one mail transaction. Its methods are called by one goroutine at a time.
type Transaction struct {
	Event mail.Event // what is known so far; Kind, Time and what differs between events is set as one is emitted

	to    *Reporter
	trace *mail.Trace // nil where nothing is traced
}

// A Beginning is what is known of a transaction as it begins.
type Beginning struct {
	Client, Local netip.AddrPort
	Connected     time.Time // when the connection was opened; zero if it had a transaction before
	Secured       mail.Handshake
	Parent        mail.Parent // what the client says it is a part of; zero for nothing
}

// Begin returns the report of a transaction that begins now. Its id is that of its trace.
func (r *Reporter) Begin(b Beginning) Transaction {
	t := Transaction{to: r}
	t.Event.Trace, t.Event.Client = mail.NewTraceID(), b.Client.Addr()
	if r.Tracing == nil {
		return t
	}
	t.trace = r.Tracing.Begin(t.Event.Trace, b.Parent)
	t.trace.Client, t.trace.Local = b.Client, b.Local
	t.Event.Trace = t.trace.ID
	steps, connect := &t.trace.Steps, -1
	if !b.Connected.IsZero() {
		connect = steps.EnterAt(mail.StepConnect, b.Connected)
	}
	t.trace.Secure(b.Secured)
	steps.LeaveAfter(connect, t.trace.Began.Sub(b.Connected), nil)
	return t
}

// Now returns the time that events are stamped with.
func (t *Transaction) Now() time.Time { return t.to.Now() }

// Emit stamps e, which is a copy of Event with what differs, and emits it.
func (t *Transaction) Emit(e mail.Event) {
	e.Time = t.to.Now()
	t.trace.See(&e)
	t.to.Emit(e)
}

// Anomaly reports something that an operator should see. reason is a short fixed word; cause may be nil.
func (t *Transaction) Anomaly(reason string, cause error) {
	e := t.Event
	e.Kind, e.Reason, e.Cause = mail.Anomaly, reason, cause
	t.Emit(e)
}

// Refused emits e as the refusal of verb with err, and returns the refusal that the client reads, with the
// transaction's id in its reply. The outcome and the reply of e.To, if it has one recipient or more, are set as well.
func (t *Transaction) Refused(e mail.Event, verb string, err error) *mail.Refusal {
	reply := mail.ReplyFor(err).WithID(e.Trace)
	e.Kind, e.Verb, e.Reply, e.Cause = mail.RefusedBy(reply), verb, reply, err
	var r *mail.Refusal
	if errors.As(err, &r) {
		e.Reason, e.Host = r.Reason, r.Host
	}
	for i := range e.To {
		if to := &e.To[i]; to.Verb == "" {
			to.Outcome, to.Verb, to.Reply, to.Reason = e.Kind, verb, reply, e.Reason
		}
	}
	t.Emit(e)
	if t.trace != nil {
		t.trace.Steps.Add(mail.StepRefused, time.Now(), 0, mail.Note{Text: verb, Err: err})
	}
	return &mail.Refusal{Reply: reply, Reason: e.Reason, Host: e.Host, Cause: err}
}

// Overheard notes a refusal in the trace that was reported elsewhere.
func (t *Transaction) Overheard(e *mail.Event) {
	if t.trace != nil {
		refusal := &mail.Refusal{Reply: e.Reply, Reason: e.Reason, Cause: e.Cause}
		t.trace.Steps.Add(mail.StepRefused, time.Now(), 0, mail.Note{Text: e.Verb, Err: refusal})
	}
}

// Way has the way to a next hop written down in the trace. What was written down of another way in leg is kept there.
func (t *Transaction) Way(leg *mail.Leg, nextHop mail.NextHop) {
	t.trace.Forget(leg)
	*leg = mail.Leg{NextHop: nextHop}
	t.trace.Way(leg)
}

// Allowed notes the entry of an allow list that speaks for the client. by is called only where that is traced.
func (t *Transaction) Allowed(by func() string) {
	if t.trace != nil {
		t.trace.Allowed = by()
	}
}

// End ends the report, and the trace with it.
func (t *Transaction) End() { t.to.Tracing.End(t.trace) }

// A Stage is a stage of the transaction under way. End ends it. End of the zero Stage does nothing.
type Stage struct {
	t     *Transaction
	stage mail.Stage
	began time.Time
	step  int // of the trace; -1 for none
}

// stepOf returns the step that a stage is, and whether there is one. The trace shows what the next hop has a part in by
// steps of its own, and of the recipients the first one: a refusal of another one is told as that.
func stepOf(stage mail.Stage) (kind mail.StepKind, ok bool) {
	switch stage {
	case mail.StageScore:
		return mail.StepScore, true
	case mail.StageRoute:
		return mail.StepRoute, true
	case mail.StageOctets:
		return mail.StepReceive, true
	}
	return 0, false
}

// Enter begins a stage: its time is added to the event when it ends.
func (t *Transaction) Enter(stage mail.Stage) Stage {
	s := Stage{t: t, stage: stage, began: time.Now(), step: -1}
	if t.trace == nil {
		return s
	}
	if kind, ok := stepOf(stage); ok && !t.trace.Steps.Has(kind) {
		s.step = t.trace.Steps.EnterAt(kind, s.began)
	}
	return s
}

// End ends the stage. err is what it ended with, nil for success.
func (s Stage) End(err error) {
	if s.t == nil {
		return
	}
	took := time.Since(s.began)
	s.t.Event.Took[s.stage] += took
	if s.step >= 0 {
		s.t.trace.Steps.LeaveAfter(s.step, took, err)
	}
}

// Part begins a step of the trace that no stage is. It returns what EndPart is to be told.
func (t *Transaction) Part(kind mail.StepKind) int {
	if t.trace == nil {
		return -1
	}
	return t.trace.Steps.Enter(kind)
}

// EndPart ends a step of the trace. err is what it ended with, nil for success.
func (t *Transaction) EndPart(step int, err error) {
	if t.trace != nil {
		t.trace.Steps.Leave(step, err)
	}
}

// leastWait is the least that a wait takes which the trace shows. What was there already is no wait.
const leastWait = time.Millisecond

// Waited adds a step of the trace that began at began and is over, if it took long enough to be told of.
func (t *Transaction) Waited(kind mail.StepKind, began time.Time) {
	if t.trace == nil {
		return
	}
	if took := time.Since(began); took >= leastWait {
		t.Took(kind, began, took)
	}
}

// Filtered notes what content filters said of the message, and for how long it waited for them.
func (t *Transaction) Filtered(all []mail.Filtered, waited time.Duration) {
	t.Event.Filtered = all
	t.Event.Took[mail.StageFilter] += waited
	if t.trace == nil {
		return
	}
	now := time.Now()
	for i := range all {
		f := &all[i]
		n := mail.Note{Text: f.Name + " " + f.Result, Err: f.Cause}
		t.trace.Steps.Add(mail.StepFilter, now.Add(-f.Took), f.Took, n)
	}
}

// Took adds a step of the trace that is over.
func (t *Transaction) Took(kind mail.StepKind, began time.Time, took time.Duration) {
	if t.trace != nil {
		t.trace.Steps.Add(kind, began, took, mail.Note{})
	}
}
