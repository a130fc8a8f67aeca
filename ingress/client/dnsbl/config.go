package dnsbl

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Kind says what a list is asked about.
type Kind uint8

// The kinds of lists.
const (
	Addresses Kind = iota // the client's address
	Domains               // a domain: the name in EHLO, or that of the reverse-path
)

// A Family says about which addresses a list is asked.
type Family uint8

// The families of a list of Addresses.
const (
	// AnyFamily is IPv4, and IPv6 if the list has the entry that every IPv6 list must have (RFC 5782 section 5).
	AnyFamily Family = iota
	IPv4
	IPv6
)

// A Code says what a list's answers are worth.
type Code struct {
	// Match is a code ("127.0.0.2"), a prefix ("127.0.0.4/30"), a range ("127.0.0.2-127.0.0.11"), or four octets of
	// which all but the first may be "*", "&4" (all of these bits are set) or a choice such as "[2;4..7]"
	// ("127.0.[0..255].3"). It lies in 127.0.0.0/8. Where several match a code, the one that matches the fewest codes
	// counts, and among those the heaviest.
	Match string
	// Weight is added to the score; 0 means that such a code is an answer that does not count.
	Weight float64
	// Refused says that the list answers so when it does not want to answer us, as with "127.0.1.255" on some.
	// 127.255.255.0/24 always means that, and so does 127.0.0.1 unless a Code is about it alone.
	Refused bool
}

// A List is one DNS list.
type List struct {
	// Zone is the domain under which the list answers, such as "zen.example"; at most 189 octets.
	Zone string
	// Name is what the list is called in replies, logs and the store. It is a domain name too. Empty: Zone. It is for
	// zones that hold a secret, such as the key of a subscriber.
	Name string
	Kind Kind
	// Family is for lists of Addresses only.
	Family Family
	// Weight is what every code is worth if Codes is empty.
	Weight float64
	// Codes say what each code is worth; what none of them matches does not count. The heaviest code of an answer
	// counts, the others do not add to it.
	Codes []Code
	// Unchecked is for a list without the entries that RFC 5782 section 5 demands. Nobody notices when it lists the
	// world.
	Unchecked bool
}

// A Config says which lists there are and how much patience they get.
type Config struct {
	Lists    []List
	Store    world.Store // shares the answers of address lists between nodes, so that a list is asked once about an address
	Resolver world.Resolver
	// Timeout ends a look-up. It should be longer than clients wait, so that an answer which is too late for one client
	// serves the next. 0: 3 s.
	Timeout time.Duration
	// Slow is how long a look-up may take before it counts as failed, although its answer is used: about as long as a
	// client waits. 0: 1 s, but not more than Timeout.
	Slow time.Duration
	// Failures is the number of look-ups in a row that fail until a list is skipped. 0: 5.
	Failures int
	// Check is the time from one check of a list to the next. 0: 5 min.
	Check time.Duration
	// Retry is the same for a list that did not answer. 0: 10 s.
	Retry time.Duration
	// Pause is how long a list is left alone that refused to answer. 0: 10 min.
	Pause time.Duration
	// Lock is how long other nodes wait for a look-up of ours, and how soon one that failed is tried again for the same
	// address. 0: Timeout and a second more.
	Lock time.Duration
	// MinTTL and MaxTTL bound how long an answer is kept, whatever its TTL. 0: 1 min and 1 h; a MinTTL below zero means
	// none, so that an answer with a TTL of 0 serves only those who wait for it. MaxTTL is also how long a
	// list stays out after it listed the world, because its false answers may be kept that long.
	MinTTL, MaxTTL time.Duration
	// Lookups is the most that are under way at once; who wants more goes without. 0: 256.
	Lookups int
	// Private says that lists are asked about addresses that are not routed globally too: loopback, RFC 1918,
	// 100.64/10, link-local, ULA. Public lists know nothing of them.
	Private bool
	// Changed is told when a list goes bad or well again, and why. It is not called by two at once, must not block and
	// must not call the Set. Nil: nobody.
	Changed func(zone string, healthy bool, why string)
	// Now reads the wall clock. Nil: time.Now.
	Now func() time.Time
}

// or gives v, or def if v is the zero value.
func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// withDefaults gives c with every zero value replaced by what it stands for.
func (c Config) withDefaults() Config {
	c.Timeout = or(c.Timeout, 3*time.Second)
	c.Slow = or(c.Slow, min(time.Second, c.Timeout))
	c.Failures = or(c.Failures, 5)
	c.Check = or(c.Check, 5*time.Minute)
	c.Retry = or(c.Retry, 10*time.Second)
	c.Pause = or(c.Pause, 10*time.Minute)
	c.Lock = or(c.Lock, c.Timeout+time.Second)
	c.MinTTL = or(c.MinTTL, time.Minute)
	c.MaxTTL = or(c.MaxTTL, time.Hour)
	c.Lookups = or(c.Lookups, 256)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Validate returns a *mail.FieldError that names the first field that makes no sense, such as "lists[2].zone", or nil.
func (c Config) Validate() error {
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"timeout", c.Timeout}, {"slow", c.Slow}, {"check", c.Check}, {"retry", c.Retry}, {"pause", c.Pause},
		{"lock", c.Lock}, {"max_ttl", c.MaxTTL},
	} {
		if d.value < 0 {
			return &mail.FieldError{Field: d.field, Reason: "is below zero"}
		}
	}
	full := c.withDefaults()
	switch {
	case full.Slow > full.Timeout:
		return &mail.FieldError{Field: "slow", Reason: "is longer than timeout"}
	case full.MinTTL > full.MaxTTL:
		return &mail.FieldError{Field: "min_ttl", Reason: "is longer than max_ttl"}
	case c.Failures < 0:
		return &mail.FieldError{Field: "failures", Reason: "is below zero"}
	case c.Lookups < 0:
		return &mail.FieldError{Field: "lookups", Reason: "is below zero"}
	case c.Resolver == nil && len(c.Lists) > 0:
		return &mail.FieldError{Field: "resolver", Reason: "is missing"}
	}
	seen := map[string]bool{}
	for i, l := range c.Lists {
		if err := l.validate(); err != nil {
			err.Field = fmt.Sprintf("lists[%d].%s", i, err.Field)
			return err
		}
		if l.Kind == Addresses && c.Store == nil {
			return &mail.FieldError{Field: "store", Reason: "is missing"}
		}
		key := fmt.Sprint(l.Kind, " ", l.called())
		if seen[key] {
			field := "zone"
			if l.Name != "" {
				field = "name"
			}
			return &mail.FieldError{
				Field: fmt.Sprintf("lists[%d].%s", i, field), Reason: l.called() + " is a list already",
			}
		}
		seen[key] = true
	}
	return nil
}

// validate tells what is wrong with l alone.
func (l List) validate() *mail.FieldError {
	if why := zoneFault(l.Zone); why != "" {
		return &mail.FieldError{Field: "zone", Reason: why}
	}
	if l.Name != "" {
		if why := zoneFault(l.Name); why != "" {
			return &mail.FieldError{Field: "name", Reason: why}
		}
	}
	if l.Kind > Domains {
		return &mail.FieldError{Field: "kind", Reason: "is unknown"}
	}
	if l.Family > IPv6 || l.Kind == Domains && l.Family != AnyFamily {
		return &mail.FieldError{Field: "family", Reason: "is unknown, or that of a list of domains"}
	}
	if !finite(l.Weight) {
		return &mail.FieldError{Field: "weight", Reason: "is no number"}
	}
	counts := len(l.Codes) == 0 && l.Weight != 0
	for i, code := range l.Codes {
		if _, err := parseCode(code.Match); err != nil {
			return &mail.FieldError{Field: fmt.Sprintf("codes[%d].match", i), Reason: err.Error()}
		}
		if !finite(code.Weight) {
			return &mail.FieldError{Field: fmt.Sprintf("codes[%d].weight", i), Reason: "is no number"}
		}
		if code.Refused && code.Weight != 0 {
			return &mail.FieldError{
				Field: fmt.Sprintf("codes[%d].weight", i), Reason: "is that of a code which means refused",
			}
		}
		counts = counts || code.Weight != 0
	}
	if !counts {
		return &mail.FieldError{Field: "weight", Reason: "is 0, and so the list counts for nothing"}
	}
	return nil
}

// called is the list's name in replies, logs and the store.
func (l List) called() string {
	return plainName(or(l.Name, l.Zone))
}

// plainName is name in lower case without the last dot.
func plainName(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
