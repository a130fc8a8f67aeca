package wire

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/millrace/millrace/router/mail"
)

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
	t := tls.Server(c.raw, c.srv.cfg.TLS())
	due := c.srv.now() + c.srv.cfg.Timeouts.Handshake
	if !c.park(due, 0) {
		return false
	}
	c.writeDue = due
	_ = c.raw.SetWriteDeadline(c.srv.epoch.Add(due))
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
		err = errors.New("TLS version below 1.2") // RFC 8997 forbids it for mail
	}
	c.rw = t
	if err != nil {
		c.dead = true
		c.srv.cfg.Emit(mail.Event{Kind: mail.Anomaly, Time: c.srv.cfg.Now(), Client: c.client.Addr.Addr(), Reason: "TLS handshake", Cause: err})
		return false
	}
	c.client.TLS = &state
	return true
}
