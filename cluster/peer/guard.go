package peer

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/network"
)

const (
	// maxPlaces is how many connections of one address may be open that have not shown a certificate of the cluster,
	// and maxHandshakes how many of them may be in their handshake: the others wait for their turn unread. It is also
	// how many connections one address keeps for certain when most places of the server are taken.
	maxPlaces     = 64
	maxHandshakes = 8
	// warnEvery is how often a refusal of one address is told. maxVisitors is the number of addresses from which on
	// those without a connection are forgotten.
	warnEvery   = time.Minute
	maxVisitors = 1024
)

// A guard counts the connections of each address. An address is a /32, for IPv6 a /64, which a host has whole.
type guard struct {
	mu       sync.Mutex // guards what follows; never held across I/O
	visitors map[netip.Prefix]*visitor
}

// A visitor is what is known of one address.
type visitor struct {
	places   int // open connections
	unproved int // those of them that have not shown a certificate
	shaking  chan struct{}
	warnAt   time.Time // refusals before it are not told
	untold   int       // refusals that were not told
}

// addressOf returns the address that a connection counts for, the zero Prefix without one.
func addressOf(c net.Conn) netip.Prefix {
	from, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	for _, p := range network.Nested(from.AddrPort().Addr()) {
		return p
	}
	return netip.Prefix{}
}

// visitor returns what is known of an address. mu is held.
func (g *guard) visitor(from netip.Prefix) *visitor {
	v := g.visitors[from]
	if v == nil {
		if g.visitors == nil {
			g.visitors = make(map[netip.Prefix]*visitor)
		}
		if len(g.visitors) >= maxVisitors {
			for p, old := range g.visitors {
				if old.places == 0 {
					delete(g.visitors, p)
				}
			}
		}
		v = &visitor{shaking: make(chan struct{}, maxHandshakes)}
		g.visitors[from] = v
	}
	return v
}

// enter takes a place for a connection of an address. ok is false if the address has too many without a certificate.
// many reports whether it has more than it keeps when most places of the server are taken.
func (g *guard) enter(from netip.Prefix) (many, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.visitor(from)
	if v.unproved >= maxPlaces {
		return true, false
	}
	many = v.places >= maxPlaces
	v.places++
	v.unproved++
	return many, true
}

// shake waits for the turn of a connection in its handshake, and reports false if ctx ended first. proved has to be
// called after true.
func (g *guard) shake(ctx context.Context, from netip.Prefix) bool {
	g.mu.Lock()
	turn := g.visitor(from).shaking
	g.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// shaken ends the handshake of a connection.
func (g *guard) shaken(from netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	<-g.visitor(from).shaking
}

// proved notes that a connection has shown a certificate of the cluster.
func (g *guard) proved(from netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.visitor(from).unproved--
}

// left frees the place of a connection. proved says whether that was called for it.
func (g *guard) left(from netip.Prefix, proved bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.visitor(from)
	v.places--
	if !proved {
		v.unproved--
	}
}

// tells reports whether a refusal of an address is to be told, and how many were not since the last one that was.
func (g *guard) tells(from netip.Prefix, now time.Time) (untold int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.visitor(from)
	if now.Before(v.warnAt) {
		v.untold++
		return 0, false
	}
	untold, v.untold, v.warnAt = v.untold, 0, now.Add(warnEvery)
	return untold, true
}
