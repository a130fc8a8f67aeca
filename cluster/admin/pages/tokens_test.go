package pages

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

var secretField = regexp.MustCompile(`value="(millrace_[0-9A-Za-z_-]+)" readonly`)

// TestPages_Tokens: an admin makes and withdraws tokens; the text of one stands on the page that made it, and nowhere
// else at any time.
func TestPages_Tokens(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(adminToken)
	csrf := c.csrf()
	post := func(path string, form url.Values, want int) (*http.Response, string) {
		t.Helper()
		form.Set("csrf", csrf)
		resp, body := c.ask("POST", path, form)
		if resp.StatusCode != want {
			t.Errorf("%s %v: %d, want %d: %s", path, form, resp.StatusCode, want, body)
		}
		return resp, body
	}
	for _, wrong := range []url.Values{
		{"role": {"owner"}, "domains": {"example.com"}}, {"name": {"x"}, "role": {"king"}},
		{"name": {"x"}, "role": {"owner"}}, {"name": {"x"}, "role": {"admin"}, "domains": {"example.com"}},
		{"name": {"x"}, "role": {"read-only"}, "expires": {"tomorrow"}},
		{"name": {"x"}, "role": {"read-only"}, "expires": {"2001-01-01"}},
		{"name": {hostile}, "role": {"owner"}, "domains": {hostile}},
	} {
		if _, body := post("/tokens", wrong, 400); strings.Contains(body, "<img") || secretField.MatchString(body) ||
			!strings.Contains(body, html.EscapeString(wrong.Get("name"))) {
			t.Errorf("%v: %s", wrong, body)
		}
	}
	last := time.Now().UTC().AddDate(0, 1, 0)
	_, page := post("/tokens", url.Values{
		"name": {hostile}, "role": {"owner"}, "domains": {"example.com,  example.org"}, "expires": {last.Format(day)},
	}, 201)
	found := secretField.FindStringSubmatch(page)
	if found == nil || strings.Contains(page, "<img") {
		t.Fatalf("the page that made it: %s", page)
	}
	secret := found[1]
	all, err := b.cfg.Account.Tokens(account.TokenFile())
	if err != nil || len(all) != 1 || len(all[0].Domains) != 2 || all[0].Expires.Format(day) <= last.Format(day) {
		t.Fatalf("%+v, %v", all, err)
	}
	if p, err := b.cfg.Account.Authenticate(secret, b.address()); err != nil || p.ID != all[0].ID {
		t.Errorf("%+v, %v", p, err)
	}
	for _, path := range paths {
		if _, body := c.ask("GET", path, nil); strings.Contains(body, secret) {
			t.Errorf("%s shows the token", path)
		}
	}
	resp, _ := post("/tokens/"+all[0].ID+"/revoke", url.Values{}, 303)
	if to := resp.Header.Get("Location"); to != "/tokens?done=done.revoked" {
		t.Errorf("leads to %s", to)
	}
	post("/tokens/"+all[0].ID+"/revoke", url.Values{}, 404)
	if _, err := b.cfg.Account.Authenticate(secret, b.address()); err == nil {
		t.Error("it opens something still")
	}
}

// TestPages_TokensRights: one who is no admin sees no token, makes none, and has no link to them.
func TestPages_TokensRights(t *testing.T) {
	b := start(t, nil)
	made, _, err := b.cfg.Account.AddToken(t.Context(), account.TokenFile(), account.Token{
		Name: "kept", Role: account.ReadOnly,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{ownerToken, readToken} {
		c := b.browser(t)
		c.enter(token)
		form := url.Values{"csrf": {c.csrf()}, "name": {"x"}, "role": {"admin"}}
		resp, body := c.ask("GET", "/tokens", nil)
		if resp.StatusCode != 403 || strings.Contains(body, "kept") || strings.Contains(body, `href="/tokens"`) {
			t.Errorf("%s: %d %s", token, resp.StatusCode, body)
		}
		for _, path := range []string{"/tokens", "/tokens/" + made.ID + "/revoke"} {
			if resp, _ := c.ask("POST", path, form); resp.StatusCode != 403 {
				t.Errorf("%s of %s: %d", path, token, resp.StatusCode)
			}
		}
	}
	if all, _ := b.cfg.Account.Tokens(account.TokenFile()); len(all) != 1 {
		t.Errorf("%+v", all)
	}
}

// TestPages_Audit: the audit says who changed what, before and after; an owner reads what is of its domains, and one
// who only looks reads none.
func TestPages_Audit(t *testing.T) {
	b := start(t, nil)
	rule, err := b.cfg.Account.AddRule(t.Context(), account.TokenFile(), account.Rule{
		Pattern: "info@example.com", Target: "drop", Enabled: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	rule.Target, rule.Name = "reject 550 5.1.1 "+strings.ReplaceAll(hostile, `"`, ""), new(hostile)
	if _, err := b.cfg.Account.SetRule(t.Context(), account.TokenFile(), rule.ID, rule); err != nil {
		t.Fatal(err)
	}
	for i := range auditRows {
		if _, err := b.cfg.Account.AddRule(t.Context(), account.TokenFile(), account.Rule{
			Pattern: "a" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + "@other.example", Target: "drop",
		}); err != nil {
			t.Fatal(err)
		}
	}
	c, owner, reads := b.browser(t), b.browser(t), b.browser(t)
	c.enter(adminToken)
	owner.enter(ownerToken)
	reads.enter(readToken)
	_, first := c.ask("GET", "/audit", nil)
	if n := strings.Count(first, "Rule added"); n != auditRows || !strings.Contains(first, "page=2") {
		t.Errorf("%d entries stand on the first page", n)
	}
	_, second := c.ask("GET", "/audit?page=2", nil)
	for _, want := range []string{
		"Rule added", "Rule changed", "admin.token_file", "info@example.com", "<del>drop</del>",
	} {
		if !strings.Contains(second, want) {
			t.Errorf("the second page has no %s: %s", want, second)
		}
	}
	if strings.Contains(second, "<img") || strings.Contains(second, "<script>") {
		t.Error("foreign elements")
	}
	if _, body := c.ask("GET", "/audit?q=info@EXAMPLE", nil); strings.Count(body, "Rule ") != 2 {
		t.Errorf("of one address: %s", body)
	}
	if _, body := owner.ask("GET", "/audit", nil); strings.Count(body, "Rule ") != 2 ||
		strings.Contains(body, "other.example") || !strings.Contains(body, `href="/audit"`) {
		t.Errorf("an owner reads %s", body)
	}
	if resp, body := reads.ask("GET", "/audit", nil); resp.StatusCode != 403 || strings.Contains(body, "info@") {
		t.Errorf("one who only looks: %d", resp.StatusCode)
	}
}
