package public

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/gcra"
	"github.com/millrace/millrace/router/leaf/network"
)

const (
	// maxConns bounds the connections of the server, clientConns those of a client, and networkConns those of the
	// clients of a /24 or a /48, which a stranger has the whole of. A page is one request.
	maxConns     = 512
	clientConns  = 16
	networkConns = 64
	// maxClients bounds the clients whose requests are counted.
	maxClients = 8192
)

// requests is how often a client may ask: a reader who clicks, and a program that looks up a few bounces.
var requests = gcra.Limit{Burst: 30, Pace: time.Second}

// clients are what is known of those that connect and ask: counts, for as long as they count. A client is an address of
// IPv4, and a /64 of IPv6.
type clients struct {
	now  func() time.Time
	mu   sync.Mutex
	open map[netip.Prefix]int // connections of each, and of each network of them
	all  int                  // connections
	used map[netip.Prefix]gcra.Account
}

func newClients(now func() time.Time) *clients {
	return &clients{now: now, open: make(map[netip.Prefix]int), used: make(map[netip.Prefix]gcra.Account)}
}

// connects reports whether a client may have one more connection, and counts it. The servers in front, unlike clients,
// have no share.
func (c *clients) connects(of netip.Prefix, front bool) bool {
	wide := network.Widest(of.Addr())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxConns || !front && (c.open[of] >= clientConns || c.open[wide] >= networkConns) {
		return false
	}
	c.all++
	c.open[of]++
	c.open[wide]++
	return true
}

// left counts a connection that has ended.
func (c *clients) left(of netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	for _, p := range [...]netip.Prefix{of, network.Widest(of.Addr())} {
		if c.open[p]--; c.open[p] == 0 {
			delete(c.open, p)
		}
	}
}

// ask reports whether a client may make a request now. If not, it returns when it may.
func (c *clients) ask(of netip.Prefix) (wait time.Duration, ok bool) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	a, counted := c.used[of]
	if !counted && len(c.used) >= maxClients {
		c.forget(now)
	}
	ok = a.Take(now, requests)
	c.used[of] = a
	return a.Until(requests).Sub(now), ok
}

// forget makes room for clients: it drops those whose requests do not count any more, and where these are too few half
// of the others, so that a crowd of clients does not have it look through all of them at each request.
func (c *clients) forget(now time.Time) {
	maps.DeleteFunc(c.used, func(_ netip.Prefix, a gcra.Account) bool { return a.IsUnused(now) })
	if len(c.used) < maxClients {
		return
	}
	for of := range c.used {
		if len(c.used) < maxClients/2 {
			return
		}
		delete(c.used, of)
	}
}

// clientOf returns what an address counts as.
func clientOf(a netip.Addr) netip.Prefix {
	if nested := network.Nested(a); len(nested) > 0 {
		return nested[0]
	}
	return netip.Prefix{}
}

// contains reports whether one of the networks holds an address.
func contains(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// asker returns the client that a request comes from: the address of the connection, or behind a server in front the
// last address of X-Forwarded-For, which that server wrote.
func (s *Server) asker(r *http.Request) netip.Prefix {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	a := peer.Addr().Unmap()
	if contains(s.cfg.Forwarded, a) {
		said := r.Header.Values("X-Forwarded-For")
		last := strings.Join(said, ",")
		last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
		if carried, err := netip.ParseAddr(last); err == nil {
			a = carried.Unmap()
		}
	}
	return clientOf(a)
}

// A limitedListener closes connections beyond the limits as they come.
type limitedListener struct {
	net.Listener
	clients *clients
	front   []netip.Prefix
}

// Accept returns the next connection that is within the limits.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		a := peer.Addr().Unmap()
		of, front := clientOf(a), contains(l.front, a)
		if front {
			of = netip.Prefix{} // so that its neighbours have their own share
		}
		if l.clients.connects(of, front) {
			return &countedConn{Conn: conn, left: func() { l.clients.left(of) }}, nil
		}
		conn.Close()
	}
}

// A countedConn is a connection that counts until it is closed.
type countedConn struct {
	net.Conn
	once sync.Once
	left func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.once.Do(c.left)
	return c.Conn.Close()
}
