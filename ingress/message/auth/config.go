package auth

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/ingress/message/auth/arc"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/dmarc"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Config has what an Authenticator needs.
type Config struct {
	// AuthservID is the name that our Authentication-Results fields are known by (RFC 8601 section 2.5), a domain name
	// in ASCII; it is required.
	AuthservID string
	// Resolver finds the TXT records of DKIM, ARC and DMARC alike; it is required.
	Resolver world.Resolver
	// Sealers are the signing domains whose ARC sets are believed. A message from one of them that was seen to pass
	// DMARC before it got there is not refused for failing it here.
	Sealers []string
	// Lists are domains of mailing lists. A message that a signature or SPF proves to come from one of them is not
	// refused for failing DMARC here.
	Lists []string
	// Hosted reports whether a domain, in lower case and as A-labels, is hosted here: a From field that mentions it is
	// judged by it as well, unless its author passes. nil hosts none.
	Hosted func(domain string) bool
	// Reports says that decisions are to have what a report tells of a message (mail.Auth.Report).
	Reports bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	tune tuning
}

// lookupTimeout bounds the look-ups of one message. What is not known then is a temperror.
const lookupTimeout = 5 * time.Second

// A tuning is what tests of the package set in place of constants; 0 means the constant.
type tuning struct {
	timeout time.Duration // lookupTimeout
	workers int           // messages that are signed at a time: GOMAXPROCS
	header  int           // octets of a header section: dkim.MaxHeader
}

// Validate reports what is wrong, as *mail.FieldError joined.
func (c Config) Validate() error {
	var errs []error
	wrong := func(field, reason string) { errs = append(errs, &mail.FieldError{Field: field, Reason: reason}) }
	if !isName(c.AuthservID) {
		wrong("AuthservID", "is no domain name in ASCII")
	}
	if c.Resolver == nil {
		wrong("Resolver", "is required")
	}
	for i, d := range c.Sealers {
		if !isName(d) {
			wrong(fmt.Sprintf("Sealers[%d]", i), "is no domain name in ASCII")
		}
	}
	for i, d := range c.Lists {
		if spf.Canonical(d) == "" {
			wrong(fmt.Sprintf("Lists[%d]", i), "is no domain name")
		}
	}
	return errors.Join(errs...)
}

// An Authenticator authenticates messages. It is safe for concurrent use.
type Authenticator struct {
	cfg     Config
	id      string // AuthservID in lower case
	sealers map[string]bool
	lists   map[string]bool // in canonical form
	dkim    *dkim.Verifier
	arc     *arc.Verifier
	dmarc   *dmarc.Evaluator
	keys    atomic.Pointer[signers]
	// workers holds a token for each message that is being signed. There are as many as processors; other messages wait
	// their turn.
	workers chan struct{}
}

// ID returns the name that our Authentication-Results fields are known by, in lower case.
func (a *Authenticator) ID() string { return a.id }

// New makes an Authenticator without signing keys, or returns the error of Config.Validate.
func New(cfg Config) (*Authenticator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	workers := cfg.tune.workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	a := &Authenticator{
		cfg:     cfg,
		id:      strings.ToLower(cfg.AuthservID),
		sealers: make(map[string]bool, len(cfg.Sealers)),
		lists:   make(map[string]bool, len(cfg.Lists)),
		workers: make(chan struct{}, workers),
	}
	for _, d := range cfg.Sealers {
		a.sealers[strings.ToLower(d)] = true
	}
	for _, d := range cfg.Lists {
		a.lists[spf.Canonical(d)] = true
	}
	var errs [3]error
	a.dkim, errs[0] = dkim.NewVerifier(dkim.Config{Resolver: cfg.Resolver, Now: cfg.Now})
	a.arc, errs[1] = arc.New(arc.Config{Resolver: cfg.Resolver, Now: cfg.Now})
	a.dmarc, errs[2] = dmarc.New(dmarc.Config{Resolver: cfg.Resolver})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	a.keys.Store(&signers{})
	return a, nil
}

func (a *Authenticator) timeout() time.Duration {
	if a.cfg.tune.timeout != 0 {
		return a.cfg.tune.timeout
	}
	return lookupTimeout
}

// headerLimit is how many octets a header section may have that is authenticated.
func (a *Authenticator) headerLimit() int {
	if a.cfg.tune.header != 0 {
		return a.cfg.tune.header
	}
	return dkim.MaxHeader
}
