package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// quick is a beat for tests of silence: a peer is lost after some 200 ms.
const quick = 50 * time.Millisecond

// TestAnAnswerMayTakeLong: for as long as the peer gives signs of life it is waited for, in every wait.
func TestAnAnswerMayTakeLong(t *testing.T) {
	const quick = 2 * quick // on a machine that is busy
	slow := func() { <-time.After(2 * lostBeats * quick) }
	d := &destination{
		begin: func(context.Context, mail.Delivery) error { slow(); return nil }, rcpt: func(context.Context, mail.Path) error { slow(); return nil },
		commit: func(context.Context, mail.Octets) []mail.Outcome { slow(); return nil }, renew: func(context.Context) error { slow(); return nil }, lend: true,
	}
	w := newWorld(t, d, quick, nil)
	tx := w.begin(delivery())
	l := tx.(mail.Lender)
	if !l.Lend() {
		t.Error("not lent")
	}
	if err := l.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	slow() // the client has nothing to say, and lives
	_ = tx.Data(t.Context(), mail.Stuffed)
	if out := tx.Commit(t.Context(), octets("x\r\n")); out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
	if w.unreachable.Load() != 0 {
		t.Error("the peer was thought lost")
	}
}

// TestAFrozenPeerIsNoticed: the connection stands, and nothing comes.
func TestAFrozenPeerIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name string
		sent bool
		use  func(t *testing.T, w *world, tx mail.Transaction) error
	}{
		{"in Rcpt", false, func(t *testing.T, _ *world, tx mail.Transaction) error { return tx.Rcpt(t.Context(), to("y")) }},
		{"in Renew", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			tx.(*transaction).asked = time.Time{}
			return tx.(mail.Lender).Renew(t.Context())
		}},
		{"in Lend", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			if tx.(mail.Lender).Lend() {
				t.Error("lent")
			}
			return tx.Rcpt(t.Context(), to("y"))
		}},
		{"in Wanted", false, func(t *testing.T, _ *world, tx mail.Transaction) error {
			if tx.(mail.Lender).Wanted() {
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
			return tx.Commit(t.Context(), mail.Octets{Segments: slices.Repeat([][]byte{make([]byte, 1<<20)}, 64)})[0].Cause
		}},
		{"in a commit that was sent", true, func(t *testing.T, _ *world, tx mail.Transaction) error {
			_ = tx.Data(t.Context(), mail.Plain)
			out := tx.Commit(t.Context(), octets("x\r\n"))
			if !out[0].InDoubt || out[0].Reply.Code != 451 {
				t.Errorf("%+v", out)
			}
			return out[0].Cause
		}},
		{"in the first Rcpt on a connection that was idle", false, func(t *testing.T, w *world, tx mail.Transaction) error {
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
			d := &destination{lend: true}
			w := newWorld(t, d, quick, nil)
			tx := w.begin(delivery())
			w.proxy.freeze(true)
			began := time.Now()
			err := c.use(t, w, tx)
			if l := lost(t, err); l.Sent() != c.sent || l.Node != "b" {
				t.Errorf("%+v", l)
			}
			if took := time.Since(began); took > 40*quick { // 5 beats, and a machine that is busy
				t.Errorf("after %v", took)
			}
			if w.client.Reachable("b") || w.unreachable.Load() != 1 {
				t.Errorf("the node is not left alone: %d", w.unreachable.Load())
			}
			until(t, "the server gives up too", func() bool { _, _, open := d.count(); return open == 0 })
		})
	}
}

// TestADeadlineEndsTheWait while the peer still works, and is no failure of the peer.
func TestADeadlineEndsTheWait(t *testing.T) {
	gate := make(chan struct{})
	entered := make(chan context.Context, 1)
	d := &destination{}
	w := newWorld(t, d, beat, nil)
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
	l := lost(t, tx.Rcpt(early, to("y")))
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
	if !lost(t, out[0].Cause).Sent() || !out[0].InDoubt {
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
	if got, ok := (<-entered).Deadline(); !ok || at.Sub(got) < margin-100*time.Millisecond || at.Sub(got) > margin+100*time.Millisecond {
		t.Errorf("%v before ours", at.Sub(got))
	}
	tx.Abort()

	// A client that goes away ends a wait, too.
	gate = make(chan struct{})
	tx = w.begin(delivery())
	gone, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if l := lost(t, tx.Rcpt(gone, to("y"))); !errors.Is(l, context.Canceled) {
		t.Error(l)
	}
	<-entered
	close(gate)
	if w.unreachable.Load() != 0 {
		t.Error("the peer was thought lost")
	}
}

// TestTheBreaker: a node that failed is left alone, asked by one at a time when the pause is over, and told to be back.
func TestTheBreaker(t *testing.T) {
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
	if _, idle := w.client.Count("b"); idle != 2 {
		t.Fatalf("%d idle", idle)
	}
	w.proxy.cut(true)
	until(t, "dead connections are forgotten", func() bool { open, idle := w.client.Count("b"); return open == 0 && idle == 0 })
	begin := func() error {
		tx, err := w.client.Begin(t.Context(), "b", delivery())
		if err == nil {
			tx.Abort()
		}
		return err
	}
	for _, pause := range []time.Duration{firstPause, 2 * firstPause, 4 * firstPause, 8 * firstPause, longestPause, longestPause} {
		if err := begin(); lost(t, err).Sent() || errors.Is(err, errLeftAlone) {
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
	// One finds out; the others do not wait for it.
	w.proxy.mu.Lock()
	w.proxy.down = false
	w.proxy.mu.Unlock()
	w.proxy.freeze(true)
	result := make(chan error)
	go func() { result <- begin() }()
	until(t, "one finds out", func() bool { w.client.mu.Lock(); defer w.client.mu.Unlock(); return w.client.peers["b"].probing })
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

// TestACallerWhoCannotWaitIsNoFailureOfTheNode: neither is a node that is no member.
func TestACallerWhoCannotWaitIsNoFailureOfTheNode(t *testing.T) {
	known := false
	w := newWorld(t, &destination{}, beat, func(_ *ServerConfig, c *ClientConfig) {
		addr := c.Addr
		c.Addr = func(node string) (string, bool) {
			a, _ := addr(node)
			return a, known
		}
	})
	if _, err := w.client.Begin(t.Context(), "b", delivery()); !errors.Is(err, errNoMember) || lost(t, err).Sent() {
		t.Error(err)
	}
	known = true
	w.proxy.freeze(true)
	if _, err := w.client.Begin(mail.Until(t.Context(), time.Now().Add(50*time.Millisecond)), "b", delivery()); err == nil {
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

// TestIdleConnectionsEnd when nobody uses them, and no more than some are kept.
func TestIdleConnectionsEnd(t *testing.T) {
	w := newWorld(t, &destination{}, beat, func(_ *ServerConfig, c *ClientConfig) { c.Idle, c.Most = 100*time.Millisecond, 2 })
	var all []mail.Transaction
	for range 4 {
		all = append(all, w.begin(delivery()))
	}
	for _, tx := range all {
		tx.Abort()
	}
	if _, idle := w.client.Count("b"); idle > 2 {
		t.Errorf("%d idle", idle)
	}
	until(t, "all are closed", func() bool { open, _ := w.client.Count("b"); return open == 0 && len(w.server.all()) == 0 })
}

// TestDrain: those who wait are told at once, what is under way finishes, and a released COMMIT is always answered.
func TestDrain(t *testing.T) {
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
	until(t, "the idle connection is closed", func() bool { open, idle := w.client.Count("b"); return open == 2 && idle == 0 })
	if _, err := w.client.Begin(t.Context(), "b", delivery()); lost(t, err).Sent() || !errors.Is(err, errGoodbye) {
		t.Error(err)
	}
	if err := slow.Rcpt(t.Context(), to("y")); err != nil {
		t.Errorf("what is under way does not go on: %v", err)
	}
	if w.unreachable.Load() != 0 {
		t.Error("who leaves is no failure")
	}
	cancel() // the time is up
	until(t, "who did not finish is cut", func() bool { open, _ := w.client.Count("b"); return open == 1 })
	if l := lost(t, slow.Rcpt(t.Context(), to("z"))); l.Sent() {
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
		t.Error("who leaves is no failure")
	}
}

// TestDrainsWhileOthersBegin: whatever comes first, OPEN or goodbye, a message is delivered or was not sent.
func TestDrainsWhileOthersBegin(t *testing.T) {
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
					if l := lost(t, err); l.Sent() {
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

// TestAFullServerSaysSo: the message goes elsewhere, and the node is not taken for dead.
func TestAFullServerSaysSo(t *testing.T) {
	w := newWorld(t, &destination{}, beat, func(s *ServerConfig, _ *ClientConfig) { s.Connections = 1 })
	tx := w.begin(delivery())
	for range 3 {
		if _, err := w.client.Begin(t.Context(), "b", delivery()); !errors.Is(err, errGoodbye) || lost(t, err).Sent() {
			t.Error(err)
		}
	}
	until(t, "who is too many leaves", func() bool { return len(w.server.all()) == 1 })
	if w.proxy.mu.Lock(); len(w.proxy.pairs) != 2 {
		t.Errorf("%d connections were opened: who is full is not asked each time", len(w.proxy.pairs))
	}
	w.proxy.mu.Unlock()
	if w.unreachable.Load() != 0 || !w.client.Reachable("b") {
		t.Error("who is full is no failure")
	}
	_ = tx.Data(t.Context(), mail.Stuffed)
	if out := tx.Commit(t.Context(), octets("x\r\n")); out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
	if out := w.deliver(); out.Reply.Code != 250 { // on the connection that is idle now
		t.Errorf("%+v", out)
	}
}

// TestOtherVersionsOfTheHop: what both know is spoken, whatever else the other one says; and where there is nothing, nothing.
func TestOtherVersionsOfTheHop(t *testing.T) {
	w := newWorld(t, &destination{}, beat, nil)
	for _, c := range []struct {
		name            string
		lowest, highest int64
		ok              bool
	}{
		{"the same", 1, 1, true}, {"newer, and still speaks ours", 1, 7, true}, {"newer only", 2, 3, false}, {"older only", -1, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := w.client.cfg.TLS.Clone()
			cfg.ServerName = "b"
			conn, err := tls.Dial("tcp", w.proxy.addr, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			hi := frame(nil, hello, func(f fields) fields {
				return f.number(fVersionMin, c.lowest).number(fVersionMax, c.highest).text(fNode, "a").text(200, "from a later version")
			})
			b := frame(hi, open, func(f fields) fields {
				o := opening{d: delivery(), forward: to("x")}
				return o.append(f.text(201, "a field that is not known"))
			})
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			l := &link{conn: conn, raw: &patient{Conn: conn}}
			if k, n, err := l.next(); err != nil || k != hello || l.fill(make([]byte, n)) != nil {
				t.Fatal(k, err)
			}
			k, _, err := l.next()
			if ok := err == nil && k == done; ok != c.ok {
				t.Errorf("%d %v", k, err)
			}
		})
	}
	if w.events.Load() != 2 {
		t.Errorf("%d events", w.events.Load())
	}
	if _, err := parseGreeting(fields(nil).number(fVersionMin, 2).number(fVersionMax, 3)); err == nil || !strings.Contains(err.Error(), "2 to 3") {
		t.Error(err)
	}
}

// TestWhoIsNotOfTheCluster gets no further than the greeting, on either side.
func TestWhoIsNotOfTheCluster(t *testing.T) {
	d := &destination{}
	other := newAuthority(t)
	for _, c := range []struct {
		name    string
		prepare func(w *world) // of the client
	}{
		{"our certificate is of another authority", func(w *world) {
			cert, key := other.issue(t, "a")
			pair, _ := tls.X509KeyPair(cert, key)
			w.client.cfg.TLS.Certificates = []tls.Certificate{pair}
		}},
		{"we have no certificate", func(w *world) { w.client.cfg.TLS.Certificates = nil }},
		{"our certificate is for a server alone", func(w *world) {
			cert, key := w.ca.issue(t, "a", 1)
			pair, _ := tls.X509KeyPair(cert, key)
			w.client.cfg.TLS.Certificates = []tls.Certificate{pair}
		}},
		{"we say another name than our certificate", func(w *world) { w.client.cfg.Name = "c" }},
		{"the peer's certificate is of another authority", func(w *world) {
			_, client, err := Certificates("a", other.pem, first(other.issue(t, "a")), nil)
			if err == nil {
				t.Error("a certificate without its key is taken", client)
			}
			cert, key := other.issue(t, "a")
			if _, w.client.cfg.TLS, err = Certificates("a", other.pem, cert, key); err != nil {
				t.Fatal(err)
			}
		}},
		{"TLS 1.2", func(w *world) {
			w.client.cfg.TLS.MinVersion, w.client.cfg.TLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, d, beat, nil)
			c.prepare(w)
			tx, err := w.client.Begin(t.Context(), "b", delivery())
			if err == nil { // TLS 1.3 tells a client later that it is refused
				err = tx.Rcpt(t.Context(), to("x"))
			}
			if lost(t, err).Sent() {
				t.Error(err)
			}
			if w.client.Reachable("b") {
				t.Error("the node is not left alone")
			}
		})
	}
	t.Run("the peer is another node", func(t *testing.T) {
		w := newWorld(t, d, beat, nil)
		_, err := w.client.Begin(t.Context(), "c", delivery())
		if lost(t, err).Sent() || !strings.Contains(err.Error(), "not c") {
			t.Error(err)
		}
	})
	if delivered, _, _ := d.count(); delivered != 0 || len(d.begun) != 0 {
		t.Error("something was begun")
	}
}

func first(a, _ []byte) []byte { return a }

func TestCertificates(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.issue(t, "a")
	_, foreign := ca.issue(t, "a")
	serverOnly, serverKey := ca.issue(t, "a", 1)
	for _, c := range []struct {
		name          string
		node          string
		ca, cert, key []byte
		field         string
	}{
		{"all is well", "a", ca.pem, cert, key, ""},
		{"another node's", "b", ca.pem, cert, key, "cert"},
		{"another authority's", "a", other.pem, cert, key, "cert"},
		{"another key", "a", ca.pem, cert, foreign, "key"},
		{"no authority", "a", nil, cert, key, "ca"},
		{"for a server alone", "a", ca.pem, serverOnly, serverKey, "cert"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := Certificates(c.node, c.ca, c.cert, c.key)
			var f *mail.FieldError
			if got := errors.As(err, &f); got != (c.field != "") || got && f.Field != c.field {
				t.Error(err)
			}
		})
	}
}

// TestNothingIsLeftBehind: descriptors, after connections that ended in each way. TestMain looks for goroutines.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Run("warm", func(t *testing.T) { newWorld(t, &destination{}, beat, nil).deliver() })
	before := descriptors(t)
	for range 5 {
		func() {
			w := newWorld(t, &destination{}, quick, nil)
			w.deliver()
			w.begin(delivery()).Abort()
			tx := w.begin(delivery())
			w.proxy.cut(false)
			_ = tx.Rcpt(t.Context(), to("y"))
			if c, err := net.Dial("tcp", w.proxy.addr); err == nil {
				c.Close()
			}
			w.close()
		}()
	}
	until(t, "descriptors are closed", func() bool { return descriptors(t) <= before })
}

// TestCutEndsWhatIsNotCommitted, at once, and leaves alone what is.
func TestCutEndsWhatIsNotCommitted(t *testing.T) {
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
	w.client.Cut()
	if l := lost(t, <-failure); l.Sent() || !errors.Is(l, errCut) {
		t.Error(l)
	}
	closed := make(chan struct{})
	go func() { w.client.Close(); close(closed) }()
	close(gate)
	if out := <-outcome; out[0].Reply.Code != 250 {
		t.Errorf("%+v", out)
	}
	<-closed
	if _, err := w.client.Begin(t.Context(), "b", delivery()); lost(t, err).Sent() {
		t.Error(err)
	}
	if w.unreachable.Load() != 0 {
		t.Error("the node was thought lost")
	}
}

func TestConfigsAreValidated(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, "a")
	server, client, err := Certificates("a", ca.pem, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(string) (string, bool) { return "", false }
	loose := server.Clone()
	loose.ClientAuth = tls.RequestClientCert
	for want, c := range map[string]interface{ Validate() error }{
		"tls: is required":         ClientConfig{},
		"name: is required":        ClientConfig{TLS: client},
		"addr: is required":        ClientConfig{TLS: client, Name: "a"},
		"dial: is negative":        ClientConfig{TLS: client, Name: "a", Addr: addr, Dial: -1},
		"idle: is negative":        ClientConfig{TLS: client, Name: "a", Addr: addr, Idle: -1},
		"most: is negative":        ClientConfig{TLS: client, Name: "a", Addr: addr, Most: -1},
		"beginner: is required":    ServerConfig{TLS: server, Name: "a"},
		"budget: is negative":      ServerConfig{TLS: server, Name: "a", Beginner: &destination{}, Budget: -1},
		"connections: is negative": ServerConfig{TLS: server, Name: "a", Beginner: &destination{}, Connections: -1},
		"tls: has to demand a certificate of the cluster, by TLS 1.3": ServerConfig{TLS: loose, Name: "a", Beginner: &destination{}},
		"tls: has to verify by the cluster's authority":               ClientConfig{TLS: server, Name: "a", Addr: addr},
	} {
		if err := c.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
