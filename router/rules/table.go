package rules

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"regexp"
	"strconv"

	"github.com/millrace/millrace/router/mail"
)

// A Table is a compiled set of rules. It is immutable and safe for concurrent use.
//
// It is laid out for a million rules: the text of the files is kept once, in one string, and a rule, a target and a
// slot of the index are a few integers that point into it, so that a rule costs about 50 octets besides its own line
// and the garbage collector has nothing to follow.
type Table struct {
	text      string // the files, one after another
	extra     string // local parts of literals that do not stand in text as they are compared
	files     []string
	ends      []int // where each file ends in text
	rules     []rule
	targets   []target
	dests     []destination
	replies   []mail.Reply
	templates []template
	options   []options // [0] sets nothing

	domains  []domain
	regexes  map[uint32][]regex // by domain, in the order of the files
	domainOf map[string]uint32  // by canonical name
	index    []uint32           // of literals: open addressing, rule number + 1
	seed     maphash.Seed

	defaults   mail.DomainPolicy // of "domain *"
	postmaster mail.Path
	hosted     int
	warnings   []Warning
	srs, seal  mail.Rule
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
	flagExtra                     // its local part stands in Table.extra
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

// A target is one place that a rule forwards to.
type target struct {
	local uint32 // offset of the forward-path's local part, or number of the template
	dest  uint32
	n     uint16 // length of the local part; isTemplate: it is a template
}

const isTemplate = 1<<16 - 1

// A destination is what many targets share.
type destination struct {
	hop    mail.NextHop
	domain string // of the forward-path; "" where the recipient stays as it is
	hosted uint32 // number of the domain + 1 when it is one of ours, else 0
}

// A template is a local part with groups of the regex in it: literal text and group numbers in turn.
type template []templatePart

type templatePart struct {
	text  string
	group int // 0: only text
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

// Len is the number of rules, domain lines not counted.
func (t *Table) Len() int { return len(t.rules) }

// Domains is the number of hosted domains.
func (t *Table) Domains() int { return t.hosted }

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

// Warnings are about lines that loaded. The slice is shared and not to be changed.
func (t *Table) Warnings() []Warning { return t.warnings }

// NeedsSRS names the first rule that wants the reverse-path rewritten; the zero Rule means that none does.
func (t *Table) NeedsSRS() mail.Rule { return t.srs }

// NeedsSeal names the first rule that wants messages sealed; the zero Rule means that none does.
func (t *Table) NeedsSeal() mail.Rule { return t.seal }

// domain finds a domain's number.
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

// key is what the index hashes: the domain's number and the local part as it is compared.
type key [4 + mail.MaxLocal]byte

// literal looks the first n octets of the local part in k up. k holds the domain's number already.
func (t *Table) literal(k *key, id uint32, n int) (uint32, bool) {
	if len(t.index) == 0 {
		return 0, false
	}
	local := k[4 : 4+n]
	for at := t.slot(k, n); t.index[at] != 0; at = t.next(at) {
		number := t.index[at] - 1
		if r := &t.rules[number]; r.domain == id && t.localOf(r) == string(local) {
			return number, true
		}
	}
	return 0, false
}

// slot is where the search for a key begins.
func (t *Table) slot(k *key, n int) int {
	hi, _ := bits.Mul64(maphash.Bytes(t.seed, k[:4+n]), uint64(len(t.index)))
	return int(hi)
}

func (t *Table) next(at int) int {
	if at++; at == len(t.index) {
		return 0
	}
	return at
}

// set makes k the key of a local part in a domain, and gives the local part's length. ok is false when no rule can be
// as long.
func (k *key) set(id uint32, local string) (n int, ok bool) {
	if len(local) > mail.MaxLocal {
		return 0, false
	}
	binary.LittleEndian.PutUint32(k[:4], id)
	return len(foldInto(k[4:4], local)), true
}

// localOf gives the local part of a literal as it is compared.
func (t *Table) localOf(r *rule) string {
	if r.flags&flagExtra != 0 {
		return t.extra[r.local : r.local+uint32(r.localLen)]
	}
	return t.text[r.local : r.local+uint32(r.localLen)]
}

// found is the outcome of looking a forward-path up in its domain.
type found uint8

const (
	nothing found = iota
	aRule
	thePostmaster
)

// A hit is the rule that takes a forward-path.
type hit struct {
	what   found
	rule   uint32
	local  string // regexes: the local part that matched
	groups []int  // regexes: the offsets of its groups
}

// find looks a forward-path up in the domain it lies in. Without fallback, postmaster and abuse are names like others.
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
		t.tell(steps, number, "is this address")
		return hit{what: aRule, rule: number}
	}
	steps.add("no rule for the literal address ", local, "@", d.name)
	if fallback && t.postmaster.Domain != "" && isRole(string(k[4:4+n])) {
		steps.add("the postmaster takes it, because no literal address does")
		return hit{what: thePostmaster}
	}
	if number, ok := t.untagged(&k, d, id, n); ok {
		t.tell(steps, number, "is this address without its tag")
		return hit{what: aRule, rule: number}
	}
	if d.matched {
		if h := t.match(id, local, steps); h.what == aRule {
			return h
		}
	}
	if d.catchall != 0 {
		t.tell(steps, d.catchall-1, "is the catch-all")
		return hit{what: aRule, rule: d.catchall - 1}
	}
	steps.add("no catch-all for ", d.name)
	return hit{}
}

// match looks a local part up among the regexes of a domain.
func (t *Table) match(id uint32, local string, steps *Steps) hit {
	for _, r := range t.regexes[id] {
		if groups := r.re.FindStringSubmatchIndex(local); groups != nil {
			t.tell(steps, r.rule, "matches")
			return hit{what: aRule, rule: r.rule, local: local, groups: groups}
		}
		t.tell(steps, r.rule, "does not match")
	}
	return hit{}
}

// untagged looks the first n octets in k up without a tag, the longest name first, so that a name may hold the
// separator itself.
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

// policy is what is in force for a rule: its own options over its domain's.
func (t *Table) policy(r *rule) mail.DomainPolicy {
	return t.options[r.options].over(t.domains[r.domain].policy)
}

// rule names a rule for the operator.
func (t *Table) rule(number uint32) mail.Rule {
	r := &t.rules[number]
	return mail.Rule{Pattern: t.patternOf(r), File: t.files[r.file], Line: int(r.line)}
}

func (t *Table) patternOf(r *rule) string {
	return t.text[r.pattern : r.pattern+uint32(r.patternLen)]
}

// static gives the forward-path of a target that is no template.
func (t *Table) static(tg target) mail.Path {
	return mail.Path{Local: t.text[tg.local : tg.local+uint32(tg.n)], Domain: t.dests[tg.dest].domain}
}

func (t *Table) tell(steps *Steps, number uint32, what string) {
	if steps == nil {
		return
	}
	r := t.rule(number)
	steps.add(r.File, ":", strconv.Itoa(r.Line), " ", r.Pattern, " ", what)
}

// Steps collects what was tried on the way to a decision, for people to read. A nil Steps collects nothing.
type Steps struct {
	List []string
}

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
