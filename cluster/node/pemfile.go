package node

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/mail"
)

// What a PEM file is to hold.
const (
	wantCertificate = "certificate"
	wantKey         = "private key"
)

// pemMistake returns why a text holds no certificate or no private key, or "" if it holds one.
func pemMistake(text []byte, want string) string {
	var found []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch kind := block.Type; {
		case kind == "CERTIFICATE" && want == wantCertificate:
			return ""
		case kind == "ENCRYPTED PRIVATE KEY", block.Headers["DEK-Info"] != "":
			if want == wantKey {
				return "the key is encrypted: write it without a password"
			}
			found = append(found, "private key")
		case strings.HasSuffix(kind, "PRIVATE KEY") && want == wantKey:
			return ""
		default:
			found = append(found, strings.ToLower(kind))
		}
	}
	switch {
	case len(found) > 0:
		return "holds a " + found[0] + " and no " + want
	case len(text) == 0:
		return "is empty"
	case len(text) > 1 && text[0] == 0x30 && text[1] >= 0x80: // a sequence with a long length
		return "is DER, and PEM is needed"
	case strings.Contains(string(text), "-----BEGIN"):
		return "is PEM that is cut off or was changed"
	}
	return "is no PEM file"
}

// certificatesIn returns the certificates of a text that can be read.
func certificatesIn(text []byte) (all []*x509.Certificate) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			all = append(all, c)
		}
	}
	return all
}

// library matches what libraries put in front of their errors.
var library = regexp.MustCompile(`\b(tls|x509|asn1|dkim|pem|store|dns|crypto/[a-z0-9]+): `)

// pairMistake returns why a certificate and its key cannot be used, as an error of one of two fields. err is what the
// library says.
func pairMistake(certField, certFile, keyField, keyFile string, err error) *mail.FieldError {
	wrong := func(field, file, why string) *mail.FieldError {
		return &mail.FieldError{Field: field, Reason: file + ": " + why}
	}
	cert, certErr := os.ReadFile(certFile)
	key, keyErr := os.ReadFile(keyFile)
	switch {
	case certErr != nil:
		return &mail.FieldError{Field: certField, Reason: config.FileReason(certErr)}
	case pemMistake(cert, wantCertificate) != "":
		return wrong(certField, certFile, pemMistake(cert, wantCertificate))
	case keyErr != nil:
		return &mail.FieldError{Field: keyField, Reason: config.FileReason(keyErr)}
	case pemMistake(key, wantKey) != "":
		return wrong(keyField, keyFile, pemMistake(key, wantKey))
	}
	if _, certErr := firstCertificate(cert); certErr != nil {
		return wrong(certField, certFile, "the certificate cannot be read")
	}
	if why := err.Error(); !strings.Contains(why, "does not match") {
		return wrong(keyField, keyFile, "the key cannot be used: "+library.ReplaceAllString(why, ""))
	}
	return wrong(keyField, keyFile, "is not the key of the certificate in "+certFile)
}

// firstCertificate returns the first certificate of a PEM file, which is that of the host.
func firstCertificate(text []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("no certificate")
}

// signingKeyMistake returns why a file holds no key to sign with. err is what the reader of it says.
func signingKeyMistake(file string, text []byte, err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return errors.New(config.FileReason(err))
	}
	why := pemMistake(text, wantKey)
	if why == "" {
		why = library.ReplaceAllString(err.Error(), "")
	}
	return fmt.Errorf("%s: %s", file, why)
}
