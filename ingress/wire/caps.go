package wire

import (
	"net/netip"
	"sync"
)

// Caps counts open connections, in total and per client: an IPv4 address, or the /64 of an IPv6 one, since that is what
// one host is given. It is safe for concurrent use and is meant to be shared by all listeners of a node.
type Caps struct {
	total, client int

	mu      sync.Mutex
	open    int
	clients map[netip.Addr]int
}

// NewCaps makes Caps of total connections and client connections per client; zero or less is no cap.
func NewCaps(total, client int) *Caps {
	return &Caps{total: total, client: client, clients: make(map[netip.Addr]int)}
}

// Open gives the number of connections now open.
func (c *Caps) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// take counts a connection and reports whether there was room.
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

// give takes a connection back.
func (c *Caps) give() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// takeClient counts a connection of the client at a and reports whether there was room.
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

// giveClient takes back what takeClient counted.
func (c *Caps) giveClient(a netip.Addr) {
	if c == nil || c.client <= 0 {
		return
	}
	k := clientKey(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clients[k]--; c.clients[k] <= 0 {
		delete(c.clients, k)
	}
}

func clientKey(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}
