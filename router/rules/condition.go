package rules

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/near"
	"github.com/millrace/millrace/router/mail"
)

// A condition says when a rule is in force. A rule without one always is. One that is not in force answers as if it was
// absent.
type condition struct {
	schedule
	tests []test
	key   string // tells it from the others of its pattern
	next  uint32 // number + 1 of the rule of the same pattern that is asked next, or 0
}

// A schedule is from when and until when a rule is in force. The zero value is always.
type schedule struct {
	disabled     bool
	after, until int64 // seconds since 1970; 0 for no bound
}

// A test is one word behind if: one of its values has to hold, or with not none of them.
type test struct {
	not      bool
	senders  []sender
	networks []netip.Prefix
	spf      spfSet
}

// A sender is a value of from, and what a block line names: one address, all of a domain, all of the domains below one,
// or the null reverse-path, which has no domain.
type sender struct {
	local  string // as it is compared; "" for all of the domain
	domain string // canonical
	below  bool   // the domains below domain, and not domain itself
}

// An spfSet has a bit for each result of SPF that a test names.
type spfSet uint8

// spfResults are the results of SPF (RFC 7208 section 2.6) that a test can name. A temperror is none of them: it says
// that the result is not known now.
var spfResults = []string{"pass", "fail", "softfail", "neutral", "none", "permerror"}

// The keys of tests.
var testKeys = []string{"from", "network", "spf"}

// scheduleKeys are the keys of options that stand in front of an action or behind targets.
var scheduleKeys = []string{"enabled", "after", "until"}

// A truth is whether a condition holds.
type truth uint8

const (
	isFalse truth = iota
	isTrue
	isUnknown // while the result of SPF is not known
)

// holds reports whether a condition holds for a query. why is what of it does not.
func (c *condition) holds(q *mail.Query) (holds truth, why string) {
	if c.disabled {
		return isFalse, "is not in force: enabled=no"
	}
	switch at := q.At.Unix(); {
	case c.after != 0 && at < c.after:
		return isFalse, "is not in force yet"
	case c.until != 0 && at >= c.until:
		return isFalse, "is not in force any more"
	}
	holds = isTrue
	for i := range c.tests {
		switch h, why := c.tests[i].holds(q); h {
		case isFalse:
			return isFalse, why
		case isUnknown:
			holds = isUnknown
		}
	}
	return holds, ""
}

// holds reports whether a test holds for a query.
func (t *test) holds(q *mail.Query) (holds truth, why string) {
	found := false
	switch {
	case t.senders != nil:
		why = "does not hold for this sender"
		found = slices.ContainsFunc(t.senders, func(s sender) bool { return s.is(q.Reverse) })
	case t.networks != nil:
		why = "does not hold for this client's address"
		a := q.Addr.Unmap()
		found = slices.ContainsFunc(t.networks, func(p netip.Prefix) bool { return p.Contains(a) })
	default:
		result := q.SPF
		if q.Trusted {
			result = "pass" // a trusted client answers for its reverse-paths
		}
		n := slices.Index(spfResults, result)
		if n < 0 {
			return isUnknown, ""
		}
		why = "does not hold with the result of SPF, " + result
		found = t.spf&(1<<n) != 0
	}
	if found != t.not {
		return isTrue, ""
	}
	return isFalse, why
}

// is reports whether a reverse-path is one of s.
func (s *sender) is(p mail.Path) bool {
	if p.IsNull() || s.domain == "" {
		return p.IsNull() && s.domain == ""
	}
	if len(p.Domain) > mail.MaxDomain {
		return false
	}
	var buf [mail.MaxDomain + 1]byte
	name, below := appendKnown(buf[:0], p.Domain)
	switch {
	case s.below:
		n := len(name) - len(s.domain)
		return (n > 1 && name[n-1] == '.' || n == 0 && below) && string(name[n:]) == s.domain
	case below || string(name) != s.domain:
		return false
	}
	return s.local == "" || string(appendLocal(nil, p.LocalPart())) == s.local
}

// inForce returns the first rule of a chain that is in force for a query. Where q is nil no query is known, and a rule
// with a condition is passed over: kind is perhapsMatch if the others are none.
func (l *ruleLines) inForce(number uint32, q *mail.Query, steps *Steps) (_ uint32, kind matchKind) {
	for {
		if l.rules[number].flags&flagCondition == 0 {
			return number, ruleMatch
		}
		c := l.conditions[number]
		if q == nil {
			if !c.disabled {
				kind = perhapsMatch
			}
		} else {
			switch holds, why := c.holds(q); holds {
			case isTrue:
				return number, ruleMatch
			case isUnknown:
				return number, unknownMatch
			default:
				l.addStep(steps, number, why)
			}
		}
		if c.next == 0 {
			return number, kind
		}
		number = c.next - 1
	}
}

// always returns the rule of a chain that has no condition.
func (l *ruleLines) always(number uint32) (uint32, bool) {
	for l.rules[number].flags&flagCondition != 0 {
		c := l.conditions[number]
		if c.next == 0 {
			return 0, false
		}
		number = c.next - 1
	}
	return number, true
}

// isDisabled reports whether a rule is never in force.
func (l *ruleLines) isDisabled(number uint32) bool {
	c := l.conditions[number]
	return c != nil && c.disabled
}

// join puts a rule into the chain of rules of its pattern and returns the first of the chain. Rules with a condition
// are asked in the order of the files, the one without after them. clash is the rule that the new one cannot stand
// beside, and the chain is as before then.
func (l *ruleLines) join(first, number uint32) (_ uint32, clash *rule) {
	c, before := l.conditions[number], (*condition)(nil)
	for at := first; ; {
		other := l.conditions[at]
		switch {
		case other == nil && c == nil, other != nil && c != nil && other.key == c.key:
			return first, &l.rules[at]
		case other == nil:
			c.next = at + 1
			if before == nil {
				return number, nil
			}
			before.next = number + 1
			return first, nil
		case other.next == 0:
			other.next = number + 1
			return first, nil
		}
		before, at = other, other.next-1
	}
}

// parseCondition parses the tests behind if, and returns what follows them.
func (cur *cursor) parseCondition(s string) (c *condition, rest, why string) {
	const needs = "if needs a test behind it: " +
		"from=@sender.example, network=192.0.2.0/24 or spf=pass, then what becomes of the message"
	c = new(condition)
	for s = trimBlank(s); s != ""; s = trimBlank(s) {
		n := strings.IndexAny(s, " \t")
		if n < 0 {
			n = len(s)
		}
		key, values, found := strings.Cut(s[:n], "=")
		key, not := strings.CutSuffix(key, "!")
		if found && slices.Contains(scheduleKeys, key) && !strings.Contains(values, "@") {
			cur.mark(s)
			return nil, "", key + " stands in front of if, or behind the targets"
		}
		if !found || !slices.Contains(testKeys, key) {
			break
		}
		cur.mark(s)
		test := test{not: not}
		if why := test.parse(key, values); why != "" {
			return nil, "", why
		}
		c.tests = append(c.tests, test)
		c.key += " " + ascii.Fold(s[:n])
		s = s[n:]
	}
	if len(c.tests) > 0 {
		return c, s, ""
	}
	if s == "" {
		return nil, "", needs
	}
	cur.mark(s)
	word, _ := cutWord(s)
	key, _, found := strings.Cut(word, "=")
	if found {
		key = strings.TrimSuffix(key, "!")
		if meant := near.Word(key, testKeys); meant != "" {
			return nil, "", "if has no test " + quote(key) + "; did you mean " + meant
		}
		return nil, "", "if has no test " + quote(key) + "; the tests are " + strings.Join(testKeys, ", ")
	}
	return nil, "", needs
}

// parse parses the values of a test, which are separated by commas.
func (t *test) parse(key, values string) (why string) {
	for value := range strings.SplitSeq(values, ",") {
		switch key {
		case "from":
			s, why := parseSender(value)
			if why != "" {
				return "from: " + why
			}
			t.senders = append(t.senders, s)
		case "network":
			p, err := netip.ParsePrefix(value)
			if a, err2 := netip.ParseAddr(value); err2 == nil && a.Zone() == "" {
				p, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
			if err != nil || p.Addr().Is4In6() {
				return "network: " + quote(value) + " is neither a network such as 192.0.2.0/24 nor an IP address"
			}
			if p != p.Masked() {
				return "network: " + quote(value) + " has bits behind its length: write " + p.Masked().String()
			}
			t.networks = append(t.networks, p)
		default:
			n := slices.Index(spfResults, value)
			if n < 0 {
				return spfMistake(value)
			}
			t.spf |= 1 << n
		}
	}
	return ""
}

// spfMistake returns what is wrong with a value of spf.
func spfMistake(value string) string {
	why := "spf has no result " + quote(value) + ": they are " + strings.Join(spfResults, ", ")
	if value == "temperror" {
		return "spf=temperror is no test: mail is put off while the result is not known"
	}
	if meant := near.Word(value, spfResults); meant != "" {
		why += "; did you mean " + meant
	}
	return why
}

// parseSender parses an address, @ and a domain, @*. and a domain, or <> for the null reverse-path.
func parseSender(word string) (s sender, why string) {
	if word == "<>" {
		return sender{}, ""
	}
	name, isDomain := strings.CutPrefix(word, "@")
	if isDomain {
		name, s.below = strings.CutPrefix(name, "*.")
	} else {
		p, err := mail.ParsePath(word, true)
		switch {
		case word == "":
			return s, "a sender is missing"
		case unquotedStar(word):
			return s, quote(word) + ": a star is not a wildcard here: write @ and the domain for all its senders"
		case err != nil || p.Domain == "":
			return s, senderMistake(word)
		}
		s.local, name = string(appendLocal(nil, p.LocalPart())), p.Domain
	}
	if _, literal := mail.LiteralAddr(name); !literal && !mail.IsDomain(name) {
		return s, senderMistake(word)
	}
	domain, ok := canonicalDomain(name)
	if !ok {
		return s, quote(word) + ": not a domain name that IDNA knows"
	}
	s.domain = domain
	return s, ""
}

// senderMistake returns what is wrong with a word that is no sender.
func senderMistake(word string) string {
	if !strings.Contains(word, "@") && mail.IsDomain(word) {
		return quote(word) + " is a domain: write @" + word + " for all its senders"
	}
	if why := AddressMistake(word); why != "" {
		return why
	}
	return quote(word) + " is neither an address, nor @ and a domain, nor <>"
}

// Time reads a time as after and until have it, with its zone. ok is false for what is none.
func Time(text string) (t time.Time, ok bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// parseTime parses the value of after and until, which say their zone: the nodes of a cluster may stand in several.
func parseTime(key, value string) (seconds int64, why string) {
	if t, ok := Time(value); ok {
		if t.Unix() <= 0 {
			return 0, "option " + key + ": " + quote(value) + " is before 1970"
		}
		return t.Unix(), ""
	}
	example := key + "=2026-12-24T18:00:00Z, or with +09:00 in place of Z for a time in Japan"
	if t, err := time.Parse(time.DateOnly, value); err == nil {
		example = key + "=" + t.Format(time.DateOnly) + "T00:00:00Z, or with +09:00 in place of Z for a day in Japan"
	}
	return 0, "option " + key + " has no value " + quote(value) + ": a time is written " + example
}

// word returns what distinguishes a schedule from others of its pattern.
func (s *schedule) word() string {
	if *s == (schedule{}) {
		return ""
	}
	return " " + strconv.FormatBool(!s.disabled) + " " + strconv.FormatInt(s.after, 10) + " " +
		strconv.FormatInt(s.until, 10)
}
