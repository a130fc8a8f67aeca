package score

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// An SPF is a check of the reverse-path that the session has begun.
type SPF interface {
	// Wait gives a result word of RFC 8601 section 2.7.2, such as "pass" or "softfail", and the domain that was
	// checked. It waits until it is known or ctx ends; what is not known is "temperror".
	Wait(ctx context.Context) (result, domain string)
}

// The values of Config.RejectAt.
const (
	RejectAtRcpt    = "rcpt"    // refusals answer RCPT, so that postmaster can be reached
	RejectAtConnect = "connect" // who is refused for its address alone is refused by the greeting
)

// A Band is a range of scores: From belongs to it, To does not. The zero Band has none.
type Band struct{ From, To float64 }

// A Config says what is asked of whom, what it weighs, and what follows from the score. Zero fields have defaults or
// turn off what they name.
type Config struct {
	Store    world.Store    // nil: nothing is known of anybody, and no rate is kept
	Lists    *dnsbl.Set     // nil: no lists
	Limits   *rate.Limits   // the rates of connections; nil: none
	Resolver world.Resolver // nil: no signal that needs DNS
	// Hostnames and OwnAddrs are how this node is called. A client that says in EHLO it is one of them lies.
	Hostnames []string
	OwnAddrs  []netip.Addr
	// Deadline is how long the signals of a stage (connect, EHLO, MAIL) are waited for, at most 1 minute; 0: 1 s.
	Deadline time.Duration
	// From the score Defer on a client is deferred, from Reject on refused; 0: 6 and 10. Equal: nobody is deferred.
	Defer, Reject float64
	// Grey is the band of scores in which mail is greylisted; zero: no greylisting. What is deferred or refused is not.
	Grey Band
	// Tarpit is how long a refusal by score is held back, at most 30 s; 0: not. A connection is held for a minute at
	// most, and no more than Tarpits connections of a node at a time, so that it costs the client more than us; 0:
	// 1024.
	Tarpit  time.Duration
	Tarpits int
	// Greet is how long the greeting is held back from clients that are not known good, at most 30 s; 0: not. Who
	// speaks before it is no mail server.
	Greet time.Duration
	// URL is named in refusals: the page that says what to do. Empty: none.
	URL string
	// RejectAt is RejectAtRcpt or RejectAtConnect; empty: rcpt.
	RejectAt string
	// Allow are clients that are accepted whatever else speaks, and Block those that are refused. Of entries about
	// addresses the longest prefix decides, before entries about names; at equal length, and among names, Allow does.
	Allow, Block []Entry
	// Weights replace those of DefaultWeights by name; 0 turns a signal off.
	Weights map[string]float64
	// Private says that addresses which are not routed globally (loopback, RFC 1918, 100.64/10, link-local, ULA) have
	// signals of DNS like others. Without it their names are not compared: public DNS knows nothing of them.
	Private bool
}

const (
	defaultDeadline = time.Second
	mostDeadline    = time.Minute
	defaultDefer    = 6
	defaultReject   = 10
	mostWeight      = 1000
	// mostHeld bounds Tarpit and Greet. A client waits 5 minutes for the greeting and for the reply to RCPT (RFC 5321
	// section 4.5.3.2), and our own sockets are the scarcer good.
	mostHeld       = 30 * time.Second
	mostTarred     = time.Minute
	defaultTarpits = 1024
)

// withDefaults gives c with every zero value replaced by what it stands for.
func (c Config) withDefaults() Config {
	if c.Deadline == 0 {
		c.Deadline = defaultDeadline
	}
	if c.Defer == 0 && c.Reject == 0 {
		c.Defer = defaultDefer
	}
	if c.Reject == 0 {
		c.Reject = max(defaultReject, c.Defer)
	}
	if c.Defer == 0 {
		c.Defer = min(defaultDefer, c.Reject)
	}
	if c.Tarpits == 0 {
		c.Tarpits = defaultTarpits
	}
	if c.RejectAt == "" {
		c.RejectAt = RejectAtRcpt
	}
	return c
}

// Validate returns a *mail.FieldError that names the first field that makes no sense, such as "block[2].client", or
// nil.
func (c Config) Validate() error {
	if err := c.validateBounds(); err != nil {
		return err
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" ||
			printable(c.URL, len(c.URL)) != c.URL || strings.Contains(c.URL, " ") {
			return &mail.FieldError{Field: "url", Reason: "is no URL of a web page"}
		}
	}
	for i, name := range c.Hostnames {
		if !mail.IsDomain(plainName(name)) {
			return &mail.FieldError{Field: fmt.Sprintf("hostnames[%d]", i), Reason: "is not a domain name"}
		}
	}
	names := DefaultWeights()
	for _, name := range slices.Sorted(maps.Keys(c.Weights)) {
		weight := c.Weights[name]
		if _, ok := names[name]; !ok {
			return &mail.FieldError{Field: "weights." + name, Reason: "is no signal whose weight can be set"}
		}
		if !(math.Abs(weight) <= mostWeight) {
			return &mail.FieldError{Field: "weights." + name, Reason: "is not between -1000 and 1000"}
		}
	}
	for _, l := range []struct {
		field   string
		entries []Entry
	}{{"allow", c.Allow}, {"block", c.Block}} {
		for i, e := range l.entries {
			if err := e.validate(); err != nil {
				err.Field = fmt.Sprintf("%s[%d].%s", l.field, i, err.Field)
				return err
			}
		}
	}
	return nil
}

// validateBounds tells which number is out of its bounds.
func (c Config) validateBounds() error {
	for _, d := range []struct {
		field       string
		value, most time.Duration
	}{{"deadline", c.Deadline, mostDeadline}, {"tarpit", c.Tarpit, mostHeld}, {"greet", c.Greet, mostHeld}} {
		if d.value < 0 || d.value > d.most {
			return &mail.FieldError{Field: d.field, Reason: "is not between 0 and " + d.most.String()}
		}
	}
	for _, n := range []struct {
		field string
		value float64
	}{{"defer", c.Defer}, {"reject", c.Reject}, {"grey.from", c.Grey.From}, {"grey.to", c.Grey.To}} {
		if !(math.Abs(n.value) <= mostWeight) {
			return &mail.FieldError{Field: n.field, Reason: "is not between -1000 and 1000"}
		}
	}
	full := c.withDefaults()
	switch {
	case full.Defer <= 0:
		return &mail.FieldError{
			Field: "defer", Reason: "is not above 0, so that clients of whom nothing is known are deferred",
		}
	case full.Reject < full.Defer:
		return &mail.FieldError{Field: "reject", Reason: "is below defer"}
	case c.Grey != Band{} && c.Grey.To <= c.Grey.From:
		return &mail.FieldError{Field: "grey.to", Reason: "is not above grey.from"}
	case c.Tarpits < 0:
		return &mail.FieldError{Field: "tarpits", Reason: "is below 0"}
	case full.RejectAt != RejectAtRcpt && full.RejectAt != RejectAtConnect:
		return &mail.FieldError{Field: "reject_at", Reason: `is neither "rcpt" nor "connect"`}
	}
	return nil
}

// plainName is name as names are compared: in lower case and without the last dot.
func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// printable gives s fit for a reply: at most n octets, and "?" for each that is not printable ASCII.
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
