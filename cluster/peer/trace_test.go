package peer

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestWorker_Trace: the trace of a transaction goes on from the way of the node that it came from, and says what became
// of it. Its steps are those of the owner's own way to the destination.
func TestWorker_Trace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sampled bool
		reply   error // to RCPT
		commit  bool
		kept    bool
		kind    mail.Kind
	}{
		{"delivered, and sampled by the other node", true, nil, true, true, mail.Relayed},
		{"delivered, and not sampled", false, nil, true, false, 0},
		{"refused", false, mail.Refuse(550, 1, 1, "No such user", "upstream", nil), false, true, mail.Refused},
		{"aborted with a recipient", false, nil, false, true, mail.Aborted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var kept []*mail.Trace
			tracing := &mail.Tracing{Slow: time.Minute, Take: func(tr *mail.Trace) { kept = append(kept, tr) }}
			d := &destination{}
			d.rcpt = func(_ context.Context, forward mail.Path) error {
				if forward == to("y") {
					return tt.reply
				}
				return nil
			}
			d.begin = func(_ context.Context, d mail.Delivery) error {
				d.Leg.Leave(d.Leg.Enter(mail.StepMX), nil)
				return nil
			}
			w := newWorld(t, d, beat, func(s *ServerConfig, _ *ClientConfig) { s.Tracing = tracing })
			o := delivery()
			o.Trace = mail.TraceID{1}
			parent := mail.Parent{Trace: o.Trace, Span: mail.SpanID{2}, Sampled: tt.sampled}
			o.Leg = &mail.Leg{Steps: &mail.Steps{Parent: parent}}
			tx, err := w.client.Begin(t.Context(), "b", o)
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Rcpt(t.Context(), to("y")); (err != nil) != (tt.reply != nil) {
				t.Fatal(err)
			}
			if tt.commit {
				if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
					t.Fatal(err)
				}
				tx.Commit(t.Context(), octets("Subject: x\r\n\r\nhello\r\n"))
			} else {
				tx.Abort()
			}
			w.deliver() // over the same connection, so that the one before has ended
			w.close()
			if !tt.kept {
				if len(kept) != 0 {
					t.Errorf("%d traces", len(kept))
				}
				return
			}
			if len(kept) == 0 {
				t.Fatal("no trace")
			}
			tr := kept[0]
			if tr.ID != o.Trace || tr.Parent != parent || tr.Of != mail.OfHandover || tr.Event.Kind != tt.kind {
				t.Errorf("id %v, parent %+v, of %v, %v", tr.ID, tr.Parent, tr.Of, tr.Event.Kind)
			}
			if len(tr.Legs) != 1 || len(tr.Legs[0].Steps.List) != 1 {
				t.Errorf("legs %+v", tr.Legs)
			}
		})
	}
}
