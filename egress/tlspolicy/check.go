package tlspolicy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Authorities are those whose certificates are believed. A nil *Authorities is those of the system.
type Authorities struct {
	Pool *x509.CertPool
	// Number tells them from others, so that a session that some of them were asked about does not serve where others
	// count. That of the system's is 0.
	Number uint64
}

// number returns Number.
func (a *Authorities) number() uint64 {
	if a == nil {
		return 0
	}
	return a.Number
}

// Roots returns the pool; nil for that of the system.
func (a *Authorities) Roots() *x509.CertPool {
	if a == nil {
		return nil
	}
	return a.Pool
}

// Roots returns the pool of the authorities that count; nil for that of the system.
func (d *Demand) Roots() *x509.CertPool { return d.authorities.Roots() }

var errNoCertificate = errors.New("no certificate was shown")

// Checks reports whether Check looks at what is shown.
func (d *Demand) Checks() bool { return d.Level >= Verified || d.tests }

// Check returns why a connection does not show what is demanded, nil if it does. It is for tls.Config.VerifyConnection,
// which is called for connections that resume a session as well, with the certificates of that session. The error is a
// *tls.CertificateVerificationError. Where a domain only tests its policy, the Report says what would be wrong.
func (d *Demand) Check(s tls.ConnectionState, now time.Time) (err error) {
	switch {
	case d.Level == DANE:
		d.shownFor, err = d.dane.check(s.PeerCertificates, []string{d.dane.base, d.For}, now)
	case d.Level == Verified:
		err = d.checkName(s.PeerCertificates, now)
	case d.tests:
		d.Report.Result = ResultOf(d.checkName(s.PeerCertificates, now))
	}
	return unverified(s.PeerCertificates, err)
}

// Shown returns what a session is trusted with once it was checked.
func (d *Demand) Shown(requireTLS bool) Trust {
	out := d.Trust
	out.For, out.RequireTLS = d.shownFor, requireTLS
	return out
}

// ServerName returns the name that is asked for in TLS; "" for that of the host.
func (d *Demand) ServerName() string {
	if d.dane == nil || d.dane.base == d.host {
		return ""
	}
	return d.dane.base
}

// ResultOf returns what a report says of err, an error of a certificate or of a handshake (RFC 8460 section 4.3).
func ResultOf(err error) mail.TLSResult {
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	switch {
	case err == nil:
		return mail.TLSWorked
	case errors.As(err, &name):
		return mail.TLSHostMismatch
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return mail.TLSExpired
	case errors.As(err, &unknown):
		return mail.TLSNotTrusted
	}
	return mail.TLSFailed
}

// unverified returns err as one of a chain that was shown, nil for nil.
func unverified(shown []*x509.Certificate, err error) error {
	if err == nil {
		return nil
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: shown, Err: err}
}

// checkName returns why an authority did not sign the certificate for the name of the host.
func (d *Demand) checkName(shown []*x509.Certificate, now time.Time) error {
	if len(shown) == 0 {
		return errNoCertificate
	}
	_, err := shown[0].Verify(x509.VerifyOptions{
		Roots: d.authorities.Roots(), Intermediates: between(shown), CurrentTime: now,
		DNSName: strings.TrimSuffix(d.host, "."),
	})
	return err
}

// between returns what stands behind the certificate of the host.
func between(shown []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range shown[1:] {
		pool.AddCert(c)
	}
	return pool
}
