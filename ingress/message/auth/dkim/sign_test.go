package dkim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// ed25519Key makes an Ed25519 key.
func ed25519Key(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := GenerateKey(Ed25519SHA256, 0)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSigner(t testing.TB, cfg SignConfig) *Signer {
	t.Helper()
	s, err := NewSigner(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// hashed hashes a body.
func hashed(c Canonicalization, body string) [sha256.Size]byte { return sumOf(c, body, 0) }

// A message is signed with each key.
func TestSigner(t *testing.T) {
	rsaKey, edKey := key(t), ed25519Key(t)
	s := newSigner(t, SignConfig{
		Keys:     []SigningKey{{"example.com", "r", rsaKey}, {"example.com", "e", edKey}},
		lifetime: time.Hour, Now: clock(1000),
	})
	header := "Received: from nowhere\r\n" + dinner + "Cc: a@b.example\r\nCc: c@d.example\r\n"
	for _, c := range []Canonicalization{Simple, Relaxed} {
		fields, err := s.Sign([]byte("before"), []byte(header), c, hashed(c, dinnerBody))
		if err != nil {
			t.Fatal(err)
		}
		text, ok := strings.CutPrefix(string(fields), "before")
		if !ok || !strings.HasSuffix(text, "\r\n") {
			t.Fatalf("%q", fields)
		}
		for line := range strings.SplitSeq(text, "\r\n") {
			if len(line) > 78 || strings.TrimRight(line, " ") != line {
				t.Errorf("line %q", line)
			}
		}
		keys := records{
			"r._domainkey.example.com": {publish(t, rsaKey)}, "e._domainkey.example.com": {publish(t, edKey)},
		}
		got := verify(t, keys, clock(1000), []byte(text+header+"\r\n"+dinnerBody))
		if explain(got) != "pass: , pass: " {
			t.Fatalf("%s\n%s", explain(got), text)
		}
		if names := strings.Join(got[0].Names,
			":"); names != "from:from:subject:subject:date:date:message-id:message-id:to:to:cc:cc" {
			t.Error(names)
		}
		if !got[0].Signed.Equal(time.Unix(1000, 0)) || !got[0].Expires.Equal(time.Unix(4600, 0)) ||
			got[0].BodyCanon != c || got[0].HeaderCanon != Relaxed {
			t.Errorf("%+v", got[0])
		}
		for _, name := range []string{"From", "To", "Subject", "Date", "Message-ID"} {
			if got := results(verify(t, keys, clock(1000),
				[]byte(text+name+": added\r\n"+header+"\r\n"+dinnerBody))); got != "fail fail" {
				t.Errorf("with a second %s: %s", name, got)
			}
		}
		// The same message at the same time has the same fields: both algorithms are deterministic.
		again, _ := s.Sign(nil, []byte(header), c, hashed(c, dinnerBody))
		if string(again) != text {
			t.Error("another signature of the same")
		}
		if got := explain(verify(t, keys, clock(4900), []byte(text+header+"\r\n"+dinnerBody))); !strings.HasPrefix(got,
			"permerror: signature expired") {
			t.Error(got)
		}
	}
}

// Too many fields are not signed.
func TestSigner_TooManyFields(t *testing.T) {
	s := newSigner(t, SignConfig{Keys: []SigningKey{{"example.com", "s", key(t)}}})
	if _, err := s.Sign(nil, []byte(strings.Repeat("To: a\r\n", maxSigned)), Relaxed, [32]byte{}); !errors.Is(err,
		ErrTooManyFields) {
		t.Error(err)
	}
}

// A broken key cannot sign.
type broken struct{ crypto.Signer }

var errBroken = errors.New("token removed")

func (broken) Sign(_ io.Reader, _ []byte, _ crypto.SignerOpts) ([]byte, error) {
	return nil, errBroken
}

// A key that cannot sign is named.
func TestSigner_BrokenKey(t *testing.T) {
	s := newSigner(t, SignConfig{Keys: []SigningKey{{"example.com", "s", broken{key(t)}}}})
	_, err := s.Sign(nil, []byte(dinner), Relaxed, [32]byte{})
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "s._domainkey.example.com") {
		t.Error(err)
	}
}

// Sign configs are validated.
func TestSignConfig_Validate(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := SigningKey{"example.com", "s", key(t)}
	for _, tt := range []struct {
		name string
		cfg  SignConfig
		want string
	}{
		{"no keys", SignConfig{}, "Keys: is required"},
		{
			"a domain that is none", SignConfig{Keys: []SigningKey{{"exa mple", "s", good.Key}}},
			"Keys[0].Domain: is no domain in ASCII",
		},
		{
			"a selector that is none", SignConfig{Keys: []SigningKey{{"example.com", "", good.Key}}},
			"Keys[0].Selector: is no selector",
		},
		{"no private key", SignConfig{Keys: []SigningKey{good, {"example.com", "s", nil}}}, "Keys[1].Key: is required"},
		{
			"a key of another kind", SignConfig{Keys: []SigningKey{{"example.com", "s", p256}}},
			"Keys[0].Key: is neither RSA nor Ed25519",
		},
		{"a good one", SignConfig{Keys: []SigningKey{good}}, "<nil>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fmt.Sprint(tt.cfg.Validate()); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestDefaultHeaders holds what a signature must not cover, and what it must (RFC 6376 section 5.4).
func TestDefaultHeaders(t *testing.T) {
	headers := DefaultHeaders()
	for i, name := range headers {
		parsed, err := ParseHeaderNames([]byte(name))
		if err != nil || len(parsed) != 1 || parsed[0] != name || slices.Contains(headers[:i], name) {
			t.Errorf("%q is no field name in lower case that stands once: %v", name, err)
		}
		switch name {
		case "received", "return-path", "authentication-results", "dkim-signature":
			t.Errorf("%s is a trace field", name)
		}
		if strings.HasPrefix(name, "arc-") {
			t.Errorf("%s is a trace field", name)
		}
	}
	for _, name := range append(DefaultOversign(), "from") {
		if !slices.Contains(headers, name) {
			t.Errorf("%s is not signed", name)
		}
	}
}

// Keys are written and read.
func TestKeyFile(t *testing.T) {
	for _, tt := range []struct {
		algorithm Algorithm
		bits      int
		strings   int
	}{{RSASHA256, 2048, 2}, {Ed25519SHA256, 0, 1}} {
		k, err := GenerateKey(tt.algorithm, tt.bits)
		if err != nil {
			t.Fatal(err)
		}
		text, err := MarshalKey(k)
		if err != nil {
			t.Fatal(err)
		}
		// A certificate in front of it is passed over.
		text = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), text...)
		again, err := ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		record := publish(t, again)
		public, err := ParseKeyRecord(record)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("x"))
		value, err := SignDigest(k, digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := public.Verify(tt.algorithm, digest, value); err != nil {
			t.Error(err)
		}
		parts := RecordStrings(record)
		if len(parts) != tt.strings || strings.Join(parts, "") != record {
			t.Errorf("%q", parts)
		}
		for _, part := range parts {
			if len(part) > 255 {
				t.Errorf("a string of %d octets", len(part))
			}
		}
		line := ZoneLine("s", "example.com", record)
		if !strings.HasPrefix(line, `s._domainkey.example.com. IN TXT ( "v=DKIM1; k=`) ||
			strings.Count(line, `"`) != 2*tt.strings {
			t.Error(line)
		}
	}
}

// Keys that cannot be used are refused.
func TestParseKey_Refused(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"no PEM":           []byte("key"),
		"no key in it":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"broken":           pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"of another kind ": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := GenerateKey(RSASHA256, 512); err == nil {
		t.Error("512 bits")
	}
	if _, err := GenerateKey(UnknownAlgorithm, 0); err == nil {
		t.Error("no algorithm")
	}
	if _, err := KeyRecord("x"); err == nil {
		t.Error("no key")
	}
}
