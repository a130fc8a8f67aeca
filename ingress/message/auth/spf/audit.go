package spf

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/leaf/domain"
)

// The limits of RFC 7208 section 4.6.4: what goes beyond them makes a record a permerror.
const (
	MaxLookups = 10
	maxVoid    = 2
	maxMX      = 10
)

// maxAudited bounds the records that an audit reads: a record may include itself in more ways than can be followed.
const maxAudited = 60

// A Flaw is a kind of what can be wrong with a record.
type Flaw uint8

// The flaws. With those before NoEnd a receiver cannot use the record or lets all clients pass.
const (
	Several     Flaw = iota // a domain has more than one record
	NotRecord               // a text was meant as a record and is none
	Syntax                  // a term cannot be read
	TooMany                 // more look-ups than MaxLookups
	TooVoid                 // more than two look-ups that find nothing
	TooManyMX               // an "mx" with more than ten hosts
	Loop                    // a record includes itself
	Dead                    // an include or redirect leads to a domain without a record
	PassAll                 // all clients pass
	Wide                    // a network that is larger than any sender's
	NoEnd                   // nothing is said of other clients
	AfterAll                // a term behind "all", which counts for nothing
	Void                    // a look-up that finds nothing
	Discouraged             // the mechanism "ptr"
)

// A Fault is a flaw and where it is.
type Fault struct {
	Flaw   Flaw
	Domain string // whose record it is
	Term   string // "" for the record as a whole
}

// A Cost is how many look-ups a term of the domain's own record needs.
type Cost struct {
	Term    string
	Lookups int
}

// An Audit is what can be said of a domain's record without a client.
type Audit struct {
	Records []string // the domain's own
	Lookups int      // the most that an evaluation needs
	Void    int      // how many of them find nothing
	Faults  []Fault
	Costs   []Cost
	Tree    []string // the record with all that it includes, a term a line, indented
	Err     error    // the first look-up that failed: the rest is not known
}

// NewAudit reads the record of a domain, and those that it includes.
func NewAudit(ctx context.Context, resolver world.Resolver, name string) *Audit {
	a := &auditor{resolver: resolver, Audit: &Audit{}}
	a.read(ctx, domain.Canonical(name), nil, "")
	if a.Lookups > MaxLookups {
		a.fault(TooMany, domain.Canonical(name), "")
	}
	if a.Void > maxVoid {
		a.fault(TooVoid, domain.Canonical(name), "")
	}
	return a.Audit
}

// An auditor walks records.
type auditor struct {
	resolver world.Resolver
	*Audit
	seen int // records so far
}

func (a *auditor) fault(f Flaw, name, term string) { a.Faults = append(a.Faults, Fault{f, name, term}) }

// line adds a line to the tree.
func (a *auditor) line(depth int, text string) {
	a.Tree = append(a.Tree, strings.Repeat("  ", depth)+text)
}

// find returns the one record of a domain. above are the domains that led here, the last of them by a term.
func (a *auditor) find(ctx context.Context, name string, above []string, term string) (record string, ok bool) {
	texts, err := a.resolver.LookupTXT(ctx, name)
	if err != nil {
		if a.Err == nil {
			a.Err = err
		}
		a.line(len(above), name+": not known")
		return "", false
	}
	var records []string
	for _, text := range texts {
		switch {
		case isRecord(text):
			records = append(records, text)
		case isMeant(text):
			a.fault(NotRecord, name, text)
		}
	}
	if len(above) == 0 {
		a.Records = records
	}
	switch len(records) {
	case 0:
		if len(above) > 0 {
			a.fault(Dead, above[len(above)-1], term)
			a.line(len(above), name+": no record")
		}
		return "", false
	case 1:
		return records[0], true
	}
	a.fault(Several, name, term)
	return "", false
}

// isMeant reports whether a text that is no record was meant as one.
func isMeant(text string) bool {
	text = strings.ToLower(strings.Trim(text, "\"' \t"))
	text = strings.ReplaceAll(text, " ", "")
	return strings.HasPrefix(text, "v=spf") && !strings.HasPrefix(text, "v=spf2") ||
		strings.HasPrefix(text, "spf1") || strings.HasPrefix(text, "v:spf1") || strings.HasPrefix(text, "spf=")
}

// read reads the record of a domain.
func (a *auditor) read(ctx context.Context, name string, above []string, term string) {
	if slices.Contains(above, name) {
		a.fault(Loop, above[len(above)-1], term)
		a.line(len(above), name+": again")
		return
	}
	if a.seen++; a.seen > maxAudited {
		return
	}
	record, ok := a.find(ctx, name, above, term)
	if !ok {
		return
	}
	a.line(len(above), name+": "+record)
	if checkSyntax(record) != nil {
		a.fault(Syntax, name, wrongTerm(record))
		return
	}
	a.terms(ctx, record, name, append(slices.Clone(above), name))
}

// wrongTerm returns the first term of a record that cannot be read; "" if the fault is not in one.
func wrongTerm(record string) string {
	for t := range strings.SplitSeq(record[len(version):], " ") {
		if t != "" && checkSyntax(version+" "+t) != nil {
			return t
		}
	}
	return ""
}

// terms reads the terms of a record. path are the domains that led here, its own the last.
func (a *auditor) terms(ctx context.Context, record, name string, path []string) {
	ended, redirect := false, ""
	for t := range strings.SplitSeq(record[len(version):], " ") {
		if t == "" {
			continue
		}
		if m, value, ok := modifier(t); ok {
			if strings.EqualFold(m, "redirect") {
				redirect = value
			}
			continue
		}
		if ended {
			a.fault(AfterAll, name, t)
			continue
		}
		before := a.Lookups
		ended = a.directive(ctx, t, name, path)
		if len(path) == 1 && a.Lookups > before {
			a.Costs = append(a.Costs, Cost{t, a.Lookups - before})
		}
	}
	switch {
	case ended && redirect != "":
		a.fault(AfterAll, name, "redirect="+redirect)
	case redirect != "":
		before := a.Lookups
		a.Lookups++
		a.follow(ctx, redirect, path, "redirect="+redirect)
		if len(path) == 1 {
			a.Costs = append(a.Costs, Cost{"redirect=" + redirect, a.Lookups - before})
		}
	case !ended && len(path) == 1:
		a.fault(NoEnd, name, "")
	}
}

// follow reads the record that a term leads to, unless its name is made of the client.
func (a *auditor) follow(ctx context.Context, name string, path []string, term string) {
	if strings.Contains(name, "%") {
		return
	}
	a.read(ctx, domain.Canonical(name), path, term)
}

// directive reads a mechanism, and reports whether it is "all".
func (a *auditor) directive(ctx context.Context, t, name string, path []string) (all bool) {
	qualifier := byte('+')
	mechanism := t
	if strings.IndexByte("+-?~", t[0]) >= 0 {
		qualifier, mechanism = t[0], t[1:]
	}
	value := ""
	if end := strings.IndexAny(mechanism, ":/"); end >= 0 {
		mechanism, value = mechanism[:end], mechanism[end:]
	}
	switch strings.ToLower(mechanism) {
	case "all":
		switch {
		case qualifier == '+':
			a.fault(PassAll, name, t)
		case qualifier == '?' && len(path) == 1:
			a.fault(NoEnd, name, t)
		}
		return true
	case "include":
		a.Lookups++
		a.follow(ctx, value[1:], path, t)
	case "exists":
		a.Lookups++
	case "ptr":
		a.Lookups++
		a.fault(Discouraged, name, t)
	case "a", "mx":
		a.Lookups++
		a.hosts(ctx, strings.EqualFold(mechanism, "mx"), value, t, name)
	}
	if qualifier == '+' {
		a.width(strings.EqualFold(mechanism, "ip6"), value, t, name)
	}
	return false
}

// hosts counts what the mechanisms "a" and "mx" find.
func (a *auditor) hosts(ctx context.Context, mx bool, value, t, name string) {
	host, _ := cutPrefixes(value) // the syntax was checked
	if host = strings.TrimPrefix(host, ":"); host == "" {
		host = name
	}
	if strings.Contains(host, "%") {
		return
	}
	found, err := 0, error(nil)
	if mx {
		var hosts []string
		hosts, err = a.resolver.LookupMX(ctx, host)
		if found = len(hosts); found > maxMX {
			a.fault(TooManyMX, name, t)
		}
	} else {
		addrs, lookupErr := a.resolver.LookupAddrs(ctx, host)
		found, err = len(addrs), lookupErr
	}
	switch {
	case found == 0 && err != nil && a.Err == nil:
		a.Err = err
	case found == 0 && err == nil:
		a.Void++
		a.fault(Void, name, t)
	}
}

// Widths in bits of the prefix from which on a network is larger than any sender's.
const wide4, wide6 = 8, 16

// width looks at the prefixes of a mechanism whose clients pass. With six a single one is of IPv6.
func (a *auditor) width(six bool, value, t, name string) {
	bits4, bits6 := 32, 128
	if at := strings.LastIndex(value, "//"); at >= 0 && isPrefixText(value[at+2:]) {
		bits6, _ = strconv.Atoi(value[at+2:]) // the syntax was checked
		value = value[:at]
	}
	if at := strings.LastIndexByte(value, '/'); at >= 0 && isPrefixText(value[at+1:]) {
		n, _ := strconv.Atoi(value[at+1:])
		if six {
			bits6 = n
		} else {
			bits4 = n
		}
	}
	switch {
	case bits4 == 0 || bits6 == 0:
		a.fault(PassAll, name, t)
	case bits4 < wide4 || bits6 < wide6:
		a.fault(Wide, name, t)
	}
}

// Merge returns one record that lets pass what several let pass. It ends in the mildest of their ends, but not in one
// by which all clients pass.
func Merge(records []string) string {
	var terms []string
	end, explained := "", false
	for _, r := range records {
		for t := range strings.SplitSeq(r[len(version):], " ") {
			lower := strings.ToLower(t)
			switch {
			case t == "" || explained && strings.HasPrefix(lower, "exp="):
				continue
			case strings.TrimLeft(lower, "+-?~") == "all":
				end = mildest(end, lower)
				continue
			case strings.HasPrefix(lower, "redirect="):
				t = "include:" + t[len("redirect="):]
			}
			explained = explained || strings.HasPrefix(lower, "exp=")
			if !slices.ContainsFunc(terms, func(o string) bool { return strings.EqualFold(o, t) }) {
				terms = append(terms, t)
			}
		}
	}
	if end == "" {
		end = "~all"
	}
	return strings.Join(append([]string{version}, append(terms, end)...), " ")
}

// mildest returns the end of a merged record after one more was seen.
func mildest(end, next string) string {
	if next != "-all" || end == "~all" {
		return "~all"
	}
	return next
}
