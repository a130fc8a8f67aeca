package egress

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"

	"github.com/millrace/millrace/egress/dns/dnstest"
)

var dnstestServfail = dnstest.Fault{Rcode: "SERVFAIL"}

// tlsaOf returns the record that names the key of a certificate.
func tlsaOf(c tls.Certificate) string {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return "3 1 1 " + hex.EncodeToString(sum[:])
}

// tlsaName is where the records of mx1.one.test stand.
func tlsaName(port int) string { return fmt.Sprintf("_%d._tcp.mx1.one.test.", port) }
