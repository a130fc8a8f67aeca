package score

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// A heloKind is what the argument of EHLO or HELO is.
type heloKind uint8

const (
	heloName     heloKind = iota // a domain name of two labels or more
	heloForeign                  // a domain name with octets outside ASCII (RFC 6531), which is not looked up
	heloLiteral                  // an address literal
	heloBare                     // one label
	heloUnquoted                 // an address without brackets
	heloInvalid                  // not what RFC 5321 section 4.1.1.1 allows
)

// classify returns what the argument of EHLO or HELO is, and the address if it is one. Underscores and a last dot are
// accepted, because many honest hosts have them.
func classify(arg string) (heloKind, netip.Addr) {
	if a, ok := mail.LiteralAddr(arg); ok {
		return heloLiteral, a.Unmap()
	}
	if a, err := netip.ParseAddr(arg); err == nil {
		return heloUnquoted, a.Unmap().WithZone("")
	}
	name := strings.TrimSuffix(arg, ".")
	if !mail.IsDomain(name) {
		return heloInvalid, netip.Addr{}
	}
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return heloBare, netip.Addr{}
	}
	// A last label of digits belongs to an address with too few or too large numbers (RFC 3696 section 2).
	if strings.Trim(name[dot+1:], "0123456789") == "" {
		return heloInvalid, netip.Addr{}
	}
	if !ascii.Is(name) {
		return heloForeign, netip.Addr{}
	}
	return heloName, netip.Addr{}
}

// Helo takes the argument of EHLO or HELO and begins its signals. It waits for nothing. Of several calls the last one
// counts. The same argument again, as after STARTTLS, changes nothing.
func (k *Score) Helo(name string) {
	if k.heloSet && name == k.helo {
		return
	}
	k.helo, k.heloSet = name, true
	q := &k.inquiry
	f := findings{q: q, from: fromHelo}
	kind, literal := classify(name)
	plain := domain.Canonical(name)
	own := f.judgeHelo(name, kind, literal, plain)
	allow := f.findHeloEntries(kind, plain)
	var from source
	if kind == heloName && !own && !q.final() {
		if q.s.cfg.Resolver != nil {
			from |= fromHeloAddrs
		}
		if q.s.domainLists {
			from |= fromHeloLists
		}
	}
	g := q.begin(atHelo, from)
	q.mu.Lock()
	q.merge(atHelo, &f)
	q.mu.Unlock()
	q.start(atHelo, g, fromHeloAddrs, func(ctx context.Context, f *findings) { f.askHelo(ctx, plain, allow) })
	q.start(atHelo, g, fromHeloLists, func(ctx context.Context, f *findings) {
		f.list(q.s.cfg.Lists.AskDomain(ctx, plain))
	})
}

// judgeHelo lets those signals of the argument of EHLO speak that need no look-up. It reports whether the client says
// that it is this node. plain is arg in canonical form.
func (f *findings) judgeHelo(arg string, kind heloKind, literal netip.Addr, plain string) (own bool) {
	shown := printable(arg, maxName)
	s, addr := f.q.s, f.q.addr
	switch {
	case kind == heloName || kind == heloForeign || kind == heloBare:
		own = slices.Contains(s.hostnames, plain)
	case literal.IsValid():
		own = slices.Contains(s.cfg.OwnAddrs, literal)
	}
	// A client with an address of ours may well be this node.
	own = own && !slices.Contains(s.cfg.OwnAddrs, addr) && !addr.IsLoopback()
	switch {
	case own:
		f.speak(sigHeloSelf, "says in EHLO that it is "+shown+", which is us")
	case kind == heloInvalid:
		f.speak(sigHeloSyntax, "says "+quoted(shown)+" in EHLO, which is neither a domain name nor an address literal")
	case kind == heloBare:
		f.speak(sigHeloSyntax, "says "+quoted(shown)+" in EHLO, which is not a full domain name")
	case kind == heloUnquoted:
		f.speak(sigHeloSyntax, "says "+shown+" in EHLO, an address without brackets")
	case kind == heloLiteral && f.q.public && literal != addr:
		f.speak(sigHeloLiteral, "says "+shown+" in EHLO, which is not its address")
	}
	f.see("its name in EHLO is well formed and not ours")
	return own
}

// quoted returns s between quotes, and "nothing" if it is empty.
func quoted(s string) string {
	if s == "" {
		return "nothing"
	}
	return `"` + s + `"`
}

// findHeloEntries lets an entry of the block list about the name speak, and returns an entry that allows the name,
// which needs proof first.
func (f *findings) findHeloEntries(kind heloKind, plain string) (allow grant) {
	s, addr := f.q.s, f.q.addr
	if f.q.final() {
		return grant{}
	}
	allow = s.allow.name(plain, heloPatterns)
	if allow != (grant{}) && kind == heloLiteral {
		// A literal proves itself: it is the client's address or it is not.
		if a, ok := mail.LiteralAddr(plain); ok && addr.IsValid() && a.Unmap() == addr {
			f.allow(allow)
		}
		return grant{}
	}
	if block := s.block.helo.find(plain); block != nil {
		f.block(block)
	}
	return allow
}

// askHelo checks whether the name in EHLO leads anywhere, and to the client.
func (f *findings) askHelo(ctx context.Context, name string, allow grant) {
	q := f.q
	addrs, err := q.s.cfg.Resolver.LookupAddrs(ctx, name)
	leadsBack := f.isClient(addrs)
	if leadsBack {
		f.allow(allow)
	}
	family := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() == q.addr.Is4() })
	switch {
	case leadsBack:
		f.see(printable(name, maxName) + " leads to the client")
	case err != nil:
		f.miss()
	case len(addrs) == 0:
		f.speak(sigHeloUnresolved, "says "+printable(name, maxName)+" in EHLO, a name without an address")
	case !q.public:
		f.see(printable(name, maxName) + " exists")
	case !family:
		// Many hosts that send over IPv6 have a name with an IPv4 address only, and the other way round.
		f.see(printable(name, maxName) + " has addresses of the other family only")
	default:
		f.speak(sigHeloMismatch, "says "+printable(name, maxName)+" in EHLO, which has another address")
	}
}
