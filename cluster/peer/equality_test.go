package peer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// play runs one transaction and records all its answers. A transaction is used the same way on every node. What a hop
// answers at the first Rcpt, Begin may answer locally, so that both are recorded as rcpt.
func play(t *testing.T, begin func(context.Context, mail.Delivery) (mail.Transaction, error), s script) string {
	var out transcript
	d := delivery()
	d.Params.SMTPUTF8 = true
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tx, err := begin(ctx, d)
	if err != nil {
		out.err("rcpt", err)
		return out.String()
	}
	for i := range max(s.recipients, 1) {
		err := tx.Rcpt(ctx, to(fmt.Sprint("r", i)))
		out.err("rcpt", err)
		if err != nil && i == 0 && s.stop {
			tx.Abort()
			return out.String()
		}
	}
	if s.lend {
		fmt.Fprintln(&out, "lend", tx.Lend())
		out.err("renew", tx.Renew(ctx))
		fmt.Fprintln(&out, "wanted", tx.Wanted())
	}
	fmt.Fprintln(&out, "smtputf8", tx.SMTPUTF8())
	if s.abort {
		tx.Abort()
		return out.String()
	}
	if err := tx.Data(ctx, s.form); err != nil {
		out.err("message", err)
		tx.Abort()
		return out.String()
	}
	for _, p := range s.pieces {
		p.Form = s.form
		if err := tx.Write(p); err != nil {
			out.err("message", err)
			tx.Abort()
			return out.String()
		}
	}
	last := octets("the", " end\r\n", "..\r\n")
	last.Form = s.form
	all := tx.Commit(ctx, last)
	out.outcomes(all)
	return out.String()
}

// A script says how a transaction is used.
type script struct {
	recipients int
	stop       bool // after the first recipient, if that is refused
	lend       bool
	abort      bool
	form       mail.Form
	pieces     []mail.Octets
}

// A transaction over the hop answers as a local one does.
func TestTransaction_Equality(t *testing.T) {
	refusal := &mail.Refusal{
		Reply: mail.NewReply(554, 7, 1, "two\nlines").WithID(mail.TraceID{1, 2}), Reason: "upstream",
		Host: "mx.h.example", AboutUs: true, Cause: errors.New("the cause"),
	}
	plain := errors.New("unclassified")
	long := octets(strings.Repeat("..a line that begins with a dot\r\n", 10000))
	for i := range 10000 {
		long.Dots = append(long.Dots[:i], uint32(i*33))
	}
	tests := []struct {
		name string
		d    func() *destination
		s    script
	}{
		{"everything is accepted", func() *destination { return &destination{} }, script{}},
		{"Begin is refused", func() *destination {
			return &destination{begin: func(context.Context, mail.Delivery) error { return refusal }}
		}, script{stop: true}},
		{"Begin fails with an unclassified error", func() *destination {
			return &destination{begin: func(context.Context, mail.Delivery) error { return plain }}
		}, script{stop: true}},
		{"Begin meets its deadline", func() *destination {
			return &destination{begin: func(context.Context, mail.Delivery) error {
				return fmt.Errorf("pool: %w", context.DeadlineExceeded)
			}}
		}, script{stop: true}},
		{"each recipient is refused", func() *destination {
			return &destination{rcpt: func(context.Context, mail.Path) error { return refusal }}
		}, script{recipients: 3, abort: true}},
		{"the first recipient is refused and the second one is not", func() *destination {
			return &destination{rcpt: func(_ context.Context, p mail.Path) error {
				if p.Local == "r0" {
					return refusal
				}
				return nil
			}}
		}, script{recipients: 3}},
		{"the destination offers SMTPUTF8", func() *destination { return &destination{utf8: true} }, script{}},
		{"the session is lent and begun again", func() *destination {
			return &destination{lend: true, wanted: true}
		}, script{lend: true}},
		{"nothing is lent", func() *destination { return &destination{utf8: true} }, script{lend: true}},
		{"what was lent cannot be begun again", func() *destination {
			return &destination{lend: true, renew: func(context.Context) error { return refusal }}
		}, script{lend: true, abort: true}},
		{"the transaction is aborted", func() *destination {
			return &destination{}
		}, script{abort: true, recipients: 2}},
		{"a long message is streamed, stuffed", func() *destination {
			return &destination{}
		}, script{pieces: []mail.Octets{long, octets("x"), long}}},
		{"a long message is streamed, plain", func() *destination {
			return &destination{}
		}, script{form: mail.Plain, pieces: []mail.Octets{octets("a", "", "b"), long}}},
		{"the message is empty but for its end", func() *destination {
			return &destination{}
		}, script{pieces: []mail.Octets{{}}}},
		{"three recipients have outcomes of their own", func() *destination {
			return &destination{commit: func(context.Context, mail.Octets) []mail.Outcome {
				return []mail.Outcome{
					{Reply: mail.NewReply(250, 2, 0, "one").WithID(mail.TraceID{7}), Host: "mx"},
					{Reply: refusal.Reply, Host: "mx", AboutUs: true, Cause: refusal},
					{
						Reply: mail.NewReply(451, 4, 2, "three"), InDoubt: true, Cause: plain, Wait: time.Second,
						TLS: "TLS 1.2",
					},
				}
			}}
		}, script{recipients: 3}},
		{"a hundred recipients have the same outcome", func() *destination {
			return &destination{}
		}, script{recipients: 100}},
		{"the end of data is refused with a text of 16 KiB", func() *destination {
			return &destination{commit: func(context.Context, mail.Octets) []mail.Outcome {
				return []mail.Outcome{{Reply: mail.NewReply(550, 7, 1, strings.Repeat("long text\n", 1600))}}
			}}
		}, script{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			here, there := tt.d(), tt.d()
			w := newWorld(t, there, beat, nil)
			for range 2 { // the second one on the connection of the first
				want := play(t, here.Begin, tt.s)
				got := play(t, func(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
					return w.client.Begin(ctx, "b", d)
				}, tt.s)
				if got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
			}
			if open, idle := w.client.count("b"); open != 1 || idle != 1 {
				t.Errorf("%d connections, %d idle", open, idle)
			}
			here.mu.Lock()
			defer here.mu.Unlock()
			there.mu.Lock()
			defer there.mu.Unlock()
			if fmt.Sprint(here.delivered, here.aborted, here.open) != fmt.Sprint(there.delivered, there.aborted,
				there.open) {
				t.Errorf("delivered, aborted and left open here and there: %d %d %d, %d %d %d", len(here.delivered),
					here.aborted, here.open, len(there.delivered), there.aborted, there.open)
			}
			for i := range min(len(here.begun), len(there.begun)) {
				there.begun[i].Leg = nil
				if !reflect.DeepEqual(here.begun[i], there.begun[i]) {
					t.Errorf("begun with %+v, not %+v", there.begun[i], here.begun[i])
				}
			}
		})
	}
}

// A panic of a transaction is a local error. It ends neither the connection nor the process.
func TestWorker_Panic(t *testing.T) {
	d := &destination{}
	panics := 0
	w := newWorld(t, d, beat, func(s *ServerConfig, _ *ClientConfig) { s.Panicked = func(any, []byte) { panics++ } })
	d.rcpt = func(context.Context, mail.Path) error { panic("rcpt") }
	tx, err := w.client.Begin(t.Context(), "b", delivery())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rcpt(t.Context(), to("x")); mail.ReplyFor(err).Code != 451 {
		t.Error(err)
	}
	d.rcpt = nil
	if err := tx.Rcpt(t.Context(), to("x")); err != nil {
		t.Error(err)
	}
	d.commit = func(context.Context, mail.Octets) []mail.Outcome { panic("commit") }
	_ = tx.Data(t.Context(), mail.Stuffed)
	out := tx.Commit(t.Context(), octets("x\r\n"))
	if len(out) != 1 || out[0].Reply.Code != 451 || !out[0].InDoubt {
		t.Errorf("%+v", out)
	}
	d.commit = nil
	if out := w.deliver(); out.Reply.Code != 250 || panics != 2 || w.unreachable.Load() != 0 {
		t.Errorf("%+v, %d panics", out, panics)
	}
}

// After a refused Begin the next recipient tries again, as it would locally.
func TestTransaction_BeginRefused(t *testing.T) {
	d := &destination{begin: func(context.Context, mail.Delivery) error {
		return mail.Refuse(451, 4, 5, "Too many", "cap", nil)
	}}
	w := newWorld(t, d, beat, nil)
	tx, err := w.client.Begin(t.Context(), "b", delivery())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rcpt(t.Context(), to("x")); mail.ReplyFor(err).Enhanced != (mail.EnhancedCode{Subject: 4, Detail: 5}) {
		t.Error(err)
	}
	d.begin = nil
	if err := tx.Rcpt(t.Context(), to("x")); err != nil {
		t.Error(err)
	}
	tx.Abort()
	if open, idle := w.client.count("b"); open != 1 || idle != 1 {
		t.Errorf("%d connections, %d idle", open, idle)
	}
}

// What the owner could not reach is marked in its answer to each command before the end of data, and the connection
// serves the next transaction.
func TestTransaction_Unreached(t *testing.T) {
	refusal := mail.Refuse(451, 4, 1, "Destination cannot be reached", "unreachable", errors.New("no route"))
	refusal.Unreached = true
	isMarked := func(t *testing.T, at string, err error) {
		t.Helper()
		var r *mail.Refusal
		if !errors.As(err, &r) || !r.Unreached || r.Reason != "unreachable" {
			t.Errorf("%s: %v", at, err)
		}
	}
	d := &destination{}
	w := newWorld(t, d, beat, nil)
	d.begin = func(context.Context, mail.Delivery) error { return refusal }
	tx, err := w.client.Begin(t.Context(), "b", delivery())
	if err != nil {
		t.Fatal(err)
	}
	isMarked(t, "when it begins", tx.Rcpt(t.Context(), to("x")))
	tx.Abort()
	d.begin = nil

	tx = w.begin(delivery())
	d.rcpt = func(context.Context, mail.Path) error { return refusal }
	isMarked(t, "at a recipient", tx.Rcpt(t.Context(), to("y")))
	tx.Abort()
	d.rcpt = nil

	d.lend = true
	tx = w.begin(delivery())
	tx.Lend()
	d.renew = func(context.Context) error { return refusal }
	isMarked(t, "when it begins again", tx.Renew(t.Context()))
	tx.Abort()
	d.renew = nil

	d.data = func(context.Context, mail.Form) error { return refusal }
	for _, size := range []int{10, 3 * maxPiece} { // in one frame, and in several
		tx = w.begin(delivery())
		if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
			t.Fatal(err)
		}
		out := tx.Commit(t.Context(), octets(strings.Repeat("x\r\n", size/3)))
		if len(out) != 1 || out[0].InDoubt || out[0].Reply.Code != 451 {
			t.Fatalf("got %+v", out)
		}
		isMarked(t, "at DATA", out[0].Cause)
		tx.Abort()
	}
	d.data = nil
	if n, _, open := d.count(); n != 0 || open != 0 {
		t.Errorf("%d messages delivered, %d transactions open", n, open)
	}
	if out := w.deliver(); out.Reply.Code != 250 || w.unreachable.Load() != 0 {
		t.Errorf("got %+v, the node was called unreachable %d times", out, w.unreachable.Load())
	}
	if open, _ := w.client.count("b"); open != 1 {
		t.Errorf("%d connections", open)
	}
}

// The destination refuses after the first pieces of a message that never ends: that stops the message.
func TestTransaction_EarlyRefusal(t *testing.T) {
	refusal := &mail.Refusal{Reply: mail.NewReply(552, 3, 4, "Too big"), Reason: "upstream", Host: "mx"}
	for _, c := range []struct {
		name    string
		refuses func(*destination)
	}{
		{"of a piece", func(d *destination) {
			n := 0
			d.write = func(mail.Octets) error {
				if n++; n < 3 {
					return nil
				}
				return refusal
			}
		}},
		{"of DATA", func(d *destination) { d.data = func(context.Context, mail.Form) error { return refusal } }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &destination{}
			w := newWorld(t, d, beat, nil)
			c.refuses(d)
			tx := w.begin(delivery())
			_ = tx.Data(t.Context(), mail.Stuffed)
			var err error
			until(t, "the refusal", func() bool {
				err = tx.Write(octets(strings.Repeat("x", 50000)))
				return err != nil
			})
			var r *mail.Refusal
			if !errors.As(err, &r) || r.Reply != refusal.Reply || r.Host != "mx" || r.Reason != "upstream" {
				t.Errorf("got %+v", err)
			}
			if again := tx.Write(octets("x")); again != err {
				t.Errorf("then %v", again)
			}
			tx.Abort()
			tx.Abort()
			d.write, d.data = nil, nil
			if out := w.deliver(); out.Reply.Code != 250 {
				t.Errorf("%+v", out)
			}
			if delivered, aborted, open := d.count(); delivered != 1 || aborted != 1 || open != 0 {
				t.Errorf("%d delivered, %d aborted, %d open", delivered, aborted, open)
			}
			if open, _ := w.client.count("b"); open != 1 {
				t.Errorf("%d connections", open)
			}
		})
	}
}

// The destination refuses a piece when COMMIT is under way: the refusal is the answer to it.
func TestTransaction_RefusalCrossesCommit(t *testing.T) {
	d := &destination{}
	w := newWorld(t, d, beat, nil)
	for _, ask := range []string{"commit", "wanted", "abort"} {
		gate := make(chan struct{})
		d.write = func(mail.Octets) error { <-gate; return mail.Refuse(550, 7, 1, "Spam", "upstream", nil) }
		tx := w.begin(delivery())
		_ = tx.Data(t.Context(), mail.Plain)
		if err := tx.Write(octets("x\r\n")); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(10*time.Millisecond, func() { close(gate) })
		switch ask {
		case "commit":
			out := tx.Commit(t.Context(), octets("y\r\n"))
			if len(out) != 1 || out[0].Reply.Code != 550 || out[0].InDoubt {
				t.Errorf("%+v", out)
			}
		case "wanted":
			if tx.Wanted() {
				t.Error("wanted")
			}
			if err := tx.Write(octets("y")); mail.ReplyFor(err).Code != 550 {
				t.Error(err)
			}
			tx.Abort()
		case "abort":
			tx.Abort()
		}
		if open, idle := w.client.count("b"); open != 1 || idle != 1 {
			t.Errorf("%s: %d connections, %d idle", ask, open, idle)
		}
	}
	if delivered, aborted, open := d.count(); delivered != 0 || aborted != 3 || open != 0 {
		t.Errorf("%d delivered, %d aborted, %d open", delivered, aborted, open)
	}
}

// A destination that accepts nothing holds the client back: a bounded part of the message is sent, and the wait is
// longer than that for a silent peer.
func TestTransaction_SlowDestination(t *testing.T) { synctest.Test(t, testSlowDestination) }

func testSlowDestination(t *testing.T) {
	gate := make(chan struct{})
	d := &destination{write: func(mail.Octets) error { <-gate; return nil }}
	w := newBubble(t, d, nil)
	tx := w.begin(delivery())
	_ = tx.Data(t.Context(), mail.Plain)
	const pieces = 400
	text := octets(strings.Repeat("x", 64<<10))
	written := make(chan error, 1)
	go func() {
		for range pieces {
			if err := tx.Write(text); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	time.Sleep(3 * maxMissedBeats * beat) // virtual
	select {
	case err := <-written:
		t.Fatalf("all was taken, %v", err)
	default:
	}
	if n := w.proxy.count()[up]; n > 16<<20 {
		t.Errorf("%d octets were taken", n)
	}
	d.mu.Lock()
	if d.writes != 1 {
		t.Errorf("%d writes", d.writes)
	}
	d.mu.Unlock()
	close(gate)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if out := tx.Commit(t.Context(), octets("\r\n")); out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
}

// The octets of a stuffed message are followed in memory by its end, so that both can be sent on in one write.
func TestWorker_EndOfData(t *testing.T) {
	var behind string
	d := &destination{commit: func(_ context.Context, o mail.Octets) []mail.Outcome {
		s := o.Segments[0]
		behind = string(s[len(s):][:len(endOfData)])
		return nil
	}}
	w := newWorld(t, d, beat, nil)
	if out := w.deliver(); out.Reply.Code != 250 || behind != endOfData {
		t.Errorf("%q %+v", behind, out)
	}
}
