// Package egress is where mail goes out: it takes a Delivery to the Site that its next hop leads to, over a session
// from the pool or a new one, and gives back a mail.Transaction whose answers are the destination's own.
//
// It owns the choice of host and session, the retries that cannot duplicate a message, the replay of a transaction
// whose session was lent back, and the cooling of Sites. It refuses to know clients, rules and verdicts.
//
// Invariants: no second host is tried once an octet of the message may have gone out; a recipient is accepted only by
// the destination's own 2yz, and stays so or the transaction fails; trouble of ours or of the way is 4yz; a session
// goes back to the pool only when nothing is open on it.
package egress

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
	"go.opentelemetry.io/otel/trace"
)

// A TLS says what is asked of TLS where the next hop itself does not say, which is with MX hosts, smtp:// and lmtp://.
// MTA-STS and DANE will raise it per domain.
type TLS uint8

// The TLS policies.
const (
	TLSOpportunistic TLS = iota // STARTTLS where it is offered, with any certificate; clear where it fails
	TLSRequired                 // STARTTLS with a certificate that is valid for the host, or no delivery
	TLSNone                     // clear
)

// ParseTLS reads a policy's name: "opportunistic" (or ""), "required" or "none".
func ParseTLS(s string) (TLS, bool) {
	switch s {
	case "", "opportunistic":
		return TLSOpportunistic, true
	case "required":
		return TLSRequired, true
	case "none":
		return TLSNone, true
	}
	return 0, false
}

// A Config is what a Relay needs to be told. Helo and Resolver are required.
type Config struct {
	Helo     string      // our name in EHLO and LHLO
	Port     uint16      // where MX hosts listen, 0 for 25
	TLS      TLS         // where the next hop does not say
	Resolver mx.Resolver // all names are resolved by it

	// Sources are addresses of ours to connect from. A Site sees always the same one of each family, so that its
	// greylisting knows us again. Without one of a family the system chooses.
	Sources []netip.Addr
	// AllowPrivate, Self, SelfAddrs and Providers are those of mx.Config.
	AllowPrivate bool
	Self         []string
	SelfAddrs    []netip.Addr
	Providers    *mx.Providers

	// Limits go over those of Providers, for a Site by its name, such as "lmtp://store.example:24". A zero field leaves
	// what is there.
	Limits map[mail.Site]pool.Limits

	// Password gives the password of user at a fixed next hop, and whether there is one. It is asked when a session is
	// opened.
	Password func(user, host string, port uint16) (string, bool)
	// RootCAs verify certificates where the policy asks for it; nil means the system's.
	RootCAs *x509.CertPool
	// Client holds the deadlines of sessions.
	Client smtpclient.Config
	// Budget is how long Begin and the first Rcpt may take in all when their context sets no deadline, 0 for 60 s.
	Budget time.Duration

	// Placement says which node owns a Site, and Remote begins there; both nil where this node is alone.
	Placement Placement
	Remote    Remote

	// Share is the part of a Site's sessions and rates that this node may have, above 0 and at most 1; nil means all of
	// them. It is called by many at once.
	Share func(mail.Site) float64

	// Suspensions are shared with the other nodes; nil means that each node has its own.
	Suspensions Suspensions
	// Reactions say what is done when a Site replies that it gets too much; nil means feedback.Shipped.
	Reactions *feedback.Table

	// Emit is told of what an operator should see; it must not block. nil means nobody.
	Emit func(mail.Event)
	// Tracer makes the spans of MX look-up, pool, dial, RCPT, octets and dot, below the span that the context carries.
	// nil means none, and costs nothing.
	Tracer trace.Tracer
	// Now is the clock that expiries are read from; nil means time.Now.
	Now func() time.Time
}

// Validate says whether c can be used. The error is a *mail.FieldError.
func (c *Config) Validate() error {
	switch {
	case !mail.IsDomain(c.Helo) && !isLiteral(c.Helo):
		return &mail.FieldError{Field: "helo", Reason: strconv.Quote(c.Helo) + " is no domain name"}
	case c.TLS > TLSNone:
		return &mail.FieldError{Field: "tls", Reason: "is no policy"}
	case c.Resolver == nil:
		return &mail.FieldError{Field: "resolver", Reason: "is missing"}
	case c.Budget < 0:
		return &mail.FieldError{Field: "budget", Reason: "is negative"}
	}
	for i, a := range c.Sources {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return &mail.FieldError{Field: "source[" + strconv.Itoa(i) + "]", Reason: "is no address to connect from"}
		}
	}
	var f *mail.FieldError
	if err := c.Client.Validate(); errors.As(err, &f) {
		return &mail.FieldError{Field: "client." + f.Field, Reason: f.Reason}
	}
	return nil
}

func isLiteral(s string) bool {
	_, ok := mail.LiteralAddr(s)
	return ok
}
