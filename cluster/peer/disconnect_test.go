package peer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The connection is closed after each octet, in both directions. An outcome never claims more than is known: if it says
// that the end of data was not sent, the caller may deliver elsewhere, and the owner must never deliver. A 2yz means
// that the owner has delivered.
func TestTransaction_Disconnect(t *testing.T) {
	stream := octets(strings.Repeat("text\r\n", 5000))
	for _, c := range []struct {
		name   string
		pieces []mail.Octets
		step   [2]int64
	}{
		{"a small message", nil, [2]int64{3, 1}},
		{"a message that streams", []mail.Octets{stream, stream}, [2]int64{1201, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &destination{}
			w := newWorld(t, d, beat, nil)
			now := time.Now()
			w.client.cfg.Now = func() time.Time { return now }
			// send sends one message and returns its outcome.
			send := func() (out mail.Outcome) {
				now = now.Add(time.Minute) // the pause after the last failure is over
				tx, err := w.client.Begin(t.Context(), "b", delivery())
				if err != nil {
					return mail.Outcome{Reply: mail.ReplyFor(err), Cause: err}
				}
				defer tx.Abort()
				if err = tx.Rcpt(t.Context(), to("x")); err == nil {
					err = tx.Data(t.Context(), mail.Stuffed)
				}
				for _, p := range c.pieces {
					if err == nil {
						err = tx.Write(p)
					}
				}
				if err != nil {
					return mail.Outcome{Reply: mail.ReplyFor(err), Cause: err}
				}
				return tx.Commit(t.Context(), octets("hello\r\n"))[0]
			}
			whole := func() [2]int64 {
				before := w.proxy.count()
				if out := send(); out.Reply.Code != 250 {
					t.Fatalf("%+v", out)
				}
				after := w.proxy.count()
				return [2]int64{after[up] - before[up], after[back] - before[back]}
			}
			whole() // connects
			size := whole()
			if size[back] > 1000 {
				t.Fatalf("%d octets come back", size[back])
			}
			seen := map[string]int{}
			for way, size := range size {
				for n := int64(1); n <= size; n += c.step[way] {
					if open, _ := w.client.count("b"); open == 0 {
						whole()
					}
					delivered, _, _ := d.count()
					w.proxy.disconnectAfter(way, n)
					out := send()
					// The server ends the connection before its deliveries are counted.
					w.proxy.disconnect(false)
					until(t, "no connection is left", func() bool { return len(w.server.all()) == 0 })
					until(t, "the client knows", func() bool { open, _ := w.client.count("b"); return open == 0 })
					w.proxy.disconnect(false)
					w.proxy.mu.Lock()
					w.proxy.down = false
					w.proxy.mu.Unlock()
					after, _, open := d.count()
					var e *PeerError
					failed := errors.As(out.Cause, &e)
					what := "answered"
					if failed {
						what = map[bool]string{false: "not sent", true: "in doubt"}[e.Sent()]
					}
					if after > delivered {
						what += ", delivered"
					}
					seen[what]++
					switch {
					case open != 0:
						t.Fatalf("closed after %d one way (%d): %d transactions are left open", n, way, open)
					case out.Reply.Class() == 2 && after != delivered+1,
						out.Reply.Class() != 2 && (out.Reply.Code != 451 || !failed):
						t.Fatalf("closed after %d one way (%d): %+v, %d delivered", n, way, out, after-delivered)
					case failed && !e.Sent() && after != delivered, failed && out.InDoubt != e.Sent():
						t.Fatalf("closed after %d one way (%d): %+v, %d delivered", n, way, out, after-delivered)
					}
				}
			}
			for _, what := range []string{"not sent", "in doubt", "in doubt, delivered"} {
				if seen[what] == 0 {
					t.Errorf("no disconnect came out as %q: %v", what, seen)
				}
			}
			t.Log(seen, size)
		})
	}
}

// The connection breaks while COMMIT is being written: it was not sent.
func TestTransaction_CommitTorn(t *testing.T) {
	d := &destination{}
	w := newWorld(t, d, beat, nil)
	w.deliver()
	tx := w.begin(delivery())
	_ = tx.Data(t.Context(), mail.Plain)
	w.proxy.disconnectAfter(up, 1<<20)
	out := tx.Commit(t.Context(), octets(strings.Repeat("x", 32<<20)))
	if l := peerError(t, out[0].Cause); l.Sent() || out[0].InDoubt || out[0].Reply.Code != 451 || out[0].Via != "b" {
		t.Errorf("%+v", out)
	}
	until(t, "no connection is left", func() bool { return len(w.server.all()) == 0 })
	if delivered, aborted, open := d.count(); delivered != 1 || aborted != 1 || open != 0 {
		t.Errorf("%d delivered, %d aborted, %d open", delivered, aborted, open)
	}
	if w.client.Reachable("b") || w.unreachable.Load() != 1 {
		t.Error("the node is not left alone")
	}
}
