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
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Config says how messages are authenticated.
type Config struct {
	// AuthservID is the name that our Authentication-Results fields are known by (RFC 8601 section 2.5), a domain name
	// in ASCII; it is required.
	AuthservID string
	// Resolver finds the TXT records of DKIM, ARC and DMARC alike; it is required.
	Resolver world.Resolver
	// Timeout is how long the look-ups of one message may take; what is not known then is a temperror. 0 means 5 s.
	Timeout time.Duration
	// Sealers are the signing domains whose ARC sets are believed. A message from one of them that was seen to pass
	// DMARC before it got there is not refused for failing it here.
	Sealers []string
	// Workers is how many messages are signed at a time, at most; others wait their turn. 0 means GOMAXPROCS.
	Workers int
	// Signatures is how many DKIM signatures of a message are verified, from the top, at most 50. 0 means 5.
	Signatures int
	// Header is how many octets a header section may have that is authenticated, at most 16 MiB. 0 means 1 MiB.
	Header int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Draw gives a number from 0 up to 99 by which DMARC's pct= is decided; nil means at random.
	Draw func() int
}

const (
	defaultTimeout = 5 * time.Second
	defaultHeader  = 1 << 20
	maxHeader      = 16 << 20
	maxWorkers     = 1 << 16
)

// Validate reports what is wrong, as *mail.FieldError joined.
func (c Config) Validate() error {
	var errs []error
	wrong := func(field, reason string) { errs = append(errs, &mail.FieldError{Field: field, Reason: reason}) }
	if !isDomainName(c.AuthservID) {
		wrong("AuthservID", "is no domain name in ASCII")
	}
	if c.Resolver == nil {
		wrong("Resolver", "is required")
	}
	if c.Timeout < 0 {
		wrong("Timeout", "is below zero")
	}
	for i, d := range c.Sealers {
		if !isDomainName(d) {
			wrong(fmt.Sprintf("Sealers[%d]", i), "is no domain name in ASCII")
		}
	}
	if c.Workers < 0 || c.Workers > maxWorkers {
		wrong("Workers", "is not within 0 and 65536")
	}
	if c.Signatures < 0 || c.Signatures > 50 {
		wrong("Signatures", "is not within 0 and 50")
	}
	if c.Header < 0 || c.Header > maxHeader {
		wrong("Header", "is not within 0 and 16777216")
	}
	return errors.Join(errs...)
}

// An Authenticator authenticates messages. It is safe for concurrent use.
type Authenticator struct {
	cfg     Config
	id      string // AuthservID in lower case
	sealers map[string]bool
	dkim    *dkim.Verifier
	arc     *arc.Verifier
	dmarc   *dmarc.Evaluator
	ring    atomic.Pointer[signers]
	workers chan struct{} // holds a token for each message that is being signed
}

// New makes an Authenticator without keys, or returns what Config.Validate says.
func New(cfg Config) (*Authenticator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Workers == 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if cfg.Header == 0 {
		cfg.Header = defaultHeader
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &Authenticator{
		cfg:     cfg,
		id:      strings.ToLower(cfg.AuthservID),
		sealers: make(map[string]bool, len(cfg.Sealers)),
		workers: make(chan struct{}, cfg.Workers),
	}
	for _, d := range cfg.Sealers {
		a.sealers[strings.ToLower(d)] = true
	}
	var errs [3]error
	a.dkim, errs[0] = dkim.NewVerifier(dkim.Config{
		Resolver: cfg.Resolver, Signatures: cfg.Signatures, Header: cfg.Header, Now: cfg.Now,
	})
	a.arc, errs[1] = arc.New(arc.Config{Resolver: cfg.Resolver, Header: cfg.Header, Now: cfg.Now})
	a.dmarc, errs[2] = dmarc.New(dmarc.Config{
		Resolver: cfg.Resolver, Timeout: cfg.Timeout, Draw: cfg.Draw,
	})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	a.ring.Store(&signers{})
	return a, nil
}
