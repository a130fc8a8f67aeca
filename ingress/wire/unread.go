package wire

import (
	"net"
	"time"

	"github.com/millrace/millrace/router/leaf/tcp"
	"github.com/millrace/millrace/router/mail"
)

// How long the acknowledgement of the last reply is waited for when a connection ends, and how often it is looked for.
const (
	unreadWait = time.Second
	unreadPoll = 20 * time.Millisecond
)

// tellUnread emits an event if the connection ends behind the 2yz to a message and the client's TCP has not
// acknowledged it: such a client sends the message again, and there is a second copy (RFC 1047). A client that has said
// anything since, QUIT included, is asked nothing. Behind a balancer it is the balancer that acknowledges, which says
// nothing of the client.
func (c *conn) tellUnread() {
	if c.answered.IsZero() || c.client.Proxied || c.client.Lowered {
		return
	}
	if c.out.finalReplyPending {
		c.out.flush()
	}
	if c.life.acknowledged() {
		return
	}
	c.srv.cfg.Emit(mail.Event{
		Kind: mail.Unread, Time: c.srv.cfg.Now(), Trace: c.answered, Client: c.client.Addr.Addr(), Helo: c.client.Helo,
		TLS: c.client.TLSVersion(), Reason: "2yz not acknowledged",
	})
}

// acknowledged reports whether the client's TCP has acknowledged all that was written, for which it waits a moment. It
// has where the system does not say.
func (l *life) acknowledged() bool {
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
		if raw.Control(look) != nil || left == 0 {
			return true
		}
		if l.srv.now() > until {
			return false
		}
	}
}
