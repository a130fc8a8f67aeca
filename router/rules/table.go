package rules

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"maps"
	"math/bits"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A Table is a compiled set of rules. It is immutable and safe for concurrent use.
//
// It is made for a million rules: the text of the files is kept once, in one string, and a rule, a target and a slot of
// the index are a few integers that point into it. A rule costs about 50 octets besides its own line, and has no
// pointers for the garbage collector.
type Table struct {
	ruleLines
	domainNames

	targets   []target
	dests     []destination
	fixed     map[mail.NextHop]Comers // those that are no MX hosts
	replies   []mail.Reply
	templates []template
	options   []options // [0] sets nothing

	regexes map[uint32][]regex // by domain, in the order of the files
	globs   map[uint32][]glob  // by domain, in the order in which they are asked
	hooks   map[uint32]string  // names and URLs, by rule
	index   index              // of literals

	defaults   mail.DomainPolicy // of "domain *"
	postmaster mail.Path
	tally      tally
	fanOut     int // see Config.FanOut
	blocks     blockTable
	relays     map[string]*relay // relay lines, by canonical domain or anyDomain
}

// An index finds the rules of literals by a key, by open addressing.
type index struct {
	slots []uint32 // rule number + 1, or 0
	seed  maphash.Seed
}

// A tally is what the loader counted.
type tally struct {
	hosted   int // domains
	warnings []Warning
	needs    Needs
}

// Comers are whose mail goes to a next hop.
type Comers struct {
	Strangers bool // a rule names it
	Relays    bool // a relay line does, to which trusted clients come alone
}

// Needs are which rules want something of the node.
type Needs struct {
	SRS     Need // the reverse-path rewritten
	Seal    Need // messages sealed
	Events  Need // receivers told of reports of abuse
	Trusted Need // a listener with trusted clients: the relay lines
}

// A Need is how many rules want something of the node, and the first of them.
type Need struct {
	Rules  int // 0: the first is the zero Rule
	First  mail.Rule
	Column int // of the first
}

// An action is what a rule does.
type action uint8

const (
	forward action = iota
	reply          // reject and tempfail
	drop
)

// The flags of a rule.
const (
	flagTry       uint8 = 1 << iota // failover
	flagExtra                       // its local part is in ruleLines.extra
	flagGeneral                     // needs the walk: a chain, a template, several next hops or failover
	flagLiteral                     // its pattern is a literal address
	flagRegex                       // its pattern is a regex
	flagGlob                        // and that is a glob
	flagCondition                   // it is not always in force: see ruleLines.conditions
	flagHook                        // a hook decides: see Table.hooks
)

// A rule is one line with a pattern. All offsets are into ruleLines.text.
type rule struct {
	pattern    uint32 // offset of the pattern
	local      uint32 // literals: offset of the local part as it is compared
	line       uint32
	domain     uint32
	first      uint32 // its first target, or its reply
	n          uint16 // number of targets
	patternLen uint16
	localLen   uint16
	options    uint16
	file       uint16
	action     action
	flags      uint8
}

// A target is one next hop, with or without a forward-path, that a rule forwards to.
type target struct {
	local uint32 // offset of the forward-path's local part, or number of the template
	dest  uint32
	n     uint16 // length of the local part; isTemplate: it is a template
}

const isTemplate = 1<<16 - 1

// A destination is what many targets share.
type destination struct {
	nextHop mail.NextHop
	domain  string // of the forward-path; "" if the recipient is kept
	hosted  uint32 // number of the domain + 1 if it is one of ours, else 0
}

// A template is a local part with groups of the regex in it: literal text and group numbers in turn.
type template []templatePart

type templatePart struct {
	text  string
	group int // 0 for text alone
}

// A domain is one that has rules, or one of our own, or stands for all domains below another.
type domain struct {
	name     string // canonical, with *. in front if it stands for those below
	line     uint32 // of its domain line, or 0
	catchall uint32 // number + 1 of the first rule of its chain, or 0
	alias    uint32 // number + 1 of the domain whose rules hold for it, or 0
	subs     uint32 // the subaddress separators of its literals, a bit each as in separators
	file     uint16
	options  uint16
	policy   mail.DomainPolicy
	hosted   bool
	own      bool // the hostname or the SRS domain
	matched  bool // it has regexes or globs
}

type regex struct {
	re   *regexp.Regexp
	rule uint32 // the first of its chain
}

// Defaults returns the policy of a domain without options of its own, as "domain *" has it.
func (t *Table) Defaults() mail.DomainPolicy { return t.defaults }

// Len returns the number of rules, domain lines not counted.
func (t *Table) Len() int { return len(t.rules) + len(t.relays) }

// Domains returns the number of hosted domains.
func (t *Table) Domains() int { return t.tally.hosted }

// HostedNames returns the names of hosted domains as A-labels, in their order, at most so many, without those that are
// hosted because they lie below another.
func (t *Table) HostedNames(most int) []string {
	var names []string
	for i := range t.domains {
		if t.domains[i].hosted && t.domains[i].name[0] != '*' {
			names = append(names, t.domains[i].name)
		}
	}
	slices.Sort(names)
	return names[:min(len(names), most)]
}

// Hosted reports whether domain, in any case and as U-labels or A-labels, is hosted.
func (t *Table) Hosted(domain string) bool {
	id, ok := t.domain(domain)
	return ok && t.domains[id].hosted
}

// Ours reports whether domain, in any form, is hosted or one of the Config's Own.
func (t *Table) Ours(domain string) bool {
	_, ok := t.domain(domain)
	return ok
}

// HasNextHop reports whether a rule names a fixed next hop.
func (t *Table) HasNextHop(h mail.NextHop) bool {
	_, has := t.fixed[h]
	return has
}

// NextHops returns the fixed next hops that rules name, each once, in no order.
func (t *Table) NextHops() iter.Seq2[mail.NextHop, Comers] { return maps.All(t.fixed) }

// Warnings returns warnings about lines that loaded. The slice is shared and not to be changed.
func (t *Table) Warnings() []Warning { return t.tally.warnings }

// Needs returns what the rules want of the node.
func (t *Table) Needs() Needs { return t.tally.needs }

// A key is what the index hashes: the domain's number and the local part as it is compared.
type key [4 + mail.MaxLocal]byte

// literal returns the rule of a literal address: domain id, and the first n octets of the local part in k. k has the
// domain's number already.
func (t *Table) literal(k *key, id uint32, n int) (uint32, bool) {
	if len(t.index.slots) == 0 {
		return 0, false
	}
	at, found := t.search(k, id, n)
	if !found {
		return 0, false
	}
	return t.index.slots[at] - 1, true
}

// search returns the slot of a literal address, or the free one where it belongs. There is a free slot.
func (t *Table) search(k *key, id uint32, n int) (at int, found bool) {
	local := k[4 : 4+n]
	for at = t.index.slot(k, n); t.index.slots[at] != 0; at = t.index.next(at) {
		r := &t.rules[t.index.slots[at]-1]
		if r.domain == id && (t.localOf(r) == string(local) || t.scopeOf(r) == string(local)) {
			return at, true
		}
	}
	return at, false
}

// slot returns where the search for a key begins.
func (x *index) slot(k *key, n int) int {
	hi, _ := bits.Mul64(maphash.Bytes(x.seed, k[:4+n]), uint64(len(x.slots)))
	return int(hi)
}

// next returns the slot after at.
func (x *index) next(at int) int {
	if at++; at == len(x.slots) {
		return 0
	}
	return at
}

// set makes k the key of a local part in a domain, and returns the local part's length. ok is false if the local part
// is longer than that of any rule.
func (k *key) set(id uint32, local string) (n int, ok bool) {
	if len(local) > mail.MaxLocal {
		return 0, false
	}
	binary.LittleEndian.PutUint32(k[:4], id)
	if ascii.Is(local) {
		return len(ascii.AppendFold(k[4:4], local)), true
	}
	folded := appendLocal(nil, local)
	if len(folded) > mail.MaxLocal {
		return 0, false
	}
	return copy(k[4:], folded), true
}

// dropDots drops the dots of the first n octets of the local part in k, and returns how many octets are left.
func (k *key) dropDots(n int) int {
	local := k[4 : 4+n]
	return len(slices.DeleteFunc(local, func(c byte) bool { return c == '.' }))
}

// A matchKind is what takes a forward-path in its domain.
type matchKind uint8

const (
	noMatch matchKind = iota
	ruleMatch
	postmasterMatch
	unknownMatch // it depends on what SPF says, which is not known
	perhapsMatch // a rule with a condition takes it, if it is in force
)

// A hit is the result of the search for a forward-path.
type hit struct {
	kind   matchKind
	rule   uint32
	local  string // regexes and globs: the local part that matched
	groups []int  // the offsets of its groups
	tag    string // literals: the separator and the tag that the rule does not have, in NFC
}

// find searches what takes a forward-path in its domain. Without fallback, postmaster and abuse are names like others.
// q is the query that rules with conditions are asked by; nil: none is known.
func (t *Table) find(id uint32, p mail.Path, q *mail.Query, fallback bool, steps *Steps) hit {
	d := &t.domains[id]
	perhaps := noMatch
	local := p.LocalPart()
	var k key
	n, ok := k.set(id, local)
	if !ok {
		steps.add("the local part is longer than any rule's")
		return hit{}
	}
	isRole := fallback && t.postmaster.Domain != "" && isRole(string(k[4:4+n]))
	if d.policy.Dots == mail.DotsIgnored {
		n = k.dropDots(n)
	}
	if number, ok := t.literal(&k, id, n); ok {
		number, kind := t.inForce(number, q, steps)
		if kind == ruleMatch || kind == unknownMatch {
			t.addStep(steps, number, "is this address")
			return hit{kind: kind, rule: number}
		}
		perhaps = max(perhaps, kind)
	}
	steps.add("no rule for the literal address ", local, "@", d.name)
	if isRole {
		steps.add("the postmaster takes it, because no literal address does")
		return hit{kind: postmasterMatch}
	}
	if d.subs != 0 {
		number, end, kind := t.untagged(&k, d, id, n, q, steps)
		if kind == ruleMatch || kind == unknownMatch {
			t.addStep(steps, number, "is this address without its tag")
			return hit{kind: kind, rule: number, tag: tagOf(local, k[4+end:4+n])}
		}
		perhaps = max(perhaps, kind)
	}
	if d.matched {
		h := t.match(id, local, q, steps)
		if h.kind == ruleMatch || h.kind == unknownMatch {
			return h
		}
		perhaps = max(perhaps, h.kind)
	}
	if d.catchall != 0 {
		number, kind := t.inForce(d.catchall-1, q, steps)
		if kind == ruleMatch || kind == unknownMatch {
			t.addStep(steps, number, "is the catch-all")
			return hit{kind: kind, rule: number}
		}
		perhaps = max(perhaps, kind)
	}
	steps.add("no catch-all for ", d.name)
	if len(t.below) == 0 || d.own && !d.hosted {
		return hit{kind: perhaps}
	}
	h := t.findAbove(strings.TrimPrefix(d.name, "*."), q, steps)
	if h.kind == noMatch {
		h.kind = perhaps
	}
	return h
}

// findAbove searches a pattern for the domains below another that takes an address of the domain name, that with most
// labels first.
func (t *Table) findAbove(name string, q *mail.Query, steps *Steps) hit {
	perhaps := noMatch
	for n := strings.IndexByte(name, '.'); n >= 0; n = strings.IndexByte(name, '.') {
		name = name[n+1:]
		id, ok := t.below[name]
		if !ok || t.domains[id].catchall == 0 {
			continue
		}
		number, kind := t.inForce(t.domains[id].catchall-1, q, steps)
		if kind == ruleMatch || kind == unknownMatch {
			t.addStep(steps, number, "is for all domains below "+name)
			return hit{kind: kind, rule: number}
		}
		perhaps = max(perhaps, kind)
	}
	return hit{kind: perhaps}
}

// match searches a local part among the globs and the regexes of a domain.
func (t *Table) match(id uint32, local string, q *mail.Query, steps *Steps) hit {
	local = composed(local)
	h := t.matchGlobs(t.globs[id], local, q, steps)
	if h.kind == ruleMatch || h.kind == unknownMatch {
		return h
	}
	perhaps := h.kind
	for _, r := range t.regexes[id] {
		groups := r.re.FindStringSubmatchIndex(local)
		if groups == nil {
			t.addStep(steps, r.rule, "does not match")
			continue
		}
		number, kind := t.inForce(r.rule, q, steps)
		if kind == ruleMatch || kind == unknownMatch {
			t.addStep(steps, number, "matches")
			return hit{kind: kind, rule: number, local: local, groups: groups}
		}
		perhaps = max(perhaps, kind)
	}
	return hit{kind: perhaps}
}

// untagged searches the first n octets in k without a tag, the longest name first, so that a name may have the
// separator in it. end is where the tag begins.
func (t *Table) untagged(k *key, d *domain, id uint32, n int, q *mail.Query, steps *Steps) (
	number uint32, end int, kind matchKind,
) {
	perhaps := noMatch
	for end = n - 1; end > 0; end-- {
		c := k[4+end]
		if d.subs&separatorBit(c) == 0 {
			continue
		}
		first, ok := t.literal(k, id, end)
		if !ok {
			continue
		}
		number, kind := t.inForce(first, q, steps)
		switch {
		case kind == perhapsMatch:
			perhaps = kind
		case kind != noMatch && t.policy(&t.rules[number]).Subaddress == c:
			return number, end, kind
		}
	}
	return 0, 0, perhaps
}

// tagOf returns the end of a local part that begins with the same separator as a tag that was folded.
func tagOf(local string, folded []byte) string {
	local = composed(local) // as folded is: a sign may be a separator in NFC alone
	at := len(local)
	for range bytes.Count(folded, folded[:1]) {
		at = max(strings.LastIndexByte(local[:at], folded[0]), 0)
	}
	return local[at:]
}

// isRole reports whether a folded local part is one that every domain must have.
func isRole(local string) bool { return local == "postmaster" || local == "abuse" }

// policy returns the policy of a rule: its own options over its domain's.
func (t *Table) policy(r *rule) mail.DomainPolicy {
	return t.options[r.options].over(t.domains[r.domain].policy)
}

// fixedPath returns the forward-path of a target that is no template.
func (t *Table) fixedPath(tg target) mail.Path {
	return mail.Path{Local: t.text[tg.local : tg.local+uint32(tg.n)], Domain: t.dests[tg.dest].domain}
}

// Steps collects what was tried for a decision, in words for an administrator. A nil Steps collects nothing.
type Steps struct {
	List []string
}

// add appends one line made of parts.
func (s *Steps) add(parts ...string) {
	if s == nil {
		return
	}
	var line string
	for _, p := range parts {
		line += p
	}
	s.List = append(s.List, line)
}
