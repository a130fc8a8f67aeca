package wire

import (
	"context"
	"crypto/tls"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Timeouts bound the waits of a connection. Zero means the default.
type Timeouts struct {
	// for a command line, and for any octet of a message; default 5 min (RFC 5321 section 4.5.3.2.7)
	Command   time.Duration
	Write     time.Duration // for the client to take a batch of replies; default 5 min
	Header    time.Duration // for a PROXY header; default 5 s
	Handshake time.Duration // for a TLS handshake; default 30 s
	Grace     time.Duration // of waiting for a message's octets before MinRate counts; default 1 min
	Linger    time.Duration // for the client to read the reply that a forced close ends with; default 1 s
	Abandon   time.Duration // for Sessions to end when Shutdown has cancelled their ctx; default 5 s
}

// A Config describes what one listener serves. All fields but Hostname and NewSession may be left zero.
type Config struct {
	Hostname string             // in the greeting and the EHLO reply
	TLS      func() *tls.Config // nil: no STARTTLS. Called per handshake, so that certificates can be swapped
	Implicit bool               // TLS from the first octet (RFC 8314 section 3); needs TLS

	Proxy   []netip.Prefix // from these a PROXY header v1 or v2 is required; elsewhere one is refused
	Xclient []netip.Prefix // these may say XCLIENT; judged by the address after PROXY

	MessageSize int64 // octets of a message without the dots of transparency, announced as SIZE; default 50 MiB
	Line        int   // octets of a line of a message without CRLF; default 1 MiB
	// of one transaction, announced as RCPTMAX (RFC 9422); default 100, the least that RFC 5321 section 4.5.3.1.8
	// allows
	Recipients    int
	Messages      int // of one connection, announced as MAILMAX (RFC 9422); 0: no limit
	ErrorBudget   int // bad commands of one connection before 421; default 10, negative: no limit
	RefusedBudget int // recipients refused with 5yz on one connection before 421; default 20, negative: no limit

	Caps     *Caps         // shared among listeners; nil: no caps
	Slabs    *Slabs        // shared among listeners; nil: the server's own
	Lend     time.Duration // see Session.Idle; default 5 s, negative: never
	Timeouts Timeouts
	// octets per second that a message owes after Timeouts.Grace of waiting for it; default 512, negative: none
	MinRate int64

	// NewSession makes the Session of a connection, and another one after XCLIENT. ctx is that of all the Session's
	// methods.
	NewSession func(ctx context.Context, c *Client) Session
	// Cut is called when Shutdown's time is up, the ctx of the Sessions has ended and the remaining connections are
	// cut: it ends what Sessions wait for that heeds no ctx. It must not take long. nil: there is nothing such.
	Cut      func()
	Emit     func(mail.Event)          // must not block; nil: nobody is told
	Panicked func(v any, stack []byte) // told of a panic in a Session; nil: nobody is told
	Now      func() time.Time          // stamps events; nil: time.Now
}

// Validate names the first field that no server can be made from, as a *mail.FieldError.
func (c *Config) Validate() error {
	negative := func(d time.Duration) bool { return d < 0 }
	switch {
	case !mail.IsDomain(c.Hostname):
		return &mail.FieldError{Field: "hostname", Reason: "must be a domain name"}
	case c.NewSession == nil:
		return &mail.FieldError{Field: "session", Reason: "is missing"}
	case c.Implicit && c.TLS == nil:
		return &mail.FieldError{Field: "tls", Reason: "implicit TLS needs a certificate"}
	case c.MessageSize < 0:
		return &mail.FieldError{Field: "limits.message_size", Reason: "must not be negative"}
	case c.Line < 0 || c.Line > 0 && c.Line < maxTextLine:
		return &mail.FieldError{Field: "limits.line", Reason: "must be 998 octets at least"}
	case c.Recipients < 0:
		return &mail.FieldError{Field: "limits.recipients", Reason: "must not be negative"}
	case c.Messages < 0:
		return &mail.FieldError{Field: "limits.messages", Reason: "must not be negative"}
	case negative(c.Timeouts.Command) || negative(c.Timeouts.Write) || negative(c.Timeouts.Header) ||
		negative(c.Timeouts.Handshake) || negative(c.Timeouts.Grace) || negative(c.Timeouts.Linger) ||
		negative(c.Timeouts.Abandon):
		return &mail.FieldError{Field: "timeouts", Reason: "must not be negative"}
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

// withDefaults gives c with each zero field that has a default set to it.
func (c Config) withDefaults() Config {
	setDefault(&c.MessageSize, 50<<20)
	setDefault(&c.Line, 1<<20)
	setDefault(&c.Recipients, 100)
	setDefault(&c.ErrorBudget, 10)
	setDefault(&c.RefusedBudget, 20)
	setDefault(&c.Lend, 5*time.Second)
	setDefault(&c.MinRate, 512)
	setDefault(&c.Timeouts.Command, 5*time.Minute)
	setDefault(&c.Timeouts.Write, 5*time.Minute)
	setDefault(&c.Timeouts.Header, 5*time.Second)
	setDefault(&c.Timeouts.Handshake, 30*time.Second)
	setDefault(&c.Timeouts.Grace, time.Minute)
	setDefault(&c.Timeouts.Linger, time.Second)
	setDefault(&c.Timeouts.Abandon, 5*time.Second)
	if c.Slabs == nil {
		c.Slabs = new(Slabs)
	}
	if c.Cut == nil {
		c.Cut = func() {}
	}
	if c.Emit == nil {
		c.Emit = func(mail.Event) {}
	}
	if c.Panicked == nil {
		c.Panicked = func(any, []byte) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
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
