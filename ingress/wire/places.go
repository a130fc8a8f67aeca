package wire

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/leaf/network"
)

const (
	reservedPart = 20               // one place of so many is not for strangers
	knownFor     = time.Hour        // a network stays known good, for the places of its next connections
	maxKnown     = 4096             // networks that are remembered as known good
	settledFor   = 2 * time.Second  // of waiting for a command before a connection may give way
	settledInAll = 5 * time.Second  // the same for all commands since the last message
	openFor      = 10 * time.Second // settledFor inside a transaction
	openInAll    = 30 * time.Second // settledInAll there
	maxLook      = 64               // connections that are looked at for one to end
)

// A Standing says in which shares a connection counts.
type Standing uint8

// The standings.
const (
	Stranger Standing = iota // in that of its client and those of its networks; it may give way to others
	Favoured                 // in that of its client alone, and the reserve is for it: trusted and known-good clients
	Allowed                  // in none, and the reserve is for it
)

// Limits bound the connections that are open at once, and what one of them may bring. Zero or less disables a limit.
type Limits struct {
	Total  int // in all
	Client int // of a client: an IPv4 address, or the /64 of an IPv6 one
	// of strangers in a /24, a /56 and a /48; never less than Client
	Net24, Net56, Net48 int

	Files int // descriptors that clients and what is opened for them have in all; see Places.TakeFile

	Messages int // transactions of one connection, announced as MAILMAX (RFC 9422)
}

// of returns the limit of a network that network.Nested returned.
func (l *Limits) of(p netip.Prefix) int {
	limit := l.Client
	switch p.Bits() {
	case 24:
		limit = l.Net24
	case 56:
		limit = l.Net56
	case 48:
		limit = l.Net48
	}
	if limit <= 0 || l.Client <= 0 {
		return limit
	}
	return max(limit, l.Client)
}

// Places counts open connections, in total, per client and per network, and chooses which to end when few are left. It
// is safe for concurrent use and is meant to be shared by all listeners of a node.
//
// A twentieth of the total is kept free of strangers. While more than four fifths are taken, each connection that comes
// ends that of a stranger that waits for nothing but a next command: the one that came first, where each message that
// was finished counts as coming again.
type Places struct {
	limits Limits
	open   atomic.Int64
	files  atomic.Int64                        // that TakeFile counts
	good   *lru.Cache[netip.Prefix, time.Time] // networks of known-good clients, and until when they are

	mu        sync.Mutex // guards what follows; a life.mu is taken under it and never the other way round
	strangers int
	shares    map[share]int
	queue     queue
}

// A share is what connections of one origin are counted by.
type share struct {
	of    netip.Prefix
	proxy bool // clients that the proxy of this address does not name
}

// A seat is what a connection takes of Places.
//
// Invariant: next is not nil if and only if the connection is in the queue of strangers. Places.mu guards all but
// finished and waited; waited is for the connection's goroutine, which may also read without it what it alone writes:
// client, standing and unnamed.
type seat struct {
	client     netip.Addr // the client it counts for; zero if it counts in the total alone
	prev, next *conn
	waited     time.Duration // for commands and refused octets, since the last message was finished
	finished   atomic.Bool   // a message was finished since the queue looked
	standing   Standing
	unnamed    bool // client is a proxy that does not name its client
}

// NewPlaces returns Places with limits.
func NewPlaces(limits Limits) *Places {
	p := &Places{
		limits: limits, good: lru.New[netip.Prefix, time.Time](maxKnown), shares: make(map[share]int),
	}
	return p
}

// Open returns the number of connections that are open now.
func (p *Places) Open() int { return int(p.open.Load()) }

// Most returns the number of connections that there may be, 0 without a limit.
func (p *Places) Most() int { return p.limits.Total }

// Pressed reports whether more than four fifths of the places, or of the descriptors, are taken.
func (p *Places) Pressed() bool {
	open := p.open.Load()
	return p.limits.Total > 0 && 5*open > 4*int64(p.limits.Total) ||
		p.limits.Files > 0 && 5*(open+p.files.Load()) > 4*int64(p.limits.Files)
}

// take counts a connection in the total, if there is room, and reports whether there was.
func (p *Places) take() bool {
	n := p.open.Add(1)
	if p.limits.Total > 0 && n > int64(p.limits.Total) ||
		p.limits.Files > 0 && n+p.files.Load() > int64(p.limits.Files) {
		p.open.Add(-1)
		return false
	}
	return true
}

// TakeFile counts a descriptor that is opened for clients: of a session at a next hop, or of a link to another node. It
// reports whether there is one, which GiveFile returns. What the reserve has room for is left. While few are left, it
// ends the connection of a stranger that waits for nothing but a command, so that there is one for the next caller.
func (p *Places) TakeFile() bool {
	if p.limits.Files <= 0 {
		return true
	}
	n := p.files.Add(1)
	p.mu.Lock()
	if p.Pressed() {
		p.queue.giveWay()
	}
	clients := max(p.open.Load(), int64(p.strangers+p.limits.Total/reservedPart))
	p.mu.Unlock()
	if n+clients > int64(p.limits.Files) {
		p.files.Add(-1)
		return false
	}
	return true
}

// GiveFile ends what TakeFile counted.
func (p *Places) GiveFile() {
	if p.limits.Files > 0 {
		p.files.Add(-1)
	}
}

// name counts a connection, which is in the total, for the client at to in place of the one it counts for, and returns
// "", or the limit that leaves no room: then nothing has changed. The zero Addr is no client and changes nothing.
func (p *Places) name(c *conn, to netip.Addr, s Standing) (limit string) {
	if !to.IsValid() {
		return ""
	}
	if s == Stranger {
		if until, ok := p.good.Get(network.Of(to)); ok && c.srv.cfg.Now().Before(until) {
			s = Favoured
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := c.seat.client
	if old.IsValid() {
		p.forget(c)
	}
	if limit = p.room(to, s); limit != "" {
		if old.IsValid() {
			p.count(c, old, c.seat.standing)
		}
		return limit
	}
	p.count(c, to, s)
	return ""
}

// nameProxy counts a connection for a proxy that does not name the client, and returns "", or the limit that leaves no
// room. A proxy has the share of a whole network.
func (p *Places) nameProxy(c *conn, proxy netip.Addr) (limit string) {
	if !proxy.IsValid() {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := share{of: network.Host(proxy), proxy: true}
	if most := p.limits.of(network.Widest(proxy)); most > 0 && p.shares[s] >= most {
		return "connections_per_network"
	}
	p.shares[s]++
	c.seat.client, c.seat.standing, c.seat.unnamed = proxy, Allowed, true
	return ""
}

// release ends the count of a connection that take counted.
func (p *Places) release(c *conn) {
	p.mu.Lock()
	if c.seat.client.IsValid() {
		p.forget(c)
	}
	p.mu.Unlock()
	p.open.Add(-1)
}

// Favour takes the connection of a client that is known good out of the shares of its networks, and reserves places for
// the next connections of the network that stands for it.
func (cl *Client) Favour() {
	if c := cl.conn; c != nil {
		c.srv.cfg.Places.favour(c)
	}
}

// favour takes a connection out of the shares of its networks, because its client is known good, and remembers that.
func (p *Places) favour(c *conn) {
	if !c.seat.client.IsValid() || c.seat.standing != Stranger {
		return
	}
	p.good.Put(network.Of(c.seat.client), c.srv.cfg.Now().Add(knownFor), 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	client := c.seat.client
	p.forget(c)
	p.count(c, client, Favoured)
}

// room returns the limit that leaves no room for one more connection of a client, "" if none does. While few places
// are left, one that is inside its shares ends another stranger's.
func (p *Places) room(client netip.Addr, s Standing) (limit string) {
	for i, of := range network.Nested(client) {
		switch most := p.limits.of(of); {
		case !s.counts(i), most <= 0, p.shares[share{of: of}] < most:
		case i == 0:
			return "connections_per_client"
		default:
			return "connections_per_network"
		}
	}
	gaveWay := p.Pressed() && p.queue.giveWay()
	if total := p.limits.Total; s == Stranger && !gaveWay && total > 0 && p.strangers >= total-total/reservedPart {
		return "connections"
	}
	return ""
}

// counts reports whether connections of this standing count in the i-th of the nested networks of their client.
func (s Standing) counts(i int) bool { return s == Stranger || s == Favoured && i == 0 }

// count counts a connection for a client.
func (p *Places) count(c *conn, client netip.Addr, s Standing) {
	c.seat.client, c.seat.standing = client, s
	for i, of := range network.Nested(client) {
		if s.counts(i) {
			p.shares[share{of: of}]++
		}
	}
	if s == Stranger {
		p.strangers++
		p.queue.push(c)
	}
}

// forget ends what count or nameProxy counted.
func (p *Places) forget(c *conn) {
	at := &c.seat
	if at.unnamed {
		p.drop(share{of: network.Host(at.client), proxy: true})
		at.client, at.unnamed = netip.Addr{}, false
		return
	}
	for i, of := range network.Nested(at.client) {
		if at.standing.counts(i) {
			p.drop(share{of: of})
		}
	}
	if at.standing == Stranger {
		p.strangers--
	}
	p.queue.remove(c)
	at.client = netip.Addr{}
}

func (p *Places) drop(s share) {
	if p.shares[s]--; p.shares[s] <= 0 {
		delete(p.shares, s)
	}
}

// A queue is a ring of the strangers' connections. The next of them to give way is looked for at its head. One that has
// finished a message since the last look, and one that is busy, go to its end.
type queue struct{ head *conn }

// push adds a connection at the end.
func (q *queue) push(c *conn) {
	if q.head == nil {
		c.seat.prev, c.seat.next, q.head = c, c, c
		return
	}
	last := q.head.seat.prev
	c.seat.prev, c.seat.next = last, q.head
	last.seat.next, q.head.seat.prev = c, c
}

// remove takes a connection out, if it is in.
func (q *queue) remove(c *conn) {
	prev, next := c.seat.prev, c.seat.next
	switch {
	case next == nil:
		return
	case next == c:
		q.head = nil
	default:
		prev.seat.next, next.seat.prev = next, prev
		if q.head == c {
			q.head = next
		}
	}
	c.seat.prev, c.seat.next = nil, nil
}

// giveWay ends the connection of the first stranger that is idle, if there is one among those it looks at, and reports
// whether there was.
func (q *queue) giveWay() bool {
	c := q.head
	for range maxLook {
		if c == nil {
			return false
		}
		if !c.seat.finished.Swap(false) && c.life.giveWay(idle, c.srv.now()) {
			q.remove(c)
			return true
		}
		c = c.seat.next
		q.head = c // what was looked at is the end of the ring now
	}
	return false
}

// name counts a connection for the client at a, and returns "" or the limit that leaves no room.
func (s *Server) name(c *conn, a netip.Addr) (limit string) {
	return s.cfg.Places.name(c, a, s.cfg.Standing(&c.client))
}

// nameByProxy is name for a client of a proxy, which its header has named or not. Others were counted when they were
// accepted, or are when XCLIENT names them.
func (s *Server) nameByProxy(c *conn, proxy netip.Addr) (limit string) {
	switch {
	case c.client.Unknown:
		return s.cfg.Places.nameProxy(c, proxy)
	case c.client.Proxied && !c.xclient:
		return s.name(c, c.client.Addr.Addr())
	}
	return ""
}
