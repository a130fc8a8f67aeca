package score

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A heloKind says what the argument of EHLO or HELO is.
type heloKind uint8

const (
	heloName     heloKind = iota // a domain name of two labels or more
	heloForeign                  // a domain name with octets outside ASCII (RFC 6531), which is not looked up
	heloLiteral                  // an address literal
	heloBare                     // one label
	heloUnquoted                 // an address without brackets
	heloNothing                  // none of what RFC 5321 section 4.1.1.1 allows
)

// classify says what the argument of EHLO or HELO is, and the address if it is one. Underscores and a last dot are let
// pass: many honest hosts have them.
func classify(arg string) (heloKind, netip.Addr) {
	if a, ok := mail.LiteralAddr(arg); ok {
		return heloLiteral, a.Unmap()
	}
	if a, err := netip.ParseAddr(arg); err == nil {
		return heloUnquoted, a.Unmap().WithZone("")
	}
	name := strings.TrimSuffix(arg, ".")
	if !mail.IsDomain(name) {
		return heloNothing, netip.Addr{}
	}
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return heloBare, netip.Addr{}
	}
	// A last label of digits is that of an address, if of one with too few or too large numbers (RFC 3696 section 2).
	if strings.Trim(name[dot+1:], "0123456789") == "" {
		return heloNothing, netip.Addr{}
	}
	for i := range len(name) {
		if name[i] >= 0x80 {
			return heloForeign, netip.Addr{}
		}
	}
	return heloName, netip.Addr{}
}

// Helo takes the argument of EHLO or HELO and begins its signals. It waits for nothing. Of several the last one counts;
// the same again, as after STARTTLS, changes nothing.
func (k *Score) Helo(name string) {
	if k.greets && name == k.helo {
		return
	}
	k.helo, k.greets = name, true
	f := found{k: k, from: fromHelo}
	kind, literal := classify(name)
	plain := plainName(name)
	own := k.judgeHelo(&f, kind, literal, plain)
	allow := k.helloEntries(&f, kind, plain)
	var from source
	cfg := &k.s.cfg
	if kind == heloName && !own && !k.final() {
		if cfg.Resolver != nil {
			from |= fromHeloAddrs
		}
		if k.s.domainLists {
			from |= fromHeloLists
		}
	}
	g := k.begin(atHelo, from)
	k.mu.Lock()
	k.merge(atHelo, &f)
	k.mu.Unlock()
	k.start(atHelo, g, fromHeloAddrs, func(ctx context.Context, f *found) { k.askHelo(ctx, f, plain, allow) })
	k.start(atHelo, g, fromHeloLists, func(ctx context.Context, f *found) { f.list(cfg.Lists.AskDomain(ctx, plain)) })
}

// final reports whether an entry about the address has decided.
func (k *Score) final() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stages[atConnect].final
}

// judgeHelo lets those signals speak that need no look-up, and reports whether the client says that it is us.
func (k *Score) judgeHelo(f *found, kind heloKind, literal netip.Addr, plain string) (own bool) {
	shown := printable(k.helo, mostName)
	cfg := &k.s.cfg
	switch {
	case kind == heloName || kind == heloForeign || kind == heloBare:
		own = slices.Contains(k.s.hostnames, plain)
	case literal.IsValid():
		own = slices.Contains(cfg.OwnAddrs, literal)
	}
	// Who comes from an address of ours may well be ourselves.
	own = own && !slices.Contains(cfg.OwnAddrs, k.addr) && !k.addr.IsLoopback()
	switch {
	case own:
		f.speak(sigHeloSelf, "says in EHLO that it is "+shown+", which is us")
	case kind == heloNothing:
		f.speak(sigHeloSyntax, "says "+quoted(shown)+" in EHLO, which is neither a domain name nor an address literal")
	case kind == heloBare:
		f.speak(sigHeloSyntax, "says "+quoted(shown)+" in EHLO, which is not a full domain name")
	case kind == heloUnquoted:
		f.speak(sigHeloSyntax, "says "+shown+" in EHLO, an address without brackets")
	case kind == heloLiteral && k.public && literal != k.addr:
		f.speak(sigHeloLiteral, "says "+shown+" in EHLO, which is not its address")
	}
	f.see("its name in EHLO is well formed and not ours")
	return own
}

// quoted is s between quotes, and "nothing" if it is empty.
func quoted(s string) string {
	if s == "" {
		return "nothing"
	}
	return `"` + s + `"`
}

// helloEntries looks for entries about the name. One that allows is given back, because it needs proof first.
func (k *Score) helloEntries(f *found, kind heloKind, plain string) (allow *entry) {
	if k.final() {
		return nil
	}
	allow = k.s.allow.helo.find(plain)
	if allow != nil && kind == heloLiteral {
		// A literal proves itself: it is the client's address or it is not.
		if a, ok := mail.LiteralAddr(plain); ok && k.addr.IsValid() && a.Unmap() == k.addr {
			f.allow(allow)
		}
		return nil
	}
	if block := k.s.block.helo.find(plain); block != nil {
		f.block(block)
	}
	return allow
}

// askHelo looks whether the name in EHLO leads anywhere, and to the client.
func (k *Score) askHelo(ctx context.Context, f *found, name string, allow *entry) {
	addrs, err := k.s.cfg.Resolver.LookupAddrs(ctx, name)
	mine := k.among(addrs)
	if mine && allow != nil {
		f.allow(allow)
	}
	family := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() == k.addr.Is4() })
	switch {
	case mine:
		f.see(printable(name, mostName) + " leads to the client")
	case err != nil:
		f.miss("helo")
	case len(addrs) == 0:
		f.speak(sigHeloUnresolved, "says "+printable(name, mostName)+" in EHLO, a name without an address")
	case !k.public:
		f.see(printable(name, mostName) + " exists")
	case !family:
		// Many hosts that send over IPv6 have a name with an IPv4 address only, and the other way round.
		f.see(printable(name, mostName) + " has addresses of the other family only")
	default:
		f.speak(sigHeloMismatch, "says "+printable(name, mostName)+" in EHLO, which has another address")
	}
}
