package peer

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// Certificates returns the TLS configurations of the hop's two sides for the node called name: mutual TLS 1.3 with the
// cluster's authority and no other. ca holds the authority's certificates, cert our own, which must be for that name
// and for both sides, and key its private key, all in PEM. ends is when the certificate ends, or the last one of the
// authority if that is earlier. The error is a *mail.FieldError for "ca", "cert" or "key".
//
// A certificate that has ended is no error: a node without links serves its own clients, and its rules can change. Each
// handshake refuses it, on both sides.
//
// Session tickets are disabled. Connections are pooled, so that handshakes are few, and each handshake verifies the
// certificates.
func Certificates(name string, ca, cert, key []byte) (server, client *tls.Config, ends time.Time, err error) {
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(ca) {
		return nil, nil, ends, &mail.FieldError{Field: "ca", Reason: "holds no certificate"}
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, ends, &mail.FieldError{Field: "key", Reason: err.Error()}
	}
	if err := pair.Leaf.VerifyHostname(name); err != nil {
		return nil, nil, ends, &mail.FieldError{Field: "cert", Reason: "is not for node " + name + ": " + err.Error()}
	}
	for rest := ca; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && c.NotAfter.After(ends) {
			ends = c.NotAfter
		}
	}
	if pair.Leaf.NotAfter.Before(ends) {
		ends = pair.Leaf.NotAfter
	}
	between := x509.NewCertPool()
	for _, raw := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(raw); err == nil {
			between.AddCert(c)
		}
	}
	at := time.Now()
	if ends.Before(at) {
		at = ends
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{
			Roots: authority, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage},
			CurrentTime: at,
		})
		if err != nil {
			return nil, nil, ends, &mail.FieldError{Field: "cert", Reason: err.Error()}
		}
	}
	server = &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: authority, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}
	client = &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: authority,
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}
	return server, client, ends, nil
}
