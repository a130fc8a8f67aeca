package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
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

// A proxied is a connection that begins with the header of a proxy.
type proxied struct{ *conn }

// readHeader reads the header with which each connection from a proxy begins, takes over its addresses, and
// reports whether it could. What was read behind the header goes to the command buffer.
//
// What is read and allocated is bounded: 107 octets of a version 1 header, and 4 KiB behind the fixed part of a
// version 2 header.
func (c proxied) readHeader() bool {
	if !c.life.parkFor(c.srv.cfg.tune.header) {
		return false
	}
	in := bufio.NewReaderSize(c.life.raw, smallBuffer)
	h, err := readProxy(in)
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

// maxProxyV1 bounds a header of version 1, CRLF included, by its specification.
const maxProxyV1 = 107

// The beginning of a version 2 header that says PROXY and carries no address.
const (
	proxyV2Unspec  = "\r\n" + proxyV2Rest + "\x21\x00"
	proxyV2Fixed   = len(proxyV2Unspec) + 2 // with the length of what follows
	maxProxyV2Rest = 4096                   // as the library has it
)

// readProxy reads a header as the library does, and besides two that it refuses: one of version 1 in pieces, as proxies
// without TCP_NODELAY and networks with small packets bring it, and one of version 2 that says PROXY and carries no
// address, which is as good as UNKNOWN and LOCAL: the client is not known.
func readProxy(in *bufio.Reader) (*proxyproto.Header, error) {
	for n := 1; n <= maxProxyV1; n = in.Buffered() + 1 {
		if _, err := in.Peek(n); err != nil {
			break // the library meets it again
		}
		if p, _ := in.Peek(in.Buffered()); !beginsAlike(p, "PROXY ") || bytes.IndexByte(p, '\n') >= 0 {
			break
		}
	}
	for n := 1; n <= proxyV2Fixed; n = in.Buffered() + 1 {
		if _, err := in.Peek(n); err != nil {
			break
		}
		p, _ := in.Peek(min(in.Buffered(), proxyV2Fixed))
		switch {
		case !beginsAlike(p, proxyV2Unspec):
			return proxyproto.Read(in)
		case len(p) == proxyV2Fixed:
			length := int(binary.BigEndian.Uint16(p[len(proxyV2Unspec):]))
			if length > maxProxyV2Rest {
				return nil, proxyproto.ErrInvalidLength
			}
			_, err := in.Discard(proxyV2Fixed + length)
			return &proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.UNSPEC}, err
		}
	}
	return proxyproto.Read(in)
}

// beginsAlike reports whether p begins with prefix or is the beginning of it.
func beginsAlike(p []byte, prefix string) bool {
	n := min(len(p), len(prefix))
	return string(p[:n]) == prefix[:n]
}

// refuseHeader answers a header that is missing or malformed. A proxy that connects and sends nothing checks whether we
// are there: that is no event and has no reply.
func (c proxied) refuseHeader(cause error, silent bool) {
	var r mail.Reply
	switch {
	case c.srv.draining.Load():
		r = c.tell(mail.Event{Reply: shuttingDown, Reason: reasonOf(shuttingDown)})
	case silent && errors.Is(cause, proxyproto.ErrNoProxyProtocol):
		return
	default:
		r = c.tell(mail.Event{Reply: proxyExpected, Reason: "PROXY header", Cause: cause})
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
