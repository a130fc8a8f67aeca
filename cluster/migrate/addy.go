package migrate

import (
	"errors"
	"fmt"
	"strings"
)

// Addy returns rules and a configuration that take the same mail to the same places as addy.io, for the custom domains
// of the file that it exports, which has one line for each alias, those that were deleted among them. to is where mail
// of aliases goes whose line names no recipients, as in that file none does.
func Addy(documents []Document, to string) (*Result, error) {
	s := &service{name: "addy.io"}
	standard, why := target(to)
	if why != "" {
		return nil, errors.New("the default recipient " + why)
	}
	count, without := 0, 0
	for _, d := range documents {
		rows, err := readRows(d, "email", "alias")
		if err != nil {
			return nil, err
		}
		for i := range rows {
			count++
			if s.addyAlias(&rows[i], standard) {
				without++
			}
		}
	}
	if count == 0 {
		return nil, errors.New("there is no alias in what was read: want the columns email and active")
	}
	if without > 0 {
		s.noteAt(Note{}, fmt.Sprintf("%d aliases go to %s, because the file does not say their recipients: compare "+
			"those "+
			"that have recipients of their own", without, Plain(standard)))
	}
	for _, d := range s.domains {
		d.tagged = true
		s.noteAt(Note{}, fmt.Sprintf("@%s: addresses without an alias are refused; addy.io makes an alias of each "+
			"on its "+
			"first mail where the domain is a catch-all: write @%s %s if it is", d.name, d.name, Plain(standard)))
	}
	s.noteAt(Note{}, "replies by an alias, and from names, are not converted: nothing is sent in the name of an alias")
	return s.result(), nil
}

// addyAlias converts an alias, and reports whether it goes to the default recipient. A deleted one is refused, and mail
// of one that is switched off is discarded, as it is there.
func (s *service) addyAlias(r *row, standard string) (isStandard bool) {
	email := r.cells["email"]
	if email == "" {
		email = r.cells["alias"]
	}
	user, domain, why := address(email)
	if why != "" {
		s.noteAt(r.at(), fmt.Sprintf("%q is no address: %s", email, why))
		return false
	}
	if kind, ok := r.cells["aliasable_type"]; ok && !strings.HasSuffix(kind, "Domain") {
		s.noteAt(r.at(), email+" is in a domain of addy.io, which cannot move: it was left out")
		return false
	}
	d, ok := s.domain(domain)
	if !ok {
		s.noteAt(r.at(), fmt.Sprintf("%q is no domain name", domain))
		return false
	}
	a := &action{user: user, from: r.at()}
	recipients := listed(r.cells["recipients"])
	switch {
	case r.cells["deleted_at"] != "":
		a.verb = "reject 550 5.1.1 Address not found"
	case isNo(r.cells["active"]):
		a.verb = "drop"
	case len(recipients) > 0:
		s.forward(a, recipients)
	default:
		a.targets, isStandard = []string{standard}, true
	}
	s.addUser(d, a)
	return isStandard
}

// isNo reports whether a cell says no; a column that is not there says yes.
func isNo(cell string) bool {
	switch strings.ToLower(cell) {
	case "0", "false", "no", "inactive":
		return true
	}
	return false
}
