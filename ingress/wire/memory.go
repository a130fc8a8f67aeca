package wire

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The parts of a slab in octets. The first piece of a message leaves the headroom free for fields that are written
// before it; other pieces use all of the slab.
const (
	Headroom   = 16 << 10
	SlabOctets = 72 << 10 // what the first piece of a message may hold: 64 KiB and a header section
	slabSize   = Headroom + SlabOctets
)

// withheld is how many octets of a full slab is kept for the next piece. It is far more than the three octets of
// ".CRLF", so that the last piece of a message is never empty.
const withheld = 512

type slab [slabSize]byte

// The parts of Memory.Budget, as its documentation tells them.
const (
	pressedPart = 2  // from one in so many on, memory is short
	sharePart   = 8  // a network's
	fullPart    = 16 // one in so many is left when messages begin to give way
	strangePart = 32 // one in so many is not for strangers
	freePart    = 4  // one in so many is free when enough messages have given way
)

// leastShare is the share of a network in a small Budget: a few messages.
const leastShare = 4 * slabSize

// Looking at all connections takes time, so between two looks there are lookAgain at least, and lookCost times what the
// last one took.
const (
	lookAgain = 5 * time.Millisecond
	lookCost  = 8
)

// A Memory lends buffers to messages, counts what messages take, and chooses which give way when that is too much. It
// is safe for concurrent use and is meant to be shared by all listeners of a node. The zero value has no bound.
//
// Once half of the Budget is taken, memory is short: a message that waits for its client goes to a small buffer at
// once, and the strangers of a network may have an eighth of the Budget. Once all but a sixteenth is taken, messages of
// strangers that wait for their clients give way until a quarter is free, the slow ones of all networks before the fast
// ones of any, and of those about as slow as each other the slowest of the network that takes most. Fast ones only do
// until a sixteenth is free. The last thirty-second part is not for strangers.
type Memory struct {
	Budget int64 // octets; 0 disables all bounds. It is not changed once a Server uses the Memory.

	slabs   sync.Pool // of *slab
	inUse   atomic.Int64
	gaveWay atomic.Uint64
	refused atomic.Uint64

	mu      sync.Mutex // guards what follows; Server.mu, Places.mu and life.mu may be taken under it
	servers []*Server
	weights map[netip.Prefix]int64 // octets by network, at the last look
	leaving int64                  // octets of messages that gave way and had not ended at the last look
	next    time.Duration          // when there may be another look, on the engine's clock
}

// InUse returns the octets that messages take now.
func (m *Memory) InUse() int64 { return m.inUse.Load() }

// GaveWay returns how many messages have given way so far.
func (m *Memory) GaveWay() uint64 { return m.gaveWay.Load() }

// Refused returns how often there was no memory for a message or for more of one.
func (m *Memory) Refused() uint64 { return m.refused.Load() }

// Pressed reports whether memory is short.
func (m *Memory) Pressed() bool { return m.Budget > 0 && m.inUse.Load() > m.Budget/pressedPart }

// serve makes the connections of s ones that are looked at.
func (m *Memory) serve(s *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.servers = append(m.servers, s)
}

// A holding is what a connection takes of Memory.
type holding struct {
	srv  *Server
	held atomic.Int64 // octets; the connection's goroutine alone changes them
}

// hold counts n octets more for the connection, or fewer where n is negative.
func (h *holding) hold(n int) {
	h.held.Store(h.held.Load() + int64(n))
	h.srv.cfg.Memory.inUse.Add(int64(n))
}

// borrow lends a slab, or a smaller buffer of size octets.
func (h *holding) borrow(size int) []byte {
	h.hold(size)
	if size < slabSize {
		return make([]byte, size)
	}
	if s, ok := h.srv.cfg.Memory.slabs.Get().(*slab); ok {
		return s[:]
	}
	return new(slab)[:]
}

// giveBack returns what borrow lent, whole.
func (h *holding) giveBack(p []byte) {
	h.hold(-len(p))
	if len(p) == slabSize {
		h.srv.cfg.Memory.slabs.Put((*slab)(p))
	}
}

// Room reports whether there is memory for a message of the client, or for more of one. While less than half of the
// budget is taken, that is one load.
func (cl *Client) Room() bool { return cl.conn == nil || cl.conn.srv.cfg.Memory.hasRoom(cl.conn) }

// hasRoom is Client.Room for a connection.
func (m *Memory) hasRoom(c *conn) bool {
	if !m.Pressed() {
		return true
	}
	most := m.Budget
	stranger := c.seat.isStranger()
	if stranger {
		most -= m.Budget / strangePart
	}
	within, leaving := m.withinShare(c, stranger)
	if used := m.inUse.Load(); within && used < m.Budget && used-leaving < most {
		return true
	}
	m.refused.Add(1)
	return false
}

// withinShare looks, if that is due, and reports whether no network of the client had more than its share then. Only a
// stranger's networks have one. leaving is what messages took that gave way then: it is free in a moment.
func (m *Memory) withinShare(c *conn, stranger bool) (within bool, leaving int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := c.srv.now(); now >= m.next {
		m.look()
		m.next = c.srv.now() + max(lookAgain, lookCost*(c.srv.now()-now))
	}
	share := max(m.Budget/sharePart, leastShare)
	for _, n := range c.seat.networks() {
		if stranger && n.IsValid() && m.weights[n] > share {
			return false, m.leaving
		}
	}
	return true, m.leaving
}
