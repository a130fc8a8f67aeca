package wire

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

func TestSTARTTLS(t *testing.T) {
	r, l := startCounting(t, func(c *Config) { c.TLS = tlsOf(certificate(t)) })
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\n")
	p.want("250 ")
	p.say("MAIL FROM:<a@x.example>\r\n")
	p.want("250")
	p.say("STARTTLS\r\n")
	p.want("220 2.0.0")
	r.expect(t, 0, "reset")
	p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	p.say("MAIL FROM:<a@x.example>\r\n")
	p.want("503 5.5.1 EHLO first")
	p.say("EHLO d.example\r\n")
	for range 8 {
		if got := p.line(); strings.Contains(got, "STARTTLS") {
			t.Error("STARTTLS is offered under TLS")
		}
	}
	r.expect(t, 0, "helo d.example esmtp=true tls=TLS 1.3")
	p.say("STARTTLS\r\n")
	p.want("503 5.5.1 TLS is already")
	writes := l.writes.Load()
	p.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n")
	p.want("250")
	p.want("250")
	p.want("250")
	p.want("354")
	if n := l.writes.Load() - writes; n != 1 {
		t.Errorf("the batch took %d records", n)
	}
	body := text(100_000)
	p.say(body + ".\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 4 LAST\r\nabcdQUIT\r\n")
	p.want("250 2.0.0 took")
	p.want("250")
	p.want("250")
	p.want("250 2.0.0 took 4")
	p.want("221")
	if ms := r.accepted(); len(ms) != 2 || ms[0].octets != body {
		t.Errorf("%d messages", len(ms))
	}
}

// TestSTARTTLS_Waits shows that waits under TLS can be interrupted and go on.
func TestSTARTTLS_Waits(t *testing.T) {
	r := start(t, func(c *Config) { c.TLS, c.Lend = tlsOf(certificate(t)), 20*time.Millisecond })
	r.until = 10 * time.Millisecond
	p := r.dial()
	p.want("220")
	p.say("STARTTLS\r\n")
	p.want("220")
	p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\n")
	n := r.expect(t, 0, "idle")
	p.say("RCPT TO:<b@y.example>\r\n")
	n = r.expect(t, n, "idle")
	p.say("DATA\r\n")
	n = r.expect(t, n, "next idle")
	p.say("hi\r\n.\r\n")
	n = r.expect(t, n, "message stuffed 4")
	p.say("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 4\r\nab")
	n = r.expect(t, n, "next idle")
	p.say("cdBDA")
	n = r.expect(t, n, "next idle")
	n = r.expect(t, n, "next idle")
	p.say("T 2 LAST\r\nef")
	r.expect(t, n, "message plain 6")
	if ms := r.accepted(); len(ms) != 2 || ms[1].octets != "abcdef" {
		t.Errorf("%+v", ms)
	}
	for _, want := range []string{
		"250 ", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0 took 4", "250 2.1.0", "250 2.1.5", "250 2.0.0 4 octets",
		"250 2.0.0 took 6",
	} {
		p.want(want)
	}
}

// TestHandshake_Timeout shows that a handshake that stalls ends in time.
func TestHandshake_Timeout(t *testing.T) {
	r := start(t, func(c *Config) { c.TLS, c.tune.handshake = tlsOf(certificate(t)), 30*time.Millisecond })
	p := r.dial()
	p.want("220")
	p.say("STARTTLS\r\n")
	p.want("220")
	p.say("\x16\x03\x01")
	p.want("")
	r.expect(t, 0, "close")
}

// TestHandshake_Implicit shows TLS from the first octet, behind a PROXY header.
func TestHandshake_Implicit(t *testing.T) {
	r := start(t, func(c *Config) { c.TLS, c.Implicit, c.Proxy = tlsOf(certificate(t)), true, loopback })
	p := r.dial()
	p.say("PROXY TCP4 192.0.2.7 192.0.2.1 1 465\r\n")
	p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	p.want("220")
	p.say("EHLO c.example\r\nQUIT\r\n")
	p.want("250 ")
	p.want("221")
	r.expect(t, 0, "new 192.0.2.7:1")
}

// TestHandshake_OldVersion shows that TLS below 1.2 is refused.
func TestHandshake_OldVersion(t *testing.T) {
	cfg := certificate(t)
	cfg.MinVersion = tls.VersionTLS10
	r := start(t, func(c *Config) { c.TLS = tlsOf(cfg) })
	p := r.dial()
	p.want("220")
	p.say("STARTTLS\r\n")
	p.want("220")
	p.Conn = tls.Client(p.Conn,
		&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if got := p.all(); got != "" {
		t.Errorf("got %q", got)
	}
	r.expect(t, 0, "close")
}
