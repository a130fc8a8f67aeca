package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Beginner begins transactions on this node. It must not begin them at another one.
type Beginner interface {
	Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error)
}

// A ServerConfig says how the hop is served.
type ServerConfig struct {
	// TLS has our certificate and demands one of the cluster's authority; see Certificates. Required.
	TLS *tls.Config
	// Name is this node's name, which is in its certificate. Required.
	Name string
	// Beginner carries the transactions out. Required.
	Beginner Beginner
	// HasNextHop reports whether a fixed next hop is one of this node's own rules. A transaction to any other is left
	// to the node that asks. nil means that there are none.
	HasNextHop func(mail.NextHop) bool
	// Answer answers a question of another node's administrators. Its result has 60000 octets at most. nil answers
	// none.
	Answer func(ctx context.Context, question []byte) []byte
	// Admits reports whether a node may use the hop, besides having a certificate. nil admits all.
	Admits func(node string) bool
	// Emit is called with an event for refused peers, one for each address and minute. It must not block. nil disables
	// it.
	Emit func(mail.Event)
	// Tracing makes a trace of each transaction, which goes on from that of the node that it came from. nil: nothing is
	// traced.
	Tracing *mail.Tracing
	// Panicked is called with the value and stack of a panic in a transaction. nil disables it.
	Panicked func(v any, stack []byte)
	// Now is the clock of events. nil means time.Now.
	Now func() time.Time
	// Handshake is told how long a TLS handshake took, and why it failed. It must not block; nil disables it.
	Handshake func(took time.Duration, err error)

	tune tuning
}

// Validate returns the first field that is wrong as a *mail.FieldError, or nil.
func (c ServerConfig) Validate() error {
	switch {
	case c.TLS == nil:
		return &mail.FieldError{Field: "tls", Reason: "is required"}
	case c.TLS.ClientAuth != tls.RequireAndVerifyClientCert || c.TLS.ClientCAs == nil ||
		c.TLS.MinVersion < tls.VersionTLS13:
		return &mail.FieldError{Field: "tls", Reason: "has to demand a certificate of the cluster, by TLS 1.3"}
	case c.Name == "":
		return &mail.FieldError{Field: "name", Reason: "is required"}
	case c.Beginner == nil:
		return &mail.FieldError{Field: "beginner", Reason: "is required"}
	}
	return nil
}

// A Server carries out transactions for other nodes.
type Server struct {
	cfg     ServerConfig
	buffers frameBuffers

	ctx      context.Context // ends when Shutdown's time is over: transactions that are not committed are aborted
	cancel   context.CancelFunc
	draining atomic.Bool
	running  sync.WaitGroup // connections
	guard    guard
	watchers sync.WaitGroup // watchBusy
	begun    atomic.Uint64  // transactions
	notBegun atomic.Uint64  // of those that were asked for

	mu        sync.Mutex // never held across I/O; guards what follows
	listeners []net.Listener
	conns     map[*serverConn]struct{}
	watching  bool // watchBusy runs
}

// Asked returns how many of the transactions that other nodes asked for were begun, and how many not.
func (s *Server) Asked() (begun, notBegun uint64) { return s.begun.Load(), s.notBegun.Load() }

// NewServer returns a Server. The error is that of Validate. Shutdown must be called to end it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Emit == nil {
		cfg.Emit = func(mail.Event) {}
	}
	if cfg.HasNextHop == nil {
		cfg.HasNextHop = func(mail.NextHop) bool { return false }
	}
	if cfg.Admits == nil {
		cfg.Admits = func(string) bool { return true }
	}
	if cfg.Panicked == nil {
		cfg.Panicked = func(any, []byte) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.tune = cfg.tune.withDefaults()
	s := &Server{cfg: cfg, conns: make(map[*serverConn]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Serve accepts connections until Shutdown closes l, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	late := s.draining.Load()
	s.mu.Unlock()
	if late {
		l.Close()
		return nil
	}
	for {
		socket, err := l.Accept()
		switch {
		case err == nil:
			s.start(socket, func(c net.Conn) *tls.Conn { return tls.Server(c, s.cfg.TLS) })
		case s.draining.Load():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // most likely the file descriptors are used up, and other connections have to end first
			pause := time.NewTimer(50 * time.Millisecond)
			select {
			case <-pause.C:
			case <-s.ctx.Done():
				pause.Stop()
			}
		}
	}
}

// start serves a connection on a goroutine of its own.
func (s *Server) start(socket net.Conn, secure func(net.Conn) *tls.Conn) {
	from := addressOf(socket)
	many, admitted := s.guard.enter(from)
	if !admitted {
		socket.Close()
		s.refused(from, errPlaces)
		return
	}
	c := newServerConn(s, socket, secure)
	c.from = from
	s.mu.Lock()
	n := len(s.conns)
	taken := n < s.cfg.tune.connections+maxRefusals && !s.draining.Load()
	if taken {
		s.conns[c] = struct{}{}
		s.running.Add(1)
		if !s.watching {
			s.watching = true
			s.watchers.Go(s.watchBusy) // ends with ctx, which Shutdown ends
		}
	}
	s.mu.Unlock()
	if !taken {
		c.cancel()
		socket.Close()
		s.guard.left(from, false)
		return
	}
	full := n >= s.cfg.tune.connections || many && n >= s.cfg.tune.connections/2
	// It ends with the connection, which its peer or Shutdown closes.
	go func() {
		defer s.running.Done()
		c.serve(full)
		s.guard.left(from, c.proved)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// refused tells why an address was refused something, once a minute.
func (s *Server) refused(from netip.Prefix, cause error) {
	now := s.cfg.Now()
	untold, ok := s.guard.tells(from, now)
	if !ok {
		return
	}
	if untold > 0 {
		cause = fmt.Errorf("%w (and %d more of this address since it was told last)", cause, untold)
	}
	s.cfg.Emit(mail.Event{
		Kind: mail.Anomaly, Time: now, Reason: "peer refused", Client: from.Addr(), Cause: cause,
	})
}

// takes reports whether this node carries out transactions of other nodes with a next hop: what MX records say, which
// any sender of mail can have us ask, and what this node's own rules name. Another node's rules are not enough, and
// nothing on this machine itself is meant for others.
func (s *Server) takes(h mail.NextHop) bool {
	switch {
	case h.IsLocal():
		return false
	case h.Transport == mail.MX:
		return h.Port == 0 && h.User == ""
	}
	return s.cfg.HasNextHop(h)
}

// watchBusy starts a listener on each connection that is busy with the same frame for some time. It ends with ctx.
func (s *Server) watchBusy() {
	ticker := time.NewTicker(s.cfg.tune.beat / ticksPerBeat)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		for _, c := range s.all() {
			c.tick()
		}
	}
}

// Shutdown drains the Server. It accepts no more connections and transactions. Those under way may finish until ctx is
// done and are aborted then, except that a message whose end of data was released is waited for and answered. The error
// is that of ctx, if connections were aborted.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.watchers.Wait()
	defer s.cancel()
	s.mu.Lock()
	s.draining.Store(true)
	for _, l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	for _, c := range s.all() {
		c.leave()
	}
	gone := make(chan struct{})
	go func() { // ends with the last connection, and Shutdown waits for it
		s.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	for _, c := range s.all() {
		c.abort()
	}
	<-gone
	return ctx.Err()
}

// all returns the open connections.
func (s *Server) all() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*serverConn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}
