package migrate

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A Text is the text of a TXT record, and its place.
type Text struct {
	Text string
	At   Note
}

// forwardPrefix is what the records of Forward Email begin with.
const forwardPrefix = "forward-email="

// An exclusion is what becomes of mail for an address that is left out of what is forwarded, by the number of its
// exclamation marks.
var exclusion = [...]string{
	1: "drop", 2: "tempfail 450 4.2.1 Mail for this address is put off",
	3: "reject 550 5.2.1 Mail for this address is refused",
}

// An element is a part of what the records say.
type element struct {
	exclude int    // exclamation marks, 0 for none
	user    string // the alias; empty for an expression and for what is of all addresses
	pattern *expression
	to      string
	at      Note
}

// A forwarder is what records of Forward Email say of a domain.
type forwarder struct {
	service
	domain   *served
	elements []element
	port     string // where destinations listen, if it is not 25
}

// ForwardEmail returns rules and a configuration that take the same mail to the same places as Forward Email does for
// a domain, of its TXT records.
func ForwardEmail(domain string, records []Text) (*Result, error) {
	f := &forwarder{service: service{name: "Forward Email"}}
	d, ok := f.service.domain(domain)
	if !ok {
		return nil, fmt.Errorf("%q is no domain name", domain)
	}
	d.tagged = true
	f.domain = d
	all := f.readRecords(records)
	if len(all) == 0 && !d.waits {
		return nil, errors.New("no record begins with " + forwardPrefix)
	}
	for _, text := range all {
		f.readElement(text)
	}
	f.users()
	f.expressions()
	f.others()
	f.noteAt(Note{}, "user+tag is taken as user; the tag is not put behind the target, as Forward Email does")
	return f.result(), nil
}

// encrypted is how a value looks that Forward Email has encrypted.
var encrypted = regexp.MustCompile(`^[A-Za-z0-9+/]{16,}={0,2}$`)

// readRecords returns the elements of all records.
func (f *forwarder) readRecords(records []Text) (all []string) {
	var values []string
	for _, r := range records {
		text := strings.TrimSpace(r.Text)
		value, ok := strings.CutPrefix(text, forwardPrefix)
		switch {
		case strings.HasPrefix(text, "forward-email-site-verification="):
			f.domain.waits = true
			f.noteAt(r.At, "its aliases stand in an account of Forward Email, and were not read: write those that "+
				"have mail")
		case strings.HasPrefix(text, "forward-email-port="):
			f.port = strings.TrimPrefix(text, "forward-email-port=")
		case !ok:
		case encrypted.MatchString(value):
			f.domain.waits = true
			f.noteAt(r.At, "is encrypted, and was not read: write what it says")
		default:
			values = append(values, value)
		}
	}
	for _, text := range splitElements(strings.Join(values, ",")) {
		if text = strings.TrimSpace(text); text != "" && !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// splitElements parts what the records say at commas, as Forward Email does: of an expression those behind its end.
func splitElements(s string) (all []string) {
	for s != "" {
		from := 0
		if s[0] == '/' {
			from = max(0, strings.Index(s, "/:"))
			if next := strings.Index(s, ",/"); next >= 0 {
				from = max(0, strings.LastIndex(s[:min(len(s), next+2)], "/:"))
			}
		}
		end := strings.IndexByte(s[from:], ',')
		if end < 0 {
			return append(all, s)
		}
		all = append(all, s[:from+end])
		s = s[from+end+1:]
	}
	return all
}

// readElement reads an element.
func (f *forwarder) readElement(text string) {
	e := element{at: Note{Field: Plain("element " + text)}}
	bare := strings.TrimLeft(text, "!")
	marks := min(len(text)-len(bare), 3)
	switch {
	case strings.HasPrefix(bare, "/") && strings.Count(bare, "/") > 1:
		f.readExpression(e, marks, bare)
		return
	case marks > 0:
		e.exclude = marks
		e.user, _, _ = strings.Cut(bare, ":")
	case isURL(text), !strings.Contains(text, ":"):
		e.to = text
	default:
		e.user, e.to, _ = strings.Cut(text, ":")
	}
	e.user = strings.ToLower(strings.TrimSpace(e.user))
	if e.to != text { // not for all addresses
		_, _, why := address(pathOf(e.user, f.domain.name))
		if why != "" || e.user == "" || strings.Contains(e.user, "+") {
			f.noteAt(e.at, "is for no address: it was left out")
			return
		}
	}
	f.elements = append(f.elements, e)
}

// expressionEnds are how an expression ends in front of its destination.
var expressionEnds = []string{"/gi:", "/ig:", "/g:", "/i:", "/:"}

// readExpression reads an element that is an expression, as its service reads it: what is none counts for nothing there
// too.
func (f *forwarder) readExpression(e element, marks int, bare string) {
	e.exclude = marks
	body := strings.TrimRight(bare[1:], "gi")
	for _, end := range expressionEnds {
		if at := strings.LastIndex(bare, end); at > 0 {
			body, e.to = bare[1:at+1], bare[at+len(end):]
			break
		}
	}
	body, ok := strings.CutSuffix(body, "/")
	if rest := strings.TrimLeft(e.to, "!"); len(rest) < len(e.to) {
		e.exclude, e.to = min(len(e.to)-len(rest), 3), ""
	}
	p, err := newExpression(body)
	if !ok || err != nil {
		f.noteAt(e.at, "is no expression of RE2, which counts for nothing at Forward Email: it was left out")
		return
	}
	e.pattern = p
	f.elements = append(f.elements, e)
}

// destination returns what an address, a host or a webhook is as a target; expand makes it of a template. why is why
// it is none.
func (f *forwarder) destination(to string) (as, why string) {
	_, ipErr := netip.ParseAddr(to)
	switch {
	case f.port != "" && f.port != "25":
		return "", to + ": is spoken with on port " + f.port + ", and rules look up MX hosts at port 25 alone"
	case isURL(to):
		return "", to + ": is a webhook, and rules post nothing: write where its mail goes"
	case ipErr == nil, !strings.Contains(to, "@") && mail.IsDomain(to):
		return "", to + ": is a host: write smtp://" + to + " if the address is kept"
	}
	return target(strings.ToLower(to))
}

// users adds the addresses that elements name: each gets all that its elements and those of expressions that match it
// say, unless one excludes it.
func (f *forwarder) users() {
	for _, e := range f.elements {
		if e.user != "" && f.domain.byUser[e.user] == nil {
			f.addUser(f.domain, f.actionOf(e.user, e.at))
		}
	}
}

// actionOf returns what becomes of mail for a local part.
func (f *forwarder) actionOf(user string, at Note) *action {
	a := &action{user: user, from: at}
	var all, why []string
	for _, e := range f.elements {
		to, matched := e.to, e.user == user && user != ""
		if e.pattern != nil {
			to, matched = e.pattern.replace(user, e.to)
		}
		switch {
		case !matched:
			continue
		case e.exclude > 0:
			a.verb = exclusion[e.exclude]
			return a
		}
		as, wrong := f.destination(to)
		if wrong != "" {
			why = append(why, wrong)
		}
		all = append(all, as)
	}
	if len(why) > 0 {
		f.wait(a, user+": "+strings.Join(why, "; "))
		return a
	}
	f.forward(a, all)
	return a
}

// expressions adds those that exclude, in their order, and then those that forward. An address that several of these
// match gets all that they say there, and what the first says here: where these differ, all wait.
func (f *forwarder) expressions() {
	var excluding, forwarding []*element
	for i := range f.elements {
		switch e := &f.elements[i]; {
		case e.pattern == nil:
		case e.exclude > 0:
			excluding = append(excluding, e)
		default:
			forwarding = append(forwarding, e)
		}
	}
	differ := slices.ContainsFunc(forwarding, func(e *element) bool { return e.to != forwarding[0].to })
	for i, e := range slices.Concat(excluding, forwarding) {
		a := &action{from: e.at}
		var ok bool
		if a.user, ok = e.pattern.whole(e.to); !ok {
			f.noteAt(e.at, "is an expression that rules have in another form: write it by hand. No expression was "+
				"converted")
			f.domain.waits, f.domain.patterns = true, nil
			return
		}
		switch {
		case slices.ContainsFunc(f.domain.patterns, func(p *action) bool { return p.user == a.user }):
			continue // the first of them counts, which excludes if one does
		case i < len(excluding):
			a.verb = exclusion[e.exclude]
		case differ:
			f.wait(a, "several expressions with different destinations: an address gets mail by each that matches it "+
				"there, and by the first here: write them by hand")
		default:
			f.forwardTemplate(a, e)
		}
		f.addPattern(f.domain, a)
	}
}

// forwardTemplate sets the target of an expression.
func (f *forwarder) forwardTemplate(a *action, e *element) {
	if !strings.Contains(e.to, "$") {
		as, why := f.destination(e.to)
		if why != "" {
			f.wait(a, why)
			return
		}
		a.targets = []string{as}
		return
	}
	if _, why := f.destination(strings.ReplaceAll(e.to, "$", "x")); why != "" {
		f.wait(a, why)
		return
	}
	as, why := template(strings.ToLower(e.to), e.pattern.groups)
	if why != "" {
		f.wait(a, why)
		return
	}
	a.targets = []string{as}
}

// others adds what becomes of mail that no other element is for: to all addresses, and to the same one at all domains.
func (f *forwarder) others() {
	a := &action{}
	var why []string
	keeps := false
	for _, e := range f.elements {
		if e.user != "" || e.pattern != nil || e.exclude > 0 {
			continue
		}
		a.from = e.at
		if !strings.Contains(e.to, "@") && mail.IsDomain(e.to) && strings.Contains(e.to, ".") && !isAddr(e.to) {
			keeps = true
			a.targets = append(a.targets, sameUser+"@"+strings.ToLower(e.to))
			continue
		}
		if !strings.Contains(e.to, "@") && !isURL(e.to) && !isAddr(e.to) {
			f.noteAt(e.at, "is neither an address, a domain nor a webhook, and counts for nothing at Forward Email")
			continue
		}
		as, wrong := f.destination(e.to)
		if wrong != "" {
			why = append(why, wrong)
		}
		a.targets = append(a.targets, as)
	}
	if f.port != "" && f.port != "25" && keeps {
		why = append(why, "destinations are spoken with on port "+f.port)
	}
	if len(why) > 0 {
		f.wait(a, strings.Join(why, "; "))
	}
	switch {
	case len(a.targets) == 0 && len(why) == 0:
	case keeps && len(why) == 0:
		a.user = "(.+)"
		f.addPattern(f.domain, a)
	default:
		f.addAll(f.domain, a)
	}
}

// isAddr reports whether a destination is an IP address.
func isAddr(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}
