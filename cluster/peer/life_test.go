package peer

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// quick is a beat for tests of silence: a peer has failed after some 200 ms.
const quick = 50 * time.Millisecond

// In every wait, an answer may take long for as long as the peer sends signs of life.
func TestTransaction_SlowAnswer(t *testing.T) { synctest.Test(t, testSlowAnswer) }

func testSlowAnswer(t *testing.T) {
	slow := func() { time.Sleep(2 * maxMissedBeats * beat) } // virtual
	d := &destination{
		begin: func(context.Context, mail.Delivery) error {
			slow()
			return nil
		}, rcpt: func(context.Context, mail.Path) error { slow(); return nil },
		commit: func(context.Context, mail.Octets) []mail.Outcome {
			slow()
			return nil
		}, renew: func(context.Context) error { slow(); return nil }, lend: true,
	}
	w := newBubble(t, d, nil)
	tx := w.begin(delivery())
	if !tx.Lend() {
		t.Error("not lent")
	}
	if err := tx.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	slow() // the client sends nothing, and lives
	_ = tx.Data(t.Context(), mail.Stuffed)
	if out := tx.Commit(t.Context(), octets("x\r\n")); out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
	if w.unreachable.Load() != 0 {
		t.Error("the peer counts as failed")
	}
}

// A frozen peer is noticed: the connection stands, and nothing is received.
func TestTransaction_FrozenPeer(t *testing.T) {
	for _, c := range []struct {
		name string
		sent bool
		use  func(t *testing.T, w *world, tx mail.Transaction) error
	}{
		{"in Rcpt", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			return tx.Rcpt(t.Context(), to("y"))
		}},
		{"in Renew", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			tx.(*transaction).asked = time.Time{}
			return tx.Renew(t.Context())
		}},
		{"in Lend", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			if tx.Lend() {
				t.Error("lent")
			}
			return tx.Rcpt(t.Context(), to("y"))
		}},
		{"in Wanted", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			if tx.Wanted() {
				t.Error("wanted")
			}
			return tx.Write(octets("x"))
		}},
		{"in a write that blocks", false, func(t *testing.T, _ *world, tx mail.Transaction) (err error) {
			_ = tx.Data(t.Context(), mail.Plain)
			text := octets(strings.Repeat("x", 1<<20))
			for err == nil {
				err = tx.Write(text)
			}
			return err
		}},
		{"in a commit that cannot be written", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			_ = tx.Data(t.Context(), mail.Plain)
			return tx.Commit(t.Context(),
				mail.Octets{Segments: slices.Repeat([][]byte{make([]byte, 1<<20)}, 64)})[0].Cause
		}},
		{"in a commit that was sent", true, func(t *testing.T, _ *world, tx mail.Transaction) error {
			_ = tx.Data(t.Context(), mail.Plain)
			out := tx.Commit(t.Context(), octets("x\r\n"))
			if !out[0].InDoubt || out[0].Reply.Code != 451 {
				t.Errorf("%+v", out)
			}
			return out[0].Cause
		}},
		{"in the first Rcpt on a connection that was idle", false,
			func(t *testing.T, w *world, tx mail.Transaction) error {
				w.proxy.freeze(false)
				tx.Abort()
				w.proxy.freeze(true)
				tx, err := w.client.Begin(t.Context(), "b", delivery())
				if err != nil {
					t.Fatal(err)
				}
				return tx.Rcpt(t.Context(), to("y"))
			}},
		{"in the beginning of a connection", false, func(t *testing.T, w *world, _ mail.Transaction) error {
			_, err := w.client.Begin(t.Context(), "b", delivery())
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &destination{lend: true}
				w := newBubble(t, d, nil)
				tx := w.begin(delivery())
				w.proxy.freeze(true)
				began := time.Now()
				err := c.use(t, w, tx)
				if l := peerError(t, err); l.Sent() != c.sent || l.Node != "b" {
					t.Errorf("%+v", l)
				}
				// A write that is under way has two beats more.
				if took := time.Since(began); took > (maxMissedBeats+2)*beat {
					t.Errorf("after %v", took)
				}
				if w.client.Reachable("b") || w.unreachable.Load() != 1 {
					t.Errorf("the node is not left alone: %d", w.unreachable.Load())
				}
				time.Sleep((maxMissedBeats + 1) * beat) // virtual
				if _, _, open := d.count(); open != 0 {
					t.Error("the server does not end the transaction")
				}
			})
		})
	}
}

// A silent peer has failed after maxMissedBeats. The beat in which the waiting goroutine reads itself counts.
func TestLink_SilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newBubble(t, &destination{}, nil)
		tx := w.begin(delivery())
		w.proxy.freeze(true)
		began := time.Now()
		peerError(t, tx.Rcpt(t.Context(), to("y")))
		if took := time.Since(began); took != maxMissedBeats*beat {
			t.Errorf("after %v", took)
		}
	})
}

// A deadline ends the wait while the peer still works, and is no failure of the peer.
func TestTransaction_Deadline(t *testing.T) { synctest.Test(t, testDeadline) }

func testDeadline(t *testing.T) {
	gate := make(chan struct{})
	entered := make(chan context.Context, 1)
	d := &destination{}
	w := newBubble(t, d, nil)
	block := func(ctx context.Context) { g := gate; entered <- ctx; <-g }
	d.rcpt = func(ctx context.Context, p mail.Path) error {
		if p.Local == "y" {
			block(ctx)
		}
		return nil
	}
	tx := w.begin(delivery())
	at := time.Now().Add(3 * time.Second)
	ctx := mail.Until(t.Context(), at)
	early := mail.Until(t.Context(), time.Now().Add(150*time.Millisecond))
	l := peerError(t, tx.Rcpt(early, to("y")))
	if l.Sent() || !errors.Is(l, context.DeadlineExceeded) {
		t.Error(l)
	}
	c := <-entered
	until(t, "the peer is told", func() bool { return c.Err() != nil })
	close(gate)

	gate = make(chan struct{})
	d.commit = func(ctx context.Context, _ mail.Octets) []mail.Outcome { block(ctx); return nil }
	tx = w.begin(delivery())
	_ = tx.Data(t.Context(), mail.Stuffed)
	out := tx.Commit(mail.Until(t.Context(), time.Now().Add(150*time.Millisecond)), octets("x\r\n"))
	if !peerError(t, out[0].Cause).Sent() || !out[0].InDoubt {
		t.Errorf("%+v", out)
	}
	c = <-entered
	if _, ok := c.Deadline(); !ok || c.Done() != nil {
		t.Error("the owner's commit has no deadline, or may be cancelled")
	}
	close(gate)
	until(t, "delivered by the owner", func() bool { delivered, _, _ := d.count(); return delivered == 1 })

	// The owner gets 2 s less.
	gate = make(chan struct{})
	close(gate)
	d.commit = nil
	tx = w.begin(delivery())
	if err := tx.Rcpt(ctx, to("y")); err != nil {
		t.Fatal(err)
	}
	if got, ok := (<-entered).Deadline(); !ok || at.Sub(got) != answerMargin {
		t.Errorf("%v before ours", at.Sub(got))
	}
	tx.Abort()

	// A cancelled context ends a wait, too.
	gate = make(chan struct{})
	tx = w.begin(delivery())
	gone, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if l := peerError(t, tx.Rcpt(gone, to("y"))); !errors.Is(l, context.Canceled) {
		t.Error(l)
	}
	<-entered
	close(gate)
	if w.unreachable.Load() != 0 {
		t.Error("the peer counts as failed")
	}
}

// A node that failed is not used for a pause. After the pause one caller at a time tries it, and its answer is
// reported.
func TestClient_Breaker(t *testing.T) {
	d := &destination{}
	var told []time.Time
	now := time.Unix(1e9, 0)
	w := newWorld(t, d, beat, func(_ *ServerConfig, c *ClientConfig) {
		c.Now = func() time.Time { return now }
		c.Unreachable = func(node string, until time.Time) { told = append(told, until) }
	})
	w.deliver()
	idle := w.begin(delivery())
	w.deliver()
	idle.Abort()
	if _, idle := w.client.count("b"); idle != 2 {
		t.Fatalf("%d idle", idle)
	}
	w.proxy.disconnect(true)
	until(t, "dead connections are removed", func() bool {
		open, idle := w.client.count("b")
		return open == 0 && idle == 0
	})
	begin := func() error {
		tx, err := w.client.Begin(t.Context(), "b", delivery())
		if err == nil {
			tx.Abort()
		}
		return err
	}
	for _, pause := range []time.Duration{
		firstPause, 2 * firstPause, 4 * firstPause, 8 * firstPause, longestPause, longestPause,
	} {
		if err := begin(); peerError(t, err).Sent() || errors.Is(err, errLeftAlone) {
			t.Error(err)
		}
		if err := begin(); !errors.Is(err, errLeftAlone) {
			t.Error(err)
		}
		if len(told) == 0 || told[len(told)-1].Sub(now) != pause || w.client.Reachable("b") {
			t.Fatalf("told %v at %v", told, now)
		}
		now = now.Add(pause)
		if !w.client.Reachable("b") {
			t.Error("not reachable after the pause")
		}
	}
	// One caller finds out. The others do not wait for it.
	w.proxy.mu.Lock()
	w.proxy.down = false
	w.proxy.mu.Unlock()
	w.proxy.freeze(true)
	result := make(chan error)
	go func() { result <- begin() }()
	until(t, "one finds out", func() bool {
		w.client.mu.Lock()
		defer w.client.mu.Unlock()
		return w.client.peers["b"].probing
	})
	if err := begin(); !errors.Is(err, errLeftAlone) {
		t.Error(err)
	}
	w.proxy.freeze(false)
	if err := <-result; err != nil {
		t.Error(err)
	}
	if !told[len(told)-1].IsZero() {
		t.Errorf("told %v", told)
	}
	if out := w.deliver(); out.Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
}

// A caller without time is no failure of the node, and neither is a node that is no member.
func TestClient_NoFailure(t *testing.T) {
	member := false
	w := newWorld(t, &destination{}, beat, func(_ *ServerConfig, c *ClientConfig) {
		addr := c.Addr
		c.Addr = func(node string) (string, bool) {
			a, _ := addr(node)
			return a, member
		}
	})
	_, err := w.client.Begin(t.Context(), "b", delivery())
	if !errors.Is(err, errNoMember) || peerError(t, err).Sent() {
		t.Error(err)
	}
	member = true
	w.proxy.freeze(true)
	if _, err := w.client.Begin(mail.Until(t.Context(), time.Now().Add(50*time.Millisecond)), "b",
		delivery()); err == nil {
		t.Error("begun")
	}
	gone, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := w.client.Begin(gone, "b", delivery()); err == nil {
		t.Error("begun")
	}
	w.proxy.freeze(false)
	if w.unreachable.Load() != 0 {
		t.Error("the node is left alone")
	}
	if out := w.deliver(); out.Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
}

// Idle connections are closed after some time, and a bounded number of them is kept.
func TestClient_IdleConnections(t *testing.T) {
	w := newWorld(t, &destination{}, beat, func(_ *ServerConfig, c *ClientConfig) {
		c.tune.idleTimeout, c.tune.maxIdle = 100*time.Millisecond, 2
	})
	var all []mail.Transaction
	for range 4 {
		all = append(all, w.begin(delivery()))
	}
	for _, tx := range all {
		tx.Abort()
	}
	if _, idle := w.client.count("b"); idle > 2 {
		t.Errorf("%d idle", idle)
	}
	until(t, "all are closed", func() bool {
		open, _ := w.client.count("b")
		return open == 0 && len(w.server.all()) == 0
	})
}

// No descriptor is left open by connections that ended in each way. TestMain looks for goroutines.
func TestLink_Descriptors(t *testing.T) {
	t.Run("warm", func(t *testing.T) { newWorld(t, &destination{}, beat, nil).deliver() })
	before := descriptors(t)
	for range 5 {
		func() {
			w := newWorld(t, &destination{}, quick, nil)
			w.deliver()
			w.begin(delivery()).Abort()
			tx := w.begin(delivery())
			w.proxy.disconnect(false)
			_ = tx.Rcpt(t.Context(), to("y"))
			if c, err := net.Dial("tcp", w.proxy.addr); err == nil {
				c.Close()
			}
			w.close()
		}()
	}
	until(t, "descriptors are closed", func() bool { return descriptors(t) <= before })
}
