package rules

import (
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// domainNames are the domains of a Table and the names by which they are found.
type domainNames struct {
	domains  []domain
	domainOf map[string]uint32 // by canonical name
	below    map[string]uint32 // those that stand for all below a canonical name, by that
}

// domain returns a domain's number.
func (n *domainNames) domain(name string) (uint32, bool) {
	if len(name) > mail.MaxDomain {
		return 0, false
	}
	var buf [mail.MaxDomain + 1]byte
	b, ok := appendDomain(buf[:0], name)
	if !ok {
		return 0, false
	}
	id, ok := n.domainOf[string(b)]
	if !ok || !n.domains[id].hosted && !n.domains[id].own { // as one that has disabled rules alone
		return n.above(b)
	}
	if of := n.domains[id].alias; of != 0 {
		return of - 1, true
	}
	return id, true
}

// above returns the number of the pattern for the domains below another that a canonical name belongs to: of several
// the one with most labels.
func (n *domainNames) above(name []byte) (uint32, bool) {
	if len(n.below) == 0 {
		return 0, false
	}
	for i, c := range name {
		if c != '.' {
			continue
		}
		if id, ok := n.below[string(name[i+1:])]; ok && n.domains[id].hosted {
			return id, true
		}
	}
	return 0, false
}

// belowOf returns the number of the pattern for all domains below a name, which has *. in front.
func (n *domainNames) belowOf(name string) (uint32, bool) {
	canonical, _ := canonicalDomain(strings.TrimPrefix(name, "*."))
	id, ok := n.below[canonical]
	return id, ok
}

// addDomainStep appends a step that says why a domain is ours.
func (n *domainNames) addDomainStep(steps *Steps, id uint32, name string) {
	if steps == nil {
		return
	}
	switch d := &n.domains[id]; {
	case !d.hosted:
		steps.add(d.name, " is this system's own name")
	case d.name[0] == '*':
		steps.add(name, " lies below ", d.name[len("*."):], " and is hosted here")
	default:
		if canonical, _ := canonicalDomain(name); canonical != d.name {
			steps.add(name, " has the rules of ", d.name)
		}
		steps.add(d.name, " is hosted here")
	}
}
