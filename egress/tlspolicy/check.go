package tlspolicy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"time"
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

// Check returns why a connection does not show what is demanded, nil if it does. It is for tls.Config.VerifyConnection,
// which is called for connections that resume a session as well, with the certificates of that session. The error is a
// *tls.CertificateVerificationError.
func (d *Demand) Check(s tls.ConnectionState, now time.Time) error {
	if d.Level < Verified {
		return nil
	}
	return unverified(s.PeerCertificates, d.checkName(s.PeerCertificates, now))
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
