package dkim

import (
	"strings"
	"testing"
	"unicode"
)

// FuzzVerify verifies any header section under a real key: it never panics, always settles, and passes nothing whose
// signature we did not make.
func FuzzVerify(f *testing.F) {
	keys := records{"sel._domainkey.example.com": {publish(f, key(f))}}
	good := signed(f, tags, dinner, dinnerBody)
	sum, digests := hashed(Simple, dinnerBody), map[[32]byte]bool{}
	header, _ := split([]byte(good))
	m, err := newVerifier(f, Config{Resolver: keys}).Begin(f.Context(), header)
	if err != nil {
		f.Fatal(err)
	}
	digests[m.signatures[0].raw.digest] = true
	m.Close()
	f.Add(header, []byte(dinnerBody))
	f.Add([]byte(strings.Replace(string(header), "v=1;", "v=1; l=5; i==40example.com; x=1;", 1)), []byte("a"))
	f.Add([]byte("DKIM-Signature: a=\r\nDKIM-Signature:\r\n\r\n"), []byte(""))
	v := newVerifier(f, Config{Resolver: keys, Now: clock(today)})
	f.Fuzz(func(t *testing.T, header, body []byte) {
		m, err := v.Begin(t.Context(), header)
		if err != nil {
			return
		}
		var covered [][32]byte
		for _, s := range m.signatures {
			covered = append(covered, s.raw.digest)
		}
		m.Write(body)
		for i, s := range m.Finish() {
			if s.Result == Pending || (s.Result == Pass) != (s.Reason == "") {
				t.Fatalf("%s: %s", s.Result, s.Reason)
			}
			if s.HeaderVerified && !digests[covered[i]] {
				t.Fatalf("a forgery: %q", header)
			}
			if s.Result == Pass && hashed(s.BodyCanon, string(body)) != sum {
				t.Fatalf("a forged body: %q", body)
			}
			if strings.ContainsFunc(s.Domain+s.Selector+s.Identity+s.B, unicode.IsControl) {
				t.Fatalf("controls in %+v", s)
			}
		}
	})
}
