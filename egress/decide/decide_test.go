package decide

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	start  = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	secret = hook.Secret("0123456789abcdef0123456789abcdef")
)

// world returns an Asker of a hook on loopback, which is listed unless private is false, and counts what came of it.
func world(t *testing.T, deadline time.Duration, private bool, handle http.HandlerFunc) (*Asker, map[string]int) {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	resolver, err := dns.New(dns.Config{Servers: []string{dnstest.Start(t, "").Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	cfg := hook.Config{Resolver: resolver}
	if private {
		cfg.Private = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	client, err := hook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	counts := make(map[string]int)
	return New(Config{
		Client: client, Named: []Hook{{Name: "orders", URL: s.URL}},
		Secrets:  func() []hook.Secret { return []hook.Secret{secret} },
		Deadline: deadline, Node: "mx1.example.net", Count: func(result string) { counts[result]++ },
	}), counts
}

func asked() mail.HookQuestion {
	return mail.HookQuestion{
		Hook: "orders", Trace: mail.TraceID{1}, At: start, Recipient: mail.NewPath("info", "a.example"),
		Client: netip.MustParseAddr("192.0.2.7"), Helo: "c.example", SPF: "pass", LoggedIn: true,
		Signals: "fcrdns -1", Score: -1,
		Rule: mail.Rule{Pattern: "info@a.example"},
	}
}

// TestAsker_Ask: the question is signed, tells of the envelope and what is known, and the answer counts.
func TestAsker_Ask(t *testing.T) {
	var body string
	var header http.Header
	a, counts := world(t, time.Minute, true, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		body, header = string(text), r.Header
		_, _ = io.WriteString(w, `{"action": "forward", "to": ["x@far.example"], "more": 1}`)
	})
	got := a.Ask(t.Context(), asked())
	if !got.Heard || len(got.Forward) != 1 || got.Forward[0].String() != "x@far.example" ||
		got.Said != "orders: forward" || counts["forward"] != 1 {
		t.Fatalf("got %+v, %v", got, counts)
	}
	for _, want := range []string{
		`"type":"recipient.asked"`, `"recipient":"info@a.example"`, `"sender":""`, `"client":"192.0.2.7"`,
		`"authenticated":true`,
		`"spf":"pass"`,
		`"score":-1`, `"signals":"fcrdns -1"`, `"rule":"info@a.example"`, `"node":"mx1.example.net"`,
		`"id":"01000000000000000000000000000000"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	signed := http.Header{}
	hook.Sign(signed, header.Get("webhook-id"), start, []byte(body), []hook.Secret{secret})
	if header.Get("webhook-signature") != signed.Get("webhook-signature") || header.Get("webhook-id") == "" {
		t.Errorf("signed %v", header)
	}
}

// TestAsker_Unheard: an answer that does not come, is none, or comes from where none may be asked is not heard.
func TestAsker_Unheard(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		private    bool
		deadline   time.Duration
		handle     http.HandlerFunc
	}{
		{"too late", "timeout", true, 10 * time.Millisecond, func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil { // else the server does not see that the client goes
				<-r.Context().Done()
			}
		}},
		{"another status", "failed", true, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
		}},
		{"a redirect", "failed", true, time.Minute, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}},
		{"too long", "failed", true, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, maxAnswer+1))
		}},
		{"no JSON", "bad answer", true, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "OK")
		}},
		{"a private address", "failed", false, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
			t.Error("it was asked")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, counts := world(t, tt.deadline, tt.private, tt.handle)
			if got := a.Ask(t.Context(), asked()); got.Heard || counts[tt.want] != 1 {
				t.Errorf("got %+v, %v", got, counts)
			}
		})
	}
}

// TestAsker_Rests: a hook that does not answer is left alone for a time, and then asked once.
func TestAsker_Rests(t *testing.T) {
	well := false
	a, counts := world(t, time.Minute, true, func(w http.ResponseWriter, _ *http.Request) {
		if !well {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, `{"action": "drop"}`)
	})
	q := asked()
	for range 2 * restAfter {
		a.Ask(t.Context(), q)
	}
	if counts["failed"] != restAfter || counts["resting"] != restAfter {
		t.Fatalf("got %v", counts)
	}
	q.At, well = start.Add(restFor), true
	if got := a.Ask(t.Context(), q); !got.Drop {
		t.Errorf("after the rest: %+v", got)
	}
	if got := a.Ask(t.Context(), q); !got.Drop {
		t.Errorf("it is well again: %+v", got)
	}
}

// TestAsker_Bounds: the clients of one network have a part of the questions under way at a hook, and one hook has a
// part of all.
func TestAsker_Bounds(t *testing.T) {
	a := New(Config{})
	networks := []netip.Prefix{}
	for i := range hookAtOnce/networkAtOnce + 1 {
		networks = append(networks, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i), 0}), 24))
	}
	for _, client := range networks[:hookAtOnce/networkAtOnce] {
		for range networkAtOnce {
			if why := a.begin("one", client, start); why != "" {
				t.Fatal("within its part: " + why)
			}
		}
		if a.begin("one", client, start) == "" {
			t.Error("one network more than its part")
		}
	}
	last := networks[len(networks)-1]
	if a.begin("one", last, start) == "" {
		t.Error("one hook more than its part")
	}
	if why := a.begin("other", networks[0], start); why != "" {
		t.Error("another hook none: " + why)
	}
	a.end("one", networks[0], start, nil)
	if why := a.begin("one", last, start); why != "" {
		t.Error("after one has ended: " + why)
	}
	a.under = maxAtOnce
	if a.begin("third", last, start) == "" {
		t.Error("more than there are")
	}
	a.under = 0
	for i := range 2 * maxStates {
		a.begin("url"+strconv.Itoa(i), last, start)
		a.end("url"+strconv.Itoa(i), last, start, new(bool))
	}
	if len(a.states) > maxStates {
		t.Errorf("%d hooks are remembered", len(a.states))
	}
}

// TestAsker_Left: a client whose own time is over says nothing of the hook.
func TestAsker_Left(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, counts := world(t, time.Minute, true, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if cancel(); err == nil {
			<-r.Context().Done()
		}
	})
	for range restAfter + 1 {
		a.Ask(ctx, asked())
	}
	if counts["resting"] != 0 || counts["timeout"] != restAfter+1 {
		t.Errorf("got %v", counts)
	}
}

// TestAsker_Takes: a hook that may not name all addresses is not heard when it names another one.
func TestAsker_Takes(t *testing.T) {
	a, counts := world(t, time.Minute, true, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"action": "forward", "to": ["x@far.example", "y@other.example"]}`)
	})
	a.cfg.Named[0].Takes = func(p mail.Path) bool { return p.Domain == "far.example" }
	for range restAfter + 1 { // it answers, so that it does not rest
		if got := a.Ask(t.Context(), asked()); got.Heard || len(got.Forward) > 0 {
			t.Errorf("got %+v", got)
		}
	}
	if counts["bad target"] != restAfter+1 {
		t.Errorf("got %v", counts)
	}
}

// TestParse: what an answer may say.
func TestParse(t *testing.T) {
	for body, want := range map[string]string{
		`{"action": "drop"}`:   "drop",
		`{"action": "reject"}`: "550 5.7.1 Address refused",
		`{"action": "reject", "code": 554, "enhanced": "5.1.6", "text": "Moved"}`: "554 5.1.6 Moved",
		`{"action": "tempfail", "text": "Later"}`:                                 "450 4.7.1 Later",
		`{"action": "forward", "to": ["a@b.example", "\"x y\"@c.example"]}`:       `a@b.example "x y"@c.example`,
		`{"action": "forward"}`:                                                          "no",
		`{"action": "forward", "to": ["smtp://10.0.0.1:25"]}`:                            "no",
		`{"action": "forward", "to": ["a@[10.0.0.1]"]}`:                                  "no",
		`{"action": "forward", "to": ["a@localhost"]}`:                                   "no",
		`{"action": "forward", "to": ["a@b.example>\r\nRCPT TO:<c@d.example"]}`:          "no",
		`{"action": "forward", "to": [` + strings.Repeat(`"a@b.example",`, 20) + `"x"]}`: "no",
		`{"action": "reject", "code": 450}`:                                              "no",
		`{"action": "tempfail", "code": 421}`:                                            "no",
		`{"action": "reject", "enhanced": "4.7.1"}`:                                      "no",
		`{"action": "reject", "text": "a\r\n250 OK"}`:                                    "no",
		`{"action": "reject", "text": "` + strings.Repeat("x", maxText+1) + `"}`:         "no",
		`{"action": "accept"}`:                                                           "no",
		`[]`:                                                                             "no",
		``:                                                                               "no",
		`{"action": 5}`:                                                                  "no",
		`null`:                                                                           "no",
	} {
		a, err := parse([]byte(body))
		got := "no"
		switch {
		case err != nil && a.Heard:
			got = "heard and wrong"
		case err != nil:
		case a.Drop:
			got = "drop"
		case a.Reply.Code != 0:
			got = a.Reply.String()
		default:
			var all []string
			for _, p := range a.Forward {
				all = append(all, p.String())
			}
			got = strings.Join(all, " ")
		}
		if got != want {
			t.Errorf("%s: got %q, want %q (%v)", body, got, want, err)
		}
	}
}

// FuzzParse: an answer that is taken has one action, addresses that are such again when they are written, and a reply
// of one line.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"action": "forward", "to": ["a@b.example"]}`))
	f.Add([]byte(`{"action": "reject", "code": 550, "enhanced": "5.1.1", "text": "x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := parse(body)
		if err != nil {
			return
		}
		actions := 0
		for _, set := range []bool{a.Drop, a.Reply.Code != 0, len(a.Forward) > 0} {
			if set {
				actions++
			}
		}
		if actions != 1 || !a.Heard {
			t.Fatalf("%+v", a)
		}
		for _, p := range a.Forward {
			again, err := mail.ParsePath(p.String(), true)
			if err != nil || again != p || strings.ContainsAny(p.String(), "\r\n") {
				t.Fatalf("%q: %v", p, err)
			}
		}
		if a.Reply.Code != 0 && strings.Count(string(a.Reply.AppendTo(nil)), "\n") != 1 {
			t.Fatalf("%q", a.Reply.Text)
		}
	})
}
