package dnstest

import (
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Fault is how the server misbehaves when it is asked one question. Its parts add up. The zero Fault is no
// misbehaviour.
type Fault struct {
	// Delay holds the answer back for so long.
	Delay time.Duration
	// Until holds the answer back until the channel is closed.
	Until <-chan struct{}
	// Drop sends no answer at all.
	Drop bool
	// Rcode answers with this code, such as "SERVFAIL" or "REFUSED", and no data. An unknown code is a programmer's
	// error and panics in Fault's setter.
	Rcode string
	// Truncate sets TC and leaves out the answer over UDP; TCP gets it whole.
	Truncate bool
	// OtherQuestion answers, with the right ID, a question that was not asked.
	OtherQuestion bool
	// OtherCase writes the question's name back in lower case, as servers do that do not keep the case of a question.
	OtherCase bool
	// OtherID answers with an ID that was not asked with.
	OtherID bool
	// Garbage leaves out the last octet of the reply.
	Garbage bool
	// Unchased leaves the target of a CNAME out, so that the client has to ask for it.
	Unchased bool
	// NoEDNS answers FORMERR to questions with an OPT record, as servers do that are older than RFC 6891.
	NoEDNS bool
	// Times is how many questions the fault spoils before it is gone; 0 means all.
	Times int
}

// SetFault makes the server misbehave for name and qtype ("MX", ...; "*" for every type, and name "*" for every name).
// A later call replaces an earlier one for the same pair; the zero Fault removes it. The most exact pair wins.
func (s *Server) SetFault(name, qtype string, f Fault) {
	if _, known := dns.StringToRcode[f.Rcode]; f.Rcode != "" && !known {
		panic("dnstest: no such rcode: " + f.Rcode)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == (Fault{}) {
		delete(s.faults, ask(name, qtype))
		return
	}
	s.faults[ask(name, qtype)] = &f
}

// take returns the fault for q and counts it down. It is called with s.mu held.
func (s *Server) take(q question) Fault {
	for _, k := range []question{q, {q.name, "*"}, ask("*", q.qtype), ask("*", "*")} {
		f, ok := s.faults[k]
		if !ok {
			continue
		}
		fault := *f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				delete(s.faults, k)
			}
		}
		return fault
	}
	return Fault{}
}

// spoil changes a good reply into the one that the fault asks for.
func (f Fault) spoil(reply *dns.Msg, tcp bool) {
	if f.Rcode != "" {
		reply.Rcode = dns.StringToRcode[f.Rcode]
		reply.Answer, reply.Ns = nil, nil
	}
	if f.Truncate && !tcp {
		reply.Truncated = true
		reply.Answer, reply.Ns = nil, nil
	}
	if f.OtherQuestion {
		reply.Question[0].Name = "other." + strings.TrimPrefix(reply.Question[0].Name, ".")
	}
	if f.OtherCase {
		reply.Question[0].Name = strings.ToLower(reply.Question[0].Name)
	}
	if f.OtherID {
		reply.Id++
	}
}
