package rules

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"maps"
	"math/bits"
	"regexp"
	"slices"
	"strconv"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A Table is a compiled set of rules. It is immutable and safe for concurrent use.
//
// It is made for a million rules: the text of the files is kept once, in one string, and a rule, a target and a slot of
// the index are a few integers that point into it. A rule costs about 50 octets besides its own line, and has no
// pointers for the garbage collector.
type Table struct {
	text      string // the files, one after another
	extra     string // local parts of literals whose form in text is not the one that is compared
	files     []string
	ends      []int // where each file ends in text
	rules     []rule
	targets   []target
	dests     []destination
	fixed     map[mail.NextHop]Comers // those that are no MX hosts
	replies   []mail.Reply
	templates []template
	options   []options // [0] sets nothing

	domains  []domain
	regexes  map[uint32][]regex // by domain, in the order of the files
	domainOf map[string]uint32  // by canonical name
	index    index              // of literals

	defaults   mail.DomainPolicy // of "domain *"
	postmaster mail.Path
	tally      tally
	fanOut     int               // see Config.FanOut
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
	flagTry     uint8 = 1 << iota // failover
	flagExtra                     // its local part is in Table.extra
	flagGeneral                   // needs the walk: a chain, a template, several next hops or failover
	flagLiteral                   // its pattern is a literal address
	flagRegex                     // its pattern is a regex
)

// A rule is one line with a pattern. All offsets are into Table.text.
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

// A domain is one that has rules, or one of our own.
type domain struct {
	name     string
	line     uint32 // of its domain line, or 0
	catchall uint32 // rule number + 1, or 0
	subs     uint32 // the subaddress separators of its literals, a bit each as in separators
	file     uint16
	options  uint16
	policy   mail.DomainPolicy
	hosted   bool
	own      bool // the hostname or the SRS domain
	matched  bool // it has regexes
}

type regex struct {
	re   *regexp.Regexp
	rule uint32
}

// Defaults returns the policy of a domain without options of its own, as "domain *" has it.
func (t *Table) Defaults() mail.DomainPolicy { return t.defaults }

// Len returns the number of rules, domain lines not counted.
func (t *Table) Len() int { return len(t.rules) + len(t.relays) }

// Domains returns the number of hosted domains.
func (t *Table) Domains() int { return t.tally.hosted }

// HostedNames returns the names of hosted domains as A-labels, in their order, at most so many.
func (t *Table) HostedNames(most int) []string {
	var names []string
	for i := range t.domains {
		if t.domains[i].hosted {
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

// domain returns a domain's number.
func (t *Table) domain(name string) (uint32, bool) {
	if len(name) > mail.MaxDomain {
		return 0, false
	}
	var buf [mail.MaxDomain + 1]byte
	b, ok := appendDomain(buf[:0], name)
	if !ok {
		return 0, false
	}
	id, ok := t.domainOf[string(b)]
	return id, ok
}

// A key is what the index hashes: the domain's number and the local part as it is compared.
type key [4 + mail.MaxLocal]byte

// literal returns the rule of a literal address: domain id, and the first n octets of the local part in k. k has the
// domain's number already.
func (t *Table) literal(k *key, id uint32, n int) (uint32, bool) {
	if len(t.index.slots) == 0 {
		return 0, false
	}
	local := k[4 : 4+n]
	for at := t.index.slot(k, n); t.index.slots[at] != 0; at = t.index.next(at) {
		number := t.index.slots[at] - 1
		if r := &t.rules[number]; r.domain == id && t.localOf(r) == string(local) {
			return number, true
		}
	}
	return 0, false
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

// localOf returns the local part of a literal as it is compared.
func (t *Table) localOf(r *rule) string {
	if r.flags&flagExtra != 0 {
		return t.extra[r.local : r.local+uint32(r.localLen)]
	}
	return t.text[r.local : r.local+uint32(r.localLen)]
}

// A matchKind is what takes a forward-path in its domain.
type matchKind uint8

const (
	noMatch matchKind = iota
	ruleMatch
	postmasterMatch
)

// A hit is the result of the search for a forward-path.
type hit struct {
	kind   matchKind
	rule   uint32
	local  string // regexes: the local part that matched
	groups []int  // regexes: the offsets of its groups
}

// find searches what takes a forward-path in its domain. Without fallback, postmaster and abuse are names like others.
func (t *Table) find(id uint32, p mail.Path, fallback bool, steps *Steps) hit {
	d := &t.domains[id]
	local := p.LocalPart()
	var k key
	n, ok := k.set(id, local)
	if !ok {
		steps.add("the local part is longer than any rule's")
		return hit{}
	}
	if number, ok := t.literal(&k, id, n); ok {
		t.addStep(steps, number, "is this address")
		return hit{kind: ruleMatch, rule: number}
	}
	steps.add("no rule for the literal address ", local, "@", d.name)
	if fallback && t.postmaster.Domain != "" && isRole(string(k[4:4+n])) {
		steps.add("the postmaster takes it, because no literal address does")
		return hit{kind: postmasterMatch}
	}
	if number, ok := t.untagged(&k, d, id, n); ok {
		t.addStep(steps, number, "is this address without its tag")
		return hit{kind: ruleMatch, rule: number}
	}
	if d.matched {
		if h := t.match(id, local, steps); h.kind == ruleMatch {
			return h
		}
	}
	if d.catchall != 0 {
		t.addStep(steps, d.catchall-1, "is the catch-all")
		return hit{kind: ruleMatch, rule: d.catchall - 1}
	}
	steps.add("no catch-all for ", d.name)
	return hit{}
}

// match searches a local part among the regexes of a domain.
func (t *Table) match(id uint32, local string, steps *Steps) hit {
	local = composed(local)
	for _, r := range t.regexes[id] {
		if groups := r.re.FindStringSubmatchIndex(local); groups != nil {
			t.addStep(steps, r.rule, "matches")
			return hit{kind: ruleMatch, rule: r.rule, local: local, groups: groups}
		}
		t.addStep(steps, r.rule, "does not match")
	}
	return hit{}
}

// untagged searches the first n octets in k without a tag, the longest name first, so that a name may have the
// separator in it.
func (t *Table) untagged(k *key, d *domain, id uint32, n int) (uint32, bool) {
	if d.subs == 0 {
		return 0, false
	}
	for end := n - 1; end > 0; end-- {
		c := k[4+end]
		if d.subs&separatorBit(c) == 0 {
			continue
		}
		number, ok := t.literal(k, id, end)
		if ok && t.policy(&t.rules[number]).Subaddress == c {
			return number, true
		}
	}
	return 0, false
}

// isRole reports whether a folded local part is one that every domain must have.
func isRole(local string) bool { return local == "postmaster" || local == "abuse" }

// policy returns the policy of a rule: its own options over its domain's.
func (t *Table) policy(r *rule) mail.DomainPolicy {
	return t.options[r.options].over(t.domains[r.domain].policy)
}

// rule returns the name of a rule for the administrator.
func (t *Table) rule(number uint32) mail.Rule {
	r := &t.rules[number]
	return mail.Rule{Pattern: t.patternOf(r), File: t.files[r.file], Line: int(r.line)}
}

func (t *Table) patternOf(r *rule) string {
	return t.text[r.pattern : r.pattern+uint32(r.patternLen)]
}

// fixedPath returns the forward-path of a target that is no template.
func (t *Table) fixedPath(tg target) mail.Path {
	return mail.Path{Local: t.text[tg.local : tg.local+uint32(tg.n)], Domain: t.dests[tg.dest].domain}
}

// addStep appends a step about a rule.
func (t *Table) addStep(steps *Steps, number uint32, what string) {
	if steps == nil {
		return
	}
	r := t.rule(number)
	steps.add(r.File, ":", strconv.Itoa(r.Line), " ", r.Pattern, " ", what)
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
