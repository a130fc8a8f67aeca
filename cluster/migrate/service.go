package migrate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A service is what a service that forwards mail does for its domains, as rules under way.
type service struct {
	name    string // as people call it
	domains []*served
	notes   []Note
}

// A served is a domain of a service.
type served struct {
	name     string
	tagged   bool // user+tag is taken as user
	users    []*action
	byUser   map[string]*action // by local part in lower case
	patterns []*action          // in order
	all      *action            // takes what no other does
	waits    bool               // something that takes mail was not converted: mail of all other addresses waits
}

// An action is what becomes of mail for an address, for those that an expression matches, or for all others. Without
// targets and verb it waits at its senders.
type action struct {
	user    string   // the local part in its meaning, or the expression
	targets []string // as rules have them
	verb    string   // drop, or reject or tempfail and its reply, in place of targets
	from    Note     // where it stands
}

// text returns an action as rules have it.
func (a *action) text() string {
	switch {
	case a.verb != "":
		return a.verb
	case len(a.targets) > 0:
		return strings.Join(a.targets, ", ")
	}
	return deferred
}

// wait has mail of an action wait at its senders, and notes why.
func (s *service) wait(a *action, why string) {
	a.targets, a.verb = nil, ""
	s.noteAt(a.from, why)
}

// noteAt notes something about a place.
func (s *service) noteAt(at Note, text string) {
	at.Text = Plain(text)
	at.Field = Plain(at.Field)
	s.notes = append(s.notes, at)
}

// Plain returns a text from outside without what a terminal would take for a command.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e ||
			r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, text)
}

// domain returns a domain of the service, which it adds if it is new. ok is false if it is no domain name.
func (s *service) domain(name string) (d *served, ok bool) {
	name = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(name), "."))
	for _, d := range s.domains {
		if d.name == name {
			return d, true
		}
	}
	if !mail.IsDomain(name) || !strings.Contains(name, ".") {
		return nil, false
	}
	d = &served{name: name, byUser: make(map[string]*action)}
	s.domains = append(s.domains, d)
	return d, true
}

// addUser adds what becomes of mail for an address. What a second entry of it says has to be the same, or its mail
// waits.
func (s *service) addUser(d *served, a *action) {
	a.user = strings.ToLower(a.user)
	first := d.byUser[a.user]
	switch {
	case first == nil:
		d.byUser[a.user] = a
		d.users = append(d.users, a)
	case first.text() != a.text():
		s.wait(first, pathOf(a.user, d.name)+" is there twice with different destinations: write which one counts")
	}
}

// addPattern adds what becomes of mail for the addresses that an expression matches, as addUser does.
func (s *service) addPattern(d *served, a *action) {
	at := slices.IndexFunc(d.patterns, func(p *action) bool { return p.user == a.user })
	switch {
	case at < 0:
		d.patterns = append(d.patterns, a)
	case d.patterns[at].text() != a.text():
		s.wait(d.patterns[at], "/"+a.user+"/ is there twice with different destinations: write which one counts")
	}
}

// addAll adds what becomes of mail for all other addresses.
func (s *service) addAll(d *served, a *action) {
	switch {
	case d.all == nil:
		d.all = a
	case d.all.text() != a.text():
		s.wait(d.all, "@"+d.name+" is there twice with different destinations: write which one counts")
	}
}

// pathOf returns an address as rules have it, as a pattern or as a target.
func pathOf(user, domain string) string {
	p := mail.NewPath(user, domain)
	if p.Local != "" && p.Local[0] != '"' && (strings.Contains(p.Local, "*") ||
		strings.ContainsAny(p.Local[:1], "/#") || strings.HasSuffix(p.Local, "/")) {
		p.Local = `"` + p.Local + `"` // atext needs no backslash
	}
	return p.String()
}

// address parses an address of a file. why is what is wrong with it, in a few words.
func address(text string) (user, domain, why string) {
	text = strings.TrimSpace(text)
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", "", "has a control character"
	}
	p, err := mail.ParsePath(text, true)
	switch {
	case err != nil:
		return "", "", err.Error()
	case p.Domain == "" || p.Domain[0] == '[' || !mail.IsDomain(p.Domain):
		return "", "", "has no domain"
	}
	return p.LocalPart(), strings.ToLower(p.Domain), ""
}

// group finds what a target would take for a group of an expression.
var group = regexp.MustCompile(`\$[0-9{]`)

// target returns an address of a file as the target of a rule that is no expression. why is what is wrong with it.
func target(text string) (as, why string) {
	user, domain, why := address(text)
	switch {
	case why != "":
		return "", Plain(text) + ": " + why
	case group.MatchString(user):
		return "", Plain(text) + ": rules would take the dollar sign for a group of an expression"
	}
	return pathOf(user, domain), ""
}

// maxTargets is the most targets that a rule may have.
const maxTargets = 100

// forward sets the targets of an action. If one of them is none, its mail waits, so that no copy is lost.
func (s *service) forward(a *action, addresses []string) {
	var why []string
	for _, text := range addresses {
		as, wrong := target(text)
		switch {
		case wrong != "":
			why = append(why, wrong)
		case !slices.Contains(a.targets, as):
			a.targets = append(a.targets, as)
		}
	}
	switch {
	case len(why) > 0:
		s.wait(a, strings.Join(why, "; "))
	case len(a.targets) == 0:
		s.wait(a, "has no destination")
	case len(a.targets) > maxTargets:
		s.wait(a, fmt.Sprintf("has %d destinations, and a rule at most %d", len(a.targets), maxTargets))
	}
}

// actions are all actions of the service, with their domains.
func (s *service) actions(yield func(*served, *action) bool) {
	for _, d := range s.domains {
		all := append(slices.Clone(d.users), d.patterns...)
		if d.all != nil {
			all = append(all, d.all)
		}
		for _, a := range all {
			if !yield(d, a) {
				return
			}
		}
	}
}

// settle has mail wait whose targets lie in domains of the service and end nowhere, or come back: rules refuse these
// when they are loaded.
func (s *service) settle() {
	for _, a := range s.actions {
		for _, t := range a.targets {
			if why := s.follow(a, t, nil); why != "" {
				s.wait(a, t+" "+why)
				break
			}
		}
	}
}

// maxFollow is the most rules between a recipient and its target.
const maxFollow = 10

// follow returns why a target is none. path is what led there.
func (s *service) follow(a *action, t string, path []*action) (why string) {
	user, domain, wrong := address(t)
	if wrong != "" {
		return ""
	}
	at := slices.IndexFunc(s.domains, func(d *served) bool { return d.name == domain })
	switch {
	case at < 0:
		return ""
	case group.MatchString(user): // which address it is, is seen when mail comes
		return "is an address of a domain that moves as well, by a group of an expression: write it by hand"
	}
	next := s.domains[at].find(user)
	path = append(path, a)
	switch {
	case next == nil:
		return "is in a domain that moves as well, and no rule there takes it"
	case slices.Contains(path, next) || len(path) > maxFollow:
		return "leads back to its own address"
	}
	for _, t := range next.targets {
		if why := s.follow(next, t, path); why != "" {
			return why
		}
	}
	return ""
}

// find returns the action that takes mail for a local part, as rules find it; nil if there is none.
func (d *served) find(user string) *action {
	user = strings.ToLower(user)
	if a := d.byUser[user]; a != nil {
		return a
	}
	for end := len(user) - 1; d.tagged && end > 0; end-- {
		if a := d.byUser[user[:end]]; a != nil && user[end] == '+' {
			return a
		}
	}
	for _, p := range d.patterns {
		re, err := regexp.Compile(`(?i)\A(?:` + p.user + `)\z`)
		if err == nil && re.MatchString(user) {
			return p
		}
	}
	return d.all
}

// result returns the rules and the configuration.
func (s *service) result() *Result {
	for _, d := range s.domains {
		if d.waits {
			d.all = &action{}
			s.noteAt(Note{}, "@"+d.name+": mail for all other addresses waits, because not all that takes mail there "+
				"was converted")
		}
	}
	s.settle()
	slices.SortStableFunc(s.domains, func(a, b *served) int { return strings.Compare(a.name, b.name) })
	r := &Result{Rules: s.rules(), Config: s.config()}
	r.Notes = s.notes
	return r
}

// rules returns the rules of all domains.
func (s *service) rules() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Converted from %s.\n", s.name)
	for _, d := range s.domains {
		fmt.Fprintf(&b, "\ndomain %s", d.name)
		if d.tagged {
			b.WriteString("  subaddress=+")
		}
		b.WriteByte('\n')
		for _, a := range d.users {
			fmt.Fprintf(&b, "%s  %s\n", pathOf(a.user, d.name), a.text())
		}
		for _, a := range d.patterns {
			fmt.Fprintf(&b, "/%s/@%s  %s\n", a.user, d.name, a.text())
		}
		if d.all != nil {
			fmt.Fprintf(&b, "@%s  %s\n", d.name, d.all.text())
		}
	}
	return b.String()
}

// config returns the configuration of a node that takes the place of the service. It is as good as the first domain:
// the service's own names are of no use here.
func (s *service) config() string {
	var b strings.Builder
	host := "mx1.example.net"
	if len(s.domains) > 0 {
		host = "mx1." + s.domains[0].name
	}
	s.noteAt(Note{}, "hostname: "+host+" is a proposal: put the name of the node into millrace.yaml")
	fmt.Fprintf(&b, "# Converted from %s.\nhostname: %s\npostmaster: %q\nroutes: routes.txt\nlisten:\n"+
		"  - {addr: \":25\"}\n", s.name, host, s.postmaster())
	for d, a := range s.actions {
		if fansOut(a.targets) {
			b.WriteString("once: true    # a copy for each of several destinations\n")
			s.noteAt(a.from, "@"+d.name+": mail that goes to several next hops takes once: true, which "+
				"millrace.yaml has")
			break
		}
	}
	b.WriteString("# Forwarded mail passes SPF with a reverse-path of its own. millrace init makes a key.\n")
	fmt.Fprintf(&b, "# srs: {domain: srs.%s, key_file: srs.key}\n", strings.TrimPrefix(host, "mx1."))
	return b.String()
}

// postmaster returns an address for mail about the node, in none of the domains: where the mail of a postmaster goes,
// or that of all other addresses.
func (s *service) postmaster() string {
	for _, d := range s.domains {
		a := d.find("postmaster")
		for steps := 0; a != nil && len(a.targets) > 0 && steps < maxFollow; steps++ {
			user, domain, wrong := address(a.targets[0])
			if wrong != "" || strings.Contains(user, "$") || strings.ContainsAny(a.targets[0], "\"' ") {
				break
			}
			at := slices.IndexFunc(s.domains, func(d *served) bool { return d.name == domain })
			if at < 0 {
				return a.targets[0]
			}
			a = s.domains[at].find(user)
		}
	}
	s.noteAt(Note{}, "postmaster: put an address into millrace.yaml that is in no domain of this node")
	return "ops@elsewhere.example"
}
