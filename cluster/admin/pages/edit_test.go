package pages

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
)

// rule returns the rule that was made with a pattern.
func (b *bench) rule(t *testing.T, pattern string) account.Rule {
	t.Helper()
	all, err := b.cfg.Account.Rules(account.TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.Pattern == pattern {
			return r
		}
	}
	t.Fatalf("there is no rule %q in %+v", pattern, all)
	return account.Rule{}
}

// TestPages_Edit: rules are made, changed and removed by forms, each choice of a catch-all among them; an address is
// retired, a sender blocked, and a destination verified and removed.
func TestPages_Edit(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(adminToken)
	csrf := c.csrf()
	post := func(path, want string, form url.Values) string {
		t.Helper()
		form.Set("csrf", csrf)
		resp, body := c.ask("POST", path, form)
		got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Location"))
		if !strings.HasPrefix(got, want) {
			t.Fatalf("%s: %s, want %s: %s", path, got, want, body)
		}
		return body
	}
	post("/rules/new", "303 /rules?done=done.saved", url.Values{
		"pattern": {"@example.com"}, "do": {"forward"}, "to": {"me@mailbox.example"}, "name": {hostile},
		"enabled": {"yes"},
	})
	made := b.rule(t, "@example.com")
	if made.Target != "me@mailbox.example" || !made.InForce() || made.Source != "dashboard" || *made.Name != hostile {
		t.Errorf("made %+v", made)
	}
	for _, tt := range []struct{ do, text, target, want string }{
		{"drop", "", "", "drop"}, {"reject", "Moved", "", "reject 550 5.1.1 Moved"},
		{"reject", "", "", "reject 550 5.1.1 No such user here"}, {"tempfail", "Later", "", "tempfail 451 4.2.1 Later"},
		{"rule", "", "try a@x.example, b@y.example", "try a@x.example, b@y.example"},
	} {
		post("/rules/"+made.ID, "303 /rules?done=done.saved", url.Values{
			"pattern": {"@example.com"}, "do": {tt.do}, "text": {tt.text}, "target": {tt.target}, "enabled": {"yes"},
		})
		got := b.rule(t, "@example.com")
		if got.Target != tt.want || got.ID != made.ID || got.Name != nil {
			t.Errorf("%s: %+v", tt.do, got)
		}
		if f := formOf(&got); f.target() != tt.want || f.Do != tt.do {
			t.Errorf("%q is shown as %+v", tt.want, f)
		}
		if resp, body := c.ask("GET", "/rules/"+made.ID, nil); resp.StatusCode != 200 ||
			!strings.Contains(body, `value="`+tt.do+`" id="do-`+tt.do+`" checked`) {
			t.Errorf("%s: the form has another choice", tt.do)
		}
	}
	if body := post("/rules/new", "400", url.Values{"pattern": {"a b"}, "do": {"drop"}}); !strings.Contains(body,
		"is no pattern") {
		t.Error("the form does not say what is wrong")
	}
	post("/retire", "303 /rules?done=done.retired", url.Values{"address": {"shop@example.com"}})
	post("/retire", "303 /rules?done=done.retired", url.Values{"address": {"Shop@example.com"}})
	if got := b.rule(t, "shop@example.com"); !strings.HasPrefix(got.Target, "reject 550 5.1.1 This address") {
		t.Errorf("retired: %+v", got)
	}
	post("/block", "303 /rules?done=done.blocked", url.Values{"sender": {"a@spam.example"}, "to": {"info@Example.com"}})
	post("/block", "303 /rules?done=done.blocked", url.Values{
		"sender": {"b@spam.example"}, "to": {"info@example.com"}, "whole": {"yes"},
	})
	if r := b.rule(t, "block a@spam.example for=@example.com"); r.Domain != "example.com" || !r.InForce() {
		t.Errorf("blocked: %+v", r)
	}
	b.rule(t, "block @spam.example for=@example.com")
	post("/destinations", "303 /destinations?done=done.asked", url.Values{"address": {"me@mailbox.example"}})
	post("/destinations", "400", url.Values{"address": {"nothing"}})
	all, err := b.cfg.Account.Destinations(account.TokenFile())
	if err != nil || len(all) != 1 || all[0].Verified != nil {
		t.Fatalf("%+v, %v", all, err)
	}
	post("/destinations/"+all[0].ID+"/ask", "303 /destinations?done=done.asked", url.Values{})
	b.unasked = &account.Error{Message: "the node has no public.url"}
	body := post("/destinations/"+all[0].ID+"/ask", "400", url.Values{})
	if !strings.Contains(body, "no public.url") || len(b.letters) != 3 {
		t.Errorf("%v were asked: %s", b.letters, body)
	}
	post("/destinations/"+all[0].ID+"/verify", "303", url.Values{})
	post("/destinations", "303 /destinations?done=done.saved", url.Values{"address": {"me@mailbox.example"}})
	if all, _ = b.cfg.Account.Destinations(account.TokenFile()); all[0].Verified == nil || all[0].How != "admin" {
		t.Errorf("verified: %+v", all[0])
	}
	post("/rules/"+made.ID, "303", url.Values{
		"pattern": {"@example.com"}, "do": {"forward"}, "to": {"me@mailbox.example"}, "enabled": {"yes"},
	})
	post("/destinations/"+all[0].ID+"/remove", "303 /destinations?done=done.disabled", url.Values{})
	if b.rule(t, "@example.com").Enabled {
		t.Error("a rule goes on without its destination")
	}
	post("/rules/"+made.ID+"/remove", "303 /rules?done=done.removed", url.Values{})
	post("/rules/"+made.ID+"/remove", "404", url.Values{})
	if resp, _ := c.ask("GET", "/rules/"+made.ID, nil); resp.StatusCode != 404 {
		t.Errorf("a rule that is gone: %d", resp.StatusCode)
	}
}

// TestPages_EditRights: who may only look changes nothing, an owner only what is of its domains, and no form without
// the token of the session does anything.
func TestPages_EditRights(t *testing.T) {
	b := start(t, nil)
	forms := map[string]url.Values{
		"/rules/new":      {"pattern": {"info@example.com"}, "do": {"drop"}, "enabled": {"yes"}},
		"/rules/0":        {"pattern": {"info@example.com"}, "do": {"drop"}},
		"/rules/0/remove": {}, "/retire": {"address": {"info@example.com"}},
		"/block":        {"sender": {"a@spam.example"}, "to": {"info@example.com"}},
		"/destinations": {"address": {"me@mailbox.example"}}, "/destinations/0/verify": {},
		"/destinations/0/remove": {}, "/destinations/0/ask": {},
	}
	for _, token := range []string{adminToken, readToken} {
		c := b.browser(t)
		c.enter(token)
		csrf := c.csrf()
		for path, form := range forms {
			form.Del("csrf")
			if token == readToken {
				form.Set("csrf", csrf)
			}
			if resp, _ := c.ask("POST", path, form); resp.StatusCode != 403 {
				t.Errorf("%s with %s: %d", path, token, resp.StatusCode)
			}
		}
	}
	c := b.browser(t)
	c.enter(ownerToken)
	csrf := c.csrf()
	for path, form := range map[string]url.Values{
		"/rules/new": {"pattern": {"info@other.example"},
			"do": {"drop"}}, "/retire": {"address": {"info@other.example"}},
		"/block": {"sender": {"a@spam.example"}, "to": {"info@other.example"}},
	} {
		form.Set("csrf", csrf)
		if resp, _ := c.ask("POST", path, form); resp.StatusCode != 403 {
			t.Errorf("%s for another's domain: %d", path, resp.StatusCode)
		}
	}
	if b.rules != "" {
		t.Errorf("rules were made: %s", b.rules)
	}
	if resp, _ := c.ask("POST", "/block", url.Values{
		"csrf": {csrf}, "sender": {"a@spam.example"}, "to": {"info@example.com"},
	}); resp.StatusCode != 303 {
		t.Errorf("an owner's own: %d", resp.StatusCode)
	}
}

// TestPages_Unkept: where nothing can be kept the pages say so, and have no forms.
func TestPages_Unkept(t *testing.T) {
	b := start(t, func(c *Config) {
		var err error
		if c.Account, err = account.New(account.Config{ALabels: func(s string) (string, bool) {
			return s,
				true
		}}); err != nil {
			t.Fatal(err)
		}
	})
	c := b.browser(t)
	c.enter(adminToken)
	for _, path := range []string{"/rules", "/destinations", "/log/id0", "/senders?to=info@example.com", "/tokens"} {
		_, body := c.ask("GET", path, nil)
		if strings.Contains(body, `action="/destinations`) || strings.Contains(body, "/rules/new") ||
			strings.Contains(body, `action="/tokens`) || strings.Contains(body, `action="/block"`) ||
			strings.Contains(body, `action="/retire"`) {
			t.Errorf("%s has a form", path)
		}
		if !strings.Contains(path, "info") && path != "/log/id0" && !strings.Contains(body,
			"Nothing can be changed here") {
			t.Errorf("%s does not say why", path)
		}
	}
}
