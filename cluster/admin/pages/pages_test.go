package pages

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
)

// paths are all pages.
var paths = []string{
	"/", "/sites", "/rules", "/rules?q=info", "/log", "/log?to=" + url.QueryEscape(hostile), "/log?status=x",
	"/log/id0",
	"/log/id2", "/log/" + url.PathEscape(hostile), "/senders", "/senders?to=info@example.com",
	"/senders?to=" + url.QueryEscape(hostile), "/explain?to=" + url.QueryEscape(hostile), "/dns",
	"/dns?domain=" + url.QueryEscape(hostile), "/nothing", "/destinations", "/destinations?done=done.saved",
	"/rules/new?pattern=" + url.QueryEscape(hostile), "/rules/0123",
	"/tokens", "/tokens?done=done.revoked", "/audit", "/audit?page=2", "/audit?q=" + url.QueryEscape(hostile),
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

// TestPages_Older: the link behind the last row leads to older rows with the same filters, the one back to the newest,
// and the count of a sender's messages to these.
func TestPages_Older(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	c.enter(adminToken)
	link := regexp.MustCompile(`href="(/log\?[^"]*)"`)
	row := regexp.MustCompile(`href="/log/(id\d)"`)
	follow := func(path string) (links []string, rows string) {
		t.Helper()
		resp, body := c.ask("GET", path, nil)
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d", path, resp.StatusCode)
		}
		for _, m := range link.FindAllStringSubmatch(body, -1) {
			links = append(links, html.UnescapeString(m[1]))
		}
		for _, m := range row.FindAllStringSubmatch(body, -1) {
			rows += m[1]
		}
		return links, rows
	}
	links, rows := follow("/log?limit=1&status=rejected&from=" + url.QueryEscape("@sender.example"))
	for _, want := range []string{"id2", "id1", "id0"} {
		if rows != want {
			t.Fatalf("shows %s, want %s", rows, want)
		}
		if want != "id0" {
			links, rows = follow(links[len(links)-1])
		}
	}
	if links, rows = follow(links[0]); rows != "id2" || len(links) != 1 {
		t.Errorf("the newest: %s, %q", rows, links)
	}
	links, _ = follow("/senders?to=info@example.com")
	if len(links) != 1 {
		t.Fatalf("%q", links)
	}
	if _, rows = follow(links[0]); rows != "id0" {
		t.Errorf("the messages of a sender: %s", rows)
	}
}

// TestPages_Assets: what is embedded for browsers is served by its name, and nothing beside it, no list either.
func TestPages_Assets(t *testing.T) {
	b := start(t, nil)
	c := b.browser(t)
	for path, want := range map[string]int{
		"/assets/dashboard.css": 200, "/assets/dashboard.js": 200, "/assets/icon.svg": 200,
		"/assets/": 404, "/assets": 307, "/assets/nothing": 404, "/assets/%2e%2e/html/login.html": 404,
		"/assets/..%2fhtml%2flogin.html": 404, "/assets/%5c..%5chtml%5clogin.html": 404, "/assets/%00": 404,
		"/assets/../html/login.html": 307, "/assets/../../../../etc/passwd": 307,
	} {
		resp, body := c.ask("GET", path, nil)
		if resp.StatusCode != want || strings.Contains(body, "{{define") || strings.Contains(body, "root:") {
			t.Errorf("%s: %d, want %d: %.200s", path, resp.StatusCode, want, body)
		}
		if to := resp.Header.Get("Location"); to != "" && !strings.HasPrefix(to, "/") {
			t.Errorf("%s leads to %s", path, to)
		}
	}
}
