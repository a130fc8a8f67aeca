package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// config returns the configuration of a node that takes the place of this Postfix.
func (c *conversion) config() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Converted from a configuration of Postfix.")
	host := c.cf.value("myhostname")
	if host == "" {
		host = "mx1.example.net"
		c.note("myhostname", "is not set in main.cf: put the name of the node into millrace.yaml")
	}
	line("hostname: %s", host)
	line("postmaster: %s", c.postmaster())
	line("routes: routes.txt")
	line("listen:")
	line(`  - {addr: ":25"}`)
	c.trusted(line)
	if size, err := strconv.ParseInt(c.cf.value("message_size_limit"), 10, 64); err == nil && size > 0 {
		line("limits: {message_size: %d}", size)
	}
	if cert, key := c.cf.value("smtpd_tls_cert_file"), c.cf.value("smtpd_tls_key_file"); cert != "" {
		if key == "" || strings.HasPrefix(key, "$") {
			key = cert
		}
		line("tls: {cert: %s, key: %s}", c.cf.path(cert), c.cf.path(key))
	}
	if c.forwards() {
		line(
			"# Forwarded mail passes SPF with a reverse-path of its own. millrace init makes a key.",
		)
		line("# srs: {domain: srs.%s, key_file: srs.key}", strings.TrimPrefix(host, "mx1."))
	}
	return b.String()
}

// forwards reports whether an alias leads elsewhere.
func (g *gateway) forwards() bool {
	return slices.ContainsFunc(g.aliases.order, func(e *entry) bool {
		return slices.ContainsFunc(aliasWords(e.value), func(w string) bool {
			_, domain, ok := cutAddress(w)
			_, ours := g.classes[strings.ToLower(domain)]
			return ok && !ours
		})
	})
}

// postmaster returns an address for mail about the node: what postmaster is an alias of, if that is elsewhere.
func (c *conversion) postmaster() string {
	for word, steps := "postmaster", 0; steps < maxDepth; steps++ {
		e := c.users.entries[word]
		if e == nil {
			e = c.aliases.entries[word]
		}
		if e == nil || len(aliasWords(e.value)) == 0 {
			break
		}
		if word = aliasWords(e.value)[0]; isLocalDelivery(word) {
			break
		}
		if _, domain, ok := cutAddress(word); ok && !slices.Contains(c.domains, strings.ToLower(domain)) {
			return word
		}
	}
	c.note("", "postmaster: put an address into millrace.yaml that is in no domain of this node")
	return "ops@elsewhere.example"
}

// trusted writes a listener for mynetworks, which nothing here lets relay on the port for strangers.
func (c *conversion) trusted(line func(string, ...any)) {
	var networks []string
	for _, word := range c.cf.list("mynetworks") {
		p, err := netip.ParsePrefix(strings.NewReplacer("[", "", "]", "").Replace(word))
		if a, bad := netip.ParseAddr(strings.Trim(word, "[]")); err != nil && bad == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil:
			c.note("mynetworks", word+" is no network, and was left out")
		case !p.Addr().IsLoopback():
			networks = append(networks, strconv.Quote(p.Masked().String()))
		}
	}
	if len(networks) == 0 {
		return
	}
	line("  # These may relay anywhere: a port of their own, on an address that only they reach.")
	line(`  # - {addr: "10.0.0.1:2526", relay: trusted, networks: [%s]}`, strings.Join(networks, ", "))
	c.note(
		"mynetworks",
		"relays for whom it names on every port; here a port of their own does, and the line for it in "+
			"millrace.yaml waits for its address",
	)
}

// unread are parameters that are not converted, and what is to be done in their place.
var unread = []struct{ name, why string }{
	{
		"relayhost",
		"mail to other domains went through it; it goes to their MX hosts now, from port 25 of this machine",
	},
	{"sender_dependent_relayhost_maps", "not converted: mail goes to the MX hosts of its domain"},
	{"smtp_sasl_password_maps", "passwords are not copied: a rule with submission://user@host names the user, and " +
		"egress.credentials_file has the password"},
	{"sender_canonical_maps", "not converted: what a client sent is not rewritten"},
	{"recipient_canonical_maps", "not converted: write its lines as rules"},
	{"canonical_maps", "not converted: what a client sent is not rewritten"},
	{"sender_bcc_maps", "not converted: no copies are made of what others send"},
	{"recipient_bcc_maps", "not converted: a rule with several targets makes copies"},
	{"always_bcc", "not converted: a rule with several targets makes copies"},
	{"smtpd_milters", "not converted: millrace authenticates by itself (SPF, DKIM, DMARC, ARC)"},
	{"non_smtpd_milters", "not converted"},
	{"content_filter", "not converted: nothing is filtered by its content"},
	{"smtpd_proxy_filter", "not converted: nothing is filtered by its content"},
	{"header_checks", "not converted"},
	{"body_checks", "not converted"},
	{"check_policy_service", "not converted"},
	{"smtpd_client_restrictions", "not converted: the section score judges clients, with its DNS lists"},
	{"smtpd_helo_restrictions", "not converted: the section score judges clients by their names"},
	{"smtpd_sender_restrictions", "not converted: the section score and DMARC judge senders"},
	{
		"smtpd_recipient_restrictions",
		"not converted: mail for domains without a rule is refused always; DNS lists stand " +
			"in score.lists",
	},
	{"smtpd_tls_chain_files", "not converted: name certificate and key in the section tls"},
	{"smtpd_sasl_auth_enable", "not converted: users cannot log in here"},
}

// noteUnread notes the parameters that are set and were not converted.
func (c *conversion) noteUnread() {
	for _, p := range unread {
		if v := c.cf.value(p.name); c.cf.isSet(p.name) && v != "no" {
			c.note(p.name, p.why)
		}
	}
}

// noteExtensions notes what differs in addresses with an extension.
func (c *conversion) noteExtensions() {
	d := c.cf.value("recipient_delimiter")
	text := "user" + d[:1] + "tag is taken as user; an alias does not put the tag behind its target, as Postfix does"
	if len(d) > 1 {
		text += "; only " + d[:1] + " of " + d + " parts it"
	}
	c.note("recipient_delimiter", text)
}

// noteSubdomains notes that relay_domains names subdomains as well, as it does unless that is switched off.
func (c *conversion) noteSubdomains() {
	p, ok := c.cf.set["parent_domain_matches_subdomains"]
	first := slices.IndexFunc(c.domains, func(d string) bool { return c.classes[d] == relayed })
	if first >= 0 && (!ok || strings.Contains(p.value, "relay_domains")) {
		c.note("relay_domains", "takes mail for all subdomains of its domains too: write @*."+c.domains[first]+
			" and a next hop where they have mail")
	}
}

// noteForeign notes aliases of addresses that are in no domain of this Postfix, and transports of all mail.
func (c *conversion) noteForeign() {
	for _, e := range c.aliases.order {
		if _, domain, ok := cutAddress(e.key); ok && domain != "" {
			if _, ours := c.classes[domain]; !ours {
				c.noteAt(e.file, e.line, e.key+" is in no domain that mail is taken for, and was left out")
			}
		}
	}
	if e := c.transports.entries["*"]; e != nil {
		c.noteAt(e.file, e.line, "is the way of all mail to other domains too; that goes to their MX hosts now")
	}
}
