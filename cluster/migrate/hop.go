package migrate

import (
	"cmp"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
)

// transportOf returns the entry of transport_maps for an address, or the transport of its class. The entry is nil where
// none was found.
func (g *gateway) transportOf(user, domain string) (transport string, from *entry) {
	for _, key := range []string{user + "@" + domain, g.bare(user) + "@" + domain, domain} {
		if e := g.transports.entries[key]; e != nil {
			return e.value, e
		}
	}
	for parent := domain; ; {
		_, rest, ok := strings.Cut(parent, ".")
		if !ok {
			break
		}
		parent = rest
		if e := g.transports.entries["."+parent]; e != nil {
			return e.value, e
		}
	}
	if e := g.transports.entries["*"]; e != nil {
		return e.value, e
	}
	if g.transports.all != nil {
		return g.transports.all.value, g.transports.all
	}
	at, ok := g.classes[domain]
	switch {
	case !ok:
		return g.cf.value("default_transport"), nil
	case at == local && g.cf.isSet("mailbox_transport"):
		return g.cf.value("mailbox_transport"), nil
	case at == local:
		return g.cf.value("local_transport"), nil
	case at == mailbox:
		return g.cf.value("virtual_transport"), nil
	case at == relayed:
		return g.cf.value("relay_transport"), nil
	}
	return "error:5.1.1 User unknown", nil
}

// deferred is the action for what could not be converted: mail waits at its senders and does not go astray.
const deferred = "tempfail 451 4.3.5 Where this mail goes was not converted"

// hop returns the action of a rule that takes mail for an address where Postfix does, and what is to be said of it.
func (g *gateway) hop(user, domain string) (action, remark string) {
	transport, from := g.transportOf(user, domain)
	name, next, _ := strings.Cut(transport, ":")
	if name == "" && from != nil { // the transport that it would have without the table
		var fixed string
		name, fixed, _ = strings.Cut(g.cf.value(map[class]string{
			local: "local_transport", mailbox: "virtual_transport", relayed: "relay_transport",
			virtual: "relay_transport",
		}[g.classes[domain]]), ":")
		next = cmp.Or(next, fixed)
	}
	if from == nil && g.transports.unread {
		return deferred, "a table of transport_maps was not read: write where this mail goes"
	}
	switch name {
	case "smtp", "relay", "esmtp":
		return g.smtpHop(next, domain)
	case "lmtp":
		return g.lmtpHop(next)
	case "error":
		return "reject " + withCode(next, "550", "5.1.1"), ""
	case "retry":
		return "tempfail " + withCode(next, "450", "4.0.0"), ""
	case "discard":
		return "drop", ""
	case "hold":
		return deferred, "mail is held: nothing is held here, its senders keep it"
	case "local", "virtual":
		return deferred, "delivers into mailboxes of this machine, and there are none here: write the address of an " +
			"LMTP server, such as lmtp+unix:/run/dovecot/lmtp"
	}
	return deferred, "the transport " + name + " is a program or a service of master.cf: write where its mail goes"
}

// withCode returns the text of an error or retry transport with its codes.
func withCode(text, code, enhanced string) string {
	first, rest, _ := strings.Cut(text, " ")
	if strings.Count(first, ".") == 2 && first[0] == code[0] {
		enhanced, text = first, rest
	}
	if text == "" {
		text = "Mail for this address is refused"
	}
	return code + " " + enhanced + " " + text
}

// smtpHop returns the next hop of an SMTP transport.
func (g *gateway) smtpHop(next, domain string) (action, remark string) {
	if next == "" && g.cf.isSet("relayhost") {
		next = g.cf.value("relayhost")
	}
	if next == "" {
		return deferred, "goes to the MX of " + domain + ", which is this node soon: write the host that has its " +
			"mailboxes, such as smtp://10.0.0.7"
	}
	if strings.ContainsAny(next, ", ") {
		return deferred, "goes to hosts that are tried one after the other: write try and each as a next hop"
	}
	host, port := cutPort(next)
	if port == "smtp" {
		port = "25"
	}
	bracketed := strings.HasPrefix(host, "[")
	host = strings.TrimPrefix(strings.Trim(host, "[]"), "ipv6:")
	if !bracketed {
		remark = "the MX of " + host + " was looked up; a next hop here is that host itself"
	}
	return "smtp://" + withPort(host, port), remark
}

// lmtpHop returns the next hop of an LMTP transport.
func (g *gateway) lmtpHop(next string) (action, remark string) {
	if path, ok := strings.CutPrefix(next, "unix:"); ok {
		if !filepath.IsAbs(path) {
			path = filepath.Join(g.cf.value("queue_directory"), path)
		}
		return "lmtp+unix:" + path, ""
	}
	host, port := cutPort(strings.TrimPrefix(next, "inet:"))
	if host == "" {
		return deferred, "the LMTP server has no address"
	}
	return "lmtp://" + withPort(strings.TrimPrefix(strings.Trim(host, "[]"), "ipv6:"), port), ""
}

// cutPort parts a host, which may stand in brackets, from its port.
func cutPort(next string) (host, port string) {
	if end := strings.LastIndexByte(next, ']'); end >= 0 {
		return next[:end+1], strings.TrimPrefix(next[end+1:], ":")
	}
	if a, err := netip.ParseAddr(next); err == nil && a.Is6() {
		return next, ""
	}
	host, port, _ = strings.Cut(next, ":")
	return host, port
}

// withPort returns a host and its port as a URL has them. An IPv6 address stands in brackets.
func withPort(host, port string) string {
	if port != "" {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}
