package pages

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

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
		for i := range maxSessions {
			s.begin(fmt.Sprint(i))
		}
		if s.of(first) != nil || len(s.all) != maxSessions {
			t.Errorf("%d sessions", len(s.all))
		}
	})
}

// TestSessions_OfToken: one who logs in without end pushes out sessions of the same token, and none of another one.
func TestSessions_OfToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		operator := s.begin("operator")
		first := s.begin("owner")
		time.Sleep(time.Second)
		for range 2 * maxSessions {
			s.begin("owner")
		}
		if s.of(operator) == nil {
			t.Error("another token's session has gone")
		}
		if s.of(first) != nil || len(s.all) != 1+tokenSessions {
			t.Errorf("%d sessions", len(s.all))
		}
	})
}

// TestPages_Cookie: a login makes a session of its own, whatever cookie came with it, and ends the one before; under
// TLS the cookie is for TLS alone.
func TestPages_Cookie(t *testing.T) {
	b := start(t, nil)
	stranger := "millrace_session=AAAAAAAAAAAAAAAAAAAAAAAAAA"
	resp, _ := b.browser(t).ask("POST", "/login", url.Values{"token": {adminToken}}, "Cookie: "+stranger)
	if len(resp.Cookies()) != 1 || strings.Contains(resp.Cookies()[0].String(), stranger) {
		t.Fatalf("a cookie that was chosen before the login: %v", resp.Cookies())
	}
	if resp, _ := b.browser(t).ask("GET", "/log", nil, "Cookie: "+stranger); resp.StatusCode != 303 {
		t.Errorf("a cookie that was chosen before the login opens %d", resp.StatusCode)
	}
	old := resp.Cookies()[0]
	resp, _ = b.browser(t).ask("POST", "/login", url.Values{"token": {ownerToken}}, "Cookie: "+old.Name+"="+old.Value)
	if len(resp.Cookies()) != 1 || resp.Cookies()[0].Value == old.Value {
		t.Fatalf("the second login: %v", resp.Cookies())
	}
	if resp, _ := b.browser(t).ask("GET", "/log", nil, "Cookie: "+old.Name+"="+old.Value); resp.StatusCode != 303 {
		t.Errorf("behind the second login the first session opens %d", resp.StatusCode)
	}
	secure := httptest.NewTLSServer(b.Pages)
	defer secure.Close()
	client := secure.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.PostForm(secure.URL+"/login", url.Values{"token": {adminToken}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if c := resp.Cookies(); len(c) != 1 || !c[0].Secure || !c[0].HttpOnly || c[0].SameSite != http.SameSiteStrictMode ||
		c[0].Domain != "" || c[0].MaxAge != 0 || !c[0].Expires.IsZero() {
		t.Errorf("under TLS: %v", c)
	}
}

// TestPages_Limited: one who tries too many tokens is told how long to wait.
func TestPages_Limited(t *testing.T) {
	b := start(t, func(c *Config) {
		c.Enter = func(string, netip.Addr) (account.Principal, error) {
			return account.Principal{}, &account.Error{
				Kind: account.Limited, Message: "later", Wait: 1500 * time.Millisecond,
			}
		}
	})
	resp, body := b.browser(t).ask("POST", "/login", url.Values{"token": {"x"}})
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "2" || !strings.Contains(body, "later") {
		t.Errorf("%d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
}

// TestPages_Forms: each form of each page, as the code answers it, changes nothing without the token of the session,
// with that of another session, or when the browser says that another site or host sent it.
func TestPages_Forms(t *testing.T) {
	b := start(t, nil)
	rule, err := b.cfg.Account.AddRule(t.Context(), account.TokenFile(), account.Rule{
		Pattern: "info@example.com", Target: "drop", Enabled: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	before, _ := b.cfg.Account.Audit(account.TokenFile(), 100)
	code, err := os.ReadFile("pages.go")
	if err != nil {
		t.Fatal(err)
	}
	c, other := b.browser(t), b.browser(t)
	c.enter(adminToken)
	other.enter(adminToken)
	good, foreign := c.csrf(), other.csrf()
	forms := regexp.MustCompile(`HandleFunc\("POST ([^"]+)"`).FindAllStringSubmatch(string(code), -1)
	for _, m := range forms {
		path := strings.ReplaceAll(m[1], "{id}", rule.ID)
		form := url.Values{
			"pattern": {"a@example.com"}, "do": {"drop"}, "address": {"me@mailbox.example"}, "name": {"x"},
			"role": {"admin"}, "sender": {"a@spam.example"}, "to": {"info@example.com"}, "token": {adminToken},
			"ip": {"192.0.2.1"},
		}
		for _, csrf := range []string{"", foreign, good} {
			for _, field := range []string{
				"", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: https://evil.example",
				"Origin: null",
			} {
				if csrf == good && field == "" || field == "" && (path == "/login" || path == "/language") {
					continue // what a page sends; and what needs no session
				}
				form.Set("csrf", csrf)
				var fields []string
				if field != "" {
					fields = append(fields, field)
				}
				if resp, _ := c.ask("POST", path, form, fields...); resp.StatusCode != 403 || len(resp.Cookies()) > 0 {
					t.Errorf("%s with %q and %q: %d", path, csrf, field, resp.StatusCode)
				}
			}
		}
		if resp, _ := c.ask("GET", path+"?csrf="+good, nil); resp.StatusCode == 303 && path != "/login" {
			t.Errorf("%s is carried out by a link", path)
		}
	}
	if after, _ := b.cfg.Account.Audit(account.TokenFile(), 100); len(forms) < 14 || len(after) != len(before) {
		t.Errorf("%d forms; changed: %+v", len(forms), after)
	}
}
