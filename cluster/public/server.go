package public

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The limits of the HTTP server. A request is a line and a token at most, and an answer is a page.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 15 * time.Second
	idleTimeout       = 30 * time.Second
	maxHeader         = 8 << 10
)

// A Config says where the server listens and what it answers.
type Config struct {
	Addr string // host:port; port 0 takes a free one
	// TLS returns what a new handshake uses. nil means HTTP in clear, for a server in front that ends TLS.
	TLS func() *tls.Config
	// Forwarded are the networks of servers in front. What they say in X-Forwarded-For of the client counts.
	Forwarded []netip.Prefix
	Pages     Pages
	Now       func() time.Time // nil: time.Now
}

// Pages are what is answered. A page whose function is nil is not there.
type Pages struct {
	// Why returns what is remembered of the refusals with an id, in the order in which they were said. An error means
	// that it cannot be known now.
	Why func(ctx context.Context, id mail.TraceID) ([]Refused, error)
	// Policy returns the policy of MTA-STS of a domain (RFC 8461 section 3.2), and whether there is one.
	Policy func(domain string) (text string, ok bool)
	// Egress returns the addresses that mail comes from, in a format of millrace egress-list, and whether there is such
	// a format.
	Egress func(format string) (text string, ok bool)
	// Verify confirms what the token of a link stands for. The error is ErrNoToken, or any other for trouble that
	// passes. It is called when the reader of the link presses the button on its page, never for the link alone:
	// programs that look at mail follow links.
	Verify func(ctx context.Context, token string) error
}

// ErrNoToken means that a token is none, or was used, or is over.
var ErrNoToken = errors.New("no such token, or it was used, or it is over")

// Validate returns a *mail.FieldError for the first field that cannot be served, or nil.
func (c *Config) Validate() error {
	if c.Addr == "" {
		return &mail.FieldError{Field: "addr", Reason: "is required"}
	}
	return nil
}

// A Server answers strangers. Make one with Listen, start it with Start and end it with Shutdown.
type Server struct {
	cfg      Config
	http     http.Server
	listener net.Listener
	texts    *texts
	clients  *clients
	ended    chan error
}

// Listen returns a Server with its address bound. The error is that of Config.Validate, or a *mail.FieldError for the
// address that cannot be bound.
func Listen(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, clients: newClients(cfg.Now), ended: make(chan error, 1)}
	var err error
	if s.texts, err = readTexts(); err != nil {
		return nil, err
	}
	bound, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, &mail.FieldError{Field: "addr", Reason: err.Error()}
	}
	s.listener = &limitedListener{Listener: bound, clients: s.clients, front: cfg.Forwarded}
	if cfg.TLS != nil {
		s.listener = tls.NewListener(s.listener, &tls.Config{
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return cfg.TLS(), nil },
		})
	}
	s.http = http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // strangers cause them
	}
	return s, nil
}

// Addr returns the address that was bound.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Start begins to answer, on a goroutine that Shutdown ends.
func (s *Server) Start() {
	go func() { s.ended <- s.http.Serve(s.listener) }() // ends with Shutdown
}

// Shutdown lets requests under way finish until ctx ends, then closes their connections.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	if err := <-s.ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("public: %w", err)
	}
	return nil
}
