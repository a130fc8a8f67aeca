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

// starttls carries out STARTTLS (RFC 3207). What the client, or somebody between it and us, sent in clear behind the
// command must not be read as if it had come under TLS; it cannot be told from an attack, so the connection ends there.
func (c *conn) starttls(arg []byte) {
	switch {
	case c.body != nil:
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
	case c.r < c.w:
		c.r = c.w
		c.hangUp(tlsNotLast, "octets behind STARTTLS")
		return
	}
	c.resetTransaction()
	c.client.Helo, c.client.ESMTP = "", false
	c.reply(startTLS)
	c.flush()
	if c.dead || !c.startTLS() {
		c.dead, c.closing = true, true // there is no channel left to say anything on
	}
}

// startTLS does the handshake. It runs on a goroutine of its own, because it needs a deep stack that the connection's
// goroutine would keep; it ends with the handshake, which the deadline bounds.
func (c *conn) startTLS() bool {
	var under net.Conn = c.raw
	if c.r < c.w { // read with the PROXY header: STARTTLS lets nothing get here
		under = &ahead{Conn: c.raw, octets: bytes.Clone(c.buf[c.r:c.w])}
		c.r = c.w
	}
	t := tls.Server(under, c.srv.cfg.TLS())
	if !c.parkFor(c.srv.cfg.tune.handshake) {
		return false
	}
	c.writeDue = c.readDue
	_ = c.raw.SetWriteDeadline(c.srv.epoch.Add(c.writeDue))
	done := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil { // a callback of the Config
				done <- fmt.Errorf("handshake: %v", v)
			}
		}()
		done <- t.Handshake()
	}()
	err := <-done
	c.unpark()
	state := t.ConnectionState()
	if err == nil && state.Version < tls.VersionTLS12 {
		err = errors.New("TLS version below 1.2") // RFC 8996
	}
	c.rw = t
	if err != nil {
		c.dead = true
		c.srv.cfg.Emit(mail.Event{
			Kind: mail.Anomaly, Time: c.srv.cfg.Now(), Client: c.client.Addr.Addr(), Reason: "TLS handshake",
			Cause: err,
		})
		return false
	}
	c.client.TLS = &state
	return true
}

// ahead is a connection of which some octets were read already.
type ahead struct {
	net.Conn
	octets []byte
}

// Read gives those octets first.
func (a *ahead) Read(p []byte) (int, error) {
	if len(a.octets) == 0 {
		return a.Conn.Read(p)
	}
	n := copy(p, a.octets)
	a.octets = a.octets[n:]
	return n, nil
}
