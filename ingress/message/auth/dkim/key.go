package dkim

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strings"
)

// The sizes of RSA keys in bits that are accepted. RFC 8301 section 3.2 demands that verifiers refuse keys below 1024
// and can verify with keys up to 4096. Larger ones are not needed, and verifying with them would cost us more than any
// sender should be able to cause.
const (
	MinRSABits = 1024
	MaxRSABits = 4096
)

// A PublicKey is the content of a key record (RFC 6376 section 3.6.1). It is shared and must not be changed.
type PublicKey struct {
	Key     crypto.PublicKey // *rsa.PublicKey or ed25519.PublicKey
	Bits    int              // of the modulus; 256 for Ed25519
	Testing bool             // t=y: the domain is testing DKIM
	Strict  bool             // t=s: the domain of i= must be d= itself
}

// KeyName returns the domain name of the key record of a selector and a signing domain.
func KeyName(selector, domain string) string { return selector + "._domainkey." + domain }

// ParseKeyRecord parses a key record that may be used for mail with SHA-256. An error is a *Failure with PermError.
func ParseKeyRecord(record string) (*PublicKey, error) {
	tags, err := parseTags(make(TagList, 0, 8), []byte(record), true)
	if err != nil {
		return nil, &Failure{PermError, "key syntax error", err}
	}
	if v, ok := tags.Lookup("v"); ok && (tags[0].Name != "v" || string(v.Value) != "DKIM1") {
		return nil, permError("key of an unknown version")
	}
	if h, ok := tags.Lookup("h"); ok && !lists(h.Value, "sha256") {
		return nil, permError("key not for sha256")
	}
	if s, ok := tags.Lookup("s"); ok && !lists(s.Value, "*") && !lists(s.Value, "email") {
		return nil, permError("key not for mail")
	}
	p, ok := tags.Lookup("p")
	if !ok {
		return nil, permError("key syntax error")
	}
	if len(p.Value) == 0 {
		return nil, permError("key revoked")
	}
	key, err := decodeKey(tags.Get("k"), p.Value)
	if err != nil {
		return nil, err
	}
	flags := tags.Get("t")
	key.Testing, key.Strict = lists(flags, "y"), lists(flags, "s")
	return key, nil
}

// isKeyRecord reports whether a TXT record is meant as a key: a tag list of this version with p=. It says nothing about
// whether the key can be used.
func isKeyRecord(record string) bool {
	tags, err := parseTags(make(TagList, 0, 8), []byte(record), true)
	if err != nil {
		return false
	}
	if v, ok := tags.Lookup("v"); ok && (tags[0].Name != "v" || string(v.Value) != "DKIM1") {
		return false
	}
	_, ok := tags.Lookup("p")
	return ok
}

// lists reports whether a colon-separated list has an element, in any case, as ABNF has literals.
func lists(list []byte, element string) bool {
	for e := range colonList(list) {
		if strings.EqualFold(string(e), element) {
			return true
		}
	}
	return false
}

func decodeKey(kind, data []byte) (*PublicKey, error) {
	if len(data) > 4096 {
		return nil, permError("key too large")
	}
	der, err := DecodeBase64(data)
	if err != nil {
		return nil, permError("key syntax error")
	}
	switch {
	case len(kind) == 0 || strings.EqualFold(string(kind), "rsa"):
		key, err := parseRSA(der)
		if err != nil {
			return nil, permError("key syntax error")
		}
		bits := key.N.BitLen()
		switch {
		case bits < MinRSABits:
			return nil, permError("key too short") // RFC 8301 section 3.2
		case bits > MaxRSABits:
			return nil, permError("key too large")
		}
		return &PublicKey{Key: key, Bits: bits}, nil
	case strings.EqualFold(string(kind), "ed25519"):
		if len(der) != ed25519.PublicKeySize { // RFC 8463 section 4: the key itself, no ASN.1 around it
			return nil, permError("key syntax error")
		}
		return &PublicKey{Key: ed25519.PublicKey(der), Bits: 256}, nil
	}
	return nil, permError("key of an unknown type")
}

var errNotRSA = errors.New("not an RSA key")

// parseRSA parses a SubjectPublicKeyInfo, which is what RFC 6376 means and what domains publish, or an RSAPublicKey,
// which is what its text says (section 3.6.1, erratum 3017).
func parseRSA(der []byte) (*rsa.PublicKey, error) {
	if key, err := x509.ParsePKIXPublicKey(der); err == nil {
		if key, ok := key.(*rsa.PublicKey); ok {
			return key, nil
		}
		return nil, errNotRSA
	}
	return x509.ParsePKCS1PublicKey(der)
}

// Verify checks a signature of a over a digest: the SHA-256 of the canonical header fields. An error is a *Failure: a
// permerror when the key is of another kind than a, a fail when the signature is wrong.
func (k *PublicKey) Verify(a Algorithm, digest [sha256.Size]byte, signature []byte) error {
	good := false
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		if a != RSASHA256 {
			return permError("key of another type than a=")
		}
		good = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
	case ed25519.PublicKey:
		if a != Ed25519SHA256 {
			return permError("key of another type than a=")
		}
		good = len(signature) == ed25519.SignatureSize && ed25519.Verify(key, digest[:], signature)
	}
	if !good {
		return &Failure{Result: Fail, Reason: "signature did not verify"}
	}
	return nil
}

// DecodeBase64 decodes base64 that may be folded, with or without its padding: that says nothing which the length does
// not say.
func DecodeBase64(s []byte) ([]byte, error) {
	plain := withoutFWS(make([]byte, 0, len(s)), s)
	for range 2 {
		plain = bytes.TrimSuffix(plain, []byte{'='})
	}
	n, err := base64.RawStdEncoding.Decode(plain, plain)
	return plain[:n], err
}
