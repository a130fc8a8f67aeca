package node

import (
	"context"
	"net"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// ownAddr is the address that mail of the node's own comes from: its own, by which it is trusted.
var ownAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

// ownMail carries mail that the node itself has to send. It speaks with the engine that all clients speak with, over
// connections within the process, as a trusted client: such mail is routed, signed, sent in session, logged and counted
// as that of others, and never queued.
type ownMail struct {
	server *wire.Server
	line   *ownLine
	done   sync.WaitGroup
}

// startOwnMail makes what carries the node's own mail, unless it is there.
func (n *Node) startOwnMail() error {
	if n.listeners.own != nil {
		return nil
	}
	l := &config.Listener{
		Addr: "own mail", Relay: "trusted", Networks: []config.Network{{Prefix: netip.PrefixFrom(ownAddr.Addr(), 32)}},
	}
	server, err := wire.NewServer(n.wireConfig(l))
	if err != nil {
		return n.cfg.WithLine("", "hostname", err)
	}
	o := &ownMail{server: server, line: newOwnLine()}
	o.done.Go(func() { _ = o.server.Serve(o.line) }) // ends with Shutdown
	n.listeners.own = o
	n.cleanups.add("own mail", func(ctx context.Context) error {
		err := o.server.Shutdown(ctx)
		o.done.Wait()
		return err
	})
	return nil
}

// An ownLine is a listener within the process.
type ownLine struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newOwnLine() *ownLine { return &ownLine{conns: make(chan net.Conn), closed: make(chan struct{})} }

// Accept returns the next connection of connect.
func (l *ownLine) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the wait of Accept.
func (l *ownLine) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns an address of no meaning.
func (l *ownLine) Addr() net.Addr { return net.TCPAddrFromAddrPort(ownAddr) }

// connect returns a client's end of a connection.
func (l *ownLine) connect(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	own := net.TCPAddrFromAddrPort(ownAddr)
	select {
	case l.conns <- &pipeEnd{there, own, own}:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send sends a message to one recipient, and returns the reply that settled it. An error means that there was none.
// Whether the message was delivered is not known if all of it was sent by then.
func (o *ownMail) send(ctx context.Context, from, to mail.Path, message []byte) (code int, reply string, err error) {
	conn, err := o.line.connect(ctx)
	if err != nil {
		return 0, "", err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	d := &dialogue{text: textproto.NewConn(conn)}
	defer d.text.Close()
	if err := d.speak(&Question{Helo: &from.Domain, From: &from, To: &to, Message: message}); err != nil {
		return 0, "", err
	}
	last := d.answer
	_ = d.say("QUIT") // the session may have ended
	return last.code, strconv.Itoa(last.code) + " " + strings.ReplaceAll(last.text, "\n", " / "), nil
}
