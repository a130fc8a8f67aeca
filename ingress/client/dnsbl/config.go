package dnsbl

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// A Kind is what a list is asked about.
type Kind uint8

// The kinds of lists.
const (
	Addresses Kind = iota // the client's address
	Domains               // a domain: the name in EHLO, or that of the reverse-path
)

// A Family restricts a list to the addresses of one family.
type Family uint8

// The families of a list of Addresses.
const (
	// AnyFamily is IPv4, and IPv6 if the list has the entry that every IPv6 list must have (RFC 5782 section 5).
	AnyFamily Family = iota
	IPv4
	IPv6
)

// A Code is what some of a list's answers are worth.
type Code struct {
	// Match is a code ("127.0.0.2"), a prefix ("127.0.0.4/30"), a range ("127.0.0.2-127.0.0.11"), or four octets of
	// which all but the first may be "*", "&4" (all of these bits are set) or a choice such as "[2;4..7]"
	// ("127.0.[0..255].3"). It lies in 127.0.0.0/8. Where several match a code, the one that matches the fewest codes
	// counts, and among those the heaviest.
	Match string
	// Weight is added to the score; 0 means that such a code is an answer that does not count.
	Weight float64
	// Refused is set if the list answers so when it does not want to answer us, as with "127.0.1.255" on some lists.
	// 127.255.255.0/24 always means that, and so does 127.0.0.1 unless a Code is about it alone.
	Refused bool
}

// A List is one DNS list.
type List struct {
	// Zone is the domain under which the list answers, such as "zen.example"; at most 189 octets.
	Zone string
	// Name is the name of the list in replies, logs and the store. It is a domain name too. Empty means Zone. It is for
	// zones that hold a secret, such as the key of a subscriber.
	Name string
	Kind Kind
	// Family is for lists of Addresses only.
	Family Family
	// Weight is what every code is worth if Codes is empty.
	Weight float64
	// Codes are what each code is worth. A code that matches no Code does not count. The heaviest code of an answer
	// counts, the others do not add to it.
	Codes []Code
	// Unchecked is for a list without the entries that RFC 5782 section 5 demands. It is not noticed then that the list
	// lists the world.
	Unchecked bool
}

const (
	// lookupTimeout ends a look-up. It is longer than clients wait, so that an answer which is too late for one client
	// serves the next.
	lookupTimeout = 3 * time.Second
	// slowAfter is how long a look-up may take before it counts as failed, although its answer is used: about as long
	// as a client waits.
	slowAfter = time.Second
	// maxFailures is the number of look-ups in a row that fail until a list is skipped.
	maxFailures = 5
	// checkEvery is the time from one check of a list to the next, retryEvery the same for a list that did not answer.
	checkEvery = 5 * time.Minute
	retryEvery = 10 * time.Second
	// refusedPause is how long a list is left alone that refused to answer.
	refusedPause = 10 * time.Minute
	// lockMargin is how much longer than a look-up its lock lasts. So long other nodes wait for a look-up of ours, and
	// one that failed is not tried again for the same address.
	lockMargin = time.Second
	// minTTL and maxTTL bound how long an answer is kept, whatever its TTL. maxTTL is also how long a list stays out
	// after it listed the world, because its false answers may be kept that long.
	minTTL = time.Minute
	maxTTL = time.Hour
	// maxLookups is the most look-ups that are under way at once: more than the resolver asks at a time, and far fewer
	// than it has room for. What goes beyond waits here, where it is a few octets, and where no network's look-ups wait
	// for more than one of each other.
	maxLookups = 256
	// maxOfNetwork is how many of them one client network may have at one list, and maxWaiting how many more may wait.
	maxOfNetwork = 8
	maxWaiting   = 64
	// aliveFor is how long a list that answered counts as one that answers.
	aliveFor = 10 * time.Second
)

// A Config has the lists and what they need.
type Config struct {
	Lists []List
	// Store shares the answers of address lists between nodes, so that a list is asked once about an address. It is
	// required with a list of Addresses.
	Store    world.Store
	Resolver world.Resolver // required with any list
	// Private is set if lists are asked about addresses that are not routed globally too: loopback, RFC 1918,
	// 100.64/10, link-local, ULA. Public lists know nothing of them.
	Private bool
	// Changed is called when a list goes bad or well again, with the reason. Calls do not overlap. It must not block
	// and must not call the Set. nil disables it.
	Changed func(zone string, healthy bool, why string)
	// Now reads the wall clock. nil means time.Now.
	Now func() time.Time

	tune tuning
}

// A tuning is what tests of the package set in place of the constants above; 0 means the constant.
type tuning struct {
	timeout        time.Duration // lookupTimeout
	slow           time.Duration // slowAfter, but not more than timeout
	failures       int           // maxFailures
	check          time.Duration // checkEvery
	retry          time.Duration // retryEvery
	pause          time.Duration // refusedPause
	minTTL, maxTTL time.Duration // minTTL below zero means no least TTL
	lookups        int           // maxLookups
}

// keep returns how long an answer is kept.
func (t *tuning) keep(ttl time.Duration) time.Duration {
	return min(max(ttl, t.minTTL, 0), t.maxTTL)
}

// withDefaults returns c with its zero fields filled in.
func (c Config) withDefaults() Config {
	t := &c.tune
	t.timeout = cmp.Or(t.timeout, lookupTimeout)
	t.slow = cmp.Or(t.slow, min(slowAfter, t.timeout))
	t.failures = cmp.Or(t.failures, maxFailures)
	t.check = cmp.Or(t.check, checkEvery)
	t.retry = cmp.Or(t.retry, retryEvery)
	t.pause = cmp.Or(t.pause, refusedPause)
	t.minTTL = cmp.Or(t.minTTL, minTTL)
	t.maxTTL = cmp.Or(t.maxTTL, maxTTL)
	t.lookups = cmp.Or(t.lookups, maxLookups)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Validate returns all fields that make no sense, such as "lists[2].zone", as mail.Faults, or nil.
func (c Config) Validate() error {
	wrong := Faults(c.Lists)
	wrong.AddIf(c.Resolver == nil && len(c.Lists) > 0, "resolver", "is missing")
	addresses := slices.ContainsFunc(c.Lists, func(l List) bool { return l.Kind == Addresses })
	wrong.AddIf(c.Store == nil && addresses, "store", "is missing")
	return wrong.Err()
}

// Faults returns what is wrong with lists, whatever else a Config has.
func Faults(lists []List) (wrong mail.Faults) {
	seen := map[string]bool{}
	for i, l := range lists {
		at := fmt.Sprintf("lists[%d].", i)
		l.addFaults(&wrong, at)
		field := "zone"
		if l.Name != "" {
			field = "name"
		}
		key := fmt.Sprint(l.Kind, " ", l.name())
		wrong.AddIf(seen[key] && l.name() != "", at+field, l.name()+" is a list already")
		seen[key] = true
	}
	return wrong
}

// addFaults adds what is wrong with l alone. at begins the name of each field. A code is named by its match.
func (l List) addFaults(wrong *mail.Faults, at string) {
	if why := zoneFault(l.Zone); why != "" {
		wrong.Add(at+"zone", why)
	}
	if l.Name != "" {
		if why := zoneFault(l.Name); why != "" {
			wrong.Add(at+"name", why)
		}
	}
	wrong.AddIf(l.Kind > Domains, at+"kind", "is unknown")
	wrong.AddIf(l.Family > IPv6 || l.Kind == Domains && l.Family != AnyFamily, at+"family",
		"is unknown, or that of a list of domains")
	wrong.AddIf(!finite(l.Weight), at+"weight", "is no number")
	counts := len(l.Codes) == 0 && l.Weight != 0
	for _, code := range l.Codes {
		field := at + "codes[" + code.Match + "]"
		if _, err := parseCode(code.Match); err != nil {
			wrong.Add(field, err.Error())
		}
		wrong.AddIf(!finite(code.Weight), field, "is no number")
		wrong.AddIf(code.Refused && code.Weight != 0, field, "is that of a code which means refused")
		counts = counts || code.Weight != 0
	}
	wrong.AddIf(!counts, at+"weight", "is 0, and so the list counts for nothing")
}

// name returns the list's name in replies, logs and the store.
func (l List) name() string { return domain.Canonical(cmp.Or(l.Name, l.Zone)) }

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
