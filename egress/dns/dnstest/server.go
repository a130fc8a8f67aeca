// Package dnstest is a real DNS server for tests and for `millrace dev`: it answers over UDP and TCP on one port from
// zones given as master-file text (RFC 1035 section 5), and misbehaves on demand.
//
// It is authoritative for the whole name space: what its text does not hold does not exist. It knows nothing of
// recursion, DNSSEC or zone transfer, and refuses to know the resolver that asks it.
package dnstest

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// A Server answers DNS questions until it is closed. All methods are safe for concurrent use.
type Server struct {
	addr     string
	zone     atomic.Pointer[zone]
	udp, tcp *dns.Server
	closing  chan struct{}
	once     sync.Once
	served   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	asked  *sync.Cond
	counts map[question]Count
	faults map[question]*Fault
	ad     bool
	// minimum is the negative TTL of names under no SOA of the text.
	minimum time.Duration
}

type question struct{ name, qtype string }

// A Count is how often a question was asked over each transport.
type Count struct{ UDP, TCP int }

// TB is the part of testing.TB that Start needs. It is declared here so that a program which serves DNS for its own
// demo does not link the testing package.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start serves zone on a free port of 127.0.0.1 until the test ends, and fails the test if it cannot.
func Start(t TB, zone string) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", zone)
	if err != nil {
		t.Fatalf("dnstest: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Listen serves zone, which is master-file text with absolute names, at addr over UDP and TCP. Port 0 takes a port that
// is free for both.
func Listen(addr, zone string) (*Server, error) {
	z, err := parseZone(zone)
	if err != nil {
		return nil, err
	}
	packets, listener, err := listenBoth(addr)
	if err != nil {
		return nil, err
	}
	s := &Server{
		addr:    listener.Addr().String(),
		closing: make(chan struct{}),
		counts:  make(map[question]Count),
		faults:  make(map[question]*Fault),
		minimum: time.Minute,
	}
	s.asked = sync.NewCond(&s.mu)
	s.zone.Store(z)
	s.udp = &dns.Server{PacketConn: packets, Handler: handler{s, false}}
	s.tcp = &dns.Server{Listener: listener, Handler: handler{s, true}}
	for _, server := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		s.served.Add(1)
		go func() { // ends when Close shuts the server down
			defer s.served.Done()
			_ = server.ActivateAndServe()
		}()
		<-started
	}
	return s, nil
}

// listenBoth finds a port that is free for UDP and TCP. When the system picks the port for one, it may be in use for
// the other, so listenBoth tries a few.
func listenBoth(addr string) (net.PacketConn, net.Listener, error) {
	var err error
	for range 10 {
		var listener net.Listener
		if listener, err = net.Listen("tcp", addr); err != nil {
			return nil, nil, err
		}
		var packets net.PacketConn
		if packets, err = net.ListenPacket("udp", listener.Addr().String()); err == nil {
			return packets, listener, nil
		}
		_ = listener.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, nil, err
}

// Addr is the host and port that the server answers at.
func (s *Server) Addr() string { return s.addr }

// Close stops the server and waits for the questions in hand. Held and delayed answers are dropped.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.closing)
		_ = s.udp.Shutdown()
		_ = s.tcp.Shutdown()
	})
	s.served.Wait()
}

// SetZone replaces the whole zone text. A text that does not parse changes nothing.
func (s *Server) SetZone(text string) error {
	z, err := parseZone(text)
	if err != nil {
		return err
	}
	s.zone.Store(z)
	return nil
}

// SetMinimum sets the negative TTL, in whole seconds, that is told for names under no SOA of the zone text. It is a
// minute at first.
func (s *Server) SetMinimum(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.minimum = d
}

// SetAD makes the server claim, in every answer, that the data was validated (the AD bit of RFC 4035 section 3.2.3).
func (s *Server) SetAD(ad bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ad = ad
}

// Count returns how often name was asked for qtype ("MX", "A", ...), in any case, with or without the last dot.
func (s *Server) Count(name, qtype string) Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[ask(name, qtype)]
}

// Total returns how many questions were asked in all.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.counts {
		n += c.UDP + c.TCP
	}
	return n
}

// Await returns when name was asked for qtype n times in all, or the server is closed.
func (s *Server) Await(name, qtype string, n int) {
	q := ask(name, qtype)
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.counts[q].UDP+s.counts[q].TCP < n {
		select {
		case <-s.closing:
			return
		default:
		}
		s.asked.Wait()
	}
}

func ask(name, qtype string) question { return question{dns.CanonicalName(name), qtype} }

// A handler serves one transport.
type handler struct {
	s   *Server
	tcp bool
}

// ServeDNS answers one question, and is called by the library in a goroutine of its own.
func (h handler) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	if len(request.Question) != 1 {
		return
	}
	q := request.Question[0]
	fault, ad, minimum := h.s.note(ask(q.Name, dns.TypeToString[q.Qtype]), h.tcp)
	if !h.s.wait(fault) || fault.Flaw == Drop {
		return
	}
	if h.tcp && fault.Flaw == OtherCaseUDP {
		_ = w.Close()
		return
	}
	reply := new(dns.Msg)
	reply.SetReply(request)
	reply.Authoritative = true
	reply.RecursionAvailable = true
	reply.AuthenticatedData = ad
	reply.Compress = true
	h.s.zone.Load().answer(reply, q, minimum, fault.Flaw != Unchased)
	if opt := request.IsEdns0(); opt != nil {
		if fault.Flaw == NoEDNS {
			reply.Answer, reply.Ns, reply.Rcode = nil, nil, dns.RcodeFormatError
		} else {
			reply.SetEdns0(dns.DefaultMsgSize, false)
		}
	}
	fault.spoil(reply, h.tcp)
	raw, err := reply.Pack()
	if err != nil {
		return
	}
	if !h.tcp {
		raw = h.fit(raw, request, reply)
	}
	if fault.Flaw == Garbage && len(raw) > 12 {
		raw = raw[:len(raw)-1] // the last record is not whole
	}
	_, _ = w.Write(raw)
}

// fit truncates what is larger than the client can take over UDP (RFC 6891 section 6.2.3, RFC 1035 section 4.2.1).
func (h handler) fit(raw []byte, request, reply *dns.Msg) []byte {
	size := dns.MinMsgSize
	if opt := request.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	if len(raw) <= size {
		return raw
	}
	reply.Truncate(size)
	raw, err := reply.Pack()
	if err != nil {
		return nil
	}
	return raw
}

// note counts the question and takes the fault that stands for it.
func (s *Server) note(q question, tcp bool) (fault Fault, ad bool, minimum time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts[q]
	if tcp {
		c.TCP++
	} else {
		c.UDP++
	}
	s.counts[q] = c
	s.asked.Broadcast()
	return s.take(q), s.ad, s.minimum
}

// wait holds the answer back as the fault says, and reports whether the server is still open.
func (s *Server) wait(f Fault) bool {
	if f.Until != nil {
		select {
		case <-f.Until:
		case <-s.closing:
			return false
		}
	}
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.closing:
			return false
		}
	}
	return true
}

// A zone is an immutable index of the records of a text.
type zone struct {
	records map[string]map[uint16][]dns.RR // by canonical name; a name that only has children has an empty map
}

func parseZone(text string) (*zone, error) {
	z := &zone{records: make(map[string]map[uint16][]dns.RR)}
	p := dns.NewZoneParser(strings.NewReader(text), ".", "zone")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := dns.CanonicalName(rr.Header().Name)
		if z.records[name] == nil {
			z.records[name] = make(map[uint16][]dns.RR)
		}
		z.records[name][rr.Header().Rrtype] = append(z.records[name][rr.Header().Rrtype], rr)
		for parent := range parents(name) {
			if z.records[parent] == nil {
				z.records[parent] = make(map[uint16][]dns.RR)
			}
		}
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("zone: %w", err)
	}
	return z, nil
}

// parents yields the names above name, nearest first, ending with the root.
func parents(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for off, end := dns.NextLabel(name, 0); !end; off, end = dns.NextLabel(name, off) {
			if !yield(name[off:]) {
				return
			}
		}
		if name != "." {
			yield(".")
		}
	}
}

// maxChain ends a chain of CNAMEs that goes in a circle.
const maxChain = 32

// answer fills reply with what the zone says about q, following CNAMEs if chase is set.
func (z *zone) answer(reply *dns.Msg, q dns.Question, minimum time.Duration, chase bool) {
	name := dns.CanonicalName(q.Name)
	for range maxChain {
		sets, exists := z.find(name)
		if !exists {
			reply.Rcode = dns.RcodeNameError
			reply.Ns = []dns.RR{z.soa(name, minimum)}
			return
		}
		owner := name
		if len(reply.Answer) == 0 {
			owner = q.Name
		}
		if rrs := sets[q.Qtype]; len(rrs) > 0 {
			reply.Answer = append(reply.Answer, owned(rrs, owner)...)
			return
		}
		aliases := sets[dns.TypeCNAME]
		if len(aliases) == 0 {
			reply.Ns = []dns.RR{z.soa(name, minimum)}
			return
		}
		reply.Answer = append(reply.Answer, owned(aliases[:1], owner)...)
		if !chase {
			return
		}
		name = dns.CanonicalName(aliases[0].(*dns.CNAME).Target)
	}
}

// find returns the records of name, or those of the wildcard that covers it (RFC 4592 section 3.3.1).
func (z *zone) find(name string) (map[uint16][]dns.RR, bool) {
	if sets, ok := z.records[name]; ok {
		return sets, true
	}
	for parent := range parents(name) {
		if _, ok := z.records[parent]; ok {
			wildcard := "*." + parent
			if parent == "." {
				wildcard = "*."
			}
			sets, ok := z.records[wildcard]
			return sets, ok
		}
	}
	return nil, false
}

// owned copies the records with the name that was asked for, as wildcards and 0x20 clients need it.
func owned(rrs []dns.RR, owner string) []dns.RR {
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = dns.Copy(rr)
		out[i].Header().Name = owner
	}
	return out
}

// soa returns the SOA that stands nearest above name, or one made up for the root.
func (z *zone) soa(name string, minimum time.Duration) dns.RR {
	if soas := z.records[name][dns.TypeSOA]; len(soas) > 0 {
		return soas[0]
	}
	for parent := range parents(name) {
		if soas := z.records[parent][dns.TypeSOA]; len(soas) > 0 {
			return soas[0]
		}
	}
	seconds := uint32(minimum / time.Second)
	return &dns.SOA{
		Hdr:  dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: seconds},
		Ns:   "ns.invalid.",
		Mbox: "hostmaster.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: seconds,
	}
}
