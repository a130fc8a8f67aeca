package ingress

import (
	"context"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/ingress/client/greylist"
	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Router says where mail goes. An error is a *mail.Refusal.
type Router interface {
	Route(q mail.Query) ([]mail.Route, error)
}

// A Relay begins transactions at next hops. An error is a *mail.Refusal.
type Relay interface {
	Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error)
}

// A Config says how sessions behave. It is copied by New.
type Config struct {
	Hostname string           // our name in Received fields
	Router   Router           // required
	Relay    Relay            // required
	Rates    world.Store      // draws the rates of routes; nil: none is ever used up
	Emit     func(mail.Event) // must not block; nil: nobody listens
	Tracer   trace.Tracer     // nil: no spans
	HopKeys  [][]byte         // keys of the hop marks, current first; at least one
	// octets of memory that messages take now, those being refused included; nil: no budget is kept
	InUse      func() int64
	HoldBudget int64 // octets of slabs that messages may take at a time; 0: 512 MiB
	HoldWindow int64 // octets of a message that are held when something may be signed; 0: 256 KiB

	Auth  *auth.Authenticator // nil: nothing is authenticated and nothing signed
	SPF   *spf.Checker        // nil: SPF is not checked
	Marks world.Store         // remembers bodies foretold wrongly; nil: none is foretold
	// keys of the MACs by which Marks knows them, current first; at least one with Marks
	MarkKeys [][]byte

	Score    *score.Scorer    // nil: no client is scored
	Limits   *rate.Limits     // the rates of recipients; nil: none
	Counts   world.Store      // draws them; nil: none is ever used up
	Later    *rate.Background // counts refused recipients; nil disables that
	Greylist *greylist.Policy // nil: nobody is greylisted
	Karma    *karma.Recorder  // learns from what becomes of mail; nil: nothing is learnt

	Now       func() time.Time // nil: time.Now
	Deadlines Deadlines        // zero fields: the defaults
}

// Deadlines bound the walk of a message. Each lies inside the client's own time-out of RFC 5321 section 4.5.3.2.
type Deadlines struct {
	// from a client's RCPT to our answer, hosts and sessions included; 60 s, the client waits 5 min
	Rcpt time.Duration
	// for the next hop's 354; 60 s, the client waits 2 min for ours and 10 for the reply to the dot
	Data   time.Duration
	Commit time.Duration // from the client's last octet to our reply; 9 min, the client waits 10
	Lend   time.Duration // after this silence since the last RCPT or DATA a session at the next hop is handed back; 5 s
}

// The defaults of a Config.
const (
	DefaultHoldBudget = 512 << 20
	DefaultHoldWindow = 256 << 10
	DefaultRcpt       = 60 * time.Second
	DefaultData       = 60 * time.Second
	DefaultCommit     = 9 * time.Minute
	DefaultLend       = 5 * time.Second
)

// Validate names the first field that cannot be served.
func (c *Config) Validate() error {
	switch {
	case c.Hostname == "":
		return &mail.FieldError{Field: "hostname", Reason: "is required"}
	case c.Router == nil:
		return &mail.FieldError{Field: "router", Reason: "is required"}
	case c.Relay == nil:
		return &mail.FieldError{Field: "relay", Reason: "is required"}
	case len(c.HopKeys) == 0 || len(c.HopKeys[0]) < 16:
		return &mail.FieldError{Field: "hop_keys", Reason: "needs a key of at least 16 octets"}
	case c.HoldBudget < 0:
		return &mail.FieldError{Field: "hold_budget", Reason: "is negative"}
	case c.HoldWindow < 0:
		return &mail.FieldError{Field: "hold_window", Reason: "is negative"}
	case c.Marks != nil && (len(c.MarkKeys) == 0 || len(c.MarkKeys[0]) < 16):
		return &mail.FieldError{Field: "mark_keys", Reason: "needs a key of at least 16 octets"}
	case c.Deadlines.Rcpt > 4*time.Minute:
		return &mail.FieldError{Field: "deadlines.rcpt", Reason: "is beyond the client's own time-out of 5 minutes"}
	case c.Deadlines.Commit > 9*time.Minute+30*time.Second:
		return &mail.FieldError{Field: "deadlines.commit", Reason: "is beyond the client's own time-out of 10 minutes"}
	}
	return nil
}

// A Server holds what the sessions of a node share.
type Server struct {
	cfg    Config
	hops   hopMarks
	sheets sheets
}

// New makes a Server.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.HoldBudget == 0 {
		cfg.HoldBudget = DefaultHoldBudget
	}
	if cfg.HoldWindow == 0 {
		cfg.HoldWindow = DefaultHoldWindow
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Emit == nil {
		cfg.Emit = func(mail.Event) {}
	}
	d := &cfg.Deadlines
	setDefault(&d.Rcpt, DefaultRcpt)
	setDefault(&d.Data, DefaultData)
	setDefault(&d.Commit, DefaultCommit)
	setDefault(&d.Lend, DefaultLend)
	return &Server{cfg: cfg, hops: newHopMarks(cfg.HopKeys)}, nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// overBudget reports whether messages take as much memory as they may. It is asked before a message is taken in, so
// that the budget is passed by no more than those that begin at the same moment.
func (s *Server) overBudget() bool {
	return s.cfg.InUse != nil && s.cfg.InUse()+s.sheets.lent.Load() >= s.cfg.HoldBudget
}

// clientNetwork is the unit in which clients share sessions: /24 for IPv4, /64 for IPv6.
func clientNetwork(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 64
	if a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
