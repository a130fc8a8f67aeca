package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

// ticketCache bounds the hosts whose TLS tickets are kept, per policy.
const ticketCache = 4096

// oldSuites are those that only old hosts need, which know the key exchange by RSA alone. The standard library leaves
// them out of what a client offers by itself. Where TLS is opportunistic they are better than the clear text that would
// follow; a host that knows better ones chooses those, and no certificate is verified in any case.
var oldSuites = []uint16{
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
	tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA,
	tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA,
}

// configs are the bases of handshakes: by how TLS is begun and by what is demanded. Each has tickets of its own, so
// that none from a session that was checked in one way is used where another check is demanded.
type configs struct {
	full    [smtpclient.Implicit + 1][tlspolicy.DANE + 1]*tls.Config
	classic [smtpclient.Implicit + 1][tlspolicy.DANE + 1]*tls.Config // the same with a small ClientHello
}

// newConfigs returns the bases with the oldest version of TLS that is spoken, 0 for what suits each.
func newConfigs(oldest uint16) (c configs) {
	for policy := range c.full {
		for level := range c.full[policy] {
			p := smtpclient.TLSPolicy(policy)
			c.full[policy][level] = tlsConfig(p, oldest)
			c.classic[policy][level] = classicConfig(c.full[policy][level], p)
		}
	}
	return c
}

// of returns the configuration of one handshake. What is demanded is checked in VerifyConnection, which is called for
// sessions that are resumed as well.
func (c *configs) of(policy smtpclient.TLSPolicy, h hello, demand *tlspolicy.Demand) *tls.Config {
	base := c.full[policy][demand.Level]
	if h == classic {
		base = c.classic[policy][demand.Level]
	}
	if !demand.Checks() && policy != smtpclient.Required && policy != smtpclient.Implicit {
		if demand.Waived {
			base = base.Clone()
			base.ClientSessionCache = nil // so that no ticket comes of it
		}
		return base
	}
	out := base.Clone()
	out.RootCAs = demand.Roots()
	out.InsecureSkipVerify = true // the check is the demand's
	out.VerifyConnection = func(s tls.ConnectionState) error { return demand.Check(s, time.Now()) }
	return out
}

// tlsConfig returns the base for sessions under one policy.
func tlsConfig(policy smtpclient.TLSPolicy, oldest uint16) *tls.Config {
	c := &tls.Config{
		ClientSessionCache: tls.NewLRUClientSessionCache(ticketCache),
		MinVersion:         max(tls.VersionTLS12, oldest),
	}
	if policy == smtpclient.Opportunistic {
		c.MinVersion = max(tls.VersionTLS10, oldest) // old TLS is better than the clear that would follow
		for _, s := range tls.CipherSuites() {
			c.CipherSuites = append(c.CipherSuites, s.ID)
		}
		c.CipherSuites = append(c.CipherSuites, oldSuites...)
	}
	return c
}

// classicConfig returns base for a ClientHello as it was ten years ago: without post-quantum key exchange, whose large
// first message some boxes in the middle cannot take, and without tickets. Where TLS is opportunistic it has no TLS 1.3
// either, which other boxes cannot take, unless nothing older may be spoken.
func classicConfig(base *tls.Config, policy smtpclient.TLSPolicy) *tls.Config {
	c := base.Clone()
	c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}
	c.ClientSessionCache = nil
	if policy == smtpclient.Opportunistic && c.MinVersion < tls.VersionTLS13 {
		c.MaxVersion = tls.VersionTLS12
	}
	return c
}

// A hello is how TLS is begun with a host.
type hello uint8

const (
	full    hello = iota // as the standard library does
	classic              // see classicConfig
	clear                // not at all, where the policy is opportunistic
	old                  // nor is EHLO said; see walk.tryOld
)

// An attempt is one candidate, and how far we are with the ways in which TLS may be begun with it.
type attempt struct {
	*walk
	candidate
	begun    time.Time
	hello    hello
	fellBack bool // from another hello
	hasty    bool // for want of time
	demand   tlspolicy.Demand
	target   smtpclient.Target // for hello
	socket   net.Conn          // connected to the candidate; nil if it is given up
}

// begin begins an attempt on a socket, nil for none.
func (w *walk) begin(c candidate, socket net.Conn) *attempt {
	t := &attempt{walk: w, candidate: c, begun: time.Now(), demand: w.target.Demands.Of(c.Host), socket: socket}
	t.hello = w.memory.hello(c.Spot, w.target.policyOf(&t.demand))
	if t.hello == old && w.target.EHLO {
		t.hello = full
	}
	t.target = w.clientTarget(w.target, c.Spot, t.hello, &t.demand)
	return t
}

// next goes on after the socket was closed because of err: with the next hello on another connection, or with none.
func (t *attempt) next(ctx context.Context, err error) {
	t.socket = nil
	next, ok := t.hello.after(err, t.walk.target.policyOf(&t.demand))
	if ok && !mail.IsOver(ctx) {
		t.note(t.Spot, err, time.Since(t.begun))
		t.hello, t.fellBack, t.hasty = next, true, t.hasty || isHasty(err)
		t.memory.tried(next)
		t.target = t.clientTarget(t.walk.target, t.Spot, next, &t.demand)
		t.socket, err = t.cfg.Connect(ctx, t.target)
	}
	if err != nil {
		t.fail(ctx, t.candidate, err, time.Since(t.begun))
		t.endsAtEHLO(err)
	}
}

// took notes what worked, and returns it.
func (t *attempt) took(opened *client) Conn {
	if !t.hasty {
		t.memory.worked(t.Spot, t.hello, opened.TLS() != "", t.fellBack)
	}
	ext := opened.Extensions()
	requireTLS := ext.Has(smtpclient.RequireTLS)
	t.cfg.Marks.Took(t.Spot, t.first)
	t.cfg.Marks.Opened(t.Spot)
	t.tellOpened(opened)
	return Conn{
		Client: opened, Host: t.Host, Addr: t.Addr, Source: t.source(t.walk.target.Site, t.Addr),
		Others: t.met + t.behind - 1, Tried: t.tried, Trust: t.demand.Shown(requireTLS),
	}
}

// tellOpened tells Config.Report of the session. Where it went on in clear because TLS had failed, that was told.
func (t *attempt) tellOpened(opened *client) {
	report := opened.Taken().Report
	switch {
	case opened.TLS() != "":
	case t.fellBack:
		return
	case t.hello == clear || t.hello == old:
		report.Result = mail.TLSFailed
	default:
		report.Result = mail.TLSNotOffered
	}
	t.tell(t.Spot, report)
}

// isHasty reports whether err is a time-out of ours that says nothing of the host's TLS.
func isHasty(err error) bool {
	var d *smtpclient.DialError
	return errors.As(err, &d) && d.Hasty && errors.Is(err, os.ErrDeadlineExceeded)
}

// after returns what follows h after err, and whether there is anything. STARTTLS that is refused with 421, closed or
// nonsense has not met a ClientHello, so that another one changes nothing.
func (h hello) after(err error, policy smtpclient.TLSPolicy) (next hello, ok bool) {
	var d *smtpclient.DialError
	if !errors.As(err, &d) || h == clear || h == old {
		return h, false
	}
	switch d.Stage {
	case smtpclient.StageTLS, smtpclient.StageSecure:
		if h == full && brokeOff(err, policy) {
			return classic, true
		}
	case smtpclient.StageStartTLS:
	default:
		return h, false
	}
	return clear, policy == smtpclient.Opportunistic
}

// brokeOff reports whether TLS failed without a word from the other side about why, as happens where a box in the
// middle drops the connection. Where TLS is opportunistic, an alert is no such word: the classic hello knows no TLS
// 1.3.
func brokeOff(err error, policy smtpclient.TLSPolicy) bool {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return policy == smtpclient.Opportunistic
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var reply *smtpclient.ReplyError
	return !errors.As(err, &certificate) && !errors.As(err, &record) && !errors.As(err, &unknown) &&
		!errors.As(err, &name) && !errors.As(err, &reply)
}
