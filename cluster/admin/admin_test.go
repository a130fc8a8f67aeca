package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

func start(t *testing.T, cfg Config) (base string) {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String()
}

func get(t *testing.T, url, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestServer_Token: health needs no token, and the API does.
func TestServer_Token(t *testing.T) {
	base := start(t, Config{Metrics: NewMetrics("v1", Gauges{}), Token: []byte("0123456789abcdef")})
	for _, tt := range []struct {
		path, token string
		want        int
	}{
		{"/livez", "", 200}, {"/readyz", "", 200}, {"/metrics", "", 200},
		{"/api/v1/nothing", "", 401}, {"/api/v1/nothing", "wrong", 401}, {"/api/v1/nothing", "0123456789abcdef", 404},
		{"/", "", 404},
	} {
		if got, body := get(t, base+tt.path, tt.token); got != tt.want {
			t.Errorf("%s with %q: got %d %s, want %d", tt.path, tt.token, got, body, tt.want)
		}
	}
}

// TestServer_NoToken: without a configured token no request reaches the API.
func TestServer_NoToken(t *testing.T) {
	base := start(t, Config{Metrics: NewMetrics("v1", Gauges{})})
	for _, token := range []string{"", " ", "x"} {
		if got, _ := get(t, base+"/api/x", token); got != 401 {
			t.Errorf("%q: got %d", token, got)
		}
	}
}

// TestServer_Ready: readiness names what is missing.
func TestServer_Ready(t *testing.T) {
	ok := true
	base := start(t, Config{Metrics: NewMetrics("v1", Gauges{}), Ready: []Check{
		{"rules", func() (bool, string) { return true, "12 rules" }},
		{"draining", func() (bool, string) { return ok, "" }},
	}})
	if got, body := get(t, base+"/readyz", ""); got != 200 || !strings.Contains(body, `"ready":true`) {
		t.Errorf("got %d %s", got, body)
	}
	ok = false
	got, body := get(t, base+"/readyz", "")
	var v struct {
		Ready  bool
		Checks []check
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil || got != 503 || v.Ready || len(v.Checks) != 2 ||
		v.Checks[1].OK || !v.Checks[0].OK {
		t.Errorf("got %d %s, %v", got, body, err)
	}
}

// TestListen_ShortToken: a short token is refused.
func TestListen_ShortToken(t *testing.T) {
	_, err := Listen(Config{
		Addr: "127.0.0.1:0", Metrics: NewMetrics("", Gauges{}), Token: ParseToken([]byte(" short \n")),
	})
	if err == nil || !strings.Contains(err.Error(), "16 octets") {
		t.Errorf("got %v", err)
	}
}

// TestMetrics_Bounds holds what promtool check metrics would say and that no label grows with foreign input.
func TestMetrics_Bounds(t *testing.T) {
	var sites []SiteSessions
	for i := range 500 {
		sites = append(sites, SiteSessions{Site: mail.Site(fmt.Sprint("site", i)), Open: 3, Idle: 1})
	}
	m := NewMetrics("v1", Gauges{
		Connections:   func() (now, most int) { return 7, 8 },
		Hold:          func() Hold { return Hold{InUse: 1, Budget: 2, GaveWay: 5} },
		Rules:         func() int { return 3 },
		TLSFallbacks:  func() (classic, clear uint64) { return 8, 9 },
		DNS:           someDNS,
		EventsDropped: func() uint64 { return 4 },
		Sessions:      func() []SiteSessions { return sites },
		Cluster:       func() ClusterGauges { return ClusterGauges{Members: 2, Stable: 3, Suspended: 1, Rules: 7} },
	})
	for i := range 10000 {
		e := mail.Event{
			Kind: mail.Kind(i % mail.Kinds), Reason: fmt.Sprint("reason ", i),
			Reply: mail.NewReply(200+100*(i%4), 0, 0, ""),
		}
		e.Took[i%mail.Stages] = time.Millisecond
		m.See(&e)
	}
	e := mail.Event{Kind: mail.Relayed, Mode: mail.ModeHold, Octets: 1000, SRS: mail.OpensToReports.String()}
	m.See(&e)
	families, err := m.Gather().Gather()
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	for _, f := range families {
		n := f.GetName()
		if f.GetHelp() == "" || !name.MatchString(n) {
			t.Errorf("%s: no help or no proper name", n)
		}
		if !strings.HasPrefix(n, "millrace_") {
			continue // the libraries' own
		}
		if counter := f.GetType().String() == "COUNTER"; counter != strings.HasSuffix(n, "_total") {
			t.Errorf("%s is a %s", n, f.GetType())
		}
		if len(f.GetMetric()) > 9*4*(maxReasons+2) {
			t.Errorf("%s has %d series", n, len(f.GetMetric()))
		}
	}
	base := start(t, Config{Metrics: m})
	_, text := get(t, base+"/metrics", "")
	for _, want := range []string{
		`millrace_srs_messages_total{opens="reports"} 1`,
		`millrace_messages_relayed_total{mode="hold"} 1`, `millrace_client_connections 7`,
		`millrace_events_dropped_total 4`,
		`millrace_cluster_members 2`, `millrace_cluster_limits_shared_by 3`, `millrace_cluster_suspended_sites 1`,
		`millrace_rules_version 7`, `millrace_hold_in_use_bytes 1`, `millrace_hold_gave_way_total 5`,
		`millrace_dns_queries_total{names="ours"} 15`, `millrace_dns_refused_total{names="strangers"} 19`,
		`millrace_dns_waiting{names="ours"} 17`,
		`millrace_tls_fallbacks_total{to="classic"} 8`, `millrace_tls_fallbacks_total{to="clear"} 9`,
		`millrace_sessions{site="site0",state="busy"} 2`, `millrace_sessions{site="other",state="idle"} 450`,
		`millrace_stage_seconds_count{stage="commit"}`, `millrace_build_info{`, `reason="other"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, "site499") {
		t.Error("the label site is not bounded")
	}
}

// TestMetrics_SiteLabels: Sites that are the busiest one after another do not make labels for ever, and what they have
// is counted all the same.
func TestMetrics_SiteLabels(t *testing.T) {
	turn := 0
	m := NewMetrics("test", Gauges{Sessions: func() []SiteSessions {
		return []SiteSessions{{Site: "always", Open: 1}, {Site: mail.Site(fmt.Sprint("site", turn)), Open: 2}}
	}})
	labels := make(map[string]bool)
	for turn = range 3 * maxSiteLabels {
		families, err := m.Gather().Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "millrace_sessions" {
				continue
			}
			sum := 0.0
			for _, series := range f.GetMetric() {
				sum += series.GetGauge().GetValue()
				for _, l := range series.GetLabel() {
					if l.GetName() == "site" {
						labels[l.GetValue()] = true
					}
				}
			}
			if sum != 3 {
				t.Fatalf("%v sessions", sum)
			}
		}
	}
	if len(labels) != maxSiteLabels+1 || !labels["always"] || !labels[other] {
		t.Errorf("%d labels", len(labels))
	}
}

// TestServer_Health: balancers learn at an address of their own whether a node lives and is ready, and nothing else:
// neither reasons nor metrics nor the API, whatever token they have.
func TestServer_Health(t *testing.T) {
	const token = "0123456789abcdef"
	ok := true
	s, err := Listen(Config{
		Addr: "127.0.0.1:0", Health: "127.0.0.1:0", Metrics: NewMetrics("v1", Gauges{}), Token: []byte(token),
		Ready: []Check{{"destinations", func() (bool, string) { return ok, "node b reaches what we do not" }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	health := "http://" + s.HealthAddr().String()
	for _, tt := range []struct {
		path string
		ok   bool
		code int
		body string
	}{
		{"/livez", true, 200, "{\"alive\":true}\n"},
		{"/readyz", true, 200, "{\"ready\":true}\n"},
		{"/livez", false, 200, "{\"alive\":true}\n"},
		{"/readyz", false, 503, "{\"ready\":false}\n"},
		{"/metrics", true, 404, "404 page not found\n"},
		{"/api/v1/cluster", true, 404, "404 page not found\n"},
		{"/", true, 404, "404 page not found\n"},
	} {
		ok = tt.ok
		if code, body := get(t, health+tt.path, token); code != tt.code || body != tt.body {
			t.Errorf("%s: got %d %q, want %d %q", tt.path, code, body, tt.code, tt.body)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	for _, addr := range []string{s.Addr().String(), s.HealthAddr().String()} {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Errorf("%s still listens", addr)
		}
	}
}

// TestListen_HealthInUse: an address that cannot be had is named by its key, and the other one is given back.
func TestListen_HealthInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = Listen(Config{
		Addr: "127.0.0.1:0", Health: taken.Addr().String(), Metrics: NewMetrics("v1", Gauges{}),
	})
	var field *mail.FieldError
	if !errors.As(err, &field) || field.Field != "health" {
		t.Errorf("got %v", err)
	}
}
