package score

import (
	"context"
	"slices"
	"strings"

	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// maxPTR is how many names of a client are looked up. RFC 7208 section 4.6.4 has the same limit for the same reason:
// the owner of an address may map it to any number of names.
const maxPTR = 10

// connect begins the signals of the address. Without a store its answer is that nothing is known.
func (q *inquiry) connect() {
	entries := findings{q: q, from: fromEntries}
	final := entries.findEntries()
	from, zones := q.addressSources(final)
	q.stored.answered = q.s.cfg.Store == nil
	g := q.begin(atConnect, from)
	q.mu.Lock()
	q.merge(atConnect, &entries)
	q.stages[atConnect].final = final
	q.mu.Unlock()
	if g != nil {
		q.startAddress(g, from, zones)
	}
}

// addressSources returns the sources about the address, and the lists to be asked. final is set if an entry about the
// address has decided.
func (q *inquiry) addressSources(final bool) (from source, zones []string) {
	cfg := &q.s.cfg
	switch {
	case !q.addr.IsValid():
		return 0, nil
	case final:
		from = fromStore
	default:
		from = fromStore | fromLists | fromPTR
	}
	if cfg.Lists != nil && from&fromLists != 0 {
		zones = cfg.Lists.Zones(q.addr)
	}
	if len(zones) == 0 {
		from &^= fromLists
	}
	if cfg.Resolver == nil || !q.public {
		from &^= fromPTR
	}
	if cfg.Store == nil {
		from &^= fromStore
	}
	return from, zones
}

// startAddress starts the sources about the address. Reverse DNS and the lists wait for the store, because nothing is
// looked up for a client that is over its limit.
func (q *inquiry) startAddress(g *gathering, from source, zones []string) {
	asked := make(chan struct{}) // closed when the store has answered
	if from&fromStore == 0 {
		close(asked)
	}
	q.start(atConnect, g, fromPTR, func(ctx context.Context, f *findings) {
		select {
		case <-asked:
		case <-ctx.Done():
			f.miss()
			return
		}
		if !q.overLimit() {
			f.askPTR(ctx)
		}
	})
	first := from & fromStore
	if first == 0 {
		first = fromLists
	}
	q.start(atConnect, g, first, func(ctx context.Context, f *findings) {
		var stored []mail.ListAnswer
		if first == fromStore {
			stored = f.askStore(ctx, g, zones)
			close(asked)
			if len(zones) == 0 {
				return
			}
			q.report(atConnect, g, f)
			*f = findings{q: q, from: fromLists}
			switch {
			case q.overLimit():
				return
			case ctx.Err() != nil: // the store took all the time, which is the fault of no list
				f.miss()
				return
			}
		}
		f.list(q.s.cfg.Lists.Ask(ctx, q.addr, zones, stored))
	})
}

// findEntries lets an entry of the allow or block list about the address speak, and reports whether one did.
func (f *findings) findEntries() (final bool) {
	if !f.q.addr.IsValid() {
		return false
	}
	block, blockBits := f.q.s.block.client(f.q.addr)
	allow := f.q.s.allow.client(f.q.addr, blockBits)
	f.allow(allow)
	if allow[placesIndex] != nil {
		f.q.favour()
	}
	switch {
	case allow[scoreIndex] != nil:
	case block != nil:
		f.block(block)
	case allow != (grant{}):
		f.see("what is allowed of the address is not the score")
		return false
	default:
		f.see("no entry about the address")
		return false
	}
	return true
}

// askStore asks the store about the client, and returns its answers about lists.
func (f *findings) askStore(ctx context.Context, g *gathering, zones []string) []mail.ListAnswer {
	q := f.q
	cfg := &q.s.cfg
	query := mail.ClientQuery{Addr: q.addr, Lists: zones}
	if cfg.Limits != nil {
		query.Rates = cfg.Limits.Connect(q.addr)
	}
	if q.looking() {
		rate.Peek(query.Rates)
	} else if len(zones) > 0 {
		query.Lock = cfg.Lists.Lock()
	}
	facts, err := cfg.Store.Client(ctx, query)
	stored := storeAnswer{
		answered: true, address: facts.Address, network: facts.Network, knownGood: facts.KnownGood,
		degraded: facts.Degraded || err != nil,
	}
	if stored.degraded {
		f.miss()
	}
	if len(facts.KnownGood) > 0 { // whose mail it is cannot be known without look-ups
		q.favour()
	}
	if err == nil {
		f.seeKarma(facts)
		if cfg.Limits != nil {
			stored.limited = cfg.Limits.Refusal(query.Rates, facts.Rates)
		}
		if q.looking() {
			stored.rates = facts.Rates
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stages[atConnect].under == g {
		q.stored = stored
		g.endStore()
	}
	return facts.Lists
}

// seeKarma keeps what the store knows of the client, for Explain. What karma weighs is known with the sender.
func (f *findings) seeKarma(facts mail.Facts) {
	if good := facts.KnownGood; len(good) > 0 {
		f.see("known good for " + goodNames(good))
	} else {
		f.see("nothing that weighs is known of the client")
	}
}

// goodNames returns the domains for which a network is known good, as Explain shows them.
func goodNames(domains []string) string {
	names := make([]string, len(domains))
	for i, d := range domains {
		names[i] = printable(d, maxName)
		if d == "" {
			names[i] = "mail without a passing SPF"
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// askPTR checks whether the client's address has a name, whether that leads back to it, and what kind of name it is.
func (f *findings) askPTR(ctx context.Context) {
	all, err := f.q.s.cfg.Resolver.LookupPTR(ctx, f.q.addr)
	if err != nil {
		f.miss()
		return
	}
	names := make([]string, 0, 1)
	for _, name := range all {
		// The owner of the address writes the name. What is no host name leads nowhere.
		if name = domain.Canonical(name); mail.IsDomain(name) && len(names) < maxPTR {
			names = append(names, name)
		}
	}
	if len(all) == 0 {
		f.speak(sigNoPTR, "the address has no name in reverse DNS")
		return
	}
	confirmed, sure := f.confirm(ctx, names)
	switch {
	case confirmed != "":
		f.proved = proves(confirmed, f.q.addr)
		f.see("its name " + confirmed + " leads back to it")
	case !sure:
		f.miss()
	case len(names) == 0:
		f.speak(sigFCrDNS, "its name in reverse DNS is no host name")
	default:
		f.speak(sigFCrDNS, "its name "+printable(names[0], maxName)+" does not lead back to it")
	}
	why := ""
	for _, name := range names {
		if why = generic(name, f.q.addr); why == "" {
			return // one proper name is enough
		}
	}
	if why != "" {
		f.speak(sigGenericPTR, "its name "+printable(names[0], maxName)+" "+why)
	}
}

// confirm returns the first of names that leads back to the client, or "", and whether that is sure. The first name is
// looked up alone, because there rarely is another. The others are looked up all at once.
func (f *findings) confirm(ctx context.Context, names []string) (confirmed string, sure bool) {
	if len(names) == 0 {
		return "", true
	}
	leadsBack := func(name string) (back, sure bool) {
		addrs, err := f.q.s.cfg.Resolver.LookupSameFamily(ctx, name, f.q.addr)
		return f.isClient(addrs), err == nil
	}
	back, sure := leadsBack(names[0])
	if back {
		return names[0], true
	}
	if len(names) == 1 {
		return "", sure
	}
	type answer struct {
		at         int
		back, sure bool
	}
	answers := make(chan answer, len(names)-1)
	for i, name := range names[1:] {
		go func() { // ends when the look-up does, soon after ctx ends at the latest; awaited below
			back, sure := leadsBack(name)
			answers <- answer{i + 1, back, sure}
		}()
	}
	best := len(names)
	for range names[1:] {
		a := <-answers
		if a.back {
			best = min(best, a.at)
		}
		sure = sure && a.sure
	}
	if best < len(names) {
		return names[best], true
	}
	return "", sure
}
