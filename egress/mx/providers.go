package mx

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

//go:embed providers.txt
var shipped string

// Limits are how sessions with a Site are kept. All but the rates are at least 1.
type Limits struct {
	Connections int           // sessions open at once
	Messages    int           // messages per session
	Idle        time.Duration // how long a session is kept without a message
	Age         time.Duration // how long a session is kept at all

	MessageRate  float64 // messages per second, 0 for any number
	ConnectRate  float64 // sessions opened per second, 0 for any number
	ConnectBurst int     // how many of these may follow each other at once

	Without string // extensions of SMTP that are not used, in upper case, with commas

	Spread int // owners in a cluster, each of which keeps its part of the above, at least 1 and at most Connections
}

// Providers know which MX hosts belong to one provider and how the sessions of each Site are kept. They are immutable.
type Providers struct {
	named  map[mail.Site]bool
	sites  map[string]mail.Site // by ".suffix" or host name
	given  map[mail.Site]Limits // as the lines have them, those of "*" as well
	limits map[mail.Site]Limits // filled up from others
	others Limits
}

// ShippedProviders returns the Providers that come with the program.
func ShippedProviders() *Providers {
	p, err := ParseProviders("providers.txt", shipped)
	if err != nil {
		panic(err) // a mistake in the program, which its test finds
	}
	return p
}

// ParseProviders reads text in the format that providers.txt explains. An error begins with name and the line's number.
func ParseProviders(name, text string) (*Providers, error) { return new(Providers).Over(name, text) }

// Over reads text in the same format and returns Providers that know it and, where it says nothing, what p does: its
// sites add hosts to those of p or take them over, and the limits of a Site replace those of p whole; what "*" leaves
// out stays. p is not changed. Errors are those of ParseProviders.
func (p *Providers) Over(name, text string) (*Providers, error) {
	r := reading{
		Providers: &Providers{
			named: make(map[mail.Site]bool), sites: make(map[string]mail.Site),
			given: make(map[mail.Site]Limits), limits: make(map[mail.Site]Limits),
		},
		named: make(map[mail.Site]int), hosts: make(map[string]mail.Site), lines: make(map[mail.Site]int),
	}
	maps.Copy(r.Providers.named, p.named)
	maps.Copy(r.Providers.sites, p.sites)
	maps.Copy(r.given, p.given)
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := r.line(words, number); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
	}
	if line, err := r.fill(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, max(1, cmp.Or(line, number)), err)
	}
	return r.Providers, nil
}

// A reading is Providers while their text is read. Each of the maps is of this text alone.
type reading struct {
	*Providers
	named map[mail.Site]int // the line
	hosts map[string]mail.Site
	lines map[mail.Site]int // of the limits
}

func (r *reading) line(words []string, number int) error {
	if len(words) < 3 {
		return fmt.Errorf("%q needs a name and a value", words[0])
	}
	switch words[0] {
	case "site":
		return r.site(words[1], words[2:], number)
	case "limits":
		site := mail.Site("*")
		if words[1] != "*" {
			var err error
			if site, err = parseSite(words[1]); err != nil {
				return err
			}
		}
		if r.lines[site] != 0 {
			return fmt.Errorf("limits of %s stand in line %d already", site, r.lines[site])
		}
		l, err := parseLimits(words[2:])
		if site == "*" {
			l = l.or(r.given["*"])
		}
		r.lines[site], r.given[site] = number, l
		return err
	}
	return fmt.Errorf("%q is neither site nor limits", words[0])
}

func (r *reading) site(name string, hosts []string, number int) error {
	site := mail.Site(name)
	switch {
	case !isSiteName(name) && name != "*":
		return fmt.Errorf("%q is no name: lower-case letters, digits and hyphens", name)
	case r.named[site] != 0 || site == "*":
		return fmt.Errorf("site %s is named already", site)
	}
	r.named[site], r.Providers.named[site] = number, true
	for _, host := range hosts {
		bare := strings.TrimPrefix(host, ".")
		if !isHostName(bare) || !strings.Contains(bare, ".") || bare != strings.ToLower(bare) {
			return fmt.Errorf("%q is no host name in lower case, with or without a dot in front", host)
		}
		if other, taken := r.hosts[host]; taken {
			return fmt.Errorf("%s belongs to site %s already", host, other)
		}
		r.hosts[host], r.sites[host] = site, site
	}
	return nil
}

// fill completes the limits of each Site by those of all others, and looks at what only the whole text tells. An error
// comes with its line, 0 for the last one.
func (r *reading) fill() (line int, err error) {
	p := r.Providers
	p.others = p.given["*"]
	switch o := p.others; {
	case o == Limits{}:
		return 0, errors.New("no limits for *")
	case o.Connections == 0 || o.Messages == 0 || o.Idle == 0 || o.Age == 0:
		return r.lines["*"], errors.New("limits of * leave something out")
	}
	p.others.Spread = max(1, p.others.Spread)
	bySite := slices.SortedFunc(maps.Keys(p.given), func(a, b mail.Site) int {
		return cmp.Compare(r.lines[a], r.lines[b])
	})
	for _, site := range bySite {
		l, line := p.given[site], r.lines[site]
		full := l.or(p.others)
		if line > 0 && site != "*" {
			if err := p.check(site); err != nil {
				return line, err
			}
		}
		if line > 0 && l.Spread > full.Connections {
			return line,
				fmt.Errorf("%q: each owner needs a connection, and there are %d", "spread="+strconv.Itoa(l.Spread),
					full.Connections)
		}
		full.Spread = min(full.Spread, full.Connections)
		if site != "*" {
			p.limits[site] = full
		}
	}
	return 0, nil
}

func parseLimits(words []string) (Limits, error) {
	var l Limits
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "connections":
			err = setCount(&l.Connections, value)
		case "messages":
			err = setCount(&l.Messages, value)
		case "idle":
			err = setDuration(&l.Idle, value)
		case "age":
			err = setDuration(&l.Age, value)
		case "message_rate":
			err = setRate(&l.MessageRate, value)
		case "connect_rate":
			err = setRate(&l.ConnectRate, value)
		case "connect_burst":
			err = setCount(&l.ConnectBurst, value)
		case "spread":
			err = setCount(&l.Spread, value)
		case "without":
			err = setWithout(&l.Without, value)
		default:
			err = fmt.Errorf("no such limit")
		}
		if err != nil {
			return Limits{}, fmt.Errorf("%q: %w", word, err)
		}
	}
	return l, nil
}

func setCount(to *int, value string) error {
	n, err := strconv.Atoi(value)
	switch {
	case *to != 0:
		return fmt.Errorf("given twice")
	case err != nil || n < 1 || n > 1_000_000:
		return fmt.Errorf("not a number from 1 to 1000000")
	}
	*to = n
	return nil
}

// setRate reads a number of events per second, minute or hour, such as "30/m".
func setRate(to *float64, value string) error {
	count, unit, _ := strings.Cut(value, "/")
	n, err := strconv.Atoi(count)
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	switch {
	case *to != 0:
		return fmt.Errorf("given twice")
	case err != nil || n < 1 || n > 1_000_000 || seconds == 0:
		return fmt.Errorf("not a number from 1 to 1000000 per s, m or h, such as 30/m")
	}
	*to = float64(n) / seconds
	return nil
}

func setDuration(to *time.Duration, value string) error {
	d, err := time.ParseDuration(value)
	switch {
	case *to != 0:
		return fmt.Errorf("given twice")
	case err != nil || d < time.Second || d > 24*time.Hour:
		return fmt.Errorf("not a duration from 1s to 24h")
	}
	*to = d
	return nil
}

// setWithout reads names of extensions. STARTTLS is none of them: TLS is a matter of policy.
func setWithout(to *string, value string) error {
	if *to != "" {
		return fmt.Errorf("given twice")
	}
	value = strings.ToUpper(value)
	for name := range strings.SplitSeq(value, ",") {
		switch name {
		case "CHUNKING", "PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE":
		default:
			return fmt.Errorf("%q is none of CHUNKING, PIPELINING, 8BITMIME, SMTPUTF8 and SIZE", name)
		}
	}
	*to = value
	return nil
}

func (l Limits) or(others Limits) Limits {
	if l.Connections == 0 {
		l.Connections = others.Connections
	}
	if l.Messages == 0 {
		l.Messages = others.Messages
	}
	if l.Idle == 0 {
		l.Idle = others.Idle
	}
	if l.Age == 0 {
		l.Age = others.Age
	}
	if l.MessageRate == 0 {
		l.MessageRate = others.MessageRate
	}
	if l.ConnectRate == 0 {
		l.ConnectRate, l.ConnectBurst = others.ConnectRate, cmp.Or(l.ConnectBurst, others.ConnectBurst)
	}
	if l.Spread == 0 {
		l.Spread = others.Spread
	}
	l.Without = cmp.Or(l.Without, others.Without)
	return l
}

// Limits returns the limits of site, or those of all others.
func (p *Providers) Limits(site mail.Site) Limits {
	if l, ok := p.limits[site]; ok {
		return l
	}
	return p.others
}

// of returns the provider that all hosts belong to, or "".
func (p *Providers) of(hosts []Host) mail.Site {
	var site mail.Site
	for i, h := range hosts {
		s := p.provider(h.Name)
		if s == "" || i > 0 && s != site {
			return ""
		}
		site = s
	}
	return site
}

// provider returns the one that host belongs to, by the host's own name or else the longest suffix, or "".
func (p *Providers) provider(host string) mail.Site {
	if s, ok := p.sites[host]; ok {
		return s
	}
	for i := range len(host) {
		if host[i] == '.' {
			if s, ok := p.sites[host[i:]]; ok {
				return s
			}
		}
	}
	return ""
}

func isSiteName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// isHostName reports whether s can be a host's name: letters, digits, hyphens and, because they exist, underscores,
// with a last label that is no number (RFC 1123 section 2.1).
func isHostName(s string) bool {
	if !domain.IsName(s, domain.MaxName) {
		return false
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	return strings.Trim(s[strings.LastIndexByte(s, '.')+1:], "0123456789") != ""
}
