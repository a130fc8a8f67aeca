package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// handshakeTimeout bounds a TLS handshake: a few round trips, slow links and slow clients included.
const handshakeTimeout = 30 * time.Second

// starttls carries out STARTTLS (RFC 3207). What was sent in clear behind the command, by the client or by an attacker
// between it and us, must not be read as if it had come under TLS. The two cannot be told apart, so the connection
// ends.
func (c *conn) starttls(arg []byte) {
	switch {
	case c.tx.phase() == inChunks:
		c.mistake(chunksRunning)
		return
	case c.srv.cfg.TLS == nil:
		c.mistake(noTLS)
		return
	case c.client.TLS != nil:
		c.mistake(alreadyTLS)
		return
	case len(arg) > 0:
		c.mistake(noParameters)
		return
	case c.in.r < c.in.w:
		c.in.r = c.in.w
		c.hangUp(tlsNotLast, "octets behind STARTTLS")
		return
	}
	c.resetTransaction()
	c.client.Helo, c.client.ESMTP = "", false
	c.out.reply(startTLS)
	c.out.flush()
	if c.life.ending >= writeFailed || !c.handshake(true) {
		c.life.end(unreachable) // no channel is left on which to reply
	}
}

// handshake does the TLS handshake and reports whether it succeeded. announced reports that the client was told to
// begin it. It runs on a goroutine of its own, because it needs a deep stack that the connection's goroutine would
// keep; it ends with the handshake, which the deadline bounds.
func (c *conn) handshake(announced bool) bool {
	under := c.life.raw
	if in := &c.in; in.r < in.w { // read with the PROXY header: STARTTLS lets nothing get here
		under = &readAhead{Conn: under, octets: bytes.Clone(in.buf[in.r:in.w])}
		in.r = in.w
	}
	t := tls.Server(under, c.srv.cfg.TLS())
	if announced {
		c.life.parkPromised(c.srv.cfg.tune.handshake)
	} else if !c.life.parkFor(c.srv.cfg.tune.handshake) {
		return false
	}
	c.life.writeDue = c.life.readDue
	_ = c.life.raw.SetWriteDeadline(c.srv.epoch.Add(c.life.writeDue))
	begun, done := c.srv.now(), make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // a callback of the Config
				done <- fmt.Errorf("handshake: %v", v)
			}
		}()
		done <- t.Handshake()
	}()
	err := <-done
	c.life.unpark()
	state := t.ConnectionState()
	if err == nil && state.Version < tls.VersionTLS12 {
		err = errors.New("TLS version below 1.2") // RFC 8996
	}
	took := c.srv.now() - begun
	c.srv.cfg.Handshake(took, err)
	c.life.rw = t
	h := mail.Handshake{Began: c.srv.epoch.Add(begun), Took: took, Err: err}
	if err != nil {
		c.life.end(unreachable)
		e := mail.Event{
			Kind: mail.Anomaly, Time: c.srv.cfg.Now(), Trace: mail.NewTraceID(), Client: c.client.Addr.Addr(),
			Reason: "TLS handshake", Cause: err,
		}
		v := c.client.Visit()
		v.Secured = h
		c.srv.cfg.Tracing.Refuse(&e, v)
		c.srv.cfg.Emit(e)
		return false
	}
	c.client.TLS = &Secured{Version: state.Version, Handshake: h}
	if certified := c.srv.cfg.Certified; certified != nil {
		c.client.TLS.Certified = certified(&state)
	}
	return true
}

// A readAhead is a connection of which some octets were read already.
type readAhead struct {
	net.Conn
	octets []byte
}

// Read returns those octets first.
func (a *readAhead) Read(p []byte) (int, error) {
	if len(a.octets) == 0 {
		return a.Conn.Read(p)
	}
	n := copy(p, a.octets)
	a.octets = a.octets[n:]
	return n, nil
}
