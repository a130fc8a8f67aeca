package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/mail"
)

// A Beginner begins transactions on this node. It must not hand them to another one.
type Beginner interface {
	Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error)
}

// A ServerConfig says how the hop is served.
type ServerConfig struct {
	// TLS has our certificate, and demands one of the cluster's authority; see Certificates. Required.
	TLS *tls.Config
	// Name is this node's own, and in its certificate. Required.
	Name string
	// Beginner is required.
	Beginner Beginner
	// Connections is how many are served at a time. One beyond that is told so. 0: 4096.
	Connections int
	// Budget is how long a command may take whose sender says nothing of it, and opening the message at most. 0: 60 s.
	Budget time.Duration
	// Emit is told of peers that are refused; it must not block. Nil: nobody.
	Emit func(mail.Event)
	// Tracer makes a span of each transaction, below the one of the node that it came from. Nil: none.
	Tracer trace.Tracer
	// Panicked is told of a panic in a transaction. Nil: nobody.
	Panicked func(v any, stack []byte)
	// Now stamps events. Nil: time.Now.
	Now func() time.Time
}

// Validate reports the first field that is wrong as a *mail.FieldError.
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
	case c.Connections < 0:
		return &mail.FieldError{Field: "connections", Reason: "is negative"}
	case c.Budget < 0:
		return &mail.FieldError{Field: "budget", Reason: "is negative"}
	}
	return nil
}

const (
	// commitBudget is how long a commit may take whose sender says nothing of it (SEMANTICS C7, less the margin).
	commitBudget = 9*time.Minute - margin
	// spare is how many connections beyond ServerConfig.Connections are told, each for a moment, that there is no room.
	spare = 32
)

// A Server carries out transactions for other nodes.
type Server struct {
	cfg   ServerConfig
	beat  time.Duration
	rooms rooms

	ctx      context.Context // ends when Shutdown's time is up: what is not committed is given up
	cancel   context.CancelFunc
	draining atomic.Bool

	mu        sync.Mutex // never held across I/O
	listeners []net.Listener
	conns     map[*serverConn]struct{}
	listen    bool // the goroutine that looks after them runs
	running   sync.WaitGroup
	looking   sync.WaitGroup // ends with ctx
}

// NewServer makes a Server. The error is Validate's. Shutdown must be called to end it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Connections == 0 {
		cfg.Connections = 4096
	}
	if cfg.Budget == 0 {
		cfg.Budget = time.Minute
	}
	if cfg.Emit == nil {
		cfg.Emit = func(mail.Event) {}
	}
	if cfg.Panicked == nil {
		cfg.Panicked = func(any, []byte) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, beat: beat, conns: make(map[*serverConn]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Serve takes connections until Shutdown closes l, and then gives nil.
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
		default: // out of descriptors, most likely: others have to end first
			pause := time.NewTimer(50 * time.Millisecond)
			select {
			case <-pause.C:
			case <-s.ctx.Done():
				pause.Stop()
			}
		}
	}
}

// start serves a connection.
func (s *Server) start(socket net.Conn, secure func(net.Conn) *tls.Conn) {
	c := newServerConn(s, socket, secure)
	s.mu.Lock()
	n := len(s.conns)
	taken := n < s.cfg.Connections+spare && !s.draining.Load()
	if taken {
		s.conns[c] = struct{}{}
		s.running.Add(1)
		if !s.listen {
			s.listen = true
			s.looking.Go(s.lookAfter) // ends with ctx, which Shutdown ends
		}
	}
	s.mu.Unlock()
	if !taken {
		c.cancel()
		socket.Close()
		return
	}
	// Ends with the connection, which its peer closes, or Shutdown.
	go func() {
		defer s.running.Done()
		c.serve(n >= s.cfg.Connections)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// lookAfter has somebody listen on the connections that are busy for longer than a moment. It ends with ctx.
func (s *Server) lookAfter() {
	tick := time.NewTicker(s.beat / momentsInBeat)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		for _, c := range s.all() {
			c.momentPassed()
		}
	}
}

// Shutdown drains: no connection and no transaction begins any more, those under way finish until ctx ends and are then
// given up, except that a message whose end of data was released is waited for and answered. The error is that of ctx,
// if something was given up.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.looking.Wait()
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
		c.cut()
	}
	<-gone
	return ctx.Err()
}

// all gives the connections that are open now.
func (s *Server) all() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*serverConn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

// span begins the span of a transaction below the one that traceparent names.
func (s *Server) span(ctx context.Context, traceparent string) (context.Context, trace.Span) {
	if s.cfg.Tracer == nil {
		return ctx, nil
	}
	if traceparent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
	}
	return s.cfg.Tracer.Start(ctx, "peer.transaction", trace.WithSpanKind(trace.SpanKindServer))
}

// rooms are what frames are read into, in two sizes: a small message fits into the one, any frame that is not of fields
// into the other.
type rooms struct {
	small, large sync.Pool
}

const (
	smallRoom = 8 << 10
	largeRoom = pieceHead + maxPiece + len(endOfData)
)

// get gives room for n octets. What is larger than any piece is made for the one time.
func (r *rooms) get(n int) *[]byte {
	pool, size := &r.small, smallRoom
	switch {
	case n > largeRoom:
		pool, size = nil, n
	case n > smallRoom:
		pool, size = &r.large, largeRoom
	}
	if pool != nil {
		if b, ok := pool.Get().(*[]byte); ok {
			return b
		}
	}
	b := make([]byte, size)
	return &b
}

// put takes back what get gave.
func (r *rooms) put(b *[]byte) {
	switch len(*b) {
	case smallRoom:
		r.small.Put(b)
	case largeRoom:
		r.large.Put(b)
	}
}
