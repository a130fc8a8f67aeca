package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// GenerateKey makes a private key for an algorithm. Bits is the size of an RSA key, 1024 to 4096; 2048 is what RFC 8301
// section 3.2 advises. It is ignored for Ed25519.
func GenerateKey(a Algorithm, bits int) (crypto.Signer, error) {
	switch a {
	case RSASHA256:
		if bits < MinRSABits || bits > MaxRSABits {
			return nil, fmt.Errorf("dkim: an RSA key of %d bits, not %d to %d", bits, MinRSABits, MaxRSABits)
		}
		return rsa.GenerateKey(rand.Reader, bits)
	case Ed25519SHA256:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, errors.New("dkim: unknown algorithm")
}

// MarshalKey returns a private key in PKCS #8 as PEM.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("dkim: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey parses a private key in PEM: PKCS #8, or PKCS #1 for RSA. The first block that holds a private key is taken.
// A key that Signer would refuse is an error.
func ParseKey(text []byte) (crypto.Signer, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errors.New("dkim: no private key in PEM")
		}
		text = rest
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("dkim: private key: %w", err)
		}
		signer, _ := key.(crypto.Signer)
		if _, err := algorithmOf(signer); err != nil {
			return nil, fmt.Errorf("dkim: private key: %w", err)
		}
		return signer, nil
	}
}

// KeyRecord returns the text of the key record (RFC 6376 section 3.6.1) that publishes a public key.
func KeyRecord(public crypto.PublicKey) (string, error) {
	switch public := public.(type) {
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return "", fmt.Errorf("dkim: %w", err)
		}
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der), nil
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public), nil
	}
	return "", errors.New("dkim: neither an RSA nor an Ed25519 key")
}

// Publishes reports whether the text of a TXT record is a key record that can be used and has a public key.
func Publishes(text string, public crypto.PublicKey) bool {
	found, err := ParseKeyRecord(text)
	if err != nil {
		return false
	}
	key, ok := found.Key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(public)
}

// RecordStrings splits the text of a record into the strings of a TXT record, each of at most 255 octets (RFC 1035
// section 3.3). Readers join them without a separator.
func RecordStrings(record string) []string {
	var parts []string
	for len(record) > 255 {
		parts = append(parts, record[:255])
		record = record[255:]
	}
	return append(parts, record)
}

// ZoneLine returns a key record as a line of a zone file.
func ZoneLine(selector, domain, record string) string {
	return KeyName(selector, domain) + ". IN TXT ( " + ZoneText(record) + " )"
}

// ZoneText returns the text of a TXT record as a zone file has it: strings in quotes.
func ZoneText(record string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	parts := RecordStrings(record)
	for i := range parts {
		parts[i] = `"` + quoted.Replace(parts[i]) + `"`
	}
	return strings.Join(parts, " ")
}
