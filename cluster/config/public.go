package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// Public is the HTTP server for strangers.
type Public struct {
	Addr      string    `yaml:"addr"`
	URL       string    `yaml:"url"`
	TLS       string    `yaml:"tls"` // "" is the certificate of the node, or "none"
	Forwarded []Network `yaml:"forwarded"`
	Egress    []string  `yaml:"egress"` // addresses
	MTASTS    *MTASTS   `yaml:"mta_sts"`
}

// MTASTS is the policy of MTA-STS (RFC 8461) that hosted domains may point to.
type MTASTS struct {
	Mode    string   `yaml:"mode"`    // "testing", "enforce" or "none"
	MX      []string `yaml:"mx"`      // hosts, "*." in front for all of a domain
	MaxAge  Duration `yaml:"max_age"` // at most longestPolicy
	Domains []string `yaml:"domains"` // none: all that are hosted
}

const (
	// longestPolicy is the longest that a policy may be kept (RFC 8461 section 3.2), in whole hours.
	longestPolicy = 31557600 * time.Second
	// maxPage bounds the URL of a page that replies name, in octets: a line of a reply has 512.
	maxPage = 150
)

// InTLS reports whether the server speaks TLS. A nil Public speaks nothing.
func (p *Public) InTLS() bool { return p != nil && p.TLS != "none" }

// setDefaults sets what is not written.
func (p *Public) setDefaults(hostname string) {
	if m := p.MTASTS; m != nil {
		setDefault(&m.Mode, "testing")
		setDefault(&m.MaxAge, Duration(7*24*time.Hour))
		if m.MX == nil {
			m.MX = []string{hostname}
		}
	}
}

// RefusalPage returns what replies that refuse by policy say in front of their id, so that their reader finds the page
// about it; "" without a page. A page that score.url names is another server's, and that of ours has the id in its
// link.
func (c *Config) RefusalPage() string {
	switch {
	case c.Score != nil && c.Score.URL != "":
		return "; see " + c.Score.URL + " id="
	case c.Public != nil:
		return "; see " + strings.TrimSuffix(c.Public.URL, "/") + "/why?id="
	}
	return ""
}

// EgressAddrs returns the addresses that mail of this node comes from, as others see them: those of egress.addresses,
// else those of egress.source that are public. There are none if neither says.
func (c *Config) EgressAddrs() []netip.Addr {
	found := PublicAddrs(c.Egress.Addresses)
	if len(found) == 0 {
		found = PublicAddrs(c.Egress.SourceAddrs())
	}
	return found
}

// PublicAddrs returns the addresses of a list that others see. Those for documentation count as such.
func PublicAddrs(texts []string) (all []netip.Addr) {
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		if kind, _ := network.Special(a); kind == "" || kind == network.Documentation {
			all = append(all, a)
		}
	}
	return all
}

// page requires the URL of a web page that stands in replies.
func (v *complaints) page(field, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || !ascii.Is(text) ||
		strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		v.add(field, "is no URL of a web page")
	case len(text) > maxPage:
		v.add(field, fmt.Sprintf("is longer than %d characters: it stands in replies, whose lines are short", maxPage))
	}
}

// public checks the section.
func (v *validator) public(c *Config) {
	p := c.Public
	v.address("public.addr", p.Addr, "0.0.0.0:8443")
	v.takeAddress("public.addr", p.Addr)
	before := len(v.problems)
	v.url("public.url", p.URL)
	if len(v.problems) == before {
		v.page("public.url", p.URL)
	}
	if u, err := url.Parse(p.URL); err == nil && len(v.problems) == before &&
		(strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil) {
		v.add("public.url", "is a scheme and a host alone, such as https://mx.example.net: the pages have paths of "+
			"their own")
	}
	if p.TLS != "" && p.TLS != "none" {
		v.add("public.tls", fmt.Sprintf("%q is not none: leave it out for the certificate of the section tls", p.TLS))
	}
	for i, n := range p.Forwarded {
		if isWide(n.Prefix) {
			v.add(fmt.Sprintf("public.forwarded[%d]", i), "each client could say that it is another one")
		}
	}
	for i, text := range p.Egress {
		if _, err := netip.ParseAddr(text); err != nil {
			v.add(fmt.Sprintf("public.egress[%d]", i), fmt.Sprintf("%q is not an IP address", text))
		} else if len(PublicAddrs([]string{text})) == 0 {
			v.add(fmt.Sprintf("public.egress[%d]", i), text+" is no address that others see")
		}
	}
	if p.MTASTS != nil {
		v.mtaSTS(c, p.MTASTS)
	}
}

// mtaSTS checks the policy of MTA-STS.
func (v *validator) mtaSTS(c *Config, m *MTASTS) {
	v.oneOf("public.mta_sts.mode", m.Mode, "testing", "enforce", "none")
	if m.Mode == "enforce" && c.TLS == nil {
		v.add("public.mta_sts.mode", "senders deliver nothing to a certificate that is self-signed: enforce needs a "+
			"tls section")
	}
	if d := time.Duration(m.MaxAge); d < time.Hour || d > longestPolicy {
		v.add("public.mta_sts.max_age", fmt.Sprintf("%s is not between 1h and a year, 8766h", m.MaxAge))
	}
	if len(m.MX) == 0 {
		v.add("public.mta_sts.mx", "is empty: leave it out for hostname")
	}
	for i, host := range m.MX {
		if name := strings.TrimPrefix(host, "*."); name != c.Hostname || !isDomain(name) {
			v.domain(fmt.Sprintf("public.mta_sts.mx[%d]", i), name)
		}
	}
	if !slices.Contains(m.MX, c.Hostname) && mail.IsDomain(c.Hostname) &&
		!slices.ContainsFunc(m.MX, func(host string) bool { return strings.HasPrefix(host, "*.") }) {
		v.add("public.mta_sts.mx", "lacks hostname: senders that obey the policy would not deliver here")
	}
	for i, name := range m.Domains {
		v.domain(fmt.Sprintf("public.mta_sts.domains[%d]", i), name)
	}
}
