package mx

import (
	"cmp"
	_ "embed"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

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
}

// Providers know which MX hosts belong to one provider and how its sessions are kept. They are immutable.
type Providers struct {
	sites  map[string]mail.Site // by ".suffix" or host name
	limits map[mail.Site]Limits
	others Limits
}

// ShippedProviders gives those that come with the program.
func ShippedProviders() *Providers {
	p, err := ParseProviders("providers.txt", shipped)
	if err != nil {
		panic(err) // a mistake in the program, which its test finds
	}
	return p
}

// ParseProviders reads text in the format that providers.txt explains. An error begins with name and the line's number.
func ParseProviders(name, text string) (*Providers, error) {
	p := &Providers{sites: make(map[string]mail.Site), limits: make(map[mail.Site]Limits)}
	named := make(map[mail.Site]bool)
	lines := make(map[mail.Site]int) // of the limits
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := p.line(words, named, lines, number); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
	}
	if lines["*"] == 0 {
		return nil, fmt.Errorf("%s:%d: no limits for *", name, max(1, number))
	}
	p.others = p.limits["*"]
	delete(p.limits, "*")
	if p.others.Connections == 0 || p.others.Messages == 0 || p.others.Idle == 0 || p.others.Age == 0 {
		return nil, fmt.Errorf("%s:%d: limits of * leave something out", name, lines["*"])
	}
	for site, l := range p.limits {
		if !named[site] {
			return nil, fmt.Errorf("%s:%d: no site %s", name, lines[site], site)
		}
		p.limits[site] = l.or(p.others)
	}
	return p, nil
}

func (p *Providers) line(words []string, named map[mail.Site]bool, lines map[mail.Site]int, number int) error {
	if len(words) < 3 {
		return fmt.Errorf("%q needs a name and a value", words[0])
	}
	site := mail.Site(words[1])
	if !isSiteName(words[1]) && words[1] != "*" {
		return fmt.Errorf("%q is no name: lower-case letters, digits and hyphens", words[1])
	}
	switch words[0] {
	case "site":
		if named[site] || site == "*" {
			return fmt.Errorf("site %s is named already", site)
		}
		named[site] = true
		for _, host := range words[2:] {
			bare := strings.TrimPrefix(host, ".")
			if !isHostName(bare) || !strings.Contains(bare, ".") || bare != strings.ToLower(bare) {
				return fmt.Errorf("%q is no host name in lower case, with or without a dot in front", host)
			}
			if other, taken := p.sites[host]; taken {
				return fmt.Errorf("%s belongs to site %s already", host, other)
			}
			p.sites[host] = site
		}
		return nil
	case "limits":
		if lines[site] != 0 {
			return fmt.Errorf("limits of %s stand in line %d already", site, lines[site])
		}
		lines[site] = number
		l, err := parseLimits(words[2:])
		p.limits[site] = l
		return err
	}
	return fmt.Errorf("%q is neither site nor limits", words[0])
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
	return l
}

// Limits gives those of site, or those of all others.
func (p *Providers) Limits(site mail.Site) Limits {
	if l, ok := p.limits[site]; ok {
		return l
	}
	return p.others
}

// of gives the provider that all hosts belong to, or "".
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

// provider gives the one that host belongs to, by the host's own name or else the longest suffix.
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

// isHostName reports whether s can be a host's name: letters, digits, hyphens and, because they exist, underscores, with a
// last label that is no number (RFC 1123 section 2.1).
func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i] | 0x20
			if (c < 'a' || c > 'z') && (label[i] < '0' || label[i] > '9') && label[i] != '-' && label[i] != '_' {
				return false
			}
		}
		last = label
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	return strings.Trim(last, "0123456789") != ""
}
