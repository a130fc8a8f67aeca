package score

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestScore_Verdict: the action, the score and the reply by thresholds and entries.
func TestScore_Verdict(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *fixture, v *visit, c *Config)
		want   string // the action, the score and the reply
	}{
		{"nothing speaks", func(w *fixture, v *visit, c *Config) {}, "accept 0 "},
		{"below defer", func(w *fixture, v *visit, c *Config) {
			v.talks, v.spf = true, spfResult{"softfail", "example.net"}
		}, "accept 5 "},
		{"on a list of weight 10", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
		},
			"reject 10 554 5.7.1 203.0.113.9 listed by zen.example (code 127.0.0.2)"},
		{"on a list, and spoken for by another", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"], w.dns["list 9.113.0.203.white.example"] = "127.0.0.2", "127.0.5.1"
		}, "accept 5 "},
		{"deferred on a list", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.half.example"], w.dns["PTR 203.0.113.9"] = "127.0.0.2", ""
		},
			"defer 6 450 4.7.1 203.0.113.9 listed by half.example (code 127.0.0.2), try again later"},
		{"deferred for another reason", func(w *fixture, v *visit, c *Config) { v.talks, v.helo = true, "localhost" },
			"defer 7 450 4.7.1 203.0.113.9 deferred: spoke before it was greeted, try again later"},
		{"refused for many reasons", func(w *fixture, v *visit, c *Config) {
			v.talks, v.helo, v.spf = true, "localhost", spfResult{"fail", "example.net"}
		}, "reject 10 554 5.7.1 203.0.113.9 refused: spoke before it was greeted"},
		{"a name on a list is no address on one", func(w *fixture, v *visit, c *Config) {
			w.dns["list mail.example.net.dbl.example"], w.dns["list example.net.dbl.example"] = "127.0.1.2", "127.0.1.2"
			v.talks = true
			c.Weights = map[string]float64{"early-talker": 2.9}
			c.Defer, c.Reject = 5, 8.9
		},
			"reject 8.9 554 5.7.1 203.0.113.9 refused: example.net listed by dbl.example (code 127.0.1.2)"},
		{"refused without an address", func(w *fixture, v *visit, c *Config) {
			v.addr, v.helo, c.Defer, c.Reject = netip.Addr{}, "localhost", 3, 3
		},
			"reject 3 554 5.7.1 client refused: says \"localhost\" in EHLO, which is not a full domain name"},
		{"blocked by address", func(w *fixture, v *visit, c *Config) {
			c.Block = []Entry{{Client: "203.0.113.0/24", Why: "ask us first"}}
		},
			"reject 100 554 5.7.1 203.0.113.9 refused: 203.0.113.0/24 is blocked here: ask us first"},
		{"allowed by address, and on a list", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
			c.Allow = []Entry{{Client: "203.0.113.9"}}
		}, "accept -100 "},
		{"a longer prefix that allows wins", func(w *fixture, v *visit, c *Config) {
			c.Allow, c.Block = []Entry{{Client: "203.0.113.8/30"}}, []Entry{{Client: "203.0.113.0/24"}}
		}, "accept -100 "},
		{"a longer prefix that blocks wins", func(w *fixture, v *visit, c *Config) {
			c.Allow, c.Block = []Entry{{Client: "203.0.113.0/24"}}, []Entry{{Client: "203.0.113.9"}}
		}, "reject 100 554 5.7.1 203.0.113.9 refused: 203.0.113.9 is blocked here"},
		{"of the same prefix on both lists the one that allows wins", func(w *fixture, v *visit, c *Config) {
			c.Allow, c.Block = []Entry{{Client: "203.0.113.9"}}, []Entry{{Client: "203.0.113.9/32"}}
		}, "accept -100 "},
		{"blocked by its name in EHLO", func(w *fixture, v *visit, c *Config) {
			c.Block = []Entry{{Helo: "*.EXAMPLE.net"}}
		},
			"reject 100 554 5.7.1 203.0.113.9 refused: *.example.net is blocked here"},
		{"blocked by the sender's domain", func(w *fixture, v *visit, c *Config) {
			c.Block = []Entry{{Domain: "example.net"}}
		},
			"reject 100 554 5.7.1 203.0.113.9 refused: example.net is blocked here"},
		{"another domain is not blocked", func(w *fixture, v *visit, c *Config) {
			c.Block = []Entry{{Domain: "*.example.net"}}
		}, "accept 0 "},
		{"allowed by a name in EHLO that leads to it", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
			c.Allow = []Entry{{Helo: "mail.example.net"}}
		}, "accept -90 "},
		{"not allowed by a name in EHLO that leads elsewhere", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
			v.helo, c.Allow = "other.example.net", []Entry{{Helo: "other.example.net"}}
		}, "reject 10.5 554 5.7.1 203.0.113.9 listed by zen.example (code 127.0.0.2)"},
		{"allowed by its address as a literal", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
			v.helo, c.Allow = "[203.0.113.9]", []Entry{{Helo: "[203.0.113.*]"}}
		}, "accept -90 "},
		{"not allowed by another address as a literal", func(w *fixture, v *visit, c *Config) {
			v.helo, c.Allow = "[203.0.113.10]", []Entry{{Helo: "[203.0.113.*]"}}
		}, "accept 3 "},
		{"allowed by a domain for which SPF passes", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
			c.Allow = []Entry{{Domain: "EXAMPLE.NET"}}
		}, "accept -90 "},
		{"not allowed by a domain for which it does not", func(w *fixture, v *visit, c *Config) {
			v.spf, c.Allow = spfResult{"softfail", "example.net"}, []Entry{{Domain: "example.net"}}
		}, "accept 1 "},
		{"allowed by a name although the domain is blocked", func(w *fixture, v *visit, c *Config) {
			c.Allow, c.Block = []Entry{{Helo: "mail.example.net"}}, []Entry{{Domain: "example.net"}}
		}, "accept 0 "},
		{"blocked by address whatever the name", func(w *fixture, v *visit, c *Config) {
			c.Allow, c.Block = []Entry{{Helo: "mail.example.net"}}, []Entry{{Client: "203.0.113.9"}}
		}, "reject 100 554 5.7.1 203.0.113.9 refused: 203.0.113.9 is blocked here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, v := proper(), good()
			cfg := w.config()
			cfg.Lists = w.lists(t)
			c.change(w, &v, &cfg)
			k, verdict := v.score(t, scorer(t, cfg))
			reply := ""
			if r := k.Refusal(verdict); r != nil {
				reply = r.Reply.String()
			}
			if got := verdict.Action.String() + " " + number(verdict.Score) + " " + reply; got != c.want {
				t.Errorf("got  %s\nwant %s\nfor %s", got, c.want, Signals(verdict))
			}
		})
	}
}

// TestScore_Refusal: the cause of a refusal has all reasons, for the administrator.
func TestScore_Refusal(t *testing.T) {
	w, v := proper(), good()
	v.talks, v.helo, v.spf = true, "localhost", spfResult{"fail", "example.net"}
	k, verdict := v.score(t, scorer(t, w.config()))
	r := k.Refusal(verdict)
	if want := "score 10: early-talker 4, helo-syntax 3, spf-fail 3"; r.Reason != "early-talker" ||
		r.Cause.Error() != want {
		t.Errorf("reason %q, cause %q", r.Reason, r.Cause)
	}
}

// TestScore_EntryDecides: if an entry about the address decides, nothing else is asked.
func TestScore_EntryDecides(t *testing.T) {
	for _, list := range []string{"allow", "block"} {
		w, v := proper(), good()
		cfg := w.config()
		cfg.Lists, cfg.Limits = w.lists(t), limits(t)
		entry := []Entry{{Client: "203.0.113.9"}}
		if list == "allow" {
			cfg.Allow = entry
		} else {
			cfg.Block = entry
		}
		v.score(t, scorer(t, cfg))
		if len(w.asked) != 0 {
			t.Errorf("%s: asked %q", list, w.asked)
		}
		if len(w.query.Rates) != 1 || len(w.query.Lists) != 0 {
			t.Errorf("%s: the store was asked %+v", list, w.query)
		}
	}
}

// TestScore_Transactions: each transaction of a session has signals of its own.
func TestScore_Transactions(t *testing.T) {
	w := proper()
	k := scorer(t, w.config()).Connect(t.Context(), Client{Addr: client})
	defer k.Close()
	k.Helo("gone.example.net")
	k.Helo("localhost")
	k.Mail(path("a@gone.example.net"), spfResult{"fail", "gone.example.net"})
	if got, want := Signals(k.Verdict(t.Context())), "sender-domain 4, helo-syntax 3, spf-fail 3"; got != want {
		t.Errorf("first transaction: %q, want %q", got, want)
	}
	k.Helo("mail.example.net")
	k.Mail(path("a@example.net"), spfResult{"softfail", "example.net"})
	if got, want := Signals(k.Verdict(t.Context())), "spf-softfail 1"; got != want {
		t.Errorf("second transaction: %q, want %q", got, want)
	}
	before := w.count()
	k.Helo("mail.example.net") // as after STARTTLS
	k.Mail(mail.Path{}, nil)
	if got := Signals(k.Verdict(t.Context())); got != "" {
		t.Errorf("third transaction: %q", got)
	}
	if now := w.count(); now != before {
		t.Errorf("the same name was looked up again: %q", w.asked[before:])
	}
}

// TestScore_Allowed: to be allowed by a domain ends with the transaction.
func TestScore_Allowed(t *testing.T) {
	w := proper()
	cfg := w.config()
	cfg.Allow = []Entry{{Domain: "example.net"}}
	k := scorer(t, cfg).Connect(t.Context(), Client{Addr: client})
	defer k.Close()
	k.Mail(path("a@example.net"), spfResult{"pass", "example.net"})
	k.Verdict(t.Context())
	if k.Allowed() != DefaultPurposes {
		t.Error("not allowed in the transaction")
	}
	k.Mail(path("a@example.org"), spfResult{"pass", "example.org"})
	k.Verdict(t.Context())
	if k.Allowed() != 0 {
		t.Error("allowed in the next")
	}
}

// What an entry of the allow list says it is for is what it counts for.
func TestScore_AllowedFor(t *testing.T) {
	const score, dmarc, places = ForScore, ForDMARC, ForPlaces
	for _, c := range []struct {
		name  string
		allow []Entry
		block []Entry
		want  Purposes
	}{
		{"what says nothing is for places and score", []Entry{{Client: "203.0.113.9"}}, nil, places | score},
		{"dmarc alone", []Entry{{Client: "203.0.113.0/24", For: dmarc}}, nil, dmarc},
		{"score and dmarc", []Entry{{Client: "203.0.113.0/24", For: score | dmarc}}, nil, score | dmarc},
		{"a closer entry takes nothing from a wider one",
			[]Entry{{Client: "203.0.113.0/24"}, {Client: "203.0.113.9", For: dmarc}}, nil, places | score | dmarc},
		{"two entries of one network add up",
			[]Entry{{Client: "203.0.113.9", For: score}, {Client: "203.0.113.9", For: dmarc}}, nil, score | dmarc},
		{"a closer one that blocks does",
			[]Entry{{Client: "203.0.113.0/24", For: dmarc}}, []Entry{{Client: "203.0.113.9"}}, 0},
		{"a name that leads to the client", []Entry{{Helo: "mail.example.net", For: dmarc}}, nil, dmarc},
		{"a domain for which SPF passes", []Entry{{Domain: "example.net", For: dmarc}}, nil, dmarc},
		{"another domain", []Entry{{Domain: "example.org", For: dmarc}}, nil, 0},
	} {
		w, v := proper(), good()
		w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
		cfg := w.config()
		cfg.Lists, cfg.Allow, cfg.Block = w.lists(t), c.allow, c.block
		k, verdict := v.score(t, scorer(t, cfg))
		if got := k.Allowed(); got != c.want {
			t.Errorf("%s: allowed for %b, want %b", c.name, got, c.want)
		}
		if accepted := verdict.Action == mail.VerdictAccept; accepted != (c.want&score != 0) {
			t.Errorf("%s: %v of a client that is on a list", c.name, verdict.Action)
		}
	}
}

// TestScore_Facts: facts and rates come from the store.
func TestScore_Facts(t *testing.T) {
	w, v := proper(), good()
	w.facts = mail.Facts{
		KnownGood: []string{"example.net"}, Address: mail.Karma{Score: 1, Votes: 2},
		Network: mail.Senders{{Sender: "example.net", Karma: mail.Karma{Score: 3, Votes: 4}}},
		Rates:   []mail.RateResult{{RetryAfter: 90 * time.Second}},
	}
	cfg := w.config()
	cfg.Limits = limits(t)
	k, _ := v.score(t, scorer(t, cfg))
	if f := k.Facts(); !k.KnownGood() || len(f.KnownGood) != 1 || f.Address != w.facts.Address ||
		f.Network.Of("example.net") != w.facts.Network[0].Karma {
		t.Errorf("got %+v", f)
	}
	want := "450 4.7.1 Too many connections from 203.0.113.9, try again in 90 seconds"
	if r := k.Limited(); r == nil || r.Reply.String() != want {
		t.Errorf("got %v, want %s", r, want)
	}
	if len(w.query.Rates) != 1 || w.query.Rates[0].Peek {
		t.Errorf("asked for %+v", w.query.Rates)
	}
}

// TestScore_Grey: which mail is to be greylisted.
func TestScore_Grey(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *fixture, v *visit, c *Config)
		want   bool
	}{
		{"within the band", func(w *fixture, v *visit, c *Config) {}, true},
		{"at its end", func(w *fixture, v *visit, c *Config) { c.Grey.To = 3 }, false},
		{"below it", func(w *fixture, v *visit, c *Config) { c.Grey.From = 3.5 }, false},
		{"no band", func(w *fixture, v *visit, c *Config) { c.Grey = Band{} }, false},
		{"deferred", func(w *fixture, v *visit, c *Config) { c.Defer = 2 }, false},
		{"known good for its domain", func(w *fixture, v *visit, c *Config) {
			w.facts.KnownGood = []string{"example.net"}
		}, false},
		{"known good for its domain, of which SPF fails", func(w *fixture, v *visit, c *Config) {
			w.facts.KnownGood, v.spf = []string{"example.net"}, spfResult{"neutral", "example.net"}
		}, true},
		{"known good for another domain, and for mail without SPF", func(w *fixture, v *visit, c *Config) {
			w.facts.KnownGood = []string{"other.example", ""}
		}, true},
		{"without SPF, known good for such mail", func(w *fixture, v *visit, c *Config) {
			w.facts.KnownGood, v.spf = []string{""}, spfResult{"neutral", "example.net"}
		}, false},
		{"allowed", func(w *fixture, v *visit, c *Config) { c.Allow = []Entry{{Domain: "example.net"}} }, false},
		{"the store cannot tell whether it is known good", func(w *fixture, v *visit, c *Config) {
			w.facts.Degraded = true
		}, false},
		{"the store fails", func(w *fixture, v *visit, c *Config) { w.storeErr = errDNS }, false},
		{"there is no store", func(w *fixture, v *visit, c *Config) { c.Store = nil }, true},
		{"the address is not known", func(w *fixture, v *visit, c *Config) { v.addr = netip.Addr{} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, v := proper(), good()
			cfg := w.config()
			cfg.Grey = Band{2, 5}
			v.helo = "localhost"
			c.change(w, &v, &cfg)
			k, verdict := v.score(t, scorer(t, cfg))
			if got := k.Grey(verdict); got != c.want {
				t.Errorf("got %t with %s", got, Signals(verdict))
			}
		})
	}
}

// TestScore_Tarpit: how long refusals are held back.
func TestScore_Tarpit(t *testing.T) {
	w := proper()
	cfg := w.config()
	cfg.Tarpit, cfg.tune.tarpits = 25*time.Second, 1
	s := scorer(t, cfg)
	first, verdict := good().score(t, s)
	if d := first.Tarpit(verdict); d != 0 {
		t.Errorf("an accepted client is held back %s", d)
	}
	verdict.Action = mail.VerdictReject
	for i, want := range []time.Duration{25 * time.Second, 25 * time.Second, 10 * time.Second, 0, 0} {
		if d := first.Tarpit(verdict); d != want {
			t.Errorf("refusal %d is held back %s, want %s", i, d, want)
		}
	}
	second, _ := good().score(t, s)
	if d := second.Tarpit(verdict); d != 0 || s.HeldBack() != 1 {
		t.Errorf("a second connection is held back %s, and %d are", d, s.HeldBack())
	}
	first.Close()
	first.Close()
	verdict.Action = mail.VerdictDefer
	if d := second.Tarpit(verdict); d != 25*time.Second || s.HeldBack() != 1 {
		t.Errorf("after the first has gone it is held back %s, and %d are", d, s.HeldBack())
	}
	second.Close()
	if s.HeldBack() != 0 {
		t.Errorf("%d are held back", s.HeldBack())
	}
}

// TestScore_Greeting: how long the greeting is held back, and from which client.
func TestScore_Greeting(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(w *fixture, v *visit, c *Config)
		want   string
	}{
		{"an unknown client waits", func(w *fixture, v *visit, c *Config) {}, "6s"},
		{"no client waits if Greet is 0", func(w *fixture, v *visit, c *Config) { c.Greet = 0 }, "0s"},
		{"a client that is known good does not", func(w *fixture, v *visit, c *Config) {
			w.facts.KnownGood = []string{"example.net"} // of which nothing is said yet
		}, "0s"},
		{"nor one that is allowed", func(w *fixture, v *visit, c *Config) {
			c.Allow = []Entry{{Client: "203.0.113.9"}}
		}, "0s"},
		{"nor one whose address is not known", func(w *fixture, v *visit, c *Config) { v.addr = netip.Addr{} }, "0s"},
		{"nor any client if the store fails", func(w *fixture, v *visit, c *Config) { w.storeErr = errDNS }, "0s"},
		{"nor any if the shared store fails", func(w *fixture, v *visit, c *Config) { w.facts.Degraded = true }, "0s"},
		{"without a store all are unknown", func(w *fixture, v *visit, c *Config) { c.Store = nil }, "6s"},
		{"a list alone does not refuse by the greeting", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
		}, "6s"},
		{"unless reject_at is connect", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.zen.example"], c.RejectAt = "127.0.0.2", RejectAtConnect
		}, "554 5.7.1 203.0.113.9 listed by zen.example (code 127.0.0.2)"},
		{"a client that is only deferred is greeted", func(w *fixture, v *visit, c *Config) {
			w.dns["list 9.113.0.203.half.example"], w.dns["PTR 203.0.113.9"] = "127.0.0.2", ""
			c.RejectAt = RejectAtConnect
		}, "6s"},
		{"a client that is blocked by address is refused", func(w *fixture, v *visit, c *Config) {
			c.Block, c.RejectAt = []Entry{{Client: "203.0.113.9"}}, RejectAtConnect
		}, "554 5.7.1 203.0.113.9 refused: 203.0.113.9 is blocked here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, v := proper(), good()
			cfg := w.config()
			cfg.Lists, cfg.Greet = w.lists(t), 6*time.Second
			c.change(w, &v, &cfg)
			k := scorer(t, cfg).Connect(t.Context(), Client{Addr: v.addr})
			defer k.Close()
			delay, err := k.Greeting(t.Context())
			got := delay.String()
			var r *mail.Refusal
			if errors.As(err, &r) {
				got = r.Reply.String()
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestScore_Close: a closed Score waits for nothing.
func TestScore_Close(t *testing.T) {
	w := proper()
	w.err[""] = errHangs
	cfg := w.config()
	cfg.Deadline = time.Minute
	k := scorer(t, cfg).Connect(context.Background(), Client{Addr: client})
	k.Helo("mail.example.net")
	k.Mail(path("a@example.net"), spfHang{})
	k.Close()
	k.Helo("other.example.net")
	k.Mail(path("a@example.org"), spfHang{})
	if v := k.Verdict(context.Background()); v.Action != mail.VerdictAccept {
		t.Errorf("got %s", Signals(v))
	}
	if _, err := k.Greeting(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestScore_Explain: there is a line for every signal.
func TestScore_Explain(t *testing.T) {
	w, v := proper(), good()
	w.facts = mail.Facts{
		KnownGood: []string{"example.net", ""}, Rates: []mail.RateResult{{Allowed: true}},
		Lists: make([]mail.ListAnswer, 3),
	}
	w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
	w.dns["list 9.113.0.203.half.example"] = "127.0.0.4"
	w.err["MX"] = errDNS
	cfg := w.config()
	cfg.Lists, cfg.Limits = w.lists(t), limits(t)
	cfg.Block = []Entry{{Domain: "example.net", Location: "block.txt:7"}}
	s := scorer(t, cfg)
	k := s.Look(t.Context(), Client{Addr: client})
	defer k.Close()
	v.to(k)
	k.Verdict(t.Context())
	var got []string
	for _, l := range k.Explain() {
		got = append(got, l.Name+" "+l.State.String()+" "+number(l.Weight)+" "+l.Text)
	}
	want := []string{
		"allow silent 0 no entry about the address",
		"block spoke 100 example.net is blocked here (block.txt:7)",
		"dnsbl spoke 10 listed by zen.example (code 127.0.0.2)",
		"dnsbl spoke 4 listed by half.example (code 127.0.0.4)",
		"dnswl silent 0 not listed",
		"domain-list silent 0 not listed",
		"karma silent 0 known good for example.net, mail without a passing SPF",
		"no-ptr silent 0 its name mail.example.net leads back to it",
		"fcrdns silent 0 its name mail.example.net leads back to it",
		"generic-ptr silent 0 its name mail.example.net leads back to it",
		"early-talker silent 0 did not speak before it was greeted",
		"helo-syntax silent 0 its name in EHLO is well formed and not ours",
		"helo-self silent 0 its name in EHLO is well formed and not ours",
		"helo-literal silent 0 its name in EHLO is well formed and not ours",
		"helo-unresolved silent 0 mail.example.net leads to the client",
		"helo-mismatch silent 0 mail.example.net leads to the client",
		"sender-null-mx unheard 0 could not be known in time",
		"sender-domain unheard 0 could not be known in time",
		"spf-fail silent 0 SPF of example.net is pass",
		"spf-softfail silent 0 SPF of example.net is pass",
		"spf-none silent 0 SPF of example.net is pass",
		"spf-permerror silent 0 SPF of example.net is pass",
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
	if q := w.query; q.Lock != 0 || len(q.Rates) != 1 || !q.Rates[0].Peek {
		t.Errorf("the store was asked %+v", q)
	}
	for _, c := range append(s.Spoke(), s.Unheard()...) {
		if c.Count != 0 {
			t.Errorf("%s was counted", c.Name)
		}
	}
}

// TestScore_ExplainSkipped: a signal that was not asked says why.
func TestScore_ExplainSkipped(t *testing.T) {
	w := proper()
	for _, c := range []struct {
		name string
		addr netip.Addr
		cfg  func(*Config)
		want map[string]string
	}{
		{
			"only an address", client, func(*Config) {},
			map[string]string{
				"helo-syntax": "no name in EHLO was given", "spf-fail": "no reverse-path was given",
				"dnsbl": "not asked",
			},
		},
		{
			"no address", netip.Addr{}, func(*Config) {},
			map[string]string{
				"fcrdns": "the client's address is not known", "karma": "the client's address is not known",
			},
		},
		{"an entry is for something else", client, func(c *Config) {
			c.Allow = []Entry{{Client: "203.0.113.9", For: ForDMARC}}
		}, map[string]string{"allow": "what is allowed of the address is not the score"}},
		{"an entry has decided", client, func(c *Config) {
			c.Allow = []Entry{{Client: "203.0.113.9"}}
		}, map[string]string{
			"allow":  "203.0.113.9 is allowed here (allow[0])",
			"fcrdns": "not asked: an entry about the address has decided",
		}},
	} {
		cfg := w.config()
		c.cfg(&cfg)
		k := scorer(t, cfg).Look(t.Context(), Client{Addr: c.addr})
		k.Verdict(t.Context())
		for _, l := range k.Explain() {
			if want, ok := c.want[l.Name]; ok && l.Text != want {
				t.Errorf("%s: %s says %q, want %q", c.name, l.Name, l.Text, want)
			}
		}
		k.Close()
	}
}

// TestScorer_Counts: how often signals spoke and sources were missed is counted.
func TestScorer_Counts(t *testing.T) {
	w, v := proper(), good()
	w.err["PTR"] = errDNS
	v.helo, v.talks = "localhost", true
	s := scorer(t, w.config())
	v.score(t, s)
	v.score(t, s)
	got := map[string]uint64{}
	for _, c := range append(s.Spoke(), s.Unheard()...) {
		got[c.Name] += c.Count
	}
	for name, want := range map[string]uint64{
		"helo-syntax": 2, "early-talker": 2, "fcrdns": 2, "spf": 0, "store": 0, "karma": 0,
	} {
		if n, ok := got[name]; !ok || n != want {
			t.Errorf("%s: %d, want %d", name, n, want)
		}
	}
}
