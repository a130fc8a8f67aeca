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
	// TLS has our certificate, and demands one of the cluster's authority. Required.
	TLS *tls.Config
	// Name is this node's own.
	Name string
	// Beginner is required.
	Beginner Beginner
	// Connections is how many are served at a time. 0: 4096.
	Connections int
	// Budget is how long a command may take whose sender says nothing of it. 0: 60 s.
	Budget time.Duration
	// Emit is told of what an operator should see; it must not block. Nil: nobody.
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
	case c.TLS.ClientAuth != tls.RequireAndVerifyClientCert || c.TLS.ClientCAs == nil:
		return &mail.FieldError{Field: "tls", Reason: "has to demand a certificate of the cluster"}
	case c.Beginner == nil:
		return &mail.FieldError{Field: "beginner", Reason: "is required"}
	case c.Connections < 0 || c.Budget < 0:
		return &mail.FieldError{Field: "connections", Reason: "is negative"}
	}
	return nil
}

// A Server carries out transactions for other nodes.
type Server struct {
	cfg ServerConfig

	ctx      context.Context // ends when Shutdown's time is up: what is not committed is given up
	cancel   context.CancelFunc
	draining atomic.Bool

	mu        sync.Mutex
	listeners []net.Listener
	conns     map[*serverConn]struct{}
	running   sync.WaitGroup
}

// NewServer makes a Server.
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
	s := &Server{cfg: cfg, conns: make(map[*serverConn]struct{})}
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
		raw, err := l.Accept()
		switch {
		case err != nil && s.draining.Load():
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of descriptors, most likely: others have to end first
			pause := time.NewTimer(50 * time.Millisecond)
			select {
			case <-pause.C:
			case <-s.ctx.Done():
				pause.Stop()
			}
			continue
		}
		s.start(raw)
	}
}

func (s *Server) start(raw net.Conn) {
	c := newServerConn(s, raw)
	s.mu.Lock()
	full := len(s.conns) >= s.cfg.Connections || s.draining.Load()
	if !full {
		s.conns[c] = struct{}{}
		s.running.Add(1)
	}
	s.mu.Unlock()
	if full {
		raw.Close()
		return
	}
	// Ends with the connection, which its peer closes, or Shutdown.
	go func() {
		defer s.running.Done()
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// Shutdown drains: no connection and no transaction begins any more, those under way finish until ctx ends and are then
// given up, except that a message whose end of data was released is waited for and answered.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	for _, l := range s.listeners {
		l.Close()
	}
	all := make([]*serverConn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.leave()
	}
	gone := make(chan struct{})
	go func() { // ends with the last connection, and Shutdown waits for it
		s.running.Wait()
		close(gone)
	}()
	var err error
	select {
	case <-gone:
	case <-ctx.Done():
		err = ctx.Err()
		s.cancel()
		s.mu.Lock()
		for c := range s.conns {
			c.cut()
		}
		s.mu.Unlock()
		<-gone
	}
	s.cancel()
	return err
}

// span begins the span of a transaction below the one that traceparent names.
func (s *Server) span(ctx context.Context, traceparent, node string) (context.Context, trace.Span) {
	if s.cfg.Tracer == nil {
		return ctx, nil
	}
	if traceparent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
	}
	return s.cfg.Tracer.Start(ctx, "peer.transaction", trace.WithSpanKind(trace.SpanKindServer))
}
