package wire

import (
	"net"
	"time"

	"github.com/millrace/millrace/router/leaf/tcp"
	"github.com/millrace/millrace/router/mail"
)

// How long the acknowledgement of a reply is waited for when a connection ends, and how often it is looked for.
const (
	unreadWait = time.Second
	unreadPoll = 20 * time.Millisecond
)

// tlsRecord is the most octets that TLS adds to one write.
const tlsRecord = 90

// tellUnread emits an event if the connection ends behind the 2yz to a message and the client's TCP has not
// acknowledged it: such a client sends the message again, and there is a second copy (RFC 1047). A client that said
// anything behind the 2yz, QUIT included, is asked nothing; what it had sent before is no sign that it read it. Behind
// a balancer it is the balancer that acknowledges, which says nothing of the client.
func (c *conn) tellUnread() {
	if c.answered.IsZero() || c.client.Proxied || c.client.Lowered {
		return
	}
	c.out.flush()               // what waits is counted as behind the 2yz, so it has to be sent
	behind := int(c.out.behind) // octets that need not be acknowledged
	if c.client.TLSVersion() != "" {
		behind += tlsRecord * int(c.out.records)
	}
	if c.life.acknowledged(behind) {
		return
	}
	c.srv.cfg.Emit(mail.Event{
		Kind: mail.Unread, Time: c.srv.cfg.Now(), Trace: c.answered, Client: c.client.Addr.Addr(), Helo: c.client.Helo,
		TLS: c.client.TLSVersion(), Reason: "2yz not acknowledged",
	})
}

// acknowledged reports whether the client's TCP has acknowledged what was written up to so many octets, for which it
// waits a moment. It has where the system does not say.
func (l *life) acknowledged(behind int) bool {
	if l.failed {
		return false
	}
	socket, ok := l.raw.(*net.TCPConn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	left := 0
	look := func(fd uintptr) { left = tcp.Unacked(fd) }
	tick := time.NewTicker(unreadPoll)
	defer tick.Stop()
	for until := l.srv.now() + unreadWait; ; <-tick.C {
		if raw.Control(look) != nil || left <= behind {
			return true
		}
		if l.srv.now() > until {
			return false
		}
	}
}
