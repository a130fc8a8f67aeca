package mx

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// maxSite is how long the spelt-out name of a Site may be. It is a key in maps, gossip and logs.
const maxSite = 255

// site names the Site that hosts form.
func (p *Providers) site(hosts []Host) mail.Site {
	if s := p.of(hosts); s != "" {
		return s
	}
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	slices.Sort(names)
	joined := strings.Join(names, ",")
	switch {
	case len(joined) > maxSite:
		digest := sha256.Sum256([]byte(joined))
		return mail.Site(names[0] + ",+" + strconv.Itoa(len(names)-1) + "," + hex.EncodeToString(digest[:8]))
	case !strings.Contains(joined, "."):
		return mail.Site(joined + ".") // a host named like a provider is not the provider
	}
	return mail.Site(joined)
}

// Name returns the Site that is called by a provider's name, by the hosts of a domain with commas, by an address
// literal, or by a next hop as the rules have it. An error says why there is no such Site: no provider of that name,
// hosts of a provider, which go by its name, or no name at all.
func (p *Providers) Name(s string) (mail.Site, error) {
	site, err := parseSite(s)
	if err != nil {
		return "", err
	}
	return site, p.check(site)
}

// check looks at what only the whole of p tells of a name.
func (p *Providers) check(site mail.Site) error {
	s := string(site)
	if isSiteName(s) {
		if !p.named[site] {
			return fmt.Errorf("no site %s", site)
		}
		return nil
	}
	var hosts []Host
	for name := range strings.SplitSeq(s, ",") {
		hosts = append(hosts, Host{Name: name})
	}
	if provider := p.of(hosts); provider != "" {
		return fmt.Errorf("%s is of site %s", site, provider)
	}
	return nil
}

// parseSite returns the Site that s names, as site and package egress would call it.
func parseSite(s string) (mail.Site, error) {
	switch {
	case isSiteName(s):
		return mail.Site(s), nil
	case strings.Contains(s, "://"), strings.HasPrefix(s, unixScheme):
		return parseNextHop(s)
	case strings.HasPrefix(s, "["):
		a, err := parseLiteral(s)
		if err != nil {
			return "", fmt.Errorf("%q is no address literal, such as [192.0.2.1] or [IPv6:2001:db8::1]", s)
		}
		return mail.Site(literalName(a)), nil
	}
	if first, rest, many := strings.Cut(s, ",+"); many { // the name of a Set too large to spell out
		count, sum, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(count)
		octets, err2 := hex.DecodeString(sum)
		if errors.Join(err, err2) != nil || n < 1 || n >= maxHosts || len(octets) != 8 || !isHostName(first) {
			return "", fmt.Errorf("%q names no Site: see millrace cluster status", s)
		}
		return mail.Site(s), nil
	}
	names := strings.Split(strings.TrimSuffix(s, "."), ",")
	for _, name := range names {
		if !isHostName(name) || name != strings.ToLower(name) {
			return "",
				fmt.Errorf("%q names no Site: want a site of this file, host names in lower case with commas, or a "+
					"next hop", s)
		}
	}
	slices.Sort(names)
	joined := strings.Join(names, ",")
	if !strings.Contains(joined, ".") {
		joined += "."
	}
	return mail.Site(joined), nil
}

// unixScheme begins the name of a next hop at a unix socket.
const unixScheme = "lmtp+unix:"

// parseNextHop reads a next hop as it stands in the rules. Its user does not count, and the port of its scheme is not
// told.
func parseNextHop(s string) (mail.Site, error) {
	if file, ok := strings.CutPrefix(s, unixScheme); ok {
		if !strings.HasPrefix(file, "/") {
			return "", fmt.Errorf("%q: the path of a socket begins with a slash", s)
		}
		return mail.Site(unixScheme + path.Clean(file)), nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%q is no next hop", s)
	}
	scheme, known := map[string]struct {
		transport mail.Transport
		port      uint64
	}{
		"smtp": {mail.SMTP, 25}, "smtps": {mail.SMTPS, 465}, "submission": {mail.Submission, 587},
		"lmtp": {mail.LMTP, 24},
	}[u.Scheme]
	port, err := strconv.ParseUint(cmp.Or(u.Port(), "0"), 10, 16)
	host := strings.ToLower(u.Hostname())
	a, notIP := netip.ParseAddr(host)
	if notIP == nil {
		host = a.String()
	}
	if !known || err != nil || u.Path+u.RawQuery+u.Fragment != "" || notIP != nil && !isHostName(host) {
		return "",
			fmt.Errorf("%q is no next hop: want smtp://HOST:PORT, smtps://, submission://, lmtp:// or %s/PATH", s,
				unixScheme)
	}
	if port == scheme.port {
		port = 0
	}
	return mail.Site(mail.NextHop{Transport: scheme.transport, Host: host, Port: uint16(port)}.String()), nil
}
