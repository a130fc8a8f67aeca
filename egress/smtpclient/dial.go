package smtpclient

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The defaults of a Config. RFC 5321 section 4.5.3.2.6 asks for ten minutes for the end of data.
const (
	defaultConnect = 30 * time.Second
	defaultData    = 60 * time.Second
	defaultStall   = 120 * time.Second
	defaultDot     = 10 * time.Minute
)

// The limits that nobody configures: how long each reply may take, and how large it may be. A client waits meanwhile,
// so they are below those of RFC 5321 section 4.5.3.2.
const (
	greetingTimeout = 60 * time.Second
	heloTimeout     = 60 * time.Second // each of EHLO, STARTTLS with its handshake, and AUTH
	mailTimeout     = 60 * time.Second // MAIL and RSET
	rcptTimeout     = 60 * time.Second

	maxReplyLine   = 2048 // octets, CRLF included
	maxReplyLines  = 100
	maxReplyOctets = 16 << 10
)

// Validate returns a *mail.FieldError for the first negative field, else nil.
func (c *Config) Validate() error {
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"connect", c.Connect}, {"data", c.Data}, {"stall", c.Stall}, {"dot", c.Dot}} {
		if f.value < 0 {
			return &mail.FieldError{Field: f.name, Reason: "is negative"}
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Connect = cmp.Or(c.Connect, defaultConnect)
	c.Data = cmp.Or(c.Data, defaultData)
	c.Stall = cmp.Or(c.Stall, defaultStall)
	c.Dot = cmp.Or(c.Dot, defaultDot)
	c.tune.mail = cmp.Or(c.tune.mail, mailTimeout)
	c.tune.rcpt = cmp.Or(c.tune.rcpt, rcptTimeout)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// verified reports whether the policy demands a certificate that is valid for the host.
func (p TLSPolicy) verified() bool { return p == Required || p == Implicit }

var errAuthInClear = errors.New("AUTH needs verified TLS")

// Dial connects to t and brings the session to where MAIL may be sent: greeting, EHLO (HELO where the server does not
// know EHLO), STARTTLS and EHLO again, AUTH. It takes ctx's end as well as its deadline. The error is a *DialError;
// what the host said is in it as a *mail.Refusal with AboutUs, since no message was spoken of yet.
//
// Under Opportunistic, a refused STARTTLS leaves the session in clear. A handshake that fails ends the connection:
// whether the next attempt offers other key shares, or no TLS at all, is the caller's to say, by another Target.
func Dial(ctx context.Context, cfg Config, t Target) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, &DialError{Host: t.Host, Stage: StageConnect, Err: err}
	}
	if t.User != "" && !t.TLS.verified() {
		return nil, &DialError{Host: t.Host, Stage: StageAuth, Err: errAuthInClear}
	}
	cfg = cfg.withDefaults()
	d := net.Dialer{Timeout: cfg.Connect}
	if t.Source.IsValid() && t.Network != "unix" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.Source, 0))
	}
	conn, err := d.DialContext(ctx, t.Network, t.Addr)
	if err != nil {
		return nil, &DialError{Host: t.Host, Stage: StageConnect, Err: err}
	}
	s := newClient(conn, cfg, t)
	// await sees an end that came before its own deadline
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	stage, err := s.open(ctx)
	if !stop() { // ctx ended: whatever came of it, that is why
		err = s.lost(string(stage), context.Cause(ctx))
	}
	if err != nil {
		s.abandon()
		return nil, &DialError{Host: t.Host, Stage: stage, Err: err}
	}
	s.release()
	return s, nil
}

func newClient(conn net.Conn, cfg Config, t Target) *Client {
	now := cfg.Now()
	s := &Client{cfg: cfg, target: t, wire: newWire(conn, cfg.Stall), born: now, used: now}
	s.conn = s.wire
	if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		s.own = []netip.Addr{a.AddrPort().Addr().Unmap()}
	}
	return s
}

// open speaks everything before the first MAIL. It gives the stage reached.
func (s *Client) open(ctx context.Context) (Stage, error) {
	if s.target.TLS == Implicit {
		if err := s.handshake(ctx); err != nil {
			return StageTLS, err
		}
	}
	if err := s.expect(ctx, greetingTimeout, "greeting", 220); err != nil {
		return StageGreeting, err
	}
	if err := s.hello(ctx); err != nil {
		return StageHelo, err
	}
	if s.target.TLS == Opportunistic && s.ext.StartTLS || s.target.TLS == Required {
		if stage, err := s.startTLS(ctx); err != nil {
			return stage, err
		}
	}
	if s.target.User != "" {
		if err := s.auth(ctx); err != nil {
			return StageAuth, err
		}
	}
	return StageHelo, nil
}

// expect reads one reply, which must have this code; a refusal is about us. Nothing may have come behind it.
func (s *Client) expect(ctx context.Context, limit time.Duration, verb string, code int) error {
	r, err := s.await(ctx, limit, verb)
	if err != nil {
		return err
	}
	switch {
	case r.class() >= 4:
		return s.refusedUs(verb, r.mail())
	case r.code != code:
		return s.protocol(verb, errUnexpected)
	case s.unread():
		return s.protocol(verb, errUnasked)
	}
	return nil
}

// await sets the phase's deadline and reads one reply.
func (s *Client) await(ctx context.Context, limit time.Duration, verb string) (reply, error) {
	s.phase(ctx, limit)
	if ctx.Err() != nil { // its end may have come before the deadline that phase set
		return reply{}, s.lost(verb, context.Cause(ctx))
	}
	return s.read(verb)
}

// ask sends line, to which CRLF is added, and reads the reply.
func (s *Client) ask(ctx context.Context, verb string, line ...string) (reply, error) {
	w := s.buffers()
	w.out = w.out[:0]
	for _, l := range line {
		w.out = append(w.out, l...)
	}
	w.out = append(w.out, crlf...)
	s.phase(ctx, heloTimeout)
	_, err := s.conn.Write(w.out)
	clear(w.out) // it may have been a password
	if err != nil {
		return reply{}, s.lost(verb, err)
	}
	return s.await(ctx, heloTimeout, verb)
}

// hello sends EHLO or LHLO, and HELO where EHLO is not understood (RFC 5321 section 3.2).
func (s *Client) hello(ctx context.Context) error {
	verb := "EHLO"
	if s.target.LMTP {
		verb = "LHLO"
	}
	r, err := s.ask(ctx, verb, verb, " ", s.target.Helo)
	if err != nil {
		return err
	}
	s.ext = Extensions{}
	if r.class() == 2 {
		s.ext = parseExtensions(string(r.text))
	} else if r.code >= 500 && r.code <= 504 && !s.target.LMTP {
		verb = "HELO"
		if r, err = s.ask(ctx, verb, verb, " ", s.target.Helo); err != nil {
			return err
		}
	}
	switch {
	case r.class() >= 4:
		return s.refusedUs(verb, r.mail())
	case r.class() != 2:
		return s.protocol(verb, errUnexpected)
	case s.unread():
		return s.protocol(verb, errUnasked)
	}
	return nil
}

// startTLS turns the session to TLS. Octets that came in clear behind the 220 would be taken for the server's word
// inside TLS: they end the session.
func (s *Client) startTLS(ctx context.Context) (Stage, error) {
	if !s.ext.StartTLS {
		return StageStartTLS,
			s.local(451, 7, 5, "Destination does not offer the TLS that its policy demands", "tls policy")
	}
	r, err := s.ask(ctx, "STARTTLS", "STARTTLS")
	if err != nil {
		return StageStartTLS, err
	}
	switch {
	case r.class() >= 4 && r.code != 421 && s.target.TLS == Opportunistic && !s.unread():
		return "", nil
	case r.class() >= 4:
		return StageStartTLS, s.refusedUs("STARTTLS", r.mail())
	case r.class() != 2:
		return StageStartTLS, s.protocol("STARTTLS", errUnexpected)
	case s.unread():
		return StageStartTLS, s.protocol("STARTTLS", errUnasked)
	}
	if err := s.handshake(ctx); err != nil {
		return StageTLS, err
	}
	return StageHelo, s.hello(ctx)
}

// handshake speaks TLS from here on. Session tickets that TLS 1.3 servers send behind it are taken in with the first
// reply.
func (s *Client) handshake(ctx context.Context) error {
	var c *tls.Config
	if s.target.TLSConfig == nil {
		c = new(tls.Config)
	} else {
		c = s.target.TLSConfig.Clone()
	}
	c.ServerName = strings.TrimSuffix(s.target.Host, ".")
	c.DynamicRecordSizingDisabled = true // small records first are for browsers: here each record costs a system call
	if s.target.TLS.verified() {
		c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
		c.InsecureSkipVerify = c.InsecureSkipVerify && c.VerifyConnection != nil // DANE brings its own check
	} else {
		c.InsecureSkipVerify = true
		if c.MinVersion == 0 {
			c.MinVersion = tls.VersionTLS10 // old TLS is better than none
		}
	}
	conn := tls.Client(s.wire, c)
	s.phase(ctx, heloTimeout)
	if ctx.Err() != nil {
		return s.lost("TLS", context.Cause(ctx))
	}
	s.shaken.began = time.Now()
	if err := conn.Handshake(); err != nil {
		lost := s.lost("TLS", err)
		if !s.target.TLS.verified() {
			return lost
		}
		r := s.local(451, 7, 5, "Destination does not meet the TLS that its policy demands", "tls policy")
		r.Cause = lost
		return r
	}
	s.shaken.took = time.Since(s.shaken.began)
	s.tls, s.conn = conn, conn
	s.wire.secure = true
	s.version = tls.VersionName(conn.ConnectionState().Version)
	return nil
}

// auth speaks PLAIN (RFC 4616, with the initial response of RFC 4954) or LOGIN, whatever is offered.
func (s *Client) auth(ctx context.Context) error {
	encode := base64.StdEncoding.EncodeToString
	user, password := s.target.User, s.target.Password
	var lines []string
	switch {
	case s.ext.AuthPlain:
		lines = []string{"AUTH PLAIN " + encode([]byte("\x00"+user+"\x00"+password))}
	case s.ext.AuthLogin:
		lines = []string{"AUTH LOGIN", encode([]byte(user)), encode([]byte(password))}
	default:
		r := s.local(451, 7, 0, "Destination does not take mail from here at the moment, try again later",
			"upstream refused us")
		r.AboutUs, r.Cause = true, errors.New("AUTH PLAIN or LOGIN not offered")
		return r
	}
	for i, line := range lines {
		r, err := s.ask(ctx, "AUTH", line)
		switch {
		case err != nil:
			return err
		case r.class() >= 4:
			return s.refusedUs("AUTH", r.mail())
		case r.code != 334 && i < len(lines)-1, r.code != 235 && i == len(lines)-1, s.unread():
			return s.protocol("AUTH", errUnexpected)
		}
	}
	return nil
}
