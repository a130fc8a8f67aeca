package wire

import (
	"context"
	"crypto/tls"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Config describes what one listener serves. All fields but Hostname and NewSession may be left zero.
type Config struct {
	Hostname string             // in the greeting and the EHLO reply
	Page     string             // see mail.Reply.AppendReferring; "": there is no page about refusals
	TLS      func() *tls.Config // called per handshake, so that certificates can be swapped; nil disables STARTTLS
	Implicit bool               // TLS from the first octet (RFC 8314 section 3); needs TLS

	Believed

	Bounds

	Places *Places // shared among listeners; nil disables all limits of connections
	// LoosePaths takes paths without brackets and with blanks in them: the listener is for trusted clients.
	LoosePaths bool

	// Standing says in which shares a client counts; nil: each is a Stranger. It is called when the client is known by
	// its address alone.
	Standing func(*Client) Standing
	Memory   *Memory       // shared among listeners; nil disables the bounds of what messages take
	Lend     time.Duration // see Session.Idle; default 5 s, negative disables Session.Idle

	// RequireTLS offers REQUIRETLS in TLS (RFC 8689): what is sent on can demand it of the hosts behind.
	RequireTLS bool
	// NewSession makes the Session of a connection, and another one after XCLIENT. All methods of the Session get ctx.
	NewSession func(ctx context.Context, c *Client) Session
	// Login takes a user with the password, or returns why not; clients have to log in under TLS before they send. nil
	// disables AUTH. It is for listeners of users alone.
	Login func(ctx context.Context, c *Client, user, password string) error
	// Abort is called when Shutdown's time is up, the ctx of the Sessions has ended and the remaining connections are
	// closed. It ends what Sessions wait for without regard to their ctx, and must return soon. nil disables it.
	Abort func()
	Emit  func(mail.Event) // must not block; nil disables events
	Observed
	Panicked func(v any, stack []byte) // reports a panic in a Session; nil disables the report
	Now      func() time.Time          // stamps events; nil means time.Now

	tune tuning
}

// Bounds are what one transaction may hold at most. Zero means the default.
type Bounds struct {
	MessageSize int64 // octets of a message without the dots of transparency, announced as SIZE; default 50 MiB
	Line        int   // octets of a line of a message without CRLF; default 1 MiB
	// recipients of one transaction, announced as RCPTMAX (RFC 9422); default 100, the least that RFC 5321 section
	// 4.5.3.1.8 allows
	Recipients int
}

// Observed is who sees what comes before a transaction.
type Observed struct {
	// Tracing gets the traces of refusals outside of transactions; nil: nothing is traced.
	Tracing *mail.Tracing
	// Handshake is told how long a TLS handshake took, and why it failed. It must not block; nil disables it.
	Handshake func(took time.Duration, err error)
}

// Believed are whose word is taken for what cannot be seen from here.
type Believed struct {
	Proxy       []netip.Prefix // peers that must send a PROXY header v1 or v2; from all others the header is refused
	Xclient     []netip.Prefix // clients that may use XCLIENT, by their address after PROXY
	Traceparent []netip.Prefix // clients that may say in MAIL what trace their mail is a part of
	// Certified reports whether the certificate of a client is one that is believed. It is called behind each
	// handshake; nil: none is.
	Certified func(*tls.ConnectionState) bool
}

// namesTrace reports whether a client may say what trace its mail is a part of.
func (b *Believed) namesTrace(c *Client) bool {
	return len(b.Traceparent) > 0 && !c.Unknown && !c.Lowered && contains(b.Traceparent, c.Addr.Addr())
}

// A tuning holds the limits that only the tests of this package change. Zero means the default.
type tuning struct {
	command                   time.Duration // see commandTimeout
	line, pressedLine, barren time.Duration // see lineTimeout, pressedLine, barrenTimeout
	write                     time.Duration // see writeTimeout
	header                    time.Duration // see headerTimeout
	handshake                 time.Duration // see handshakeTimeout
	grace                     time.Duration // see rateGrace
	discard                   time.Duration // see discardTimeout
	park                      time.Duration // see parkAfter
	abandon                   time.Duration // see abandonTimeout
	minRate                   int64         // see minRate

	errorBudget   int // see errorBudget
	refusedBudget int // see refusedBudget
	idlingBudget  int // see idlingBudget
}

// Validate returns a *mail.FieldError that names the first field from which no server can be made, nil if there is no
// such field.
func (c *Config) Validate() error {
	switch {
	case !mail.IsDomain(c.Hostname):
		return &mail.FieldError{Field: "hostname", Reason: "must be a domain name"}
	case c.NewSession == nil:
		return &mail.FieldError{Field: "session", Reason: "is missing"}
	case c.Login != nil && c.TLS == nil:
		return &mail.FieldError{Field: "tls", Reason: "a login needs a certificate"}
	case c.Implicit && c.TLS == nil:
		return &mail.FieldError{Field: "tls", Reason: "implicit TLS needs a certificate"}
	case c.MessageSize < 0:
		return &mail.FieldError{Field: "limits.message_size", Reason: "must not be negative"}
	case c.Line < 0 || c.Line > 0 && c.Line < maxTextLine:
		return &mail.FieldError{Field: "limits.line", Reason: "must be 998 octets at least"}
	case c.Recipients < 0:
		return &mail.FieldError{Field: "limits.recipients", Reason: "must not be negative"}
	}
	for _, p := range c.Proxy {
		if !p.IsValid() {
			return &mail.FieldError{Field: "listen.proxy_protocol", Reason: "holds a network that is none"}
		}
	}
	for _, p := range c.Xclient {
		if !p.IsValid() {
			return &mail.FieldError{Field: "listen.xclient", Reason: "holds a network that is none"}
		}
	}
	return nil
}

// withDefaults returns c with its default in each zero field that has one.
func (c Config) withDefaults() Config {
	setDefault(&c.MessageSize, 50<<20)
	setDefault(&c.Line, 1<<20)
	setDefault(&c.Recipients, 100)
	setDefault(&c.Lend, 5*time.Second)
	setDefault(&c.tune.command, commandTimeout)
	setDefault(&c.tune.line, lineTimeout)
	setDefault(&c.tune.pressedLine, pressedLine)
	setDefault(&c.tune.barren, barrenTimeout)
	setDefault(&c.tune.write, writeTimeout)
	setDefault(&c.tune.header, headerTimeout)
	setDefault(&c.tune.handshake, handshakeTimeout)
	setDefault(&c.tune.grace, rateGrace)
	setDefault(&c.tune.discard, discardTimeout)
	setDefault(&c.tune.park, parkAfter)
	setDefault(&c.tune.abandon, abandonTimeout)
	setDefault(&c.tune.minRate, minRate)
	setDefault(&c.tune.errorBudget, errorBudget)
	setDefault(&c.tune.refusedBudget, refusedBudget)
	setDefault(&c.tune.idlingBudget, idlingBudget)
	if c.Places == nil {
		c.Places = NewPlaces(Limits{})
	}
	if c.Memory == nil {
		c.Memory = new(Memory)
	}
	if c.Abort == nil {
		c.Abort = func() {}
	}
	if c.Emit == nil {
		c.Emit = func(mail.Event) {}
	}
	if c.Handshake == nil {
		c.Handshake = func(time.Duration, error) {}
	}
	if c.Panicked == nil {
		c.Panicked = func(any, []byte) {}
	}
	if c.Standing == nil {
		c.Standing = func(*Client) Standing { return Stranger }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// loose says which paths are taken beyond RFC 5321.
func (c *Config) loose() mail.Looseness {
	if c.LoosePaths {
		return mail.Bare
	}
	return mail.Dotted
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
