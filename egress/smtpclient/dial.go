package smtpclient

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The defaults of a Config. RFC 5321 section 4.5.3.2.6 asks for ten minutes for the end of data.
const (
	defaultData   = 60 * time.Second
	defaultStall  = 120 * time.Second
	defaultDot    = 10 * time.Minute
	defaultReused = 2 * time.Second
)

// The limits without a setting: how long each reply may take, and how large it may be. The node's client waits
// meanwhile, so the times are below those of RFC 5321 section 4.5.3.2.
const (
	connectTimeout  = 30 * time.Second
	greetingTimeout = 60 * time.Second
	heloTimeout     = 60 * time.Second // each of EHLO and AUTH
	tlsTimeout      = 10 * time.Second // each of STARTTLS, the handshake, and EHLO behind it; see patience
	mailTimeout     = 60 * time.Second // MAIL and RSET
	rcptTimeout     = 60 * time.Second

	maxReplyLine   = 2048 // octets, CRLF included
	maxReplyLines  = 100
	maxReplyOctets = 16 << 10
	maxReply       = 1 << 20 // of which the rest is cut

	// halfReply is how long the rest of a reply is waited for that came unasked, or of which only the end is missing.
	halfReply = 5 * time.Second
)

// Validate returns a *mail.FieldError for the first negative field, else nil.
func (c *Config) Validate() error {
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"data", c.Data}, {"stall", c.Stall}, {"dot", c.Dot}, {"reused", c.Reused}} {
		if f.value < 0 {
			return &mail.FieldError{Field: f.name, Reason: "is negative"}
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Data = cmp.Or(c.Data, defaultData)
	c.Stall = cmp.Or(c.Stall, defaultStall)
	c.Dot = cmp.Or(c.Dot, defaultDot)
	c.Reused = cmp.Or(c.Reused, defaultReused)
	c.tune.mail = cmp.Or(c.tune.mail, mailTimeout)
	c.tune.rcpt = cmp.Or(c.tune.rcpt, rcptTimeout)
	c.tune.half = cmp.Or(c.tune.half, halfReply)
	c.tune.rest = cmp.Or(c.tune.rest, lateRest)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// verified reports whether the policy demands a certificate that is valid for the host.
func (p TLSPolicy) verified() bool { return p == Required || p == Implicit }

var errAuthInClear = errors.New("AUTH needs verified TLS")

// Dial connects to t and goes on to where MAIL may be sent: greeting, EHLO (HELO where the server does not know EHLO),
// STARTTLS and EHLO again, AUTH. It ends with ctx, and at its deadline. The error is a *DialError; a negative reply is
// in it as a *mail.Refusal with AboutUs, because it cannot be about a message yet.
//
// Under Opportunistic, a refused STARTTLS leaves the connection in clear. TLS that fails ends the connection: whether
// the next attempt offers other key shares, or no TLS at all, is for the caller to say, by another Target.
func Dial(ctx context.Context, cfg Config, t Target) (*Client, error) {
	socket, err := Connect(ctx, t)
	if err != nil {
		return nil, err
	}
	return Open(ctx, cfg, t, socket)
}

// Connect is the part of Dial that speaks no SMTP. The error is a *DialError.
func Connect(ctx context.Context, t Target) (net.Conn, error) {
	if t.Proxy != "" {
		return connectBy(ctx, t)
	}
	d := net.Dialer{Timeout: connectTimeout}
	if t.Source.IsValid() && t.Network != "unix" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.Source, 0))
	}
	socket, err := d.DialContext(ctx, t.Network, t.Addr)
	if err != nil {
		return nil, &DialError{Host: t.Host, Stage: StageConnect, Err: err}
	}
	return socket, nil
}

// Open is the rest of Dial, on the socket that Connect returned, which it closes if it fails.
func Open(ctx context.Context, cfg Config, t Target, socket net.Conn) (*Client, error) {
	if t.User != "" && !t.TLS.verified() {
		socket.Close()
		return nil, &DialError{Host: t.Host, Stage: StageAuth, Err: errAuthInClear}
	}
	cfg = cfg.withDefaults()
	c := newClient(socket, cfg, t)
	// await sees an end of ctx that came before its own deadline.
	stop := context.AfterFunc(ctx, func() { socket.SetDeadline(time.Unix(1, 0)) })
	stage, err := opening{&c.connection}.run(ctx)
	if !stop() { // ctx has ended, which is the cause of any other error
		err = c.connError(string(stage), context.Cause(ctx))
	}
	if err != nil {
		c.abandon()
		return nil, &DialError{Host: t.Host, Stage: stage, Err: err, Hasty: c.hasty}
	}
	if v := t.Report; v != nil {
		c.taken.Report, c.target.Report = *v, nil
		if c.version == "" && v.Policy != mail.NoTLSPolicy && v.Result == mail.TLSWorked {
			c.taken.Report.Result = mail.TLSNotOffered
		}
	}
	if c.state == spent { // for a reply without its end, which spoils no message
		c.state = usable
	}
	c.release()
	return c, nil
}

// An opening is the part of a connection's life that ends before the first MAIL.
type opening struct{ *connection }

// run speaks everything before the first MAIL. It returns the stage reached.
func (o opening) run(ctx context.Context) (Stage, error) {
	if o.target.TLS == Implicit {
		if err := o.handshake(ctx); err != nil {
			return StageTLS, err
		}
	}
	r, err := o.await(ctx, greetingTimeout, "greeting")
	if err == nil {
		err = o.mustBe2yz("greeting", r)
	}
	if err != nil {
		return StageGreeting, err
	}
	if err := o.hello(ctx, o.target.Helo); err != nil {
		return StageHelo, err
	}
	if o.target.TLS == Opportunistic && o.ext.Has(StartTLS) || o.target.TLS == Required {
		if stage, err := o.startTLS(ctx); err != nil {
			return stage, err
		}
	}
	if o.target.RequireTLS && !o.ext.Has(RequireTLS) {
		return StageRequire, o.lacksRequireTLS()
	}
	if o.target.User != "" {
		if err := o.auth(ctx); err != nil {
			return StageAuth, err
		}
	}
	return StageHelo, nil
}

// mustBe2yz returns nil for a positive reply with nothing behind it. A refusal is about us.
func (o opening) mustBe2yz(verb string, r reply) error {
	switch {
	case r.class() >= 4:
		return o.refused(verb, r)
	case r.class() != 2:
		return o.protocol(verb, errUnexpected)
	case o.unread():
		return o.protocol(verb, errUnasked)
	}
	return nil
}

// await sets the deadline and reads one reply.
func (o opening) await(ctx context.Context, limit time.Duration, verb string) (reply, error) {
	o.setDeadline(ctx, limit)
	if ctx.Err() != nil { // its end may have come before setDeadline replaced the deadline
		return reply{}, o.connError(verb, context.Cause(ctx))
	}
	r, err := o.read(verb)
	// Behind STARTTLS they would be an attack, and behind AUTH the reply to what was not sent yet.
	if err == nil && o.unread() && verb != "STARTTLS" && verb != "AUTH" {
		r = o.behind(true)
	}
	return r, err
}

// ask sends line, to which CRLF is added, and reads the reply.
func (o opening) ask(ctx context.Context, verb string, line ...string) (reply, error) {
	w := o.buffers()
	w.out = w.out[:0]
	for _, l := range line {
		w.out = append(w.out, l...)
	}
	w.out = append(w.out, crlf...)
	o.setDeadline(ctx, heloTimeout)
	_, err := o.socket.Write(w.out)
	clear(w.out) // it may have been a password
	if err != nil {
		return reply{}, o.connError(verb, err)
	}
	return o.await(ctx, heloTimeout, verb)
}

// hello sends EHLO or LHLO with a name, and HELO where EHLO is not understood (RFC 5321 section 3.2).
func (o opening) hello(ctx context.Context, name string) error {
	verb := "EHLO"
	switch {
	case o.target.LMTP:
		verb = "LHLO"
	case o.target.Old:
		verb = "HELO"
	}
	r, err := o.ask(ctx, verb, verb, " ", name)
	if err != nil {
		return err
	}
	o.ext = Extensions{}
	if r.class() == 2 && verb != "HELO" {
		o.ext = parseExtensions(string(r.text))
		o.ext.Keywords &^= o.target.Without
		if !o.ext.Has(Size) {
			o.ext.Size = 0
		}
	} else if r.class() >= 4 && r.code != 421 && verb == "EHLO" {
		verb = "HELO"
		if r, err = o.ask(ctx, verb, verb, " ", name); err != nil {
			return err
		}
	}
	if err := o.mustBe2yz(verb, r); err != nil {
		return err
	}
	o.greetedBy(string(r.text))
	return nil
}

// maxEchoes bounds the addresses that are believed of one reply to EHLO.
const maxEchoes = 4

// greetedBy notes the addresses in the first line of a reply to EHLO, in which many hosts say who they see ("mx.example
// at your service, [192.0.2.7]"). Behind address translation our end does not know that. It counts for this connection
// alone, because a host may write anything.
func (o opening) greetedBy(text string) {
	line, _, _ := strings.Cut(text, "\n")
	host, _, _ := net.SplitHostPort(o.target.Addr)
	for word := range wordsOfAddress(strings.ToLower(line)) {
		a, ok := readAddr(word)
		if !ok || a.IsUnspecified() || a.String() == host || slices.Contains(o.own, a) {
			continue
		}
		if len(o.own) > maxEchoes {
			return
		}
		o.own = append(o.own, a)
	}
}

// startTLS begins TLS. Octets that came in clear behind the 220 would be taken for the server's replies inside TLS, so
// they end the connection.
func (o opening) startTLS(ctx context.Context) (Stage, error) {
	if !o.ext.Has(StartTLS) {
		return StageStartTLS,
			o.ownRefusal(451, 7, 5, "Destination does not offer the TLS that its policy demands", "tls policy")
	}
	r, err := o.ask(o.patience(ctx), "STARTTLS", "STARTTLS")
	if err != nil {
		return StageStartTLS, err
	}
	switch {
	case r.class() >= 4 && r.code != 421 && o.target.TLS == Opportunistic && !o.unread():
		o.noTLS = true
		return "", nil
	case r.class() >= 4:
		return StageStartTLS, o.refused("STARTTLS", r)
	case r.class() != 2:
		return StageStartTLS, o.protocol("STARTTLS", errUnexpected)
	case o.unread():
		return StageStartTLS, o.protocol("STARTTLS", errUnasked)
	}
	if err := o.handshake(ctx); err != nil {
		return StageTLS, err
	}
	return StageSecure, o.hello(o.patience(ctx), o.target.Helo)
}

// patience returns ctx with the deadline of a step of TLS: no more than a third of what is left, because what fails
// here is tried in two more ways, with another ClientHello and in clear.
func (o opening) patience(ctx context.Context) context.Context {
	now := time.Now()
	limit := tlsTimeout
	if at, ok := ctx.Deadline(); ok {
		limit = min(limit, at.Sub(now)/3)
	}
	o.hasty = limit < tlsTimeout/2
	return mail.Until(ctx, now.Add(limit))
}

// handshake speaks TLS from here on. Session tickets that TLS 1.3 servers send behind it are taken in with the first
// reply.
func (o opening) handshake(ctx context.Context) error {
	conn := tls.Client(o.wire, tlsConfig(&o.target))
	ctx = o.patience(ctx)
	o.setDeadline(ctx, tlsTimeout)
	if ctx.Err() != nil {
		return o.connError("TLS", context.Cause(ctx))
	}
	o.handshakeBegan = time.Now()
	err := conn.Handshake()
	took := time.Since(o.handshakeBegan)
	if o.cfg.Handshake != nil {
		o.cfg.Handshake(took, err)
	}
	if err != nil {
		cause := o.connError("TLS", err)
		if !o.target.TLS.verified() {
			return cause
		}
		r := o.ownRefusal(451, 7, 5, "Destination does not meet the TLS that its policy demands", "tls policy")
		r.Cause = cause
		return r
	}
	o.handshakeTook = took
	o.tls, o.socket = conn, conn
	o.wire.secure = true
	o.secured(conn.ConnectionState())
	return nil
}

// secured notes what TLS came to.
func (o opening) secured(s tls.ConnectionState) {
	o.version = tls.VersionName(s.Version)
	o.taken.TLS, o.taken.Cipher = o.version, tls.CipherSuiteName(s.CipherSuite)
	switch {
	case s.CurveID != 0:
		o.taken.KeyExchange = s.CurveID.String()
	case strings.HasPrefix(o.taken.Cipher, "TLS_RSA_"):
		o.taken.KeyExchange = "RSA"
	}
	o.taken.Verified = o.target.TLS.verified() && !o.target.AnyCertificate
	if s.DidResume {
		o.taken.Kind = mail.SessionResumed
	}
}

// tlsConfig returns the configuration of the handshake with t.
func tlsConfig(t *Target) *tls.Config {
	config := new(tls.Config)
	if t.TLSConfig != nil {
		config = t.TLSConfig.Clone()
	}
	config.ServerName = strings.TrimSuffix(cmp.Or(t.ServerName, t.Host), ".")
	if own := t.Certificate; own != nil { // also to a server whose list of authorities does not have its own
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
		config.ClientSessionCache = nil // a ticket stands for what its session showed, and would lend it to others
	}
	// Browsers want small records first; here each record costs a system call.
	config.DynamicRecordSizingDisabled = true
	if t.TLS.verified() {
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
		// DANE brings its own check.
		config.InsecureSkipVerify = config.InsecureSkipVerify && config.VerifyConnection != nil
		return config
	}
	config.InsecureSkipVerify = true
	if config.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS10 // old TLS is better than clear text
	}
	return config
}

// refused is the Refusal for a negative reply. Before the first MAIL it can only be about us.
func (o opening) refused(verb string, r reply) *mail.Refusal {
	came := r.mail()
	return o.refusedUs(&ReplyError{Verb: verb, Reply: came, Heard: o.withoutName(normal(came.Text))})
}
