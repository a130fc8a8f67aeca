package pages

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/activity"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	adminToken = "0123456789abcdef"
	ownerToken = "fedcba9876543210"
	readToken  = "reads-and-no-more"
)

// hostile is text as strangers would like a page to have it.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(1)>'{{.}}`

// A bench is Pages on a server, with a log that has a hostile row.
type bench struct {
	*Pages
	url     string
	asked   atomic.Int64 // questions to the nodes
	explain error
	revoked atomic.Bool
	rules   string // what was made here
	letters []string
	unasked error
}

// newAccount returns an Account whose rules are in force as soon as they are written.
func (b *bench) newAccount(t testing.TB) *account.Account {
	a, err := account.New(account.Config{
		State: t.TempDir(), ALabels: func(s string) (string, bool) { return s, !strings.ContainsAny(s, " *@\"<") },
		Rules: account.Rules{
			Text: func() string { return b.rules },
			Change: func(_ context.Context, edit func(string) (string, error)) error {
				text, err := edit(b.rules)
				if err == nil {
					b.rules = text
				}
				return err
			},
			Faults: func(error) ([]account.Fault, bool) { return nil, false },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// config returns a Config of a node that has some of all.
func (b *bench) config(t testing.TB) Config {
	log, err := activity.New(activity.Config{Node: "a", Keep: time.Hour, Octets: activity.MinOctets, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for i, to := range []string{"info@example.com", "info@other.example", hostile + "@example.com"} {
		log.Add(&activity.Row{
			At: time.Now(), ID: fmt.Sprint("id",
				i), From: hostile + "@sender.example", To: to, Status: activity.Rejected,
			Action: activity.RejectedByUs, Client: "192.0.2.1", Helo: hostile, Rule: hostile, Host: hostile,
			Reply:  hostile,
			Detail: hostile, Steps: []activity.Step{{Name: "tried", Text: hostile}}, TLS: hostile, User: hostile,
			Judgement: activity.Judgement{SPF: hostile, DKIM: hostile, DMARC: "fail", ARC: "none", Signals: hostile},
		})
	}
	return Config{
		Version: "v1", HasToken: true,
		Enter: func(token string, _ netip.Addr) (account.Principal, error) {
			switch {
			case b.revoked.Load():
			case token == adminToken:
				return account.TokenFile(), nil
			case token == readToken:
				return account.Principal{ID: "r", Name: "r", Role: account.ReadOnly}, nil
			case token == ownerToken:
				return account.Principal{ID: "o", Name: hostile, Role: account.Owner,
					Domains: []string{"example.com"}}, nil
			}
			return account.Principal{}, errors.New("the token is not known")
		},
		Live: func(context.Context) []admin.Live {
			n := uint64(b.asked.Add(1))
			took := make([]uint64, len(admin.LiveBounds())+1)
			took[7], took[12] = 9*n, n
			return []admin.Live{
				{
					Node: "a", At: time.Now(), Ready: true, Outcomes: map[string]uint64{"relayed": 10 * n}, Took: took,
					Sites: []admin.ClusterSite{{Site: mail.Site(hostile), Open: 2, Waiting: 1}},
				},
				{Node: "b", Failed: hostile},
			}
		},
		Cluster: func() admin.ClusterStatus {
			return admin.ClusterStatus{
				Node: "a", Members: []admin.ClusterMember{{Name: "a", Self: true, Version: hostile}},
				Suspensions: []admin.ClusterSuspension{{Site: mail.Site(hostile), Until: "2026-11-30T12:00:00Z",
					Reason: hostile}},
			}
		},
		Account: b.newAccount(t), Clear: true,
		Ask: func(_ context.Context, _ account.Principal, d account.Destination) error {
			b.letters = append(b.letters, d.Address)
			return b.unasked
		},
		Activity: &activity.Nodes{Log: log, Name: "a"}, Logs: func() bool { return true },
		Rules: func() Rules {
			return Rules{Label: "files 0", Rules: 2, Domains: 2, Files: maps.All(map[string]string{
				"routes.txt": "# c\ndomain example.com subaddress=+\ninfo@example.com  " + hostile +
					"\n@other.example drop\n",
			})}
		},
		Domains: func() []string { return []string{"example.com", "other.example"} },
		Explain: func(context.Context, Question) (*Explained, error) {
			return &Explained{
				Fate: "reject", Reply: hostile, Reason: hostile, Cause: hostile, Rule: hostile,
				Steps:   []string{hostile},
				Skipped: []string{hostile}, Notes: []string{hostile},
				Ways: []Way{{NextHop: hostile, Reverse: hostile, Forward: []string{hostile},
					Hosts: []string{hostile}}},
				Score: &Scored{Total: 1, Signals: []Signal{{Name: hostile, State: "spoke", Text: hostile}}},
			}, b.explain
		},
		Examine: func(context.Context, string) ([]Finding, error) {
			return []Finding{{
				Check: "SPF", Name: hostile, State: "misconfigured", Expected: hostile, Found: hostile, Reason: hostile,
				Fix: hostile,
			}}, nil
		},
	}
}

// start serves pages until the test ends.
func start(t testing.TB, change func(*Config)) *bench {
	t.Helper()
	b := &bench{}
	cfg := b.config(t)
	if change != nil {
		change(&cfg)
	}
	b.Pages = New(cfg)
	s := httptest.NewServer(b.Pages)
	b.url = s.URL
	t.Cleanup(func() {
		b.Close()
		s.Close()
	})
	return b
}

// A browser keeps cookies, and follows no link that leads elsewhere by itself.
type browser struct {
	t    testing.TB
	base string
	http.Client
}

func (b *bench) browser(t testing.TB) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	return &browser{t, b.url, http.Client{
		Jar: jar, Transport: transport, CheckRedirect: func(*http.Request,
			[]*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// ask makes a request with a form, or without one, and header fields "name: value".
func (c *browser) ask(method, path string, form url.Values, fields ...string) (*http.Response, string) {
	c.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Set(name, value)
	}
	resp, err := c.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(text)
}

// enter logs in.
func (c *browser) enter(token string) {
	c.t.Helper()
	if resp, _ := c.ask("POST", "/login", url.Values{"token": {token}, "next": {"/log"}}); resp.StatusCode != 303 ||
		resp.Header.Get("Location") != "/log" {
		c.t.Fatalf("login: %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

// csrf returns the token of the session, as a page has it.
func (c *browser) csrf() string {
	_, body := c.ask("GET", "/explain", nil)
	found := csrfField.FindStringSubmatch(body)
	if found == nil {
		c.t.Fatal("the page has no token")
	}
	return found[1]
}

// paths are all pages.
var paths = []string{
	"/", "/sites", "/rules", "/rules?q=info", "/log", "/log?to=" + url.QueryEscape(hostile), "/log?status=x",
	"/log/id0",
	"/log/id2", "/log/" + url.PathEscape(hostile), "/senders", "/senders?to=info@example.com",
	"/senders?to=" + url.QueryEscape(hostile), "/explain?to=" + url.QueryEscape(hostile), "/dns",
	"/dns?domain=" + url.QueryEscape(hostile), "/nothing", "/destinations", "/destinations?done=done.saved",
	"/rules/new?pattern=" + url.QueryEscape(hostile), "/rules/0123",
}

// TestPages_Escape: whatever strangers and destinations write, no page has an element or an attribute of theirs, and
// none is served without what forbids scripts, frames and guesses of types.
func TestPages_Escape(t *testing.T) {
	b := start(t, nil)
	for _, token := range []string{adminToken, ownerToken} {
		for _, tag := range []string{"en", "ja"} {
			c := b.browser(t)
			c.enter(token)
			csrf := c.csrf()
			bodies := map[string]string{}
			for _, path := range paths {
				resp, body := c.ask("GET", path, nil, "Accept-Language: "+tag)
				bodies[path] = body
				checkHead(t, path, resp)
				if resp.StatusCode >= 500 {
					t.Errorf("%s: %d", path, resp.StatusCode)
				}
			}
			_, bodies["POST /explain"] = c.ask("POST", "/explain", url.Values{
				"csrf": {csrf}, "ip": {hostile}, "to": {hostile + "@example.com"},
			}, "Accept-Language: "+tag)
			for path, body := range bodies {
				if strings.Contains(body, "<script>") || strings.Contains(body, "<img") || strings.Contains(body,
					`onerror=alert(1)>'{{.}}"`) {
					t.Errorf("%s has foreign elements", path)
				}
				if strings.Contains(body, "<no value>") || strings.Contains(body, "ZgotmplZ") {
					t.Errorf("%s has a hole", path)
				}
				if path != "/nothing" && !strings.Contains(body, `<html lang="`+tag+`">`) && !strings.HasPrefix(body,
					"<a href") && body != "" {
					t.Errorf("%s is not in %s", path, tag)
				}
			}
		}
	}
}

func checkHead(t *testing.T, path string, resp *http.Response) {
	t.Helper()
	for field, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "same-origin", "Cache-Control": "no-",
	} {
		if !strings.Contains(resp.Header.Get(field), want) {
			t.Errorf("%s: %s is %q", path, field, resp.Header.Get(field))
		}
	}
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("%s: %s", path, policy)
	}
}

// TestPages_Login: without a session every page leads to the login, and a token opens it until it is withdrawn, the
// session ends, or its time is over.
func TestPages_Login(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	for _, path := range append(slices.Clone(paths), "/live") {
		resp, body := c.ask("GET", path, nil)
		if resp.StatusCode != 303 || !strings.HasPrefix(resp.Header.Get("Location"), "/login") {
			t.Errorf("%s: %d to %q: %s", path, resp.StatusCode, resp.Header.Get("Location"), body)
		}
		checkHead(t, path, resp)
	}
	if b.asked.Load() != 0 {
		t.Errorf("strangers had the nodes asked %d times", b.asked.Load())
	}
	if resp, body := c.ask("POST", "/login", url.Values{"token": {"wrong"}}); resp.StatusCode != 401 ||
		!strings.Contains(body, "the token is not known") || len(resp.Cookies()) > 0 {
		t.Errorf("a wrong token: %d", resp.StatusCode)
	}
	resp, _ := c.ask("POST", "/login", url.Values{"token": {adminToken}, "next": {"https://evil.example/"}})
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/" || len(resp.Cookies()) != 1 {
		t.Fatalf("%d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	cookie := resp.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || strings.Contains(cookie.Value, adminToken) {
		t.Errorf("cookie: %v", cookie)
	}
	if resp, _ := c.ask("GET", "/", nil); resp.StatusCode != 200 {
		t.Errorf("with a session: %d", resp.StatusCode)
	}
	b.revoked.Store(true)
	if resp, _ := c.ask("GET", "/log", nil); resp.StatusCode != 303 {
		t.Errorf("with a token that was withdrawn: %d", resp.StatusCode)
	}
	b.revoked.Store(false)
	if resp, _ := c.ask("GET", "/log", nil); resp.StatusCode != 303 {
		t.Errorf("a session that was ended: %d", resp.StatusCode)
	}
	c.enter(adminToken)
	if resp, _ := c.ask("POST", "/logout", url.Values{"csrf": {c.csrf()}}); resp.StatusCode != 303 {
		t.Errorf("logout: %d", resp.StatusCode)
	}
	if resp, _ := c.ask("GET", "/log", nil); resp.StatusCode != 303 {
		t.Errorf("behind the logout: %d", resp.StatusCode)
	}
	none := start(t, func(c *Config) { c.HasToken = false })
	if _, body := none.browser(t).ask("GET", "/login", nil); !strings.Contains(body, "millrace token new") {
		t.Error("the login does not say how to make a token")
	}
}

// TestPages_Foreign: a form of another site, and one without the token of the session, changes nothing.
func TestPages_Foreign(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(adminToken)
	good := url.Values{"csrf": {c.csrf()}, "ip": {"192.0.2.1"}}
	for name, tt := range map[string]struct {
		form   url.Values
		fields []string
		want   int
	}{
		"of a page":          {good, []string{"Sec-Fetch-Site: same-origin"}, 200},
		"of another site":    {good, []string{"Sec-Fetch-Site: cross-site"}, 403},
		"of another origin":  {good, []string{"Origin: https://evil.example"}, 403},
		"without the token":  {url.Values{"ip": {"192.0.2.1"}}, nil, 403},
		"with another token": {url.Values{"ip": {"192.0.2.1"}, "csrf": {"x"}}, nil, 403},
	} {
		if resp, _ := c.ask("POST", "/explain", tt.form, tt.fields...); resp.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, tt.want)
		}
	}
	if resp, _ := c.ask("POST", "/logout", url.Values{}); resp.StatusCode != 403 {
		t.Errorf("logout without the token: %d", resp.StatusCode)
	}
	if resp, _ := b.browser(t).ask("POST", "/login", url.Values{"token": {adminToken}},
		"Sec-Fetch-Site: cross-site"); resp.StatusCode != 403 {
		t.Errorf("a login by another site: %d", resp.StatusCode)
	}
}

// TestPages_Owner: one whose token is for some domains sees these and nothing else.
func TestPages_Owner(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(ownerToken)
	for path, want := range map[string]int{
		"/": 303, "/sites": 403, "/live": 403, "/rules": 200, "/log": 200, "/log/id0": 200, "/log/id1": 404,
		"/senders?to=info@other.example": 200,
		"/dns?domain=other.example":      403, "/dns?domain=example.com": 200, "/dns?domain=sub.example.com": 200,
	} {
		resp, body := c.ask("GET", path, nil)
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
		if path != "/senders?to=info@other.example" && !strings.Contains(path, "domain=other") &&
			strings.Contains(body, "other.example") {
			t.Errorf("%s shows another owner's domain", path)
		}
		if strings.Contains(path, "senders") && !strings.Contains(body, "No mail to this address") {
			t.Errorf("%s shows senders", path)
		}
	}
	if b.asked.Load() != 0 {
		t.Errorf("the nodes were asked %d times", b.asked.Load())
	}
	form := url.Values{"csrf": {c.csrf()}, "ip": {"192.0.2.1"}, "to": {"x@other.example"}}
	if resp, _ := c.ask("POST", "/explain", form); resp.StatusCode != 403 {
		t.Errorf("explain: %d", resp.StatusCode)
	}
}

// TestPages_OwnerBlocks: whom the owner of another domain has blocked is not shown to the owner of the sender's.
func TestPages_OwnerBlocks(t *testing.T) {
	b := start(t, func(c *Config) {
		c.Rules = func() Rules {
			return Rules{Files: maps.All(map[string]string{"api.rules": "block spy@example.com for=@other.example\n" +
				"block all@example.com\nblock\tx@sender.example  for=info@example.com # c\n"})}
		}
	})
	c := b.browser(t)
	c.enter(ownerToken)
	_, body := c.ask("GET", "/rules", nil)
	if strings.Contains(body, "other.example") || strings.Contains(body, "spy@") || strings.Contains(body, "all@") {
		t.Error("it shows what others block")
	}
	if !strings.Contains(body, "block x@sender.example for=info@example.com") {
		t.Error("it lacks the owner's own")
	}
	c = b.browser(t)
	c.enter(adminToken)
	if _, body = c.ask("GET", "/rules", nil); !strings.Contains(body, "block spy@example.com for=@other.example") ||
		!strings.Contains(body, "block all@example.com") {
		t.Error("an operator does not see all")
	}
}

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
	for _, path := range []string{"/rules", "/destinations", "/log/id0", "/senders?to=info@example.com"} {
		_, body := c.ask("GET", path, nil)
		if strings.Contains(body, `action="/destinations`) || strings.Contains(body, "/rules/new") ||
			strings.Contains(body, `action="/block"`) || strings.Contains(body, `action="/retire"`) {
			t.Errorf("%s has a form", path)
		}
		if !strings.Contains(path, "info") && path != "/log/id0" && !strings.Contains(body,
			"Nothing can be changed here") {
			t.Errorf("%s does not say why", path)
		}
	}
}

// TestPages_Links: each link of a page leads to a page.
func TestPages_Links(t *testing.T) {
	b := start(t, nil)
	for _, pattern := range []string{"info@example.com", "block a@b.example"} {
		rule := account.Rule{Pattern: pattern, Enabled: true}
		if _, err := b.cfg.Account.AddRule(t.Context(), account.TokenFile(), rule); err != nil {
			t.Fatal(err)
		}
	}
	c := b.browser(t)
	c.enter(adminToken)
	link := regexp.MustCompile(`(?:href|src|action)="([^"#][^"]*)"`)
	seen := map[string]bool{}
	for _, path := range paths {
		_, body := c.ask("GET", path, nil)
		for _, m := range link.FindAllStringSubmatch(body, -1) {
			to := html.UnescapeString(m[1])
			if seen[to] || strings.HasPrefix(m[0], "action") && !strings.HasPrefix(to, "/rules") && to != "/log" {
				continue
			}
			seen[to] = true
			if resp, _ := c.ask("GET", to, nil); resp.StatusCode != 200 {
				t.Errorf("%s links to %s: %d", path, to, resp.StatusCode)
			}
		}
	}
	if len(seen) < 15 {
		t.Errorf("%d links were found", len(seen))
	}
}

// TestPages_Off: without a log the pages that would show it say how to have one.
func TestPages_Off(t *testing.T) {
	b := start(t, func(c *Config) { c.Logs = func() bool { return false } })
	c := b.browser(t)
	c.enter(adminToken)
	for _, path := range []string{"/log", "/log/id0", "/senders?to=info@example.com"} {
		if _, body := c.ask("GET", path, nil); !strings.Contains(body, "activity: {keep") || strings.Contains(body,
			"id0</a>") {
			t.Errorf("%s: %s", path, body)
		}
	}
}

// TestPages_Language: a visitor has the language that the browser asks for, until another one is chosen.
func TestPages_Language(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	for _, tt := range []struct{ accept, want string }{
		{"", "en"}, {"ja,en;q=0.8", "ja"}, {"fr-FR, ja-JP;q=0.5", "ja"}, {"de, en", "en"}, {"de", "en"},
	} {
		if _, body := c.ask("GET", "/login", nil, "Accept-Language: "+tt.accept); !strings.Contains(body,
			`lang="`+tt.want+`"`) {
			t.Errorf("%q: not %s", tt.accept, tt.want)
		}
	}
	resp, _ := c.ask("POST", "/language", url.Values{"to": {"ja"}, "next": {"//evil.example"}})
	if resp.Header.Get("Location") != "/" {
		t.Errorf("leads to %q", resp.Header.Get("Location"))
	}
	if _, body := c.ask("GET", "/login", nil, "Accept-Language: en"); !strings.Contains(body, `<html lang="ja">`) {
		t.Error("the language that was chosen does not stay")
	}
}

// TestWords: each text that a template names is there in both languages, and each text is named.
func TestWords(t *testing.T) {
	en, ja := wordsOf(wordsFile, english), wordsOf(wordsFile, japanese)
	used := map[string]bool{}
	files, err := filepath.Glob("html/*.html")
	if err != nil {
		t.Fatal(err)
	}
	code, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`"([a-z]+(?:\.[a-z0-9_]+)?)"`)
	for _, file := range append(files, code...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range key.FindAllStringSubmatch(string(text), -1) {
			used[m[1]] = true
		}
		for _, m := range regexp.MustCompile(`\{\{t "([^"]+)"\}\}`).FindAllStringSubmatch(string(text), -1) {
			if en[m[1]] == "" {
				t.Errorf("%s names %q, which has no text", file, m[1])
			}
		}
	}
	for _, s := range activity.Statuses() {
		used["status."+string(s)] = true
	}
	for _, a := range activity.Actions() {
		used["action."+string(a)] = true
	}
	for s := range mail.Stage(mail.Stages) {
		used["step."+s.String()] = true
	}
	for _, k := range outcomes {
		used["outcome."+k.String()] = true
	}
	for _, s := range states {
		used["dns."+s] = true
	}
	for _, more := range []string{
		"step.client", "step.all", "step.tried", "step.session", "verdict.accept", "verdict.drop", "verdict.defer",
		"verdict.reject", "signal.spoke", "signal.silent", "signal.unheard", "signal.skipped",
	} {
		used[more] = true
	}
	for k, text := range en {
		if !used[k] {
			t.Errorf("nothing shows %q", k)
		}
		if text == "" || ja[k] == "" {
			t.Errorf("%q has no text in a language", k)
		}
	}
	for k := range used {
		if strings.Contains(k, ".") && en[k] == "" && !strings.HasPrefix(k, "smtp") && strings.Count(k, ".") == 1 {
			group, _, _ := strings.Cut(k, ".")
			if group == "status" || group == "action" || group == "step" || group == "outcome" || group == "dns" ||
				group == "error" {
				t.Errorf("%q has no text", k)
			}
		}
	}
}

// TestFlow_Idle: nodes are asked while a page is open, and not before and not behind; strangers have none asked.
func TestFlow_Idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{}
		cfg := b.config(t)
		f := newFlow(cfg.Live)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := b.asked.Load(); n != 0 {
			t.Errorf("asked %d times before a page was open", n)
		}
		one, _ := f.join()
		two, _ := f.join()
		time.Sleep(10*beat + beat/2)
		synctest.Wait()
		if n := b.asked.Load(); n != 11 {
			t.Errorf("asked %d times in ten beats with two pages", n)
		}
		f.leave(one)
		f.leave(two)
		before := b.asked.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := b.asked.Load(); n > before+1 {
			t.Errorf("asked %d times without a page", n-before)
		}
		for range maxStreams {
			if _, ok := f.join(); !ok {
				t.Error("a page finds no room")
			}
		}
		if _, ok := f.join(); ok {
			t.Error("pages have no bound")
		}
		f.close()
		if _, ok := f.join(); ok {
			t.Error("a page is joined to what has ended")
		}
	})
}

// TestFlow_Rates: the figures are those of the last beat; a node that restarted counts from nothing, and one that did
// not answer counts nothing.
func TestFlow_Rates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlow(nil)
		took := make([]uint64, len(admin.LiveBounds())+1)
		beats := func(relayed uint64, failed string) {
			took[7] = relayed
			f.note([]admin.Live{{
				Node: "a", At: time.Now(), Failed: failed, Outcomes: map[string]uint64{"relayed": relayed,
					"refused": relayed / 2},
				Octets: relayed * 1000, Took: slices.Clone(took),
			}})
			time.Sleep(beat)
		}
		beats(100, "")
		if m := f.latest; m.Measured || m.Rates[0].Rate != 0 {
			t.Errorf("at first: %+v", m)
		}
		beats(120, "")
		if m := f.latest; m.Rates[0] != (rate{"relayed", 10}) || m.Rates[3] != (rate{"refused", 5}) ||
			m.Octets != 10000 ||
			m.P50 != admin.LiveBounds()[7] || !m.Measured {
			t.Errorf("in a beat: %+v", m)
		}
		beats(10, "")
		if m := f.latest; m.Rates[0].Rate != 5 {
			t.Errorf("behind a restart: %+v", m.Rates)
		}
		beats(0, "no answer")
		beats(20, "")
		if m := f.latest; m.Rates[0].Rate != 0 {
			t.Errorf("behind a silence: %+v", m.Rates)
		}
		if n := len(f.samples); n != 2 {
			t.Errorf("%d samples", n)
		}
		time.Sleep(time.Hour)
		beats(30, "")
		if n := len(f.samples); n != 0 {
			t.Errorf("%d samples are of an hour ago", n)
		}
	})
}

// TestPages_Live: an open page gets what changes, one event a beat, and a closed one none.
func TestPages_Live(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(adminToken)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", c.base+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	event := make([]byte, 4096)
	if _, err := io.ReadAtLeast(resp.Body, event, 200); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(event), "event: flow\ndata: <dl") ||
		resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("got %q", event)
	}
	b.Close() // as at the end of the node
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestParseRule: the pattern stands apart from its target, whatever form it has.
func TestParseRule(t *testing.T) {
	for line, want := range map[string]string{
		"info@example.com  a@x.example, b@y.example": "info@example.com|a@x.example, b@y.example",
		"/(.+)-list/@example.com\t$1@lists.example":  "/(.+)-list/@example.com|$1@lists.example",
		"/a b/@example.com drop":                     "/a b/@example.com|drop",
		"domain example.com  dmarc=enforce":          "domain example.com|dmarc=enforce",
		"domain example.com":                         "domain example.com|",
		"@example.com":                               "@example.com|", "# x": "", "": "", "  ": "",
		"block  x@a.example  for=b@c.example # d": "block x@a.example for=b@c.example|# d",
		"block x@a.example":                       "block x@a.example|",
	} {
		r, ok := parseRule(line)
		got := r.Pattern + "|" + r.Target
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// FuzzParseRule: no line of rules breaks its page.
func FuzzParseRule(f *testing.F) {
	f.Add("/a b/@example.com drop")
	f.Add("domain ")
	f.Add("/@")
	f.Fuzz(func(t *testing.T, line string) {
		r, _ := parseRule(line)
		if domain := domainOf(r.Pattern); !strings.HasPrefix(r.Pattern, "domain ") && strings.Contains(domain, "@") {
			t.Errorf("%q: the domain %q", line, domain)
		}
		localPath(line)
	})
}

// TestLocalPath: no link of a form leads to another site.
func TestLocalPath(t *testing.T) {
	for path, want := range map[string]string{
		"/log?to=a%40b": "/log?to=a%40b", "": "/", "log": "/", "//evil.example": "/", "/\\evil.example": "/",
		"https://evil.example/": "/", "javascript:alert(1)": "/", "/a\r\nSet-Cookie: x": "/", "/%zz": "/", "/#x": "/",
	} {
		if got := localPath(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

// TestSessions: a session ends by itself, and there is no end of logins for want of room.
func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		id := s.begin("x")
		time.Sleep(sessionIdle - time.Second)
		if s.of(id) == nil {
			t.Error("it ends while it is used")
		}
		time.Sleep(sessionIdle + time.Second)
		if s.of(id) != nil || len(s.all) != 0 {
			t.Error("it does not end when it is idle")
		}
		id = s.begin("x")
		for range int(sessionLife/sessionIdle) + 1 {
			time.Sleep(sessionIdle - time.Second)
			s.of(id)
		}
		time.Sleep(time.Minute)
		if s.of(id) != nil {
			t.Error("it does not end at all")
		}
		first := s.begin("x")
		time.Sleep(time.Second)
		for range maxSessions {
			s.begin("x")
		}
		if s.of(first) != nil || len(s.all) != maxSessions {
			t.Errorf("%d sessions", len(s.all))
		}
	})
}
