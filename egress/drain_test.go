package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// octetsOf is the verb of a destination that stops reading inside a message.
const octetsOf = "octets"

// hanging starts a destination that answers everything but one verb, and a world with it. reached gets a value when it
// got as far.
func hanging(t *testing.T, verb string, ext []string, secure *tls.Config,
	change func(*Config)) (w *world, reached chan struct{}) {
	reached = make(chan struct{}, 100)
	b := smtptest.Behaviour{Extensions: ext, TLS: secure, On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb != verb {
			return smtptest.Answer{}, false
		}
		reached <- struct{}{}
		return smtptest.Answer{After: time.Hour}, true
	}}
	if verb == octetsOf {
		b.Body = &smtptest.Fault{After: 1, Stall: true}
	}
	w, _ = one(t, b, change)
	return w, reached
}

// endDrain is what happens when the time of a drain is up.
func endDrain(w *world, cancel context.CancelFunc) {
	cancel()
	w.relay.Abort()
}

// await waits for the result of a call that was aborted.
func await[T any](t *testing.T, result <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-result:
	case <-time.After(40 * time.Second): // a wait for the destination would be an hour or its time-out of a minute
		t.Fatal("the call goes on waiting for the destination")
	}
	return got
}

// TestRelay_CutEndsWaits has a destination that leaves us waiting at each point of a transaction, and ends the drain
// then. Nothing of the message counts, so that the client hears a 4yz or nothing and sends it again.
func TestRelay_CutEndsWaits(t *testing.T) {
	stuffed := smtptest.Without("CHUNKING")
	var written atomic.Int64
	rcptAnd := func(then func(ctx context.Context, tx mail.Transaction) error) func(context.Context,
		mail.Transaction) error {
		return func(ctx context.Context, tx mail.Transaction) error {
			if err := tx.Rcpt(ctx, path("b@one.test")); err != nil {
				return fmt.Errorf("at RCPT: %w", err)
			}
			return then(ctx, tx)
		}
	}
	data := func(ctx context.Context, tx mail.Transaction) error { return tx.Data(ctx, mail.Stuffed) }
	write := func(ctx context.Context, tx mail.Transaction) error {
		if err := tx.Data(ctx, mail.Stuffed); err != nil {
			return fmt.Errorf("at DATA: %w", err)
		}
		piece := octets(strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1<<14))
		for {
			if err := tx.Write(piece); err != nil {
				return err
			}
			written.Add(1)
		}
	}
	for _, tc := range []struct {
		name, verb string
		ext        []string
		do         func(context.Context, mail.Transaction) error
	}{
		{"MAIL", "MAIL", nil, rcptAnd(data)},
		{"RCPT", "RCPT", nil, rcptAnd(data)},
		{"RCPT without PIPELINING", "RCPT", []string{}, rcptAnd(data)},
		{"DATA", "DATA", stuffed, rcptAnd(data)},
		{"octets by DATA", octetsOf, stuffed, rcptAnd(write)},
		{"octets by BDAT", octetsOf, nil, rcptAnd(write)},
		{"RSET when it is aborted", "RSET", nil, rcptAnd(func(_ context.Context, tx mail.Transaction) error {
			tx.Abort()
			return mail.Refuse(451, 4, 2, "as wanted", "aborted", nil)
		})},
		{"RSET when it is lent", "RSET", nil, rcptAnd(func(ctx context.Context, tx mail.Transaction) error {
			tx.Lend()
			return tx.Renew(ctx)
		})},
	} {
		for _, under := range []string{"clear", "TLS"} {
			t.Run(tc.name+" in "+under, func(t *testing.T) {
				var secure *tls.Config
				if under == "TLS" {
					secure = smtptest.NewCA().Server("mx1.one.test")
				}
				w, reached := hanging(t, tc.verb, tc.ext, secure, nil)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				tx, err := w.relay.Begin(ctx, to("one.test"))
				if err != nil {
					t.Fatal(err)
				}
				result := make(chan error, 1)
				go func() { // ends with the drain
					err := tc.do(ctx, tx)
					tx.Abort()
					result <- err
				}()
				if tc.verb == octetsOf {
					stalls(t, &written)
				} else {
					<-reached
				}
				endDrain(w, cancel)
				if err := await(t, result); mail.ReplyFor(err).Class() != 4 {
					t.Errorf("got %v", err)
				}
				isIdle(t, w, 0)
			})
		}
	}
}

// stalls waits until a count stands still.
func stalls(t *testing.T, count *atomic.Int64) {
	t.Helper()
	last, same := int64(0), 0
	until(t, func() bool {
		if n := count.Load(); n != last {
			last, same = n, 0
		}
		same++
		return same > 100 // looks
	})
}

// TestRelay_CutEndsBegin: the end of a drain ends every wait for a session.
func TestRelay_CutEndsBegin(t *testing.T) {
	for _, tc := range []struct {
		name, verb string
		waits      func(*world) bool
	}{
		{"greeting", smtptest.Greeting, nil},
		{"EHLO", "EHLO", nil},
		{"the cap of the Site", "", func(w *world) bool { return w.relay.local.pool.Count().Waiting == 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, reached := hanging(t, tc.verb, nil, nil, limits(t, "connections=1 messages=1000 idle=1m age=1h"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := to("one.test")
			d.Favoured = true // never parked
			if tc.waits != nil {
				defer begin(t, w, d).Abort()
			}
			result := make(chan error, 1)
			go func() { // ends with the drain
				_, err := w.relay.Begin(ctx, d)
				result <- err
			}()
			if tc.waits == nil {
				<-reached
			} else {
				until(t, func() bool { return tc.waits(w) })
			}
			endDrain(w, cancel)
			if err := await(t, result); mail.ReplyFor(err).Class() != 4 {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestRelay_CutLeavesCommit has messages whose dot is out when the drain ends: their fate is the destination's to tell.
func TestRelay_CutLeavesCommit(t *testing.T) {
	for _, ext := range [][]string{nil, smtptest.Without("CHUNKING")} {
		dot, reply := make(chan struct{}), make(chan struct{})
		w, s := one(t, smtptest.Behaviour{Extensions: ext, On: func(s smtptest.Step) (smtptest.Answer, bool) {
			if s.Verb == smtptest.Dot {
				dot <- struct{}{}
				<-reply
			}
			return smtptest.Answer{}, false
		}}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tx := begin(t, w, to("one.test"))
		rcpt(t, tx, "b@one.test")
		if err := tx.Data(ctx, mail.Stuffed); err != nil {
			t.Fatal(err)
		}
		result := make(chan []mail.Outcome, 1)
		go func() { // ends with the reply to the dot
			result <- tx.Commit(mail.Until(context.WithoutCancel(ctx), time.Now().Add(time.Minute)), octets(message))
		}()
		<-dot
		endDrain(w, cancel)
		close(reply)
		if out := await(t, result); len(out) != 1 || out[0].Reply.Code != 250 || out[0].InDoubt {
			t.Errorf("got %+v", out)
		}
		if n := s.Counts().Messages; n != 1 {
			t.Errorf("%d messages arrived", n)
		}
		isIdle(t, w, 0)
	}
}

// TestRelay_CutOrCommitted has the end of a drain meet many transactions at once, wherever they are: each is delivered
// and said so, or neither, and no message is in doubt.
func TestRelay_CutOrCommitted(t *testing.T) {
	const senders, rounds = 8, 10
	for round := range rounds {
		w, s := one(t, smtptest.Behaviour{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var mu sync.Mutex
		said := 0
		for range senders {
			all.Go(func() { // ends with the drain
				for {
					code, doubt := sendUntil(ctx, w)
					if doubt || code/100 != 2 && code/100 != 4 {
						t.Errorf("round %d: %d, in doubt %t", round, code, doubt)
					}
					if code/100 == 4 {
						return
					}
					mu.Lock()
					said++
					mu.Unlock()
				}
			})
		}
		if err := s.WaitFor(t.Context(), func(c smtptest.Counts) bool { return c.Messages >= 20+round }); err != nil {
			t.Fatal(err)
		}
		endDrain(w, cancel)
		all.Wait()
		if n := s.Counts().Messages; n != said {
			t.Errorf("round %d: %d messages arrived, %d were acknowledged", round, n, said)
		}
		isIdle(t, w, 0)
	}
}

// sendUntil takes one message as far as it gets.
func sendUntil(ctx context.Context, w *world) (code int, doubt bool) {
	tx, err := w.relay.Begin(ctx, to("one.test"))
	if err != nil {
		return mail.ReplyFor(err).Code, false
	}
	defer tx.Abort()
	if err := tx.Rcpt(ctx, path("b@one.test")); err != nil {
		return mail.ReplyFor(err).Code, false
	}
	if err := tx.Data(ctx, mail.Stuffed); err != nil {
		return mail.ReplyFor(err).Code, false
	}
	out := tx.Commit(mail.Until(context.WithoutCancel(ctx), time.Now().Add(time.Minute)), octets(message))
	return out[0].Reply.Code, out[0].InDoubt
}

// until waits for a condition.
func until(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 60_000 {
		if cond() {
			return
		}
		<-tick.C
	}
	t.Fatal("waited too long")
}
