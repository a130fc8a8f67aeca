package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// TestServer_Cluster: the page of the cluster needs the token.
func TestServer_Cluster(t *testing.T) {
	const token = "0123456789abcdef"
	said := ClusterStatus{
		Node: "a", Ring: "00000000000000ff", Rules: 7, Sessions: 3, Relayed: 100, Reused: 97, Stable: 2,
		Members: []ClusterMember{
			{Name: "a", Self: true, Peer: "127.0.0.1:1", Weight: 1}, {Name: "b", Draining: true, Weight: 2},
		},
		Sites: []ClusterSite{{Site: "mx.example", Owner: "b", Open: 3, Idle: 1}},
		Suspensions: []ClusterSuspension{{
			Site: "mx.example", Until: "2026-01-01T00:00:00Z", Reason: "rate", Node: "b",
		}},
	}
	base := start(t, Config{Metrics: NewMetrics("v1", Gauges{}), Token: []byte(token), Cluster: func() ClusterStatus {
		return said
	}})
	for _, wrong := range []string{"", "0123456789abcdee"} {
		if code, body := get(t, base+"/api/v1/cluster", wrong); code != 401 {
			t.Errorf("with %q: %d %s", wrong, code, body)
		}
	}
	code, body := get(t, base+"/api/v1/cluster", token)
	var got ClusterStatus
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
		t.Fatalf("%d %v: %s", code, err, body)
	}
	want, err := json.Marshal(said)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(got); err != nil || string(again) != string(want) {
		t.Errorf("got %s, %v\nwant %s", again, err, want)
	}
	base = start(t, Config{Metrics: NewMetrics("v1", Gauges{}), Token: []byte(token)})
	if code, _ := get(t, base+"/api/v1/cluster", token); code != 404 {
		t.Errorf("nobody to ask: %d", code)
	}
}

// TestServer_Check: a check needs the token and a question of some length at most, is told what to check, and an error
// is 400 with its words.
func TestServer_Check(t *testing.T) {
	base := start(t, Config{
		Metrics: NewMetrics("v1", Gauges{}), Token: []byte("0123456789abcdef"),
		Check: func(_ context.Context, what string, body []byte) (any, error) {
			if what != "target" {
				return nil, errors.New("there is no such check")
			}
			return map[string]string{"asked": string(body)}, nil
		},
	})
	for _, tt := range []struct {
		method, path, token, body string
		want                      int
		says                      string
	}{
		{"POST", "/api/v1/check/target", "0123456789abcdef", "x", 200, `{"asked":"x"}`},
		{"POST", "/api/v1/check/weather", "0123456789abcdef", "x", 400, `{"error":"there is no such check"}`},
		{"POST", "/api/v1/check/target", "wrong", "x", 401, "the token is wrong"},
		{"POST", "/api/v1/check/target", "", "x", 401, "a token is required"},
		{"POST", "/api/v1/check/target", "0123456789abcdef", strings.Repeat("x", maxQuestion+1), 413, "too long"},
		{"GET", "/api/v1/check/target", "0123456789abcdef", "", 404, ""},
	} {
		r, err := http.NewRequest(tt.method, base+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+tt.token)
		r.Close = true
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.want || !strings.Contains(string(body), tt.says) {
			t.Errorf("%s %s with %q: %d %s, %v", tt.method, tt.path, tt.token, resp.StatusCode, body, err)
		}
	}
}

// TestServer_Surface: what else answers finds who asks, and refuses in its own form.
func TestServer_Surface(t *testing.T) {
	base := start(t, Config{
		Metrics: NewMetrics("v1", Gauges{}), Token: []byte("0123456789abcdef"), Surfaces: []Surface{{
			Path: "/else/",
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, account.Of(r.Context()).Name)
			}),
			Refuse: func(w http.ResponseWriter, _ *http.Request, status int, why *account.Error) {
				http.Error(w, "envelope: "+why.Message, status)
			},
		}},
	})
	if status, body := get(t, base+"/else/x", "0123456789abcdef"); status != 200 || body != "admin.token_file" {
		t.Errorf("%d %q", status, body)
	}
	if status, body := get(t, base+"/else/x", ""); status != 401 || body != "envelope: a token is required\n" {
		t.Errorf("%d %q", status, body)
	}
}

// TestServer_TLS: the second address speaks TLS with the certificate of the moment, and shows nothing without a token
// but that it lives.
func TestServer_TLS(t *testing.T) {
	pair := httptest.NewUnstartedServer(nil)
	pair.StartTLS()
	defer pair.Close()
	const token = "0123456789abcdef"
	s, err := Listen(Config{
		Addr: "127.0.0.1:0", TLSAddr: "127.0.0.1:0", Metrics: NewMetrics("v1", Gauges{}), Token: []byte(token),
		TLS: func() *tls.Config { return pair.TLS },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	for _, tt := range []struct {
		path, token string
		want        int
	}{
		{"/livez", "", 200}, {"/readyz", "", 401}, {"/metrics", "", 401}, {"/api/v1/whoami", "", 401},
		{"/readyz", token, 200}, {"/metrics", token, 200}, {"/api/v1/whoami", token, 200},
	} {
		r, err := http.NewRequest("GET", "https://"+s.TLSAddr().String()+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.token != "" {
			r.Header.Set("Authorization", "Bearer "+tt.token)
		}
		r.Close = true
		resp, err := pair.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s with %q: %d, want %d", tt.path, tt.token, resp.StatusCode, tt.want)
		}
	}
	_, err = Listen(Config{Addr: "127.0.0.1:0", TLSAddr: "127.0.0.1:0", Metrics: NewMetrics("v1", Gauges{})})
	if err == nil {
		t.Error("TLS without a certificate")
	}
}
