package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/egress"
	"github.com/millrace/millrace/egress/probe"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// largeProviders are domains whose MX hosts CheckEgress connects to. Their MX hosts are hardly ever down together.
var largeProviders = []string{"gmail.com", "outlook.com", "yahoo.com"}

// elsewhere are hosts that listen at another port than MX hosts do. Where they are reached and no MX host is, it is the
// port that is closed on the way.
var elsewhere = []string{"smtp://smtp.gmail.com:587", "smtp://smtp-mail.outlook.com:587"}

// maxHosts bounds the hosts of a question, and those beside them: all are connected to at once.
const maxHosts = 16

// egress returns what looks whether the port of MX hosts can be reached from each of our addresses, and whether others
// will take mail from these.
func (k *checker) egress(q *CheckQuestion) (func(context.Context) NodeChecked, error) {
	hosts, others := q.Hosts, q.Beside
	if len(hosts) == 0 {
		hosts = largeProviders
		if len(others) == 0 {
			others = elsewhere
		}
	}
	hops, err := k.nextHops(hosts)
	if err != nil {
		return nil, err
	}
	beside, err := k.nextHops(others)
	if err != nil {
		return nil, err
	}
	sources, _ := sourcesOf(&k.cfg.Egress)
	if len(sources) == 0 {
		sources = []netip.Addr{{}}
	}
	return func(ctx context.Context) NodeChecked {
		out := NodeChecked{OK: true, Says: []string{}, Hosts: []HostChecked{}}
		var seen []netip.Addr
		for _, source := range sources {
			how := egress.Reach{Most: q.each(), Addrs: 2, Source: source, Clear: true}
			found := k.reachAll(ctx, hops, how, &out)
			says, open := concludeEgress(found, func() bool { return anyAnswers(k.reachAll(ctx, beside, how, &out)) })
			if source.IsValid() {
				says = "from " + source.String() + ": " + says
			}
			out.OK = out.OK && open
			out.Says = append(out.Says, says)
			seen = append(seen, addressesIn(found)...)
		}
		good, says := k.identity(ctx, seen)
		out.OK = out.OK && good
		out.Says = append(out.Says, says...)
		return out
	}, nil
}

// nextHops reads next hops and domains, maxHosts at most.
func (k *checker) nextHops(texts []string) (hops []mail.NextHop, err error) {
	if len(texts) > maxHosts {
		return nil, fmt.Errorf("%d hosts: at most %d are tried at a time", len(texts), maxHosts)
	}
	for _, text := range texts {
		h, err := k.nextHop(text)
		if err != nil {
			return nil, err
		}
		hops = append(hops, h)
	}
	return hops, nil
}

// reachAll asks next hops and adds what was found to out.
func (k *checker) reachAll(
	ctx context.Context, hops []mail.NextHop, how egress.Reach, out *NodeChecked,
) []HostChecked {
	each := make([][]egress.Reached, len(hops))
	var asking sync.WaitGroup
	for i, h := range hops {
		asking.Go(func() { // ends with ctx
			var err error
			if each[i], err = k.relay.Reach(ctx, mail.Delivery{NextHop: h}, how); err != nil {
				each[i] = []egress.Reached{{Host: h.Host, Found: probe.Failed(probe.StepAddress, err)}}
			}
		})
	}
	asking.Wait()
	all := hostsChecked(slices.Concat(each...))
	if how.Source.IsValid() {
		for i := range all {
			all[i].Source = how.Source.String()
		}
	}
	out.Hosts = append(out.Hosts, all...)
	return all
}

// connects reports whether an address accepted a connection.
func connects(h *HostChecked) bool {
	return slices.ContainsFunc(h.Steps, func(s probe.Step) bool { return s.Name == probe.StepTCP && s.OK })
}

// anyAnswers reports whether one of several addresses accepted a connection.
func anyAnswers(hosts []HostChecked) bool {
	return slices.ContainsFunc(hosts, func(h HostChecked) bool { return connects(&h) })
}

// concludeEgress says what the tries to reach MX hosts come to. elsewhere reports whether hosts are reached at another
// port; it is asked if no MX host is.
func concludeEgress(found []HostChecked, elsewhere func() bool) (says string, open bool) {
	faults := make(map[probe.Fault]int)
	answer, mute := 0, 0
	for i := range found {
		switch failed := failing(found[i].Steps); {
		case found[i].Open:
			answer++
		case connects(&found[i]):
			mute++
		case failed != nil:
			faults[failed.Fault]++
		}
	}
	tried := answer + mute
	for _, n := range faults {
		tried += n
	}
	all := func(f probe.Fault) bool { return faults[f] == tried }
	switch {
	case answer > 0:
		says = fmt.Sprintf("port 25 is open: %d of %d addresses answer", answer, tried)
		if faults[probe.NoRoute] > 0 {
			says += "; the others have no route, as addresses of IPv6 have where there is none"
		}
		return says, true
	case tried == 0:
		return "there was no address to try", false
	case mute > 0:
		return "port 25 is open, but no host of these talks to us: a box on the way answers in their place, or they " +
			"refuse our address; the steps have their words", false
	case faults[probe.NoSource] > 0:
		return "the address to connect from is not on this machine (egress.source)", false
	case all(probe.Forbidden):
		return "this machine itself forbids it: its firewall, or the rights of this user", false
	case all(probe.NoRoute):
		return "no route: this machine has no way out, so it is not the port", false
	case faults[probe.NoAnswer]+faults[probe.RefusedConnection] == 0:
		return "the hosts were not found, so that nothing can be said of the port: see the name servers (dns.servers)",
			false
	case elsewhere():
		how := "no connection to port 25 is answered, and one to another port is"
		if faults[probe.RefusedConnection] > 0 {
			how = "connections to port 25 are refused on the way, and those to another port are not"
		}
		return "port 25 is blocked by the provider, or by a firewall of yours: " + how + ". Ask the provider to lift " +
			"it, or send through a smarthost, which listens at 587 or 465", false
	case faults[probe.RefusedConnection] > 0:
		return "refused: hosts that take mail from others refuse us at port 25, by themselves or a firewall in their " +
			"place", false
	}
	return "no answer at port 25 and none at another port: a firewall drops all that goes out, or there is no way out",
		false
}

// literal finds an address in brackets, as hosts greet a client with the address that they see.
var literal = regexp.MustCompile(`\[(?:IPv6:)?([0-9a-fA-F.:]+)\]`)

// addressesIn returns the addresses of ours that hosts told us in their reply to EHLO.
func addressesIn(found []HostChecked) (all []netip.Addr) {
	for _, h := range found {
		for _, s := range h.Steps {
			if s.Name != "EHLO" {
				continue
			}
			line, _, _ := strings.Cut(s.Reply, " / ")
			if m := literal.FindStringSubmatch(line); m != nil {
				host, _ := netip.ParseAddrPort(h.Address)
				a, err := netip.ParseAddr(m[1])
				if a = a.Unmap(); err == nil && a != host.Addr() && !slices.Contains(all, a) {
					all = append(all, a)
				}
			}
		}
	}
	return all
}

// identity looks at the names of the addresses that destinations see: those of the configuration, else those that hosts
// told us, else those of this machine. It reports whether they are good.
func (k *checker) identity(ctx context.Context, seen []netip.Addr) (good bool, says []string) {
	addrs, err := readAddrs(k.cfg, "egress.addresses", k.cfg.Egress.Addresses)
	if err != nil {
		return false, []string{err.Error()}
	}
	if len(addrs) == 0 {
		addrs, _ = sourcesOf(&k.cfg.Egress)
	}
	if len(addrs) == 0 {
		addrs = seen
	}
	if len(addrs) == 0 {
		addrs = interfaceAddrs()
	}
	var outside []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); !isInside(a) || len(k.cfg.Egress.Addresses) > 0 {
			outside = append(outside, a)
		}
	}
	if len(outside) == 0 {
		return false, []string{"no address is known by which others see this node: name it in egress.addresses"}
	}
	good = true
	for _, f := range doctor.Addresses(ctx, k.cfg, k.resolver, outside) {
		good = good && f.State == doctor.Ready
		says = append(says, wordsOfName(&f))
	}
	return good, says
}

// wordsOfName says what is known of the name of an address, or of a name that is said in EHLO.
func wordsOfName(f *doctor.Finding) string {
	switch {
	case f.State == doctor.Ready && f.Check == "PTR":
		return f.Name + " is called " + f.Found + " (PTR), as we are in EHLO, and that name leads back to it"
	case f.State == doctor.Ready:
		return strings.TrimSpace(f.Name + " is said in EHLO, and leads to " + f.Found + ". " + f.Fix)
	}
	return f.Check + " of " + f.Name + ": " + f.Found + ". " + f.Reason + " " + f.Fix
}

// addresses returns the addresses that mail of the node comes from.
func (k *checker) addresses(context.Context) NodeChecked {
	out := NodeChecked{OK: true, Says: []string{}, Hosts: []HostChecked{}, Addresses: k.cfg.EgressAddrs()}
	if len(out.Addresses) == 0 {
		out.Addresses = publicOf(interfaceAddrs())
	}
	if len(out.Addresses) == 0 {
		out.OK = false
		out.Says = append(out.Says, "no address is known by which others see this node: name it in egress.addresses")
	}
	return out
}

// publicOf returns those of some addresses that others see, and those for documentation.
func publicOf(addrs []netip.Addr) (all []netip.Addr) {
	for _, a := range addrs {
		if kind, _ := network.Special(a); kind == "" || kind == network.Documentation {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// isInside reports whether an address is one that destinations never see.
func isInside(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) // RFC 6598
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || shared.Contains(a)
}

// ingress connects to a node by its name, at the port of MX hosts, as senders do.
func (k *checker) ingress(ctx context.Context, host string, q *CheckQuestion) NodeChecked {
	reached := k.relay.ReachHost(ctx, host, egress.Reach{Most: q.each()})
	out := NodeChecked{OK: len(reached) > 0, Says: []string{}, Hosts: hostsChecked(reached)}
	for i := range reached {
		h := &out.Hosts[i]
		where := cmp.Or(h.Address, h.Host)
		failed := failing(h.Steps)
		switch {
		case !h.Open && failed != nil && failed.Fault == probe.NoAnswer && failed.Name == probe.StepTCP:
			out.OK = false
			out.Says = append(out.Says, where+" is not reached: no answer. A firewall in front of it, or its "+
				"provider, drops what comes to this port, or the node is down")
		case !h.Open && failed != nil:
			out.OK = false
			out.Says = append(out.Says, fmt.Sprintf("%s is not reached: %s: %s", where, failed.Name,
				cmp.Or(failed.Says, failed.Reply)))
		case !h.Open:
			out.OK = false
			out.Says = append(out.Says, where+" is not reached")
		case !greetsAs(h.Steps, host):
			out.OK = false
			out.Says = append(out.Says, where+" answers, and does not call itself "+host+": it is another host, or a "+
				"box in front of it")
		default:
			out.Says = append(out.Says, where+" is reached and calls itself "+host)
		}
	}
	return out
}

// greetsAs reports whether a greeting has a name.
func greetsAs(steps []probe.Step, name string) bool {
	for _, s := range steps {
		if s.Name == probe.StepGreeting {
			return slices.ContainsFunc(strings.Fields(s.Reply), func(word string) bool {
				return strings.EqualFold(word, name)
			})
		}
	}
	return false
}
