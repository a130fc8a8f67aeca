package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/router/mail"
)

// The limits of the HTTP server. Requests are a line long, and answers a page.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 60 * time.Second
	questionTimeout   = 60 * time.Second
	maxHeader         = 16 << 10
)

// minToken is the least length of the token in octets.
const minToken = 16

// A Check is one condition for a node to get traffic.
type Check struct {
	Name string
	OK   func() (ok bool, detail string)
}

// A Config says what the admin server shows.
type Config struct {
	Addr    string   // host:port; port 0 takes a free one
	Health  string   // host:port that answers /livez and /readyz alone, without reasons; "" disables it
	TLSAddr string   // host:port that answers under TLS, and shows nothing without a token; "" disables it
	Token   []byte   // the bearer token of an admin; nil: the tokens of Account alone open something
	Metrics *Metrics // required
	Ready   []Check  // all have to hold for /readyz

	// TLS returns what a handshake at TLSAddr uses.
	TLS func() *tls.Config

	Account  *account.Account // knows the tokens; nil: Token is the only one
	Surfaces []Surface        // what else answers, to requests with a token
	Pages    http.Handler     // answers what nothing else does, and asks for a token itself; nil: 404
	// Ask has the owner of a destination asked whether it is his, without waiting for that; an error says why he is
	// not. nil: no owner is asked.
	Ask func(ctx context.Context, p account.Principal, d account.Destination) error

	Cluster func() ClusterStatus // answers /api/v1/cluster; nil disables the page
	Drain   func()               // called by POST /api/v1/cluster/drain, must not wait; nil disables the page
	// Check answers POST /api/v1/check/ and a word, by the body of the request; an error of it is 400. nil disables the
	// pages.
	Check func(ctx context.Context, what string, body []byte) (answer any, err error)

	// Report answers GET /api/v1/reports/ and the kind and the domain of a report, about a day of UTC, "" for the
	// present one; nil: 404.
	Report func(ctx context.Context, kind, domain, day string) (answer any, err error)

	// Activity answers by the activity log. Its zero value says that there is none.
	Activity Activity

	// Explain answers POST /api/v1/explain, of which the body is the question, within ExplainWithin; nil disables the
	// page. MaxQuestion is the most octets of a question.
	Explain       func(ctx context.Context, question []byte) (status int, answer any)
	ExplainWithin time.Duration
	MaxQuestion   int64
}

// Validate returns a *mail.FieldError for the first field that cannot be served, or nil.
func (c *Config) Validate() error {
	switch {
	case c.Addr == "":
		return &mail.FieldError{Field: "addr", Reason: "is required"}
	case c.Token != nil && len(c.Token) < minToken:
		return &mail.FieldError{
			Field: "token_file", Reason: fmt.Sprintf("holds a token of fewer than %d octets", minToken),
		}
	case c.TLSAddr != "" && c.TLS == nil:
		return &mail.FieldError{Field: "tls_addr", Reason: "needs a certificate"}
	case c.Metrics == nil:
		return &mail.FieldError{Field: "metrics", Reason: "is required"}
	}
	return nil
}

// ParseToken returns the token in the text of its file: the first line, without blanks around it.
func ParseToken(file []byte) []byte {
	line, _, _ := bytes.Cut(file, []byte("\n"))
	return bytes.TrimSpace(line)
}

// A Server answers administrators, and balancers at an address of their own. Make one with Listen, start it with Start
// and end it with Shutdown.
type Server struct {
	cfg     Config
	account *account.Account
	all     *endpoint
	health  *endpoint // nil: none is configured
	secure  *endpoint // nil: none is configured
}

// An endpoint is an address and what answers there.
type endpoint struct {
	http     http.Server
	listener net.Listener
	ended    chan error
}

// Listen returns a Server with its addresses bound. The error is that of Config.Validate, or a *mail.FieldError for the
// address that cannot be bound.
func Listen(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, account: cfg.Account}
	var err error
	if s.account == nil {
		if s.account, err = account.New(account.Config{Token: cfg.Token, ALabels: noDomains}); err != nil {
			return nil, err
		}
	}
	if s.all, err = bind("addr", cfg.Addr, s.routes(false)); err != nil {
		return nil, err
	}
	if cfg.Health != "" {
		if s.health, err = bind("health", cfg.Health, s.healthRoutes()); err != nil {
			s.unbind()
			return nil, err
		}
	}
	if cfg.TLSAddr != "" {
		if s.secure, err = bind("tls_addr", cfg.TLSAddr, s.routes(true)); err != nil {
			s.unbind()
			return nil, err
		}
		s.secure.http.ErrorLog = log.New(io.Discard, "", 0) // any stranger can fail a handshake
		s.secure.listener = tls.NewListener(s.secure.listener, &tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return forHTTP(cfg.TLS()), nil },
		})
	}
	return s, nil
}

// forHTTP returns a configuration of TLS for HTTP alone: a session with another service that has the same certificate
// is not one with this.
func forHTTP(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos, c.SessionTicketsDisabled = []string{"http/1.1"}, true
	return c
}

// endpoints returns those that there are.
func (s *Server) endpoints() (all []*endpoint) {
	for _, e := range []*endpoint{s.health, s.secure, s.all} {
		if e != nil {
			all = append(all, e)
		}
	}
	return all
}

// unbind frees the addresses of a server that was not started.
func (s *Server) unbind() {
	for _, e := range s.endpoints() {
		e.listener.Close()
	}
}

// noDomains stands for package account's check of domains where nothing is kept.
func noDomains(string) (string, bool) { return "", false }

// bind returns an endpoint with its address bound. field is what the configuration calls the address.
func bind(field, addr string, answers http.Handler) (*endpoint, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, &mail.FieldError{Field: field, Reason: err.Error()}
	}
	return &endpoint{listener: l, ended: make(chan error, 1), http: http.Server{
		Handler:           answers,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}}, nil
}

// Addr returns the address that was bound for administrators.
func (s *Server) Addr() net.Addr { return s.all.listener.Addr() }

// HealthAddr returns the address that was bound for balancers, nil if none is configured.
func (s *Server) HealthAddr() net.Addr {
	if s.health == nil {
		return nil
	}
	return s.health.listener.Addr()
}

// TLSAddr returns the address that was bound for TLS, nil if none is configured.
func (s *Server) TLSAddr() net.Addr {
	if s.secure == nil {
		return nil
	}
	return s.secure.listener.Addr()
}

// Start begins to answer, on goroutines that Shutdown ends.
func (s *Server) Start() {
	for _, e := range s.endpoints() {
		e.start()
	}
}

func (e *endpoint) start() {
	go func() { e.ended <- e.http.Serve(e.listener) }() // ends with shutdown
}

// Shutdown lets requests under way finish until ctx ends, then closes their connections.
func (s *Server) Shutdown(ctx context.Context) error {
	var err error
	for _, e := range s.endpoints() {
		err = errors.Join(err, e.shutdown(ctx))
	}
	return err
}

func (e *endpoint) shutdown(ctx context.Context) error {
	if err := e.http.Shutdown(ctx); err != nil {
		e.http.Close()
	}
	if err := <-e.ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// routes returns what answers administrators. Where strangers may come, which is where TLS is spoken, the metrics and
// the reasons of /readyz need a token as well.
func (s *Server) routes(strangers bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", alive)
	ready := readiness(s.cfg.Ready).answer
	reasons, metrics := http.Handler(http.HandlerFunc(ready)), s.cfg.Metrics.Handler()
	if strangers {
		reasons, metrics = s.operate(account.ReadOnly, ready), s.operate(account.ReadOnly, metrics.ServeHTTP)
	}
	mux.Handle("GET /readyz", reasons)
	mux.Handle("GET /metrics", metrics)
	for _, o := range s.operations() {
		mux.Handle(o.method+" "+o.path, o.answer)
	}
	mux.Handle("/api/", s.authorized(http.NotFoundHandler(), refuseAPI))
	for _, surface := range s.cfg.Surfaces {
		refuse := surface.Refuse
		if refuse == nil {
			refuse = refuseAPI
		}
		mux.Handle(surface.Path, s.authorized(surface.Handler, refuse))
	}
	if s.cfg.Pages != nil {
		mux.Handle("/", s.cfg.Pages)
	}
	return mux
}

// healthRoutes are what balancers ask. They are told no reasons, which name nodes and keys.
func (s *Server) healthRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		status, _ := readiness(s.cfg.Ready).checks()
		writeJSON(w, status, map[string]any{"ready": status == http.StatusOK})
	})
	return mux
}

func alive(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"alive": true})
}

// explain answers with Config.Explain, or with 404 if that is nil. A question may be a whole message, and the answer
// may take its time.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Explain == nil {
		http.NotFound(w, r)
		return
	}
	at := http.NewResponseController(w)
	_ = at.SetReadDeadline(time.Now().Add(questionTimeout)) // this server's connections have deadlines
	_ = at.SetWriteDeadline(time.Now().Add(questionTimeout + s.cfg.ExplainWithin + writeTimeout))
	question, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxQuestion))
	if err != nil {
		writeJSON(w, http.StatusRequestEntityTooLarge, map[string]any{"error": "the question did not come whole"})
		return
	}
	status, answer := s.cfg.Explain(r.Context(), question)
	writeJSON(w, status, answer)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // fails only when the client has gone
}
