package peer

import (
	"context"
	"errors"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// At a drain idle connections are closed at once, transactions under way finish, and a released COMMIT is always
// answered.
func TestServer_Drain(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{})
	d := &destination{commit: func(context.Context, mail.Octets) []mail.Outcome { close(entered); <-gate; return nil }}
	w := newWorld(t, d, beat, nil)
	idle, slow, released := w.begin(delivery()), w.begin(delivery()), w.begin(delivery())
	idle.Abort()
	outcome := make(chan []mail.Outcome)
	_ = released.Data(t.Context(), mail.Stuffed)
	go func() { outcome <- released.Commit(t.Context(), octets("x\r\n")) }()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	shut := make(chan error)
	go func() { shut <- w.server.Shutdown(ctx) }()
	until(t, "the idle connection is closed", func() bool {
		open, idle := w.client.count("b")
		return open == 2 && idle == 0
	})
	if _, err := w.client.Begin(t.Context(), "b", delivery()); peerError(t, err).Sent() || !errors.Is(err, errGoodbye) {
		t.Error(err)
	}
	if err := slow.Rcpt(t.Context(), to("y")); err != nil {
		t.Errorf("what is under way does not go on: %v", err)
	}
	if w.unreachable.Load() != 0 {
		t.Error("a leaving node counts as failed")
	}
	cancel() // the time is over
	until(t, "what did not finish is aborted", func() bool { open, _ := w.client.count("b"); return open == 1 })
	if l := peerError(t, slow.Rcpt(t.Context(), to("z"))); l.Sent() {
		t.Error(l)
	}
	close(gate)
	if out := <-outcome; out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
	if err := <-shut; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if delivered, aborted, open := d.count(); delivered != 1 || aborted != 2 || open != 0 {
		t.Errorf("%d delivered, %d aborted, %d open", delivered, aborted, open)
	}
	if w.unreachable.Load() != 0 {
		t.Error("a leaving node counts as failed")
	}
}

// Transactions begin during a drain. In any order of OPEN and goodbye, a message is delivered or was not sent.
func TestServer_DrainRace(t *testing.T) {
	for range 30 {
		d := &destination{}
		w := newWorld(t, d, beat, nil)
		w.begin(delivery()).Abort()
		const senders = 4
		results := make(chan int, senders)
		for range senders {
			go func() {
				n := 0
				for ; ; n++ {
					tx, err := w.client.Begin(context.Background(), "b", delivery())
					if err == nil {
						if err = tx.Rcpt(context.Background(), to("x")); err == nil {
							err = tx.Data(context.Background(), mail.Stuffed)
						}
					}
					if err == nil {
						out := tx.Commit(context.Background(), octets("x\r\n"))
						if err = out[0].Cause; out[0].InDoubt || out[0].Reply.Code == 250 != (err == nil) {
							t.Errorf("%+v", out)
						}
					}
					if err == nil {
						continue
					}
					if l := peerError(t, err); l.Sent() {
						t.Error(err)
					}
					if tx != nil {
						tx.Abort()
					}
					results <- n
					return
				}
			}()
		}
		until(t, "some were delivered", func() bool { delivered, _, _ := d.count(); return delivered > 20 })
		if err := w.server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		total := 0
		for range senders {
			total += <-results
		}
		if delivered, _, open := d.count(); delivered != total || open != 0 {
			t.Fatalf("%d were delivered, and senders know of %d; %d open", delivered, total, open)
		}
		w.close()
		if t.Failed() {
			return
		}
	}
}

// A full server says so: the message can go elsewhere, and the node does not count as failed.
func TestServer_Full(t *testing.T) {
	w := newWorld(t, &destination{}, beat, func(s *ServerConfig, _ *ClientConfig) { s.tune.connections = 1 })
	tx := w.begin(delivery())
	for range 3 {
		_, err := w.client.Begin(t.Context(), "b", delivery())
		if !errors.Is(err, errGoodbye) || peerError(t, err).Sent() {
			t.Error(err)
		}
	}
	until(t, "surplus connections end", func() bool { return len(w.server.all()) == 1 })
	if w.proxy.mu.Lock(); len(w.proxy.pairs) != 2 {
		t.Errorf("%d connections were opened: a full node is dialled each time", len(w.proxy.pairs))
	}
	w.proxy.mu.Unlock()
	if w.unreachable.Load() != 0 || !w.client.Reachable("b") {
		t.Error("a full node counts as failed")
	}
	_ = tx.Data(t.Context(), mail.Stuffed)
	if out := tx.Commit(t.Context(), octets("x\r\n")); out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
	if out := w.deliver(); out.Reply.Code != 250 { // on the connection that is idle now
		t.Errorf("%+v", out)
	}
}

// Abort ends transactions at once, except those whose COMMIT is sent.
func TestClient_Abort(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{}, 2)
	d := &destination{
		commit: func(context.Context, mail.Octets) []mail.Outcome { entered <- struct{}{}; <-gate; return nil },
		rcpt: func(ctx context.Context, p mail.Path) error {
			if p.Local == "y" {
				entered <- struct{}{}
				<-ctx.Done()
			}
			return nil
		},
	}
	w := newWorld(t, d, beat, nil)
	waits, released := w.begin(delivery()), w.begin(delivery())
	_ = released.Data(t.Context(), mail.Stuffed)
	outcome, failure := make(chan []mail.Outcome), make(chan error)
	go func() { outcome <- released.Commit(t.Context(), octets("x\r\n")) }()
	go func() { failure <- waits.Rcpt(t.Context(), to("y")) }()
	<-entered
	<-entered
	w.client.Abort()
	if l := peerError(t, <-failure); l.Sent() || !errors.Is(l, errAbortedByDrain) {
		t.Error(l)
	}
	closed := make(chan struct{})
	go func() { w.client.Close(); close(closed) }()
	close(gate)
	if out := <-outcome; out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
	<-closed
	if _, err := w.client.Begin(t.Context(), "b", delivery()); peerError(t, err).Sent() {
		t.Error(err)
	}
	if w.unreachable.Load() != 0 {
		t.Error("the node counts as failed")
	}
}
