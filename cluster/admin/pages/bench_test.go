package pages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
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

// address returns where the requests of a test come from.
func (b *bench) address() netip.Addr { return netip.MustParseAddr("127.0.0.1") }

// csrf returns the token of the session, as a page has it.
func (c *browser) csrf() string {
	_, body := c.ask("GET", "/explain", nil)
	found := csrfField.FindStringSubmatch(body)
	if found == nil {
		c.t.Fatal("the page has no token")
	}
	return found[1]
}
