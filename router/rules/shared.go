package rules

import (
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// sharedParts numbers the parts of a Table that many rules share, so that the Table keeps each part once.
type sharedParts struct {
	t       *Table
	rawIDs  map[string]uint32 // domains as they are written, if that is not canonical
	rawMX   map[string]uint32 // destinations by domains as they are written
	dests   map[destination]uint32
	replies map[mail.Reply]uint32
	options map[options]uint16
}

func newSharedParts(t *Table) sharedParts {
	return sharedParts{
		t:       t,
		rawIDs:  map[string]uint32{},
		rawMX:   map[string]uint32{},
		dests:   map[destination]uint32{},
		replies: map[mail.Reply]uint32{},
		options: map[options]uint16{{}: 0},
	}
}

// notADomain is what is wrong with a word that has not even the form of a domain name.
const notADomain = "not a domain name"

// domainID returns the number of a domain of ours, which it adds if it is new.
func (s *sharedParts) domainID(name string) (id uint32, why string) {
	if id, ok := s.t.domainOf[name]; ok {
		return id, ""
	}
	if id, ok := s.rawIDs[name]; ok {
		return id, ""
	}
	if _, literal := mail.LiteralAddr(name); !literal && !mail.IsDomain(name) {
		return 0, notADomain
	}
	canonical, ok := canonicalDomain(name)
	if !ok {
		return 0, "not a domain name that IDNA knows"
	}
	id, ok = s.t.domainOf[canonical]
	if !ok {
		id = uint32(len(s.t.domains))
		s.t.domains = append(s.t.domains, domain{name: canonical})
		s.t.domainOf[canonical] = id
	}
	if name != canonical {
		s.rawIDs[name] = id
	}
	return id, ""
}

// belowID returns the number of what stands for all domains below a name, which it adds if it is new.
func (s *sharedParts) belowID(name string) (id uint32, why string) {
	canonical, ok := canonicalDomain(name)
	switch {
	case !mail.IsDomain(name):
		return 0, notADomain
	case !ok:
		return 0, "not a domain name that IDNA knows"
	case !strings.Contains(canonical, "."):
		return 0, "all domains of " + quote(canonical) + " would be hosted here"
	}
	id, ok = s.t.below[canonical]
	if !ok {
		id = uint32(len(s.t.domains))
		s.t.domains = append(s.t.domains, domain{name: "*." + canonical})
		s.t.below[canonical] = id
	}
	return id, ""
}

// optionsNumber returns the number of a set of options, which it adds if it is new.
func (s *sharedParts) optionsNumber(o options) (n uint16, why string) {
	n, ok := s.options[o]
	if ok {
		return n, ""
	}
	if len(s.t.options) == maxOptions {
		return 0, "too many different sets of options"
	}
	n = uint16(len(s.t.options))
	s.t.options = append(s.t.options, o)
	s.options[o] = n
	return n, ""
}

// mxDest returns the number of the destination that is a domain's MX hosts. An address literal is its own host.
func (s *sharedParts) mxDest(name string) (n uint32, why string) {
	if n, ok := s.rawMX[name]; ok {
		return n, ""
	}
	canonical, ok := canonicalDomain(name)
	if !ok {
		return 0, "not a domain name that IDNA knows"
	}
	n = s.destNumber(destination{nextHop: mail.NextHop{Transport: mail.MX, Host: canonical}, domain: canonical})
	s.rawMX[name] = n
	return n, ""
}

// destNumber returns the number of a destination, which it adds if it is new.
func (s *sharedParts) destNumber(d destination) uint32 {
	n, ok := s.dests[d]
	if !ok {
		n = uint32(len(s.t.dests))
		s.t.dests = append(s.t.dests, d)
		s.dests[d] = n
	}
	return n
}

// replyNumber parses what follows reject or tempfail and returns the number of the reply, which it adds if it is new.
func (s *sharedParts) replyNumber(word, text string) (n uint32, why string) {
	r, why := parseReply(word, text)
	if why != "" {
		return 0, why
	}
	n, ok := s.replies[r]
	if !ok {
		n = uint32(len(s.t.replies))
		s.t.replies = append(s.t.replies, r)
		s.replies[r] = n
	}
	return n, ""
}
