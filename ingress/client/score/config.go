package score

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// An SPF is a check of the reverse-path that the session has begun.
type SPF interface {
	// Wait returns a result word of RFC 8601 section 2.7.2, such as "pass" or "softfail", and the domain that was
	// checked. It waits for the result until ctx ends, and returns "temperror" then.
	Wait(ctx context.Context) (result, domain string)
}

// The values of Config.RejectAt.
const (
	RejectAtRcpt    = "rcpt"    // refusals answer RCPT, so that postmaster can be reached
	RejectAtConnect = "connect" // a client that is refused for its address alone is refused by the greeting
)

// A Band is a range of scores: From belongs to it, To does not. The zero Band is empty.
type Band struct{ From, To float64 }

// A Config has the sources of signals, their weights, and the thresholds of the score. Zero fields have defaults or
// disable what they name.
type Config struct {
	Store    world.Store    // nil disables what is known of clients, and the rates
	Lists    *dnsbl.Set     // nil disables the lists
	Limits   *rate.Limits   // the rates of connections; nil disables them
	Resolver world.Resolver // nil disables all signals that need DNS
	// Hostnames and OwnAddrs are the names and addresses of this node. A client that claims one of them in EHLO lies.
	Hostnames []string
	OwnAddrs  []netip.Addr
	// Deadline is how long the signals of a stage (connect, EHLO, MAIL) are waited for, at most 1 minute; 0: 1 s.
	Deadline time.Duration
	// From the score Defer on a client is deferred, from Reject on refused; 0: 6 and 10. If they are equal, no client
	// is deferred.
	Defer, Reject float64
	// Grey is the band of scores in which mail is greylisted, unless it is deferred or refused. Zero disables it.
	Grey Band
	// Tarpit is how long a refusal by score is held back, at most 30 s; 0 disables it. A connection is held back for a
	// minute in all at most, and no more than maxTarpits connections of a node at a time, so that it costs the client
	// more than us.
	Tarpit time.Duration
	// Greet is how long the greeting is held back from clients that are not known good, at most 30 s; 0 disables it. A
	// client that speaks before the greeting is no mail server.
	Greet time.Duration
	// RejectAt is RejectAtRcpt or RejectAtConnect; empty means RejectAtRcpt.
	RejectAt string
	// Allow are clients that are accepted with any score, and Block those that are refused. Of entries about addresses
	// the longest prefix decides, before entries about names. At equal length, and among names, Allow decides.
	Allow, Block []Entry
	// Weights replace those of DefaultWeights by name; 0 disables a signal.
	Weights map[string]float64
	// Private is set if addresses that are not routed globally (loopback, RFC 1918, 100.64/10, link-local, ULA) have
	// signals of DNS like others. Without it their names are not looked up: public DNS knows nothing of them.
	Private bool

	tune tuning
}

// A tuning is what tests of the package set in place of constants; 0 means the constant.
type tuning struct {
	tarpits int // maxTarpits
}

const (
	defaultDeadline = time.Second
	maxDeadline     = time.Minute
	defaultDefer    = 6
	defaultReject   = 10
	maxWeight       = 1000
	// maxHeld bounds Tarpit and Greet. A client waits 5 minutes for the greeting and for the reply to RCPT (RFC 5321
	// section 4.5.3.2), but our own sockets are scarcer.
	maxHeld = 30 * time.Second
	// maxHeldInAll is how long the refusals of one connection are held back in all.
	maxHeldInAll = time.Minute
	// maxTarpits is how many connections of a node are held back at a time.
	maxTarpits = 1024
)

// withDefaults returns c with its zero fields filled in.
func (c Config) withDefaults() Config {
	c.Deadline = cmp.Or(c.Deadline, defaultDeadline)
	if c.Defer == 0 && c.Reject == 0 {
		c.Defer = defaultDefer
	}
	if c.Reject == 0 {
		c.Reject = max(defaultReject, c.Defer)
	}
	if c.Defer == 0 {
		c.Defer = min(defaultDefer, c.Reject)
	}
	c.tune.tarpits = cmp.Or(c.tune.tarpits, maxTarpits)
	c.RejectAt = cmp.Or(c.RejectAt, RejectAtRcpt)
	return c
}

// Validate returns all fields that make no sense, such as "block[2].client", as mail.Faults, or nil.
func (c Config) Validate() error {
	var wrong mail.Faults
	c.validateBounds(&wrong)
	for i, name := range c.Hostnames {
		wrong.AddIf(!mail.IsDomain(domain.Canonical(name)), fmt.Sprintf("hostnames[%d]", i), "is not a domain name")
	}
	names := DefaultWeights()
	for _, name := range slices.Sorted(maps.Keys(c.Weights)) {
		if _, ok := names[name]; !ok {
			wrong.Add("weights["+name+"]", "is no signal whose weight can be set")
			continue
		}
		wrong.AddIf(!(math.Abs(c.Weights[name]) <= maxWeight), "weights["+name+"]", "is not between -1000 and 1000")
	}
	for _, l := range []struct {
		field   string
		entries []Entry
	}{{"allow", c.Allow}, {"block", c.Block}} {
		for i, e := range l.entries {
			at := fmt.Sprintf("%s[%d].", l.field, i)
			if err := e.validate(); err != nil {
				wrong.Add(at+err.Field, err.Reason)
			}
			wrong.AddIf(e.For != 0 && l.field == "block", at+"for", "is for entries that allow")
		}
	}
	return wrong.Err()
}

// validateBounds adds the numbers that are out of their bounds.
func (c Config) validateBounds(wrong *mail.Faults) {
	for _, d := range []struct {
		field       string
		value, most time.Duration
	}{{"deadline", c.Deadline, maxDeadline}, {"tarpit", c.Tarpit, maxHeld}, {"greet", c.Greet, maxHeld}} {
		wrong.AddIf(d.value < 0 || d.value > d.most, d.field, "is not between 0 and "+d.most.String())
	}
	for _, n := range []struct {
		field string
		value float64
	}{{"defer", c.Defer}, {"reject", c.Reject}, {"grey.from", c.Grey.From}, {"grey.to", c.Grey.To}} {
		wrong.AddIf(!(math.Abs(n.value) <= maxWeight), n.field, "is not between -1000 and 1000")
	}
	full := c.withDefaults()
	wrong.AddIf(full.Defer <= 0, "defer", "is not above 0, so that clients of whom nothing is known are deferred")
	wrong.AddIf(full.Reject < full.Defer, "reject", "is below defer")
	wrong.AddIf(c.Grey != Band{} && c.Grey.To <= c.Grey.From, "grey.to", "is not above grey.from")
	wrong.AddIf(full.RejectAt != RejectAtRcpt && full.RejectAt != RejectAtConnect, "reject_at",
		`is neither "rcpt" nor "connect"`)
}

// printable returns s fit for a reply: at most n octets, and "?" in place of each that is not printable ASCII.
func printable(s string, n int) string {
	s = s[:min(len(s), n)]
	clean := func(c byte) bool { return c >= ' ' && c <= '~' }
	for i := range len(s) {
		if clean(s[i]) {
			continue
		}
		b := []byte(s)
		for j := range b {
			if !clean(b[j]) {
				b[j] = '?'
			}
		}
		return string(b)
	}
	return s
}
