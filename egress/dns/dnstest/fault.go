package dnstest

import (
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Flaw is what is wrong with an answer.
type Flaw uint8

// The flaws.
const (
	NoFlaw        Flaw = iota
	Drop               // no answer is sent at all
	Truncate           // TC is set and the answer left out over UDP; TCP gets it whole
	OtherQuestion      // a question that was not asked is answered, with the right ID
	OtherCase          // the question's name comes back in lower case, as from servers that do not keep its case
	OtherCaseUDP       // the same, and TCP is closed without an answer
	OtherID            // the ID is one that was not asked with
	Garbage            // the last octet of the reply is left out
	Unchased           // the target of a CNAME is left out, so that the client has to ask for it
	NoEDNS             // questions with an OPT record are answered FORMERR, as by servers older than RFC 6891
)

// A Fault is how the server misbehaves when it is asked one question. Its parts add up. The zero Fault is no
// misbehaviour.
type Fault struct {
	Delay time.Duration   // holds the answer back for so long
	Until <-chan struct{} // holds the answer back until the channel is closed
	// Rcode answers with this code, such as "SERVFAIL" or "REFUSED", and no data. SetFault panics if it is unknown.
	Rcode string
	Flaw  Flaw
	Times int // how many questions the fault spoils before it is gone; 0 means all
}

// SetFault makes the server misbehave for name and qtype ("MX", ...; "*" for every type, name "*" for every name, and
// name "*.example.com" for all names below one). A later call replaces an earlier one for the same pair; the zero Fault
// removes it. The most exact pair wins.
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
	keys := []question{q, {q.name, "*"}}
	for _, parent, ok := strings.Cut(q.name, "."); ok && parent != ""; _, parent, ok = strings.Cut(parent, ".") {
		keys = append(keys, question{"*." + parent, q.qtype}, question{"*." + parent, "*"})
	}
	for _, k := range append(keys, ask("*", q.qtype), ask("*", "*")) {
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
	if f.Flaw == Truncate && !tcp {
		reply.Truncated = true
		reply.Answer, reply.Ns = nil, nil
	}
	if f.Flaw == OtherQuestion {
		reply.Question[0].Name = "other." + strings.TrimPrefix(reply.Question[0].Name, ".")
	}
	if f.Flaw == OtherCase || f.Flaw == OtherCaseUDP {
		reply.Question[0].Name = strings.ToLower(reply.Question[0].Name)
	}
	if f.Flaw == OtherID {
		reply.Id++
	}
}
