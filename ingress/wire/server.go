package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// abandonTimeout is how long Shutdown waits for Sessions to end after it has cancelled their ctx.
const abandonTimeout = 5 * time.Second

// A Server serves one Config on one or more listeners. Its methods are safe for concurrent use.
type Server struct {
	cfg    Config
	ctx    context.Context // of all Sessions
	cancel context.CancelFunc
	epoch  time.Time // the engine's clock counts from here

	bodies  sync.Pool // of *Body
	batches sync.Pool // of *batch
	inputs  sync.Pool // of *[batchBuffer]byte

	draining atomic.Bool
	drain    chan struct{} // closed when draining begins
	running  sync.WaitGroup

	mu        sync.Mutex // guards what follows; never held while a life.mu is taken
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// NewServer returns a Server that serves cfg. The error is that of Config.Validate.
func NewServer(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:       cfg.withDefaults(),
		epoch:     time.Now(),
		drain:     make(chan struct{}),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.cfg.Memory.serve(s)
	s.bodies.New = func() any { return new(Body) }
	s.inputs.New = func() any { return new([batchBuffer]byte) }
	s.batches.New = func() any { return &batch{octets: make([]byte, 0, 2048)} }
	return s, nil
}

// now returns the time on the engine's clock, which began when the server was made.
func (s *Server) now() time.Duration { return time.Since(s.epoch) }

// pressed reports whether places or memory are short.
func (s *Server) pressed() bool { return s.cfg.Places.Pressed() || s.cfg.Memory.Pressed() }

// Serve accepts connections from l until Shutdown, after which it returns nil, or until l fails for good. It closes l.
// It may be called for several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()

	wait := time.Duration(0)
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			s.startConn(raw)
			continue
		case s.draining.Load():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		// Out of descriptors or of memory: it passes, and a listener that gave up would not come back.
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		s.cfg.Emit(mail.Event{Kind: mail.Anomaly, Time: s.cfg.Now(), Reason: "accept", Cause: err})
		select {
		case <-time.After(wait):
		case <-s.drain:
			return nil
		}
	}
}

// startConn starts the goroutine of a connection, or turns the client away when there is no place for it. The client of
// a proxy is not yet known, and a host that may use XCLIENT relays for many clients: they are counted once they are
// named.
func (s *Server) startConn(raw net.Conn) {
	peer := addrPort(raw.RemoteAddr()).Addr()
	if !s.cfg.Places.take() {
		s.turnAway(raw, peer, "connections")
		return
	}
	c := newConn(s, raw)
	if !contains(s.cfg.Proxy, peer) && !contains(s.cfg.Xclient, peer) {
		if limit := s.name(c, peer); limit != "" {
			s.cfg.Places.release(c)
			s.turnAway(raw, peer, limit)
			return
		}
	}
	s.mu.Lock()
	if s.draining.Load() {
		s.mu.Unlock()
		s.cfg.Places.release(c)
		raw.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	go c.serve(false) // ends with the connection: at QUIT, an error, a time-out, or when Shutdown wakes or aborts it
}

// turnAway answers 421 and closes, in the accept loop: a few octets into an empty send buffer do not block.
func (s *Server) turnAway(raw net.Conn, client netip.Addr, reason string) {
	r := tooManyConnections.WithID(mail.NewTraceID()).Ours()
	if !s.cfg.Implicit {
		_ = raw.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = raw.Write(r.AppendReferring(nil, s.cfg.Page)) // whether the client reads it is its own affair
	}
	raw.Close()
	e := mail.Event{
		Kind: mail.RefusedBy(r), Time: s.cfg.Now(), Trace: r.ID, Client: client, Reply: r, Reason: reason,
	}
	s.cfg.Tracing.Refuse(&e, mail.Visit{Client: addrPort(raw.RemoteAddr()), Local: addrPort(raw.LocalAddr())})
	s.cfg.Emit(e)
}

// Shutdown ends the server: it closes the listeners and answers 421 4.3.2 to each client that is not sending a message,
// at once; messages in flight are finished and answered before their connections end the same way. When ctx ends before
// they have, the ctx of the Sessions is cancelled and the remaining connections are aborted. Those that are owed the
// reply to a message which is being committed (see Body.Committing) are not: these are waited for, however long that
// takes. Config.Abort is called when all of this has been decided.
//
// It returns when all goroutines of the server have ended, with nil if nothing had to be aborted. Only a Session that
// does not heed the end of its ctx is left behind, abandonTimeout after it. The error wraps ctx's and says how many
// connections were aborted and how many Sessions were left behind.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.draining.Swap(true) {
		close(s.drain)
		for l := range s.listeners {
			l.Close()
		}
	}
	s.mu.Unlock()
	for _, c := range s.all() {
		c.life.wake()
	}
	ended := make(chan struct{})
	go func() { // ends with the last connection, at the latest soon after abort
		s.running.Wait()
		close(ended)
	}()
	defer s.cancel()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	return s.abort(ctx, ended)
}

// abort is the end of Shutdown when its time is up.
func (s *Server) abort(ctx context.Context, ended <-chan struct{}) error {
	var owed []<-chan struct{}
	aborted := 0
	for _, c := range s.all() {
		if gone := c.life.abort(); gone != nil {
			owed = append(owed, gone)
		} else {
			aborted++
		}
	}
	s.cfg.Abort()
	abandon := time.NewTimer(s.cfg.tune.abandon)
	defer abandon.Stop()
	for _, gone := range owed { // each Commit has a deadline of its own
		<-gone
	}
	select {
	case <-ended:
	case <-abandon.C:
	}
	err := fmt.Errorf("%d connections cut: %w", aborted, ctx.Err())
	if left := len(s.all()); left > 0 {
		err = fmt.Errorf("%d sessions did not end, %w", left, err)
	}
	return err
}

// InFlight returns the numbers of transactions that the end of the process would interrupt now: those that are open, of
// which nothing is delivered, and those that are being committed or were and whose client has no reply yet, which would
// be in doubt.
func (s *Server) InFlight() (open, committing int) {
	for _, c := range s.all() {
		switch {
		case c.life.isReplyOwed():
			committing++
		case c.tx.phase().open():
			open++
		}
	}
	return open, committing
}

// all returns the connections there are now.
func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// addrPort returns the address of a TCP socket, and the zero AddrPort of any other.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
