package score

import (
	"context"
	"net/netip"
	"slices"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/router/mail"
)

// mostPTR is how many names of a client are looked at. RFC 7208 section 4.6.4 has the same limit for the same reason:
// whoever owns an address may give it any number of names.
const mostPTR = 10

// connect begins the signals of the address.
func (k *Score) connect() {
	cfg := &k.s.cfg
	entries := found{k: k, from: fromEntries}
	final := k.entries(&entries)
	var zones []string
	var from source
	switch {
	case !k.addr.IsValid():
	case final:
		from = fromStore
	default:
		from = fromStore | fromLists | fromPTR
	}
	if cfg.Lists != nil && from&fromLists != 0 {
		zones = cfg.Lists.Zones(k.addr)
	}
	if len(zones) == 0 {
		from &^= fromLists
	}
	if cfg.Resolver == nil || !k.public {
		from &^= fromPTR
	}
	if cfg.Store == nil {
		from &^= fromStore
		k.known.in = true // what nobody keeps is known: nothing
	}
	g := k.begin(atConnect, from)
	k.mu.Lock()
	k.merge(atConnect, &entries)
	k.stages[atConnect].final = final
	k.mu.Unlock()
	if g == nil {
		return
	}
	asked := make(chan struct{}) // closed when the store has answered
	if from&fromStore == 0 {
		close(asked)
	}
	k.start(atConnect, g, fromPTR, func(ctx context.Context, f *found) {
		select {
		case <-asked:
		case <-ctx.Done():
			f.miss(fromPTR.unheard())
			return
		}
		if !k.over() {
			k.askPTR(ctx, f)
		}
	})
	first := from & fromStore
	if first == 0 {
		first = fromLists
	}
	k.start(atConnect, g, first, func(ctx context.Context, f *found) {
		var known []mail.ListAnswer
		if first == fromStore {
			known = k.askStore(ctx, g, zones, f)
			close(asked)
			if len(zones) == 0 {
				return
			}
			k.report(atConnect, g, f)
			*f = found{k: k, from: fromLists}
			if k.over() {
				return
			}
		}
		k.askLists(ctx, zones, known, f)
	})
}

// over reports whether the client is over a rate of connections: it is told so whatever else is found, and nothing is
// looked up for it but by Look.
func (k *Score) over() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known.limited != nil && k.facts == nil
}

// entries looks at the allow and block lists for the address, and reports whether they have decided.
func (k *Score) entries(f *found) (final bool) {
	if !k.addr.IsValid() {
		return false
	}
	allow, wide := k.s.allow.client(k.addr)
	block, narrow := k.s.block.client(k.addr)
	switch {
	case allow != nil && wide >= narrow:
		f.allow(allow)
	case block != nil:
		f.block(block)
	default:
		f.see("no entry about the address")
		return false
	}
	return true
}

// allow lets an entry of the allow list speak.
func (f *found) allow(e *entry) {
	f.allowed = true
	f.allowedBy = e.place
	f.speak(sigAllow, e.text("allowed here"))
}

// block lets an entry of the block list speak.
func (f *found) block(e *entry) {
	f.blockedBy = e.place
	f.speak(sigBlock, e.text("blocked here"))
}

// askStore asks what is known of the client, and gives what is known of it on lists.
func (k *Score) askStore(ctx context.Context, g *gathering, zones []string, f *found) []mail.ListAnswer {
	cfg := &k.s.cfg
	q := mail.ClientQuery{Addr: k.addr, Lists: zones}
	if cfg.Limits != nil {
		q.Rates = cfg.Limits.Connect(k.addr)
	}
	if k.facts != nil {
		rate.Peek(q.Rates)
	} else if len(zones) > 0 {
		q.Lock = cfg.Lists.Lock()
	}
	facts, err := cfg.Store.Client(ctx, q)
	is := knowledge{
		in: true, address: facts.Address, network: facts.Network, good: facts.KnownGood,
		degraded: facts.Degraded || err != nil,
	}
	if is.degraded {
		f.miss(fromStore.unheard())
	}
	if err == nil {
		k.weighKarma(facts, f)
		if cfg.Limits != nil {
			is.limited = cfg.Limits.Refusal(q.Rates, facts.Rates)
		}
		if k.facts != nil {
			is.rates = facts.Rates
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stages[atConnect].under == g {
		k.known = is
		if g.facts != nil {
			close(g.facts)
			g.facts = nil
		}
	}
	return facts.Lists
}

// weighKarma lets the standing of the client speak.
func (k *Score) weighKarma(facts mail.Facts, f *found) {
	weight, why := karma.Weight(facts.Address, facts.Network)
	if weight = round(weight * k.s.weights[sigKarma]); weight != 0 {
		f.weigh(sigKarma, weight, why)
	}
	if k.facts != nil {
		f.see("nothing that weighs is known of the client")
		if facts.KnownGood {
			f.see("known good")
		}
	}
}

// askLists asks the lists of addresses.
func (k *Score) askLists(ctx context.Context, zones []string, known []mail.ListAnswer, f *found) {
	hits, missing := k.s.cfg.Lists.Ask(ctx, k.addr, zones, known)
	f.list(hits, missing)
}

// list lets lists speak that have the client's address, or what the client says.
func (f *found) list(hits []dnsbl.Hit, missing []string) {
	for _, hit := range hits {
		text := "listed by " + hit.Zone + " (code " + hit.Code.String() + ")"
		switch {
		case hit.Domain != "":
			f.weigh(sigDomainList, hit.Weight, hit.Domain+" "+text)
		case hit.Weight < 0:
			f.weigh(sigDNSWL, hit.Weight, text)
		default:
			f.weigh(sigDNSBL, hit.Weight, text)
		}
	}
	for _, zone := range missing {
		f.unheard = append(f.unheard, f.from.unheard()+" "+zone)
	}
	if len(missing) > 0 {
		f.k.missed(f.from)
	}
	f.see("not listed")
}

// askPTR looks whether the client's address has a name, whether that leads back to it, and what kind of name it is.
func (k *Score) askPTR(ctx context.Context, f *found) {
	all, err := k.s.cfg.Resolver.LookupPTR(ctx, k.addr)
	if err != nil {
		f.miss("fcrdns")
		return
	}
	names := make([]string, 0, 1)
	for _, name := range all {
		// Whoever owns the address writes the name. What is no host name leads nowhere.
		if name = plainName(name); mail.IsDomain(name) && len(names) < mostPTR {
			names = append(names, name)
		}
	}
	if len(all) == 0 {
		f.speak(sigNoPTR, "the address has no name in reverse DNS")
		return
	}
	confirmed, sure := k.confirm(ctx, names)
	switch {
	case confirmed != "":
		f.see("its name " + confirmed + " leads back to it")
	case !sure:
		f.miss("fcrdns")
	case len(names) == 0:
		f.speak(sigFCrDNS, "its name in reverse DNS is no host name")
	default:
		f.speak(sigFCrDNS, "its name "+printable(names[0], mostName)+" does not lead back to it")
	}
	why := ""
	for _, name := range names {
		if why = generic(name, k.addr); why == "" {
			return // one proper name is enough
		}
	}
	if why != "" {
		f.speak(sigGenericPTR, "its name "+printable(names[0], mostName)+" "+why)
	}
}

// mostName bounds a name in a text in octets.
const mostName = 120

// confirm gives the first of names that leads back to the client, or "", and whether that is sure. The first name is
// asked alone, because there rarely is another; the others are asked all at once.
func (k *Score) confirm(ctx context.Context, names []string) (confirmed string, sure bool) {
	if len(names) == 0 {
		return "", true
	}
	leads := func(name string) (back, known bool) {
		addrs, err := k.s.cfg.Resolver.LookupAddrs(ctx, name)
		return k.among(addrs), err == nil
	}
	back, sure := leads(names[0])
	if back {
		return names[0], true
	}
	if len(names) == 1 {
		return "", sure
	}
	type answer struct {
		at          int
		back, known bool
	}
	answers := make(chan answer, len(names)-1)
	for i, name := range names[1:] {
		go func() { // ends when the look-up does, soon after ctx ends at the latest; awaited below
			back, known := leads(name)
			answers <- answer{i + 1, back, known}
		}()
	}
	best := len(names)
	for range names[1:] {
		a := <-answers
		if a.back {
			best = min(best, a.at)
		}
		sure = sure && a.known
	}
	if best < len(names) {
		return names[best], true
	}
	return "", sure
}

// among reports whether the client's address is one of addrs.
func (k *Score) among(addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap() == k.addr })
}
