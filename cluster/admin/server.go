package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The HTTP server's limits. Nobody asks for more than a line and gets more than a page.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeader         = 16 << 10
)

// minToken is the least length of the token in octets.
const minToken = 16

// A Check is one thing that has to be well before a node should get traffic.
type Check struct {
	Name string
	OK   func() (ok bool, detail string)
}

// A Config says what the admin server shows.
type Config struct {
	Addr    string   // host:port; port 0 takes a free one
	Token   []byte   // what requests under /api/ prove themselves with; nil: nobody can
	Metrics *Metrics // required
	Ready   []Check  // all have to hold for /readyz

	Cluster func() ClusterStatus // what /api/v1/cluster tells; nil: there is no such page
	// what POST /api/v1/cluster/drain does, which must not wait; nil: there is no such page
	Drain func()
}

// Validate names the first field that cannot be served.
func (c *Config) Validate() error {
	switch {
	case c.Addr == "":
		return &mail.FieldError{Field: "addr", Reason: "is required"}
	case c.Token != nil && len(c.Token) < minToken:
		return &mail.FieldError{
			Field: "token_file", Reason: fmt.Sprintf("holds a token of fewer than %d octets", minToken),
		}
	case c.Metrics == nil:
		return &mail.FieldError{Field: "metrics", Reason: "is required"}
	}
	return nil
}

// ParseToken takes the token out of the text of its file: the first line, without blanks around it.
func ParseToken(file []byte) []byte {
	line, _, _ := bytes.Cut(file, []byte("\n"))
	return bytes.TrimSpace(line)
}

// A Server answers operators.
type Server struct {
	cfg      Config
	http     http.Server
	listener net.Listener
	ended    chan error
}

// Listen makes a Server and takes its address; Serve answers.
func Listen(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	s := &Server{cfg: cfg, listener: l, ended: make(chan error, 1)}
	s.http = http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
	return s, nil
}

// Addr is the address that was taken.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Start answers on a goroutine that Shutdown ends.
func (s *Server) Start() {
	go func() { s.ended <- s.http.Serve(s.listener) }()
}

// Shutdown lets requests under way finish until ctx ends, then cuts them.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	if err := <-s.ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"alive": true})
	})
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", s.cfg.Metrics.Handler())
	mux.Handle("GET /api/v1/cluster", s.authorized(http.HandlerFunc(s.cluster)))
	mux.Handle("POST /api/v1/cluster/drain", s.authorized(http.HandlerFunc(s.drain)))
	mux.Handle("/api/", s.authorized(http.NotFoundHandler()))
	return mux
}

// A verdict is one line of /readyz.
type verdict struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	ready := true
	checks := make([]verdict, len(s.cfg.Ready))
	for i, c := range s.cfg.Ready {
		ok, detail := c.OK()
		checks[i] = verdict{c.Name, ok, detail}
		ready = ready && ok
	}
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, map[string]any{"ready": ready, "checks": checks})
}

// authorized asks for "Authorization: Bearer TOKEN" (RFC 6750 section 2.1). Digests are compared, so that the time it
// takes tells nothing, not even the length.
func (s *Server) authorized(next http.Handler) http.Handler {
	want := sha256.Sum256(s.cfg.Token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(token))
		if !ok || s.cfg.Token == nil || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "a token is required"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error means that the client is gone
}
