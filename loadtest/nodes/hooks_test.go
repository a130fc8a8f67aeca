package nodes_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// An outcome is what becomes of a recipient whose rule has a hook asked.
type outcome struct {
	code     int
	enhanced string
	to       string // who has the message; "" for none
}

// TestHooks: a node does what a hook says of a recipient, and what the rule says where it is not heard, whatever the
// hook does. No message is lost and none is there twice.
func TestHooks(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect was followed")
	}))
	defer elsewhere.Close()
	var broken, asked atomic.Int32
	say := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	mux := http.NewServeMux()
	for path, handle := range map[string]http.HandlerFunc{
		"/forward": say(`{"action": "forward", "to": ["hooked@far.example"]}`), "/drop": say(`{"action": "drop"}`),
		"/two":      say(`{"action": "forward", "to": ["one@far.example", "hooked@far.example"]}`),
		"/reject":   say(`{"action": "reject", "code": 550, "enhanced": "5.1.6", "text": "Moved away"}`),
		"/tempfail": say(`{"action": "tempfail", "text": "Later"}`),
		"/nonsense": say("<html>Bad Gateway"),
		"/loop":     say(`{"action": "forward", "to": ["forward@a.example"]}`),
		"/redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"/broken": func(w http.ResponseWriter, _ *http.Request) {
			broken.Add(1)
			w.WriteHeader(http.StatusBadGateway)
		},
		"/slow": func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				<-r.Context().Done()
			}
		},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("webhook-signature") == "" {
				t.Error("a question without a signature")
			}
			asked.Add(1)
			handle(w, r)
		})
	}
	hooks := httptest.NewServer(mux)
	defer hooks.Close()

	d := smtptest.Start(t, smtptest.Behaviour{})
	dir := t.TempDir()
	args := []string{"key", "new", "--webhook", "--out", filepath.Join(dir, "hooks.secret")}
	if code := command.Main(args, nil, io.Discard, os.Stderr); code != 0 {
		t.Fatal(code)
	}
	var named []string
	routes := "domain * dmarc=off require_auth=no seal=never srs=never\ndomain a.example\ndomain far.example\n" +
		"@far.example smtp://" + d.Addr() + "\n"
	rule := func(name, url, fallback string) {
		named = append(named, "{name: "+name+", url: \""+url+"\"}")
		routes += name + "@a.example hook " + name + " " + fallback + "\n"
	}
	for _, name := range []string{
		"forward", "two", "reject", "tempfail", "drop", "nonsense", "loop", "redirect", "broken", "slow",
	} {
		rule(name, hooks.URL+"/"+name, "")
	}
	rule("dead", "http://127.0.0.1:1/", "")
	rule("unlisted", "https://10.255.255.1/", "")
	rule("rebound", "https://inside.example/", "")
	rule("open", hooks.URL+"/nonsense", "fallback@far.example")
	rule("closed", hooks.URL+"/nonsense", "reject 550 5.7.1 Closed")
	rule("dropped", hooks.URL+"/nonsense", "drop")
	relay := world.Start(t, world.World{
		Dir: dir, Routes: routes,
		DNS: dnstest.Start(t, "inside.example. 60 IN A 169.254.169.254\ninside.example. 60 IN AAAA ::1\n"),
		Config: "hooks: {secret_file: hooks.secret, deadline: 1s, allow_private: [\"127.0.0.1/32\"], named: [" +
			strings.Join(named, ", ") + "]}\n",
	})

	notHeard := outcome{451, "4.3.0", ""}
	want := map[string]outcome{
		"forward": {250, "2.1.5", "hooked@far.example"}, "drop": {250, "2.1.5", ""},
		"two":    {250, "2.1.5", "one@far.example hooked@far.example"},
		"reject": {550, "5.1.6", ""}, "tempfail": {450, "4.7.1", ""},
		"nonsense": notHeard, "loop": notHeard, "redirect": notHeard, "broken": notHeard, "slow": notHeard,
		"dead": notHeard, "unlisted": notHeard, "rebound": notHeard,
		"open": {250, "2.1.5", "fallback@far.example"}, "closed": {550, "5.7.1", ""}, "dropped": {250, "2.1.5", ""},
	}
	s := world.Dial(t, source.Config{Addr: relay.Addr})
	arrive := make(map[string]string)
	for name, w := range want {
		r, err := s.Send(source.Message{
			Reverse: "a@near.example", Forward: []string{name + "@a.example"},
			Octets: []byte("Message-ID: <" + name + "@near.example>\r\nDate: x\r\n\r\nx\r\n"),
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := r.Rcpt[0]; got.Code != w.code || !strings.HasPrefix(got.Text, w.enhanced+" ") {
			t.Errorf("%s: got %s", name, got)
		}
		if w.code == 250 && r.End.Code != 250 {
			t.Errorf("%s: the end got %s", name, r.End)
		}
		if w.code != 250 {
			if err := s.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		if w.to != "" {
			arrive[name] = w.to
		}
	}
	for _, m := range world.Messages(t, d, len(arrive)) {
		name := ""
		for n := range arrive {
			if strings.Contains(string(m.Octets), "<"+n+"@near.example>") {
				name = n
			}
		}
		if to := strings.Join(m.Forwards, " "); name == "" || arrive[name] != to {
			t.Errorf("%q came to %q", name, to)
		}
		delete(arrive, name)
	}
	if len(arrive) > 0 {
		t.Errorf("lost: %v", arrive)
	}
	before := broken.Load()
	for range 20 { // what does not answer is not asked for ever
		if r, err := s.Send(source.Message{
			Reverse: "a@near.example", Forward: []string{"broken@a.example"}, Octets: []byte("\r\n"),
		}); err != nil || r.Rcpt[0].Code != 451 {
			t.Fatalf("%v, %v", r, err)
		}
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	if n := broken.Load() - before; n > 5 {
		t.Errorf("a hook that does not answer was asked %d times more", n)
	}
}
