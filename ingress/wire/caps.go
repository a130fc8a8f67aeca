package wire

import (
	"net/netip"
	"sync"
)

// Caps counts open connections, in total and per client: an IPv4 address, or the /64 of an IPv6 one, which is what a
// network assigns to one host. It is safe for concurrent use and is meant to be shared by all listeners of a node. A
// nil Caps has room for everything.
type Caps struct {
	total, client int

	mu      sync.Mutex
	open    int
	clients map[netip.Addr]int
}

// NewCaps returns Caps of total connections, and of client connections per client. Zero or less disables a cap.
func NewCaps(total, client int) *Caps {
	return &Caps{total: total, client: client, clients: make(map[netip.Addr]int)}
}

// Open returns the number of connections that are open now.
func (c *Caps) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// take counts a connection, if there is room, and reports whether there was.
func (c *Caps) take() bool {
	if c == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total > 0 && c.open >= c.total {
		return false
	}
	c.open++
	return true
}

// release ends the count of a connection.
func (c *Caps) release() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// takeClient counts a connection of the client at a, if there is room, and reports whether there was.
func (c *Caps) takeClient(a netip.Addr) bool {
	if c == nil || c.client <= 0 {
		return true
	}
	k := clientKey(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clients[k] >= c.client {
		return false
	}
	c.clients[k]++
	return true
}

// moveClient counts a connection for the client at to in place of the one at *counted, which it then sets, and reports
// whether there was room. The zero Addr is no client: as *counted it was not counted, and as to it changes nothing.
func (c *Caps) moveClient(counted *netip.Addr, to netip.Addr) bool {
	if !to.IsValid() || counted.IsValid() && clientKey(to) == clientKey(*counted) {
		return true
	}
	if !c.takeClient(to) {
		return false
	}
	c.releaseClient(*counted)
	*counted = to
	return true
}

// releaseClient ends what takeClient counted. The zero Addr is no client.
func (c *Caps) releaseClient(a netip.Addr) {
	if c == nil || c.client <= 0 || !a.IsValid() {
		return
	}
	k := clientKey(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clients[k]--; c.clients[k] <= 0 {
		delete(c.clients, k)
	}
}

// clientKey returns the address by which a client is counted.
func clientKey(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}
