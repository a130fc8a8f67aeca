package score

import (
	"net/netip"
	"slices"
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
			w.err["list"], w.facts.KnownGood = mail.ErrNotAsked, []string{"example.net"}
		}, -1, ""},
		{"a client of a network that is known good for another domain", func(w *fixture, _ *Config) {
			w.err["list"], w.facts.KnownGood = mail.ErrNotAsked, []string{"other.example", ""}
		}, -1, "no answer of dbl.example, half.example, zen.example, which could add 17"},
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

// TestScore_LateLists: what a list says after the deadline counts at the next recipient, of the same transaction or of
// the next one, as long as the client says the same.
func TestScore_LateLists(t *testing.T) {
	const zen, dbl = "list 9.113.0.203.zen.example", "list example.net.dbl.example"
	for _, tt := range []struct {
		name  string
		setup func(w *fixture)
		again func(k *Score) // what the client does then
		want  string         // at the next recipient
	}{
		{"not listed", func(w *fixture) { w.err[zen] = errLate }, nil, "accept"},
		{"listed", func(w *fixture) { w.err[zen], w.dns[zen] = errLate, "127.0.0.2" }, nil, "reject"},
		{"listed, asked at the next MAIL", func(w *fixture) { w.err[zen], w.dns[zen] = errLate, "127.0.0.2" },
			func(k *Score) { good().to(k) }, "reject"},
		{"silent to the end", func(w *fixture) { w.err[zen] = errHangs }, nil, "list not heard"},
		{"a list of domains, with others", func(w *fixture) {
			w.err[zen], w.err[dbl], w.dns[dbl] = errLate, errLate, "127.0.0.2"
		}, nil, "accept dblist 3"},
		{"a list of domains about what the client no longer says", func(w *fixture) {
			w.err[zen], w.err[dbl], w.dns[dbl] = errLate, errLate, "127.0.0.2"
		}, func(k *Score) {
			v := good()
			v.reverse, v.spf = "<>", spfResult{"pass", "mail.example.net"}
			v.to(k)
		}, "accept"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := proper()
				w.dns["MX example.net"] = "mail.example.net"
				cfg := w.config()
				cfg.Lists = w.lists(t)
				s := scorer(t, cfg)
				v := good()
				v.addr = netip.MustParseAddr("203.0.113.7")
				v.score(t, s) // lists answer about others
				w.late = 2 * time.Second
				tt.setup(w)
				k := s.Connect(t.Context(), Client{Addr: client})
				defer k.Close()
				good().to(k)
				if r := k.Unsure(k.Verdict(t.Context())); r == nil || r.Reason != "list not heard" {
					t.Fatalf("in time: %v", r)
				}
				if tt.again != nil {
					tt.again(k)
				}
				time.Sleep(1500 * time.Millisecond)
				synctest.Wait()
				verdict := k.Verdict(t.Context())
				got := "accept"
				if r := k.Unsure(verdict); r != nil {
					got = r.Reason
				}
				if verdict.Action == mail.VerdictReject {
					got = "reject"
				}
				if k := slices.IndexFunc(verdict.Reasons, func(r mail.Reason) bool { return r.Weight == 3 }); k >= 0 {
					got += " dblist 3"
				}
				if got != tt.want {
					t.Errorf("got %s, want %s: %s", got, tt.want, texts(verdict))
				}
			})
		})
	}
}
