// Package gossiptest is a network in memory for the gossip of nodes in one process, so that a test of many nodes needs
// no sockets, and runs in virtual time.
//
// It owns the packets and streams between its nodes, and which of them are cut off. It refuses to know what they say.
// Only tests may import it.
//
// Invariants: a packet to a node that is cut off is lost, as by UDP; nothing that a node sends waits for another node.
package gossiptest

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

var _ memberlist.Transport = (*Node)(nil)

// A Network joins nodes. The zero Network is ready for use.
type Network struct {
	mu    sync.Mutex
	nodes map[netip.AddrPort]*Node
}

// A Node is the place of one node in a Network. It is the Transport of its cluster.Config.
type Node struct {
	network *Network
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn

	cut bool // guarded by the network's mu
}

// queued is how many packets wait for a node that is busy, and how many streams; more are lost.
const queued = 4096

// Node adds a node with an address of its own.
func (n *Network) Node() *Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes == nil {
		n.nodes = make(map[netip.AddrPort]*Node)
	}
	number := len(n.nodes) + 1
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(number >> 8), byte(number)}), 7946)
	node := &Node{
		network: n, addr: at, packets: make(chan *memberlist.Packet, queued), streams: make(chan net.Conn, queued),
	}
	n.nodes[at] = node
	return node
}

// Addr returns the address of the node.
func (n *Node) Addr() string { return n.addr.String() }

// Cut says whether the node is cut off: nothing comes from it and nothing reaches it.
func (n *Node) Cut(off bool) {
	n.network.mu.Lock()
	defer n.network.mu.Unlock()
	n.cut = off
}

// reach calls send with the node at an address, under the network's lock, and reports whether anything reaches it from
// here.
func (n *Node) reach(addr string, send func(*Node)) bool {
	at, err := netip.ParseAddrPort(addr)
	n.network.mu.Lock()
	defer n.network.mu.Unlock()
	p := n.network.nodes[at]
	if err != nil || p == nil || p.cut || n.cut {
		return false
	}
	send(p)
	return true
}

// FinalAdvertiseAddr returns the address of the node.
func (n *Node) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return n.addr.Addr().AsSlice(), int(n.addr.Port()), nil
}

// WriteTo sends a packet.
func (n *Node) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	packet := &memberlist.Packet{
		Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(n.addr), Timestamp: now,
	}
	n.reach(addr, func(p *Node) {
		select {
		case p.packets <- packet:
		default:
		}
	})
	return now, nil
}

// PacketCh returns the packets that come.
func (n *Node) PacketCh() <-chan *memberlist.Packet { return n.packets }

var errNoAnswer = errors.New("no answer")

// DialTimeout opens a stream.
func (n *Node) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ours, theirs := net.Pipe()
	if !n.reach(addr, func(p *Node) {
		select {
		case p.streams <- theirs:
		default:
			theirs.Close()
		}
	}) {
		<-time.After(timeout)
		return nil, errNoAnswer
	}
	return ours, nil
}

// StreamCh returns the streams that come.
func (n *Node) StreamCh() <-chan net.Conn { return n.streams }

// Shutdown cuts the node off, and closes the streams that it has not taken.
func (n *Node) Shutdown() error {
	n.Cut(true)
	for {
		select {
		case c := <-n.streams:
			c.Close()
		default:
			return nil
		}
	}
}
