package wire

import (
	"bufio"
	"errors"
	"net"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/millrace/millrace/router/mail"
)

// proxyV2Rest is how a PROXY header of version 2 goes on behind its first CRLF, which would be read as an empty line.
const proxyV2Rest = "\r\n\x00\r\nQUIT\n"

// headerTimeout bounds the wait for a PROXY header. A proxy sends it as soon as it has connected.
const headerTimeout = 5 * time.Second

// readProxyHeader reads the header with which each connection from a proxy begins, takes over its addresses, and
// reports whether it could. What was read behind the header goes to the command buffer.
//
// The library bounds what it reads and allocates: 107 octets of a version 1 header, which must come in one piece, and 4
// KiB behind the fixed part of a version 2 header.
func (c *conn) readProxyHeader() bool {
	if !c.life.parkFor(c.srv.cfg.tune.header) {
		return false
	}
	in := bufio.NewReaderSize(c.life.raw, smallBuffer)
	h, err := proxyproto.Read(in)
	c.life.unpark()
	if err == nil {
		err = c.client.takeProxied(h)
	}
	if err != nil {
		c.refuseHeader(err, in.Buffered() == 0)
		return false
	}
	rest, _ := in.Peek(in.Buffered())
	c.in.unread(rest)
	return true
}

// refuseHeader answers a header that is missing or malformed. A proxy that connects and sends nothing checks whether we
// are there: that is no event and has no reply.
func (c *conn) refuseHeader(cause error, silent bool) {
	r := proxyExpected
	switch {
	case c.srv.draining.Load():
		r = shuttingDown
	case silent && errors.Is(cause, proxyproto.ErrNoProxyProtocol):
		return
	default:
		c.srv.cfg.Emit(mail.Event{
			Kind: mail.Refused, Time: c.srv.cfg.Now(), Client: c.client.Addr.Addr(), Reason: "PROXY header", Reply: r,
			Cause: cause,
		})
	}
	c.life.end(lingering)
	if !c.srv.cfg.Implicit {
		c.out.reply(r)
	}
}

// takeProxied takes over the addresses of a PROXY header.
func (cl *Client) takeProxied(h *proxyproto.Header) error {
	cl.Proxied = true
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		cl.Unknown = true
		return nil
	}
	src, okSrc := h.SourceAddr.(*net.TCPAddr)
	dst, okDst := h.DestinationAddr.(*net.TCPAddr)
	if !okSrc || !okDst {
		return errors.New("addresses are not those of TCP")
	}
	cl.Addr, cl.Local = addrPort(src), addrPort(dst)
	return nil
}
