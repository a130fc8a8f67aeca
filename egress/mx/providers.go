package mx

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/word"
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
	arc    map[mail.Site]mail.ARCUse
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

// ParseProviders reads text in the format that providers.txt explains. The error is *mail.LineErrors with all lines
// that are wrong.
func ParseProviders(name, text string) (*Providers, error) { return new(Providers).Over(name, text) }

// Over reads text in the same format and returns Providers that know it and, where it says nothing, what p does: its
// sites add hosts to those of p or take them over, and the limits of a Site replace those of p whole; what "*" leaves
// out stays. p is not changed. Errors are those of ParseProviders.
func (p *Providers) Over(name, text string) (*Providers, error) {
	r := reading{
		Providers: &Providers{
			named: make(map[mail.Site]bool), sites: make(map[string]mail.Site),
			given: make(map[mail.Site]Limits), limits: make(map[mail.Site]Limits),
			arc: make(map[mail.Site]mail.ARCUse),
		},
		named: make(map[mail.Site]int), hosts: make(map[string]mail.Site), lines: make(map[mail.Site]int),
		arc: make(map[mail.Site]int), wrong: mail.LineErrors{File: name},
	}
	maps.Copy(r.Providers.named, p.named)
	maps.Copy(r.Providers.sites, p.sites)
	maps.Copy(r.given, p.given)
	maps.Copy(r.Providers.arc, p.arc)
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		r.number++
		line, _, _ = strings.Cut(line, "#")
		if words := word.Fields(line); len(words) > 0 {
			r.line(words)
		}
	}
	r.fill()
	if err := r.wrong.Err(); err != nil {
		return nil, err
	}
	return r.Providers, nil
}

// A reading is Providers while their text is read. Each of the maps is of this text alone.
type reading struct {
	*Providers
	named map[mail.Site]int // the line
	hosts map[string]mail.Site
	lines map[mail.Site]int // of the limits
	arc   map[mail.Site]int // the line

	number int // of the line that is read
	wrong  mail.LineErrors
}

// fail notes that a word of the line is wrong.
func (r *reading) fail(at word.Word, format string, args ...any) {
	r.wrong.Add(r.number, at.Column, fmt.Sprintf(format, args...))
}

func (r *reading) line(words []word.Word) {
	kind := words[0]
	read, known := map[string]func(word.Word, []word.Word){
		"site": r.site, "limits": r.limits, "arc": r.arcUse,
	}[kind.Text]
	switch {
	case !known && isSiteName(kind.Text) && len(kind.Text) < 16:
		r.fail(kind, "%q is none of site, limits and arc", kind.Text)
	case !known: // which may be a line of a key
		r.fail(kind, "a line begins with site, limits or arc")
	case len(words) < 3:
		r.fail(kind, "%q needs a name and a value", kind.Text)
	default:
		read(words[1], words[2:])
	}
}

// arcUses are the values of a line of arc.
var arcUses = map[string]mail.ARCUse{"none": mail.ARCUnread, "unproved": mail.ARCOfUnproved, "all": mail.ARCOfAll}

// arcUse reads what a Site does with ARC sets.
func (r *reading) arcUse(name word.Word, words []word.Word) {
	site, err := mail.Site("*"), error(nil)
	if name.Text != "*" {
		site, err = parseSite(name.Text)
	}
	use, known := arcUses[words[0].Text]
	switch {
	case err != nil:
		r.fail(name, "%s", err)
	case !known || len(words) > 1:
		r.fail(words[0], "want one of none, unproved and all")
	case r.arc[site] != 0:
		r.fail(name, "arc of %s stands in line %d already", site, r.arc[site])
	default:
		r.arc[site], r.Providers.arc[site] = r.number, use
	}
}

func (r *reading) limits(name word.Word, words []word.Word) {
	site := mail.Site("*")
	if name.Text != "*" {
		var err error
		if site, err = parseSite(name.Text); err != nil {
			r.fail(name, "%s", err)
			site = ""
		}
	}
	l := r.parseLimits(words)
	switch {
	case site == "":
		return
	case r.lines[site] != 0:
		r.fail(name, "limits of %s stand in line %d already", site, r.lines[site])
		return
	case site == "*":
		l = l.or(r.given["*"])
	}
	r.lines[site], r.given[site] = r.number, l
}

func (r *reading) site(name word.Word, hosts []word.Word) {
	site := mail.Site(name.Text)
	switch {
	case !isSiteName(name.Text) && name.Text != "*":
		r.fail(name, "%q is no name: lower-case letters, digits and hyphens", name.Text)
	case r.named[site] != 0 || site == "*":
		r.fail(name, "site %s is named already", site)
	}
	r.named[site], r.Providers.named[site] = r.number, true
	for _, w := range hosts {
		host := w.Text
		bare := strings.TrimPrefix(host, ".")
		if !isHostName(bare) || !strings.Contains(bare, ".") || bare != strings.ToLower(bare) {
			r.fail(w, "%q is no host name in lower case, with or without a dot in front", host)
			continue
		}
		if other, taken := r.hosts[host]; taken {
			r.fail(w, "%s belongs to site %s already", host, other)
			continue
		}
		r.hosts[host], r.sites[host] = site, site
	}
}

// fill completes the limits of each Site by those of all others, and looks at what only the whole text tells.
func (r *reading) fill() {
	p := r.Providers
	p.others = p.given["*"]
	if len(r.wrong.List) == 0 { // else it may only follow
		switch o := p.others; {
		case o == Limits{}:
			r.wrong.Add(max(1, r.number), 1, "no limits for *")
			return
		case o.Connections == 0 || o.Messages == 0 || o.Idle == 0 || o.Age == 0:
			r.wrong.Add(max(1, cmp.Or(r.lines["*"], r.number)), 1, "limits of * leave something out")
			return
		}
	}
	p.others.Spread = max(1, p.others.Spread)
	for site, line := range r.arc {
		if site == "*" {
			continue
		}
		if err := p.check(site); err != nil {
			r.wrong.Add(line, 1, err.Error())
		}
	}
	for site, l := range p.given {
		line, full := r.lines[site], l.or(p.others)
		if line > 0 && site != "*" {
			if err := p.check(site); err != nil {
				r.wrong.Add(line, 1, err.Error())
			}
		}
		if line > 0 && full.Connections > 0 && l.Spread > full.Connections {
			r.wrong.Add(line, 1, fmt.Sprintf("%q: each owner needs a connection, and there are %d",
				"spread="+strconv.Itoa(l.Spread), full.Connections))
		}
		full.Spread = min(full.Spread, full.Connections)
		if site != "*" {
			p.limits[site] = full
		}
	}
}

// parseLimits reads the limits of a line.
func (r *reading) parseLimits(words []word.Word) (l Limits) {
	for _, w := range words {
		if err := l.set(w.Text); err != nil {
			r.fail(w, "%q: %s", w.Text, err)
		}
	}
	return l
}

// set sets what a word says, such as "connections=5".
func (l *Limits) set(text string) error {
	key, value, _ := strings.Cut(text, "=")
	switch key {
	case "connections":
		return setCount(&l.Connections, value)
	case "messages":
		return setCount(&l.Messages, value)
	case "idle":
		return setDuration(&l.Idle, value)
	case "age":
		return setDuration(&l.Age, value)
	case "message_rate":
		return setRate(&l.MessageRate, value)
	case "connect_rate":
		return setRate(&l.ConnectRate, value)
	case "connect_burst":
		return setCount(&l.ConnectBurst, value)
	case "spread":
		return setCount(&l.Spread, value)
	case "without":
		return setWithout(&l.Without, value)
	}
	return errors.New("no such limit; there are connections, messages, idle, age, message_rate, connect_rate, " +
		"connect_burst, spread and without")
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

// ARC returns what site does with ARC sets.
func (p *Providers) ARC(site mail.Site) mail.ARCUse {
	if use, ok := p.arc[site]; ok {
		return use
	}
	return p.arc["*"]
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
