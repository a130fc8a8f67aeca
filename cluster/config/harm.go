package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/network"
)

// A harm is a value that serves and hurts, and what to write in its place.
type harm struct {
	field, why string
}

// harms returns the values that are taken and hurt the one who wrote them, without a fault at the start.
func (c *Config) harms() (out []Problem) {
	for _, list := range [][]harm{
		c.hastyHarms(), c.rateHarms(), c.sizeHarms(), c.portHarms(), c.reachHarms(), c.askedHarms(), c.repeatHarms(),
	} {
		for _, h := range list {
			out = append(out, c.Problem(h.field, h.why))
		}
	}
	return out
}

// hastyHarms are times after which too little, or too much, has happened.
func (c *Config) hastyHarms() (out []harm) {
	const tooSoon = "is so short that hosts which are merely busy are taken for dead; the default is "
	for _, d := range []struct {
		field       string
		value       Duration
		least, most time.Duration // 0: none
		why         string
	}{
		{"deadlines.rcpt", c.Deadlines.Rcpt, 10 * time.Second, 0, tooSoon + "1m"},
		{"deadlines.data", c.Deadlines.Data, 10 * time.Second, 0, tooSoon + "1m"},
		{"deadlines.write", c.Deadlines.Write, 10 * time.Second, 0, tooSoon + "2m"},
		{
			"deadlines.commit", c.Deadlines.Commit, time.Minute, 0,
			"is so short that hosts which scan a message answer later: what they took then comes a second time; " +
				"the default is 9m",
		},
		{
			"deadlines.lend", c.Deadlines.Lend, 0, time.Minute,
			"is how long a client that says nothing keeps a session at the next hop from all others; the default is 5s",
		},
		{
			"drain", c.Drain, time.Second, 0,
			"cuts each message that is under way at SIGTERM, so that a restart puts them off; the default is 30s",
		},
		{
			"drain", c.Drain, 0, time.Hour,
			"is longer than systemd or Kubernetes waits before it kills the node, which then cuts what it had; " +
				"the default is 30s",
		},
	} {
		switch v := time.Duration(d.value); {
		case d.least > 0 && v < d.least:
			out = append(out, harm{d.field, d.value.String() + " " + d.why})
		case d.most > 0 && v > d.most:
			out = append(out, harm{d.field, d.value.String() + " " + d.why})
		}
	}
	return out
}

// rateHarms are rates of which one uses up another that is to be wider.
func (c *Config) rateHarms() (out []harm) {
	inside := func(section, wide string, w Rate, narrow string, n Rate, why string) {
		if w.Count > 0 && n.Count > 0 && float64(w.Count)/w.Per.Seconds() < float64(n.Count)/n.Per.Seconds() {
			out = append(out, harm{section + wide, "is below " + section + narrow + ": " + why})
		}
	}
	if s := c.Submission; s != nil {
		inside("submission.", "recipients", s.Recipients, "messages", s.Messages,
			"a message has one recipient at least, so that the rate of messages is never reached")
	}
	if c.Score == nil {
		return out
	}
	r := &c.Score.Rates
	const all = "one address uses up what its whole network has, and its neighbours are put off"
	inside("score.rates.", "network", r.Network, "client", r.Client, all)
	inside("score.rates.", "network_messages", r.NetworkMessages, "messages", r.Messages, all)
	inside("score.rates.", "network_refused", r.NetworkRefused, "refused", r.Refused, all)
	inside("score.rates.", "recipients", r.Recipients, "messages", r.Messages,
		"a message has one recipient at least, so that the rate of messages is never reached")
	inside("score.rates.", "domain", r.Domain, "recipient", r.Recipient,
		"one recipient uses up what the whole domain has, and the others are put off")
	return out
}

// sizeHarms are limits that let one client have too much.
func (c *Config) sizeHarms() (out []harm) {
	l := &c.Limits
	if l.Recipients > 1000 {
		out = append(out, harm{"limits.recipients", strconv.Itoa(l.Recipients) + " in one transaction: its client " +
			"waits for each of them before the message, and one fault puts off all; senders go on with further " +
			"transactions by themselves (the default is 100)"})
	}
	if l.MessageSize > 1<<30 {
		out = append(out, harm{"limits.message_size", l.MessageSize.String() + " in one message: hardly any " +
			"destination takes so much, and a session there is held for as long as it takes"})
	}
	n := &l.ConnectionsPerNetwork
	for _, one := range []struct {
		key   string
		limit int
	}{{"/24", n.Net24}, {"/56", n.Net56}, {"/48", n.Net48}} {
		_, network := c.places["limits.connections_per_network."+one.key]
		_, client := c.places["limits.connections_per_client"]
		switch {
		case one.limit >= l.ConnectionsPerClient:
		case network:
			out = append(out, harm{"limits.connections_per_network." + one.key,
				"is below limits.connections_per_client, " + strconv.Itoa(l.ConnectionsPerClient) + ": one address " +
					"takes what its whole network has"})
		case client:
			out = append(out, harm{"limits.connections_per_client", fmt.Sprintf("is above limits."+
				"connections_per_network.%s, %d, which holds first", one.key, one.limit)})
		}
	}
	return out
}

// portHarms are listeners at ports where clients expect another protocol.
func (c *Config) portHarms() (out []harm) {
	for i := range c.Listen {
		l, at := &c.Listen[i], fmt.Sprintf("listen[%d]", i)
		a, err := listenedOn(l.Addr)
		if err != nil {
			continue
		}
		implicit := l.TLS == "implicit"
		switch port := a.Port(); {
		case port == 465 && !implicit:
			out = append(out, harm{at + ".addr", "at port 465 clients begin with TLS and wait for an answer: say " +
				"tls: implicit"})
		case implicit && (port == 25 || port == 587):
			out = append(out, harm{at + ".tls", "at port " + strconv.Itoa(int(port)) + " clients begin in clear and " +
				"wait for a greeting: leave tls out for STARTTLS"})
		case port == 25 && l.Submission:
			out = append(out, harm{at + ".submission", "at port 25 other hosts bring their mail, and none of them " +
				"logs in: users have 465 and 587"})
		case port == 587 && !l.Submission && l.Relay == "" && len(l.ProxyProtocol) == 0:
			out = append(out, harm{at + ".addr", "at port 587 mail programs log in, which they can here only with " +
				"submission: true; other hosts come to port 25"})
		}
	}
	return out
}

// reachHarms are addresses that others cannot reach, or that all can.
func (c *Config) reachHarms() (out []harm) {
	for i, text := range c.Egress.Addresses {
		a, err := netip.ParseAddr(text)
		if err == nil && !network.IsPublic(a.Unmap()) && !c.Egress.AllowPrivate && !isDocumentation(a) {
			out = append(out, harm{fmt.Sprintf("egress.addresses[%d]", i), text + " is no address that destinations " +
				"see: name the public one behind it"})
		}
	}
	for i, s := range c.Egress.Source {
		if why := hostnameDoubt(s.Helo); s.Helo != "" && s.Helo[0] != '[' && why != "" {
			out = append(out, harm{fmt.Sprintf("egress.source[%d]", i), strconv.Quote(s.Helo) + why})
		}
	}
	if k := c.Cluster; k != nil && len(k.Join)+len(k.Members) > 0 {
		seen, field := k.Bind, "cluster.bind"
		if k.Advertise != "" {
			seen, field = k.Advertise, "cluster.advertise"
		}
		for _, one := range []harm{{field, seen}, {"cluster.peer", k.Peer}} {
			a, err := listenedOn(one.why)
			if err == nil && a.Addr().IsLoopback() && !slices.ContainsFunc(k.Join, isOnLoopback) {
				out = append(out, harm{one.field, one.why + " is this machine alone: other nodes cannot reach it"})
			}
		}
	}
	if c.Redis != nil {
		u, err := url.Parse(c.Redis.URL)
		if err == nil && u.Scheme == "redis" {
			if a, err := netip.ParseAddr(u.Hostname()); err == nil && network.IsPublic(a.Unmap()) {
				out = append(out, harm{"redis.url", "goes to a public address in clear: write rediss://, or use a " +
					"private network"})
			}
		}
	}
	return out
}

// isDocumentation reports whether an address stands for another one in examples (RFC 5737, RFC 3849).
func isDocumentation(a netip.Addr) bool {
	kind, _ := network.Special(a.Unmap())
	return kind == network.Documentation
}

// isOnLoopback reports whether host:port is on this machine.
func isOnLoopback(addr string) bool {
	a, err := listenedOn(addr)
	return err == nil && a.Addr().IsLoopback()
}

// openResolvers are those of large providers that anyone may ask, whom DNS lists refuse or give wrong answers.
var openResolvers = []string{
	"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "149.112.112.112", "208.67.222.222", "208.67.220.220",
	"2606:4700:4700::1111", "2606:4700:4700::1001", "2001:4860:4860::8888", "2001:4860:4860::8844", "2620:fe::fe",
}

// askedHarms are name servers that do not say what is wanted, or of which anyone may forge the answers.
func (c *Config) askedHarms() (out []harm) {
	for i, text := range c.DNS.Servers {
		a, err := netip.ParseAddrPort(text)
		if err != nil {
			continue
		}
		field := fmt.Sprintf("dns.servers[%d]", i)
		if c.Score != nil && len(c.Score.Lists) > 0 && slices.Contains(openResolvers, a.Addr().Unmap().String()) {
			out = append(out, harm{field, "DNS lists (score.lists) do not answer those who ask through " + text +
				", which all the world does: run a resolver of your own, such as unbound"})
		}
		if c.DNS.TrustAD && network.IsPublic(a.Addr().Unmap()) {
			out = append(out, harm{field, "with dns.trust_ad, who is in the path to " + text +
				" forges answers that count as signed: a resolver on this machine"})
		}
	}
	return out
}

// repeatHarms are entries of lists that stand there twice, mostly where another one was meant.
func (c *Config) repeatHarms() (out []harm) {
	for _, list := range c.wordLists() {
		for i, word := range list.words {
			same := func(other string) bool {
				return ascii.EqualFold(strings.TrimSuffix(other, "."), strings.TrimSuffix(word, "."))
			}
			if first := slices.IndexFunc(list.words[:i], same); first >= 0 {
				out = append(out, harm{fmt.Sprintf("%s[%d]", list.field, i),
					fmt.Sprintf("%s stands there twice, first as entry %d", word, first+1)})
			}
		}
	}
	return out
}

// A wordList is a list of names, addresses or networks.
type wordList struct {
	field string
	words []string
}

// wordLists returns the lists in which nothing is to stand twice, but for those that Validate looks at.
func (c *Config) wordLists() []wordList {
	lists := []wordList{{"dmarc.lists", c.DMARC.Lists}, {"egress.addresses", c.Egress.Addresses}}
	if c.ARC != nil {
		lists = append(lists, wordList{"arc.trust", c.ARC.Trust})
	}
	if c.Doctor != nil {
		lists = append(lists, wordList{"doctor.domains", c.Doctor.Domains})
	}
	if c.Cluster != nil {
		lists = append(lists, wordList{"cluster.join", c.Cluster.Join})
	}
	if c.Events != nil {
		for i, r := range c.Events.Receivers {
			at := fmt.Sprintf("events.receivers[%d].", i)
			lists = append(lists, wordList{at + "types", r.Types}, wordList{at + "domains", r.Domains},
				wordList{at + "rules", r.Rules})
		}
		lists = append(lists, wordList{"events.allow_private", networkTexts(c.Events.AllowPrivate)})
	}
	for i := range c.Listen {
		l, at := &c.Listen[i], fmt.Sprintf("listen[%d].", i)
		lists = append(lists, wordList{at + "networks", networkTexts(l.Networks)},
			wordList{at + "proxy_protocol", networkTexts(l.ProxyProtocol)},
			wordList{at + "xclient", networkTexts(l.Xclient)})
	}
	return append(lists, wordList{"telemetry.traceparent", networkTexts(c.Telemetry.Traceparent)})
}

// networkTexts returns networks as they are written.
func networkTexts(list []Network) (out []string) {
	for _, n := range list {
		out = append(out, n.String())
	}
	return out
}
