package account

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// A Rule is a line of rules with its record. Pattern and Target are in the language of rules files: Pattern is what
// stands first, an address, @domain, a regex with its domain or "domain NAME", and Target is the rest of the line.
type Rule struct {
	ID       string    `json:"id"`     // 32 hexadecimal digits, the same as long as there is the rule
	Domain   string    `json:"domain"` // of Pattern, A-labels in lower case; set by the Account
	Pattern  string    `json:"pattern"`
	Target   string    `json:"target"`
	Name     *string   `json:"name,omitempty"`
	Enabled  bool      `json:"enabled"`
	Priority int64     `json:"priority"` // of regexes the lowest comes first
	Source   string    `json:"source"`   // what made it: api, wrangler
	Owner    string    `json:"owner,omitempty"`
	Created  time.Time `json:"created"`
	Modified time.Time `json:"modified"`
	// Echo is what another API wants to have back as it was given. It means nothing here.
	Echo json.RawMessage `json:"echo,omitempty"`
	// Scope are the domains of the token that wrote the rule. With none, the rule may name targets that are no
	// destinations, as a rules file may.
	Scope []string `json:"scope,omitempty"`
	// Pending are the targets that are not verified. While there are some, the rule takes no mail.
	Pending []string `json:"pending,omitempty"`
	// Shut is set while the line "domain NAME" of the domain is not enabled. Then none of its rules takes mail.
	Shut bool `json:"shut,omitempty"`
	// Off is why the rule takes no mail although it is enabled and nothing is pending: what the files say wins.
	Off string `json:"off,omitempty"`
}

// allDomains is the Domain of "domain *", which only one for all domains may change.
const allDomains = "*"

// InForce reports whether the rule takes mail.
func (r *Rule) InForce() bool { return r.Enabled && !r.Shut && len(r.Pending) == 0 && r.Off == "" }

// isDomainLine reports whether the rule has the options of its domain.
func (r *Rule) isDomainLine() bool { return strings.HasPrefix(r.Pattern, "domain ") }

// shutDomains returns the domains whose own line is not enabled.
func shutDomains(list []Rule) map[string]bool {
	shut := make(map[string]bool)
	for i := range list {
		if r := &list[i]; r.isDomainLine() && !r.Enabled {
			shut[r.Domain] = true
		}
	}
	return shut
}

// Line returns the line of the rule, as it stands in a rules file.
func (r *Rule) Line() string { return strings.TrimRight(r.Pattern+"  "+r.Target, " ") }

// clone returns a copy that shares nothing which changes.
func (r Rule) clone() Rule {
	r.Pending, r.Scope, r.Echo = slices.Clone(r.Pending), slices.Clone(r.Scope), slices.Clone(r.Echo)
	if r.Name != nil {
		name := *r.Name
		r.Name = &name
	}
	return r
}

// isAs reports whether a rule says what another one says.
func (r *Rule) isAs(other *Rule) bool {
	sameName := r.Name == nil && other.Name == nil || r.Name != nil && other.Name != nil && *r.Name == *other.Name
	return sameName && r.Pattern == other.Pattern && r.Target == other.Target && r.Enabled == other.Enabled &&
		r.Priority == other.Priority && r.Source == other.Source && r.Owner == other.Owner &&
		bytes.Equal(r.Echo, other.Echo)
}

// The bounds of a record, in octets.
const (
	maxLine  = 16 << 10
	maxField = 1 << 10
)

// check returns what is wrong with the form of a rule as an *Error, and sets its Domain. The pattern has to be the
// whole pattern of the line, so that no target makes it another one.
func (r *Rule) check(aLabels func(string) (string, bool)) error {
	line := r.Line()
	switch {
	case r.Pattern == "":
		return refused("pattern", "is required")
	case len(line) > maxLine:
		return refused("target", fmt.Sprintf("makes a line of more than %d octets", maxLine))
	case r.Name != nil && len(*r.Name) > maxField, len(r.Owner) > maxField, len(r.Source) > maxField:
		return refused("name", fmt.Sprintf("is longer than %d octets", maxField))
	case len(r.Echo) > maxLine:
		return refused("", "the rule is too long")
	case strings.ContainsFunc(line, isControl):
		return refused("pattern", "holds a control character")
	case strings.TrimSpace(r.Pattern) != r.Pattern, strings.TrimSpace(r.Target) != r.Target:
		return refused("pattern", "has a blank at its start or end")
	}
	name, end := patternOf(line)
	switch {
	case line[0] == '#', end != len(r.Pattern):
		return refused("pattern", fmt.Sprintf("%q is no pattern: an address, @domain, /regex/@domain or domain NAME",
			r.Pattern))
	case name == "":
		return refused("pattern", fmt.Sprintf("%q names no domain: lines of that kind stand in the rules files",
			r.Pattern))
	case strings.HasPrefix(r.Target, "#"):
		return refused("target", "is a comment")
	}
	if r.Domain = allDomains; name == allDomains {
		return nil
	}
	domain, ok := aLabels(strings.TrimPrefix(name, "*."))
	if !ok {
		return refused("pattern", fmt.Sprintf("%q is no domain", name))
	}
	r.Domain = ascii.Fold(domain)
	return nil
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f || c == 0x2028 || c == 0x2029 }

// patternOf returns the domain of the pattern of a line and the offset of the pattern's end. The domain is empty if the
// line has no pattern with a domain.
func patternOf(line string) (domain string, end int) {
	if line[0] == '/' {
		at := strings.LastIndex(line, "/@")
		if at < 1 {
			return "", 0
		}
		end = at + 2 + wordEnd(line[at+2:])
		return line[at+2 : end], end
	}
	end = wordEnd(line)
	switch line[:end] {
	case "domain":
		rest := strings.TrimLeft(line[end:], " ")
		start := len(line) - len(rest)
		end = start + wordEnd(rest)
		return line[start:end], end
	case "relay":
		return "", end
	case "block":
		return blockOf(line)
	}
	at := strings.LastIndexByte(line[:end], '@')
	if at < 0 {
		return "", end
	}
	return line[at+1 : end], end
}

// blockOf is patternOf for a line that refuses a sender: its pattern has whom, and for which recipients. Without these
// it is for all domains.
func blockOf(line string) (domain string, end int) {
	end = len("block")
	rest := strings.TrimLeft(line[end:], " ")
	if rest == "" {
		return "", end
	}
	end = len(line) - len(rest) + wordEnd(rest)
	rest = strings.TrimLeft(line[end:], " ")
	if !strings.HasPrefix(rest, "for=") {
		return allDomains, end
	}
	start := len(line) - len(rest)
	end = start + wordEnd(rest)
	at := strings.LastIndexByte(line[start:end], '@')
	if at < 0 {
		return "", end
	}
	return line[start+at+1 : end], end
}

// wordEnd returns the length of the word that s begins with. A quoted string at its start may have blanks.
func wordEnd(s string) int {
	i := 0
	if s != "" && s[0] == '"' {
		for i = 1; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				i++
			}
		}
	}
	for i < len(s) && s[i] != ' ' && s[i] != '\t' && s[i] != ',' {
		i++
	}
	return min(i, len(s))
}

// actions are the words that stand in place of targets.
var actions = []string{"drop", "reject", "tempfail"}

// targets returns the targets of a rule as they are written, and the options behind them. An action has none, and
// neither has a domain line, whose options are all that there is.
func (r *Rule) targets() (list []string, options string) {
	rest := r.Target
	if r.isDomainLine() || strings.HasPrefix(r.Pattern, "block ") {
		return nil, rest
	}
	if r.Hook() != "" { // what stands behind it is as without it
		rest = strings.TrimLeft(rest[len("hook"):], " ")
		rest = strings.TrimLeft(rest[wordEnd(rest):], " ")
	}
	first := rest[:wordEnd(rest)]
	if slices.Contains(actions, first) {
		return nil, ""
	}
	if first == "try" {
		rest = strings.TrimLeft(rest[len(first):], " ,")
	}
	for {
		n := wordEnd(rest)
		if n > 0 {
			list = append(list, rest[:n])
		}
		rest = strings.TrimLeft(rest[n:], " ")
		if rest == "" || rest[0] != ',' {
			return list, rest
		}
		rest = strings.TrimLeft(rest[1:], " ")
	}
}

// Hook returns the name or the URL of the hook that the rule has asked, "" for none or where a condition stands in
// front, which no owner may write.
func (r *Rule) Hook() string {
	rest, ok := strings.CutPrefix(r.Target, "hook ")
	if !ok || r.isDomainLine() || strings.HasPrefix(r.Pattern, "block ") {
		return ""
	}
	rest = strings.TrimLeft(rest, " ")
	return rest[:wordEnd(rest)]
}

// words returns the targets of a rule and all other words that may be one, behind a condition or an option in front.
func (r *Rule) words() []string {
	list, options := r.targets()
	if list == nil {
		return nil
	}
	return append(list, strings.FieldsFunc(options, func(c rune) bool { return c == ' ' || c == ',' })...)
}

// ownOptions are the options that an owner may write. Others concern what is not the owner's: proxies, accounts of the
// relay at next hops, what next hops are told of clients, other domains.
var ownOptions = []string{
	"after", "block", "complaints", "dmarc", "dots", "eightbit", "enabled", "message_size", "mixed", "quarantine",
	"require_auth", "seal", "srs", "subaddress", "tag", "until", "upstream_text",
}

// foreignOption returns the key of the first option that an owner may not write, "" without one.
func foreignOption(options string) string {
	for _, word := range strings.Fields(options) {
		if word[0] == '#' {
			return ""
		}
		if key, _, _ := strings.Cut(word, "="); !slices.Contains(ownOptions, key) {
			return key
		}
	}
	return ""
}

// sortRules sorts rules as they stand in the file: by priority, then by age.
func sortRules(list []Rule) {
	slices.SortStableFunc(list, func(a, b Rule) int {
		switch {
		case a.Priority != b.Priority && a.Priority < b.Priority:
			return -1
		case a.Priority != b.Priority:
			return 1
		}
		return a.Created.Compare(b.Created)
	})
}
