package rules

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A glob is a pattern whose local part has stars, each for any text, which may be empty. It takes what its texts leave
// to the first star that can have it: each text between two stars is sought from the left.
type glob struct {
	texts []string // between the stars, as they are compared: one more than stars
	fixed int      // octets of texts
	rule  uint32   // the first of its chain
}

// globRule parses the rule of a glob. A glob hosts no domain, like a regex.
func (b *builder) globRule(r rule, word, rest string) (why string) {
	p, err := mail.ParsePath(word, true)
	switch {
	case err != nil:
		return wrongPattern(word, rest, err.Error())
	case strings.Contains(p.Local, "**"):
		return "pattern " + quote(word) + " has two stars in a row: one is for any text"
	}
	id, why := b.shared.domainID(p.Domain)
	if why != "" {
		return wrongPattern(word, rest, why)
	}
	b.doubt(word)
	r.domain, r.flags = id, flagRegex|flagGlob
	compared, _ := foldEach(composed(p.LocalPart()))
	g := glob{texts: strings.Split(compared, "*")}
	g.fixed = len(compared) - len(g.texts) + 1
	if why := b.finish(&r, rest, len(g.texts)-1, ""); why != "" {
		return why
	}
	same := strconv.Itoa(int(id)) + "*" + compared // no regex: those have \A in front
	list := b.t.globs[id]
	if at, ok := b.regexes[same]; ok {
		list[at].rule, why = b.addTo(list[at].rule, r)
		return why
	}
	b.regexes[same] = len(list)
	b.t.domains[id].matched = true
	g.rule = b.add(r)
	b.t.globs[id] = append(list, g)
	return ""
}

// starPattern returns what is wrong with a pattern that has stars alone, or a domain with one, and "" for globs.
func starPattern(word string) (why string) {
	at := strings.LastIndexByte(word, '@')
	local, domain := word[:at], word[at:]
	switch {
	case strings.HasPrefix(domain, "@*."), strings.HasPrefix(domain, "@."):
		return "pattern " + quote(word) + ": what is for all domains below another has no local part: write @*." +
			strings.TrimLeft(domain, "@*.")
	case domain == "@*":
		return noWildDomain
	case strings.Trim(local, "*") != "":
		return ""
	}
	return "pattern " + quote(word) + ": a star alone is no pattern: write " + domain +
		" for all its addresses, or \"" + local + "\"" + domain + " for the address with a star"
}

// sortGlobs puts the globs of each domain into the order in which they are asked: the one with most text first, and of
// those with as much the one that comes first in the files.
func sortGlobs(globs map[uint32][]glob) {
	for _, list := range globs {
		slices.SortStableFunc(list, func(a, b glob) int { return cmp.Compare(b.fixed, a.fixed) })
	}
}

// matchGlobs searches a local part in NFC among globs.
func (l *ruleLines) matchGlobs(list []glob, local string, q *mail.Query, steps *Steps) hit {
	if len(list) == 0 {
		return hit{}
	}
	var from []int
	text := local
	if !ascii.Is(local) || ascii.Fold(local) != local {
		text, from = foldEach(local)
	}
	perhaps := noMatch
	for i := range list {
		if !list[i].matches(text, nil) {
			l.addStep(steps, list[i].rule, "does not match")
			continue
		}
		number, kind := l.inForce(list[i].rule, q, steps)
		if kind != ruleMatch && kind != unknownMatch {
			perhaps = max(perhaps, kind)
			continue
		}
		l.addStep(steps, number, "matches")
		groups := []int{0, len(text)}
		list[i].matches(text, &groups)
		for n := range groups {
			if from != nil {
				groups[n] = from[groups[n]]
			}
		}
		return hit{kind: kind, rule: number, local: local, groups: groups}
	}
	return hit{kind: perhaps}
}

// matches reports whether a glob matches a text that was folded. It appends the beginning and the end of what each star
// stands for to groups, unless that is nil.
func (g *glob) matches(text string, groups *[]int) bool {
	first, last := g.texts[0], g.texts[len(g.texts)-1]
	if len(text) < g.fixed || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	at, end := len(first), len(text)-len(last)
	for _, between := range g.texts[1 : len(g.texts)-1] {
		n := strings.Index(text[at:end], between)
		if n < 0 {
			return false
		}
		if groups != nil {
			*groups = append(*groups, at, at+n)
		}
		at += n + len(between)
	}
	if groups != nil {
		*groups = append(*groups, at, end)
	}
	return true
}

// foldEach returns s with each letter folded by itself, and where each of its octets comes from in s: that of a letter
// comes from the beginning of the letter. from has one more element for the end, and is nil if nothing moved.
func foldEach(s string) (folded string, from []int) {
	if ascii.Is(s) {
		return ascii.Fold(s), nil
	}
	var b strings.Builder
	from = make([]int, 0, len(s)+1)
	for at, r := range s {
		size := b.Len()
		if _, n := utf8.DecodeRuneInString(s[at:]); r == utf8.RuneError && n == 1 {
			b.WriteByte(s[at])
		} else {
			b.WriteRune(foldRune(r))
		}
		for range b.Len() - size {
			from = append(from, at)
		}
	}
	return b.String(), append(from, len(s))
}
