package node

import (
	"maps"
	"testing"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/message/auth/rsasign"
)

// TestKeyring_Library: RSA keys sign by the library of the build and others by Go, wherever they stand, and are
// counted.
func TestKeyring_Library(t *testing.T) {
	key := func(a dkim.Algorithm) dkim.SigningKey {
		t.Helper()
		made, err := dkim.GenerateKey(a, 1024)
		if err != nil {
			t.Fatal(err)
		}
		return dkim.SigningKey{Domain: "a.example", Selector: "s", Key: made}
	}
	seal := key(dkim.RSASHA256)
	k := auth.Keyring{
		ARC: &seal, Relay: []dkim.SigningKey{key(dkim.RSASHA256), key(dkim.Ed25519SHA256)},
		Domains: map[string][]dkim.SigningKey{"a.example": {key(dkim.RSASHA256)}},
	}
	var f files
	got := f.bind(k, func(key string, why error) { t.Errorf("%s: %v", key, why) })
	want, counted := "openssl", map[string]int{"openssl": 3, "go": 1}
	if rsasign.Library() == "go" {
		want, counted = "go", map[string]int{"openssl": 0, "go": 4}
	}
	for _, by := range []string{
		rsasign.By(got.ARC.Key), rsasign.By(got.Relay[0].Key), rsasign.By(got.Domains["a.example"][0].Key),
	} {
		if by != want {
			t.Errorf("an RSA key signs by %s, want %s", by, want)
		}
	}
	if by := rsasign.By(got.Relay[1].Key); by != "go" {
		t.Errorf("an Ed25519 key signs by %s", by)
	}
	if counts := *f.signing.Load(); !maps.Equal(counts, counted) {
		t.Errorf("counted %v, want %v", counts, counted)
	}
}
