package ingress

import (
	"cmp"
	"context"
	"net/netip"
	"time"

	"github.com/millrace/millrace/ingress/client"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/report"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Router says where mail goes. An error is a *mail.Refusal.
type Router interface {
	Route(q mail.Query) ([]mail.Route, error)
	// Rewrite returns the reverse-path of a route with Rewrite set, which opens to what opens says. remark is a short
	// fixed word about one that could not be rewritten.
	Rewrite(q mail.Query, opens mail.Opens) (reverse mail.Path, remark string)
}

// A Relay begins transactions at next hops. An error is a *mail.Refusal.
type Relay interface {
	Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error)
}

// A Config says how sessions behave. It is copied by New.
type Config struct {
	Router Router      // required
	Relay  Relay       // required
	Store  world.Store // draws the rates of routes; nil disables them
	// Hook asks the hook of a rule about a recipient, within a bound of its own. nil asks none: the recipient is put
	// off.
	Hook    func(context.Context, mail.HookQuestion) mail.HookAnswer
	Emit    func(mail.Event) // must not block; nil disables events
	Rules   func() string    // which rules Router knows, for events; nil: ""
	Tracing *mail.Tracing    // nil: nothing is traced
	Client  client.Config    // who a client is
	Message message.Config   // what a message is
	Now     func() time.Time // nil: time.Now
	// Addresses are those that others see us at, besides those of the sockets. Mail for postmaster at one of them is
	// ours.
	Addresses []netip.Addr
	// Rcpt bounds the time from a client's RCPT to our answer, hosts and sessions included. 0: 60 s, at most 4 min, as
	// the client waits 5 min (RFC 5321 section 4.5.3.2.3).
	Rcpt time.Duration
	// FanOut is the most next hops that one message goes to at a time, and FanOutPerClient the most that the messages
	// of one client have besides their first. 0 means the default. There is one without the ledger.
	FanOut, FanOutPerClient int
}

// DefaultRcpt is the default of Config.Rcpt.
const DefaultRcpt = 60 * time.Second

// Validate returns a *mail.FieldError for the first field that cannot be served, or nil.
func (c *Config) Validate() error {
	switch {
	case c.Router == nil:
		return &mail.FieldError{Field: "router", Reason: "is required"}
	case c.Relay == nil:
		return &mail.FieldError{Field: "relay", Reason: "is required"}
	case c.Rcpt > 4*time.Minute:
		return &mail.FieldError{Field: "deadlines.rcpt", Reason: "is beyond the client's own time-out of 5 minutes"}
	}
	if err := c.Client.Validate(); err != nil {
		return err
	}
	return c.Message.Validate()
}

// A Server holds what the sessions of a node share.
type Server struct {
	cfg      Config
	clients  *client.Clients
	messages *message.Messages
	reporter report.Reporter
	fans     *fanLimit
}

// New returns a Server, or the error of Config.Validate.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Emit == nil {
		cfg.Emit = func(mail.Event) {}
	}
	if cfg.Rules == nil {
		cfg.Rules = func() string { return "" }
	}
	if cfg.Rcpt == 0 {
		cfg.Rcpt = DefaultRcpt
	}
	cfg.FanOut = cmp.Or(cfg.FanOut, DefaultFanOut)
	clients, err := client.New(cfg.Client)
	if err != nil {
		return nil, err
	}
	messages, err := message.New(cfg.Message)
	if err != nil {
		return nil, err
	}
	return &Server{
		cfg: cfg, clients: clients, messages: messages,
		reporter: report.Reporter{Emit: cfg.Emit, Tracing: cfg.Tracing, Now: cfg.Now},
		fans:     &fanLimit{most: cmp.Or(cfg.FanOutPerClient, DefaultFanOutPerClient)},
	}, nil
}
