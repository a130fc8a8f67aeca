package score

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestScore_Unsure: a list that was not heard about a client is no word for it, and one that none hears no word against
// it.
func TestScore_Unsure(t *testing.T) {
	const (
		ofClient = "list 9.113.0.203."
	)
	other := netip.MustParseAddr("203.0.113.7")
	for _, tt := range []struct {
		name  string
		setup func(w *fixture, c *Config)
		idle  time.Duration // since the lists answered about another client; below zero: never
		want  string
	}{
		{"all lists answer", func(*fixture, *Config) {}, 0, ""},
		{"no room to ask a list", func(w *fixture, _ *Config) { w.err[ofClient+"zen.example"] = mail.ErrNotAsked }, -1,
			"no answer of zen.example, which could add 10"},
		{"no room to ask any", func(w *fixture, _ *Config) { w.err["list"] = mail.ErrNotAsked }, -1,
			"no answer of dbl.example, half.example, zen.example, which could add 17"},
		{"no room to ask a list that could not decide",
			func(w *fixture, _ *Config) { w.err[ofClient+"half.example"] = mail.ErrNotAsked }, -1, ""},
		{"no room to ask a list that speaks for clients",
			func(w *fixture, _ *Config) { w.err[ofClient+"white.example"] = mail.ErrNotAsked }, -1, ""},
		{"a list is silent about this client",
			func(w *fixture, _ *Config) { w.err[ofClient+"zen.example"] = errHangs }, 9 * time.Second,
			"no answer of zen.example, which could add 10"},
		{"a list fails about this client",
			func(w *fixture, _ *Config) { w.err[ofClient+"zen.example"] = errDNS }, 9 * time.Second,
			"no answer of zen.example, which could add 10"},
		{"a list answered others long ago",
			func(w *fixture, _ *Config) { w.err[ofClient+"zen.example"] = errHangs }, 11 * time.Second, ""},
		{"lists are silent about all", func(w *fixture, _ *Config) { w.err["list"] = errHangs }, -1, ""},
		{"lists fail about all", func(w *fixture, _ *Config) { w.err["list"] = errDNS }, -1, ""},
		{"the store is silent", func(w *fixture, _ *Config) { w.storeErr = errHangs }, 0, ""},
		{"the store fails", func(w *fixture, _ *Config) { w.storeErr = errDNS }, 0, ""},
		{"what the client says is not answered", func(w *fixture, _ *Config) {
			w.err["PTR"], w.err["A"], w.err["MX"] = errHangs, mail.ErrNotAsked, mail.ErrNotAsked
		}, 0, ""},
		{"a known-good client", func(w *fixture, _ *Config) {
			w.err["list"], w.facts.KnownGood = mail.ErrNotAsked, true
		}, -1, ""},
		{"an allowed client", func(w *fixture, c *Config) {
			w.err["list"], c.Allow = mail.ErrNotAsked, []Entry{{Helo: "mail.example.net"}}
		}, -1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proper()
				cfg := w.config()
				tt.setup(w, &cfg)
				cfg.Lists = w.lists(t)
				s := scorer(t, cfg)
				if tt.idle >= 0 {
					v := good()
					v.addr = other
					v.score(t, s)
					time.Sleep(tt.idle)
				}
				k, verdict := good().score(t, s)
				if verdict.Action != mail.VerdictAccept {
					t.Fatalf("the score is %v", verdict)
				}
				got := ""
				if r := k.Unsure(verdict); r != nil {
					got = r.Cause.Error()
					if r.Reply.Code != 450 || r.Reply.String()[4:9] != "4.7.1" {
						t.Errorf("got %s", r.Reply)
					}
				}
				if got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// TestScore_UnsureStarved: look-ups that have not even begun when the time is over are no word for the client.
func TestScore_UnsureStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := proper()
		cfg := w.config()
		cfg.Lists = w.lists(t)
		s := scorer(t, cfg)
		good().score(t, s)
		k := s.Connect(t.Context(), Client{Addr: client})
		defer k.Close()
		q := &k.inquiry
		g := q.begin(atConnect, fromLists) // and no goroutine gets to run
		time.Sleep(2 * time.Second)
		verdict := k.Verdict(t.Context())
		if r := k.Unsure(verdict); r == nil || g.open != fromLists {
			t.Errorf("got %v", r)
		}
	})
}
