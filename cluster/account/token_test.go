package account

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestTokens: a token has the form that the clients of others demand, opens what it is for until it is revoked or over,
// and its secret stands nowhere.
func TestTokens(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	from := netip.MustParseAddr("192.0.2.1")
	end := w.now.Add(time.Hour)
	made, secret, err := w.AddToken(t.Context(), TokenFile(), Token{
		Name: "deploy", Role: Owner, Domains: []string{"B.example", "a.example", "b.example"}, Expires: &end,
	})
	if err != nil || !regexp.MustCompile(`^[0-9A-Za-z_-]{40,80}$`).MatchString(secret) {
		t.Fatalf("%q, %v", secret, err)
	}
	w.open(t, folder)
	p, err := w.Authenticate(secret, from)
	if err != nil || p.Role != Owner || strings.Join(p.Domains, " ") != "a.example b.example" || p.Name != "deploy" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, _, err := w.AddToken(t.Context(), p, Token{Name: "more", Role: ReadOnly}); err == nil {
		t.Error("an owner made a token")
	}
	kept, err := json.Marshal(w.Account.lists.current.Load().audit)
	if err != nil {
		t.Fatal(err)
	}
	all := string(kept) + w.log.String() + w.text
	for _, name := range []string{tokensName, auditName, destinationsName} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		all += string(text)
	}
	if strings.Contains(all, secret) || strings.Contains(string(kept)+w.log.String(), hashOf(secret)) {
		t.Error("the secret is written somewhere")
	}
	w.now = end
	if _, err := w.Authenticate(secret, from); err == nil {
		t.Error("it is over, and opens")
	}
	w.now = end.Add(-time.Hour)
	if _, err := w.RevokeToken(t.Context(), TokenFile(), made.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authenticate(secret, from); err == nil {
		t.Error("it was revoked, and opens")
	}
	for _, wrong := range []Token{
		{Role: Admin}, {Name: "x"}, {Name: "x", Role: Owner}, {Name: "x", Role: Admin, Domains: []string{"a.example"}},
		{Name: "x", Role: Owner, Domains: []string{"*.example"}}, {Name: "x\ny", Role: ReadOnly},
		{Name: "x", Role: ReadOnly, Expires: &made.Created},
	} {
		if _, _, err := w.AddToken(t.Context(), TokenFile(), wrong); err == nil {
			t.Errorf("made %+v", wrong)
		}
	}
}
