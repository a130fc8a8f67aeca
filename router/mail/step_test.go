package mail_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestParent_String: what is written can be read again.
func TestParent_String(t *testing.T) {
	p := mail.Parent{Trace: mail.NewTraceID(), Span: mail.NewSpanID(), Sampled: true}
	for _, sampled := range []bool{true, false} {
		p.Sampled = sampled
		if q, ok := mail.ParseParent(p.String()); !ok || q != p {
			t.Errorf("%+v became %q, and that %+v", p, p.String(), q)
		}
	}
	if s := (mail.Parent{}).String(); s != "" {
		t.Errorf("nothing became %q", s)
	}
}

// TestParseParent: what W3C trace context says of traceparent.
func TestParseParent(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, tt := range []struct {
		name, value string
		ok          bool
	}{
		{"sampled", "00-" + trace + "-" + span + "-01", true},
		{"not sampled", "00-" + trace + "-" + span + "-00", true},
		{"flags that are not known", "00-" + trace + "-" + span + "-ff", true},
		{"a version to come", "cc-" + trace + "-" + span + "-01-what-else", true},
		{"more than version 00 has", "00-" + trace + "-" + span + "-01-what-else", false},
		{"a version to come whose fields are longer", "cc-" + trace + "-" + span + "-012", false},
		{"version ff", "ff-" + trace + "-" + span + "-01", false},
		{"upper case", "00-0AF7651916CD43DD8448EB211C80319C-" + span + "-01", false},
		{"no trace", "00-00000000000000000000000000000000-" + span + "-01", false},
		{"no span", "00-" + trace + "-0000000000000000-01", false},
		{"short", "00-" + trace + "-" + span, false},
		{"empty", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if p, ok := mail.ParseParent(tt.value); ok != tt.ok || !ok && p != (mail.Parent{}) {
				t.Errorf("%+v, %v", p, ok)
			}
		})
	}
}

// FuzzParseParent reads arbitrary values: what is read can be written and read again.
func FuzzParseParent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x")
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := mail.ParseParent(s)
		if !ok {
			return
		}
		if again, ok := mail.ParseParent(p.String()); !ok || again != p {
			t.Errorf("%q: %+v, again %+v", s, p, again)
		}
	})
}

// TestSteps: a step is a part of the one that was entered last and not left.
func TestSteps(t *testing.T) {
	var s mail.Steps
	dial := s.Enter(mail.StepDial)
	s.Add(mail.StepTLS, time.Now(), 0, mail.Note{})
	inner := s.Enter(mail.StepMX)
	s.Leave(dial, nil)
	s.Leave(inner, errors.New("too late")) // it was left with the one around it
	last := s.Enter(mail.StepRcpt)
	if s.Failed {
		t.Error("nothing has failed yet")
	}
	s.Leave(last, errors.New("refused"))
	for i, above := range []int16{-1, 0, 0, -1} {
		if step := s.List[i]; step.Above != above || step.Open || (s.Note(i).Err != nil) != (i == 3) {
			t.Errorf("%d: %+v", i, step)
		}
	}
	if !s.Failed {
		t.Error("it has not failed")
	}
	for range 100 {
		s.Leave(s.Enter(mail.StepRcpt), nil)
	}
	if len(s.List) != 64 || s.Dropped != 40 {
		t.Errorf("%d steps, %d dropped", len(s.List), s.Dropped)
	}
}

// TestTracing_Keeps: what was refused, failed or slow is kept whatever the share is, and of all else the share.
func TestTracing_Keeps(t *testing.T) {
	failed := errors.New("x")
	for _, tt := range []struct {
		name string
		do   func(tr *mail.Trace)
		kept bool
	}{
		{"delivered", func(tr *mail.Trace) { tr.See(&mail.Event{Kind: mail.Relayed, Ends: true}) }, false},
		{"nothing happened", func(*mail.Trace) {}, false},
		{"a recipient was refused, and the rest delivered", func(tr *mail.Trace) {
			tr.See(&mail.Event{Kind: mail.Refused})
			tr.See(&mail.Event{Kind: mail.Relayed, Ends: true})
		}, true},
		{"put off", func(tr *mail.Trace) { tr.See(&mail.Event{Kind: mail.Deferred, Ends: true}) }, true},
		{"broken off", func(tr *mail.Trace) { tr.See(&mail.Event{Kind: mail.Aborted, Ends: true}) }, true},
		{"in doubt", func(tr *mail.Trace) { tr.See(&mail.Event{Kind: mail.Relayed, InDoubt: true, Ends: true}) }, true},
		{"a step failed", func(tr *mail.Trace) { tr.Steps.Leave(tr.Steps.Enter(mail.StepScore), failed) }, true},
		{"a host did not serve", func(tr *mail.Trace) {
			leg := new(mail.Leg)
			tr.Way(leg)
			leg.Try(mail.Try{Host: "mx1"})
		}, true},
		{"slow", func(*mail.Trace) { time.Sleep(10 * time.Second) }, true},
		{"its client was slow", func(tr *mail.Trace) {
			time.Sleep(time.Minute)
			tr.See(&mail.Event{Kind: mail.Relayed, Waited: time.Minute, Ends: true})
		}, false},
		{"over the hop, and the client was slow", func(tr *mail.Trace) {
			tr.Of = mail.OfHandover
			time.Sleep(time.Minute)
		}, false},
		{"over the hop, and the destination was slow", func(tr *mail.Trace) {
			leg := new(mail.Leg)
			tr.Of = mail.OfHandover
			tr.Way(leg)
			step := leg.Enter(mail.StepDot)
			time.Sleep(10 * time.Second)
			leg.Leave(step, nil)
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kept := false
				tracing := mail.Tracing{Slow: 10 * time.Second, Take: func(*mail.Trace) { kept = true }}
				tr := tracing.Begin(mail.NewTraceID(), mail.Parent{})
				tt.do(tr)
				if tracing.End(tr); kept != tt.kept {
					t.Errorf("kept %v", kept)
				}
			})
		})
	}
}

// TestTracing_Sample: the share is met, and a trace that a parent keeps is kept.
func TestTracing_Sample(t *testing.T) {
	kept := 0
	tracing := mail.Tracing{Sample: 0.25, Slow: time.Hour, Take: func(*mail.Trace) { kept++ }}
	const traces = 10000
	for i := range traces {
		id := mail.TraceID{1, 8: byte(i), byte(i >> 8)}
		tracing.End(tracing.Begin(id, mail.Parent{}))
	}
	if kept < traces/5 || kept > traces*3/10 {
		t.Errorf("%d of %d", kept, traces)
	}
	tracing.Sample, kept = 0, 0
	parent := mail.Parent{Trace: mail.NewTraceID(), Span: mail.NewSpanID(), Sampled: true}
	tr := tracing.Begin(mail.NewTraceID(), parent)
	if tracing.End(tr); kept != 1 || tr.ID != parent.Trace {
		t.Errorf("%d kept, trace %v of %v", kept, tr.ID, parent.Trace)
	}
}

// TestTracing_Recycled: a trace that is used again knows nothing of the one before.
func TestTracing_Recycled(t *testing.T) {
	var last *mail.Trace
	tracing := &mail.Tracing{Slow: time.Hour, Take: func(tr *mail.Trace) { last = tr }}
	for i := range 100 {
		tr := tracing.Begin(mail.NewTraceID(), mail.Parent{})
		if len(tr.Steps.List) != 0 || tr.Steps.Failed || len(tr.Legs) != 0 || tr.Event.Kind != 0 || tr.Allowed != "" {
			t.Fatalf("%+v", tr)
		}
		tr.Allowed = "allow[0]"
		for range i {
			tr.Steps.Leave(tr.Steps.Enter(mail.StepScore), errors.New("x"))
		}
		leg := new(mail.Leg)
		tr.Way(leg)
		if len(leg.Steps.List) != 0 {
			t.Fatalf("%+v", leg.Steps)
		}
		leg.Leave(leg.Enter(mail.StepDot), nil)
		tr.See(&mail.Event{Kind: mail.Refused, Ends: true})
		if tracing.End(tr); last != tr {
			t.Fatal("not kept")
		}
		tracing.Recycle(tr)
	}
}
