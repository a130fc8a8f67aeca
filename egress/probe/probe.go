// Package probe asks a host how it takes mail, and leaves none there: the steps of a session as far as RCPT, each with
// its time and in words, and the tricks by which a host relays mail for strangers.
//
// It owns the words for what goes wrong on the way to a host, the tricks, and the dialogue that they are said in. It
// refuses to know where hosts come from, and mail that is on its way.
//
// Invariants: DATA is never sent, and BDAT only behind a recipient that was refused, with no octets and without LAST;
// each session ends in RSET or QUIT; what a host says reaches the caller without control characters.
package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// A Step is one thing that was done at a host, or that failed there.
type Step struct {
	Name         string `json:"step"`
	OK           bool   `json:"ok"`
	Reply        string `json:"reply,omitempty"` // what the host said
	Says         string `json:"says,omitempty"`  // what it means, in words
	Fault        Fault  `json:"fault,omitempty"` // what kind of failure it is; "" for a reply, and for none
	Milliseconds int64  `json:"ms"`
}

// A Found is what a host that was asked did.
type Found struct {
	Steps []Step
	Open  bool // mail could be offered: all that comes before MAIL worked
	Takes bool // the recipient was accepted, or none was offered to a host that is open
}

// Failed returns what is found at a host that cannot be asked because of err.
func Failed(step string, err error) Found {
	t := &talk{last: time.Now()}
	t.fail(step, err)
	return t.Found
}

// The names of steps that are no verbs.
const (
	StepAddress     = "address"
	StepTCP         = "TCP"
	StepGreeting    = "greeting"
	StepTLS         = "TLS"
	StepCertificate = "certificate"
)

// A Call is one address of a host that is to be asked, and what.
type Call struct {
	Client  smtpclient.Config
	Target  smtpclient.Target
	Connect func(context.Context, smtpclient.Target) (net.Conn, error) // nil means smtpclient.Connect
	From    mail.Path                                                  // the reverse-path
	To      *mail.Path                                                 // offered in RCPT; nil: no transaction is begun
}

// slowGreeting is how long a greeting may take before it is called slow.
const slowGreeting = 5 * time.Second

// A talk is a Call under way.
type talk struct {
	Call
	Found
	last time.Time // when the last step ended
	tls  *tls.ConnectionState
}

// Host asks one address of a host. It ends with ctx.
func Host(ctx context.Context, c Call) Found {
	t := &talk{Call: c}
	t.run(ctx)
	return t.Found
}

// run is Host.
func (t *talk) run(ctx context.Context) {
	t.Client.Heard = t.heard
	t.Client.Handshake = t.shook
	base := new(tls.Config)
	if t.Target.TLSConfig != nil {
		base = t.Target.TLSConfig.Clone()
	}
	base.ClientSessionCache = nil // a session that is resumed shows no certificate
	before := base.VerifyConnection
	base.VerifyConnection = func(s tls.ConnectionState) error {
		t.tls = &s
		if before != nil {
			return before(s)
		}
		return nil
	}
	t.Target.TLSConfig = base
	if t.Connect == nil {
		t.Connect = smtpclient.Connect
	}
	t.last = time.Now()
	socket, err := t.Connect(ctx, t.Target)
	if err != nil {
		t.fail(StepTCP, err)
		return
	}
	says := "connected"
	if own, ok := socket.LocalAddr().(*net.TCPAddr); ok {
		says += " from " + own.IP.String()
	}
	t.add(Step{Name: StepTCP, OK: true, Says: says})
	client, err := smtpclient.Open(ctx, t.Client, t.Target, socket)
	if err != nil {
		t.fail(stepOf(err), err)
		return
	}
	t.Open = true
	if client.TLS() == "" && t.Target.TLS != smtpclient.None && !t.has("STARTTLS") {
		t.add(Step{Name: "STARTTLS", OK: true, Says: "not offered: mail goes there in clear"})
	}
	t.Takes = t.offer(ctx, client)
	client.Quit(time.Second)
}

// offer offers the recipient, takes the offer back, and reports whether it was accepted, or there is none.
func (t *talk) offer(ctx context.Context, client *smtpclient.Client) bool {
	if t.To == nil {
		return true
	}
	client.Begin(mail.Delivery{Reverse: t.From})
	err := client.Rcpt(ctx, *t.To)
	if err != nil {
		t.fail("RCPT", err)
	}
	var lost *smtpclient.ConnError
	if errors.As(err, &lost) {
		return false
	}
	if err := client.Reset(ctx); err != nil {
		t.fail("RSET", err)
	}
	return err == nil
}

// add adds a step that has just ended.
func (t *talk) add(s Step) {
	now := time.Now()
	s.Milliseconds = now.Sub(t.last).Round(time.Millisecond).Milliseconds()
	s.Reply, s.Says = shown(s.Reply), shown(s.Says)
	t.last = now
	t.Steps = append(t.Steps, s)
}

// has reports whether there is a step of that name.
func (t *talk) has(name string) bool {
	for _, s := range t.Steps {
		if s.Name == name {
			return true
		}
	}
	return false
}

// heard adds the step that a reply ends.
func (t *talk) heard(_, verb string, r mail.Reply) {
	s := Step{Name: verb, OK: r.Class() == 2 || r.Class() == 3, Reply: textOf(r)}
	took := time.Since(t.last)
	switch {
	case verb == StepGreeting && took >= slowGreeting:
		s.Says = fmt.Sprintf("slow: it let us wait %s, as hosts do that test their clients", took.Round(time.Second))
	case verb == "EHLO" && t.tls != nil:
		s.Name = "EHLO in TLS"
	case verb == "STARTTLS" && !s.OK && t.Target.TLS == smtpclient.Opportunistic:
		s.Says = "refused: mail goes there in clear"
	}
	t.add(s)
}

// shook adds the steps that a handshake is. One that failed is added with the error of Open.
func (t *talk) shook(_ time.Duration, err error) {
	if err != nil || t.tls == nil {
		return
	}
	t.add(Step{
		Name: StepTLS, OK: true,
		Says: tls.VersionName(t.tls.Version) + ", " + tls.CipherSuiteName(t.tls.CipherSuite),
	})
	s := Step{Name: StepCertificate, OK: true, Says: describe(t.tls.PeerCertificates[0])}
	// Where the certificate is demanded, Open has checked it.
	err = verify(t.tls, t.Target.Host, t.Target.TLSConfig.RootCAs)
	if err != nil && t.Target.TLS == smtpclient.Opportunistic {
		s.OK, s.Fault = false, BadCertificate
		s.Says = Words(err) + "; mail goes there all the same, because the next hop does not demand it"
	}
	t.add(s)
}

// fail notes why a step failed: beside the reply, if that is why.
func (t *talk) fail(name string, err error) {
	says := Words(err)
	var r *smtpclient.ReplyError
	if errors.As(err, &r) {
		for i := len(t.Steps) - 1; i >= 0; i-- {
			if s := &t.Steps[i]; !s.OK && s.Reply != "" && strings.HasPrefix(s.Name, r.Verb) {
				s.Says = shown(says)
				t.Steps = t.Steps[:i+1] // what went out with it is refused for it
				return
			}
		}
	}
	if name == StepTLS && t.Target.TLS == smtpclient.Opportunistic {
		says += "; mail goes there in clear"
	}
	t.add(Step{Name: name, Says: says, Fault: faultOf(err)})
}

// stepOf returns the name of the step at which a session was not opened.
func stepOf(err error) string {
	var d *smtpclient.DialError
	if !errors.As(err, &d) {
		return StepTCP
	}
	switch d.Stage {
	case smtpclient.StageConnect:
		return StepTCP
	case smtpclient.StageGreeting:
		return StepGreeting
	case smtpclient.StageTLS:
		var certificate *tls.CertificateVerificationError
		if errors.As(err, &certificate) {
			return StepCertificate
		}
		return StepTLS
	}
	return string(d.Stage)
}

// verify returns what is wrong with the certificate of a host, nil if it is valid.
func verify(s *tls.ConnectionState, host string, roots *x509.CertPool) error {
	options := x509.VerifyOptions{
		DNSName: strings.TrimSuffix(host, "."), Roots: roots, Intermediates: x509.NewCertPool(),
	}
	for _, c := range s.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := s.PeerCertificates[0].Verify(options); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
	}
	return nil
}

// describe says what a certificate is for.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("for %s, by %s, until %s", namesOf(c), authorityOf(c), c.NotAfter.UTC().Format(time.DateOnly))
}

// mostNames bounds the names of a certificate that are told.
const mostNames = 5

// namesOf returns the names of a certificate.
func namesOf(c *x509.Certificate) string {
	names := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	switch {
	case len(names) == 0:
		return "no host"
	case len(names) > mostNames:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNames], ", "), len(names)-mostNames)
	}
	return strings.Join(names, ", ")
}

// authorityOf returns the name of the authority that signed a certificate.
func authorityOf(c *x509.Certificate) string {
	switch {
	case c.Issuer.String() == c.Subject.String():
		return "itself"
	case c.Issuer.CommonName != "":
		return c.Issuer.CommonName
	}
	return c.Issuer.String()
}

// textOf returns a reply on one line, as it came.
func textOf(r mail.Reply) string {
	if r.Enhanced != (mail.EnhancedCode{}) {
		return strings.ReplaceAll(r.String(), "\n", " / ")
	}
	return fmt.Sprintf("%d %s", r.Code, strings.ReplaceAll(strings.TrimSpace(r.Text), "\n", " / "))
}

// mostText bounds a text from outside, in octets.
const mostText = 512

// shown returns a text from outside without what could control a terminal, and no longer than a line.
func shown(s string) string {
	if len(s) > mostText {
		s = strings.ToValidUTF8(s[:mostText], "?") + " ..."
	}
	return printable.Text(s)
}
