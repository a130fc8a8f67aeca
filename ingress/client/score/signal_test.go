package score

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestScore_Signals: what each signal says, and what is unheard.
func TestScore_Signals(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(w *fixture, v *visit)
		want    string // the reasons
		unheard string
	}{
		{"a proper mail server has nothing against it", func(w *fixture, v *visit) {}, "", ""},
		{"nor has one that comes over IPv6", func(w *fixture, v *visit) { v.addr = clientV6 }, "", ""},
		{"an IPv4-mapped address is one of IPv4", func(w *fixture, v *visit) {
			v.addr = netip.MustParseAddr("::ffff:203.0.113.9")
		}, "", ""},

		{"a list speaks with its weight and code", func(w *fixture, v *visit) {
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
		},
			"dnsbl 10: listed by zen.example (code 127.0.0.2)", ""},
		{"two lists add up, the heavier first", func(w *fixture, v *visit) {
			w.dns["list 9.113.0.203.half.example"] = "127.0.0.4"
			w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
		}, "dnsbl 10: listed by zen.example (code 127.0.0.2)\ndnsbl 4: listed by half.example (code 127.0.0.4)", ""},
		{"a list can speak for a client", func(w *fixture, v *visit) {
			w.dns["list 9.113.0.203.white.example"] = "127.0.5.1"
		},
			"dnswl -5: listed by white.example (code 127.0.5.1)", ""},
		{"a list that refuses to answer counts nothing", func(w *fixture, v *visit) {
			w.dns["list 9.113.0.203.zen.example"] = "127.255.255.254"
		},
			"", "dnsbl zen.example"},
		{"a list that fails counts nothing", func(w *fixture, v *visit) {
			w.err["list 9.113.0.203.zen.example"] = errDNS
		},
			"", "dnsbl zen.example"},
		{"the name in EHLO may be on a list of domains", func(w *fixture, v *visit) {
			w.dns["list mail.example.net.dbl.example"] = "127.0.1.2"
		},
			"domain-list 3: mail.example.net listed by dbl.example (code 127.0.1.2)", ""},
		{"and so may the sender's domain", func(w *fixture, v *visit) {
			w.dns["list example.net.dbl.example"] = "127.0.1.2"
		},
			"domain-list 3: example.net listed by dbl.example (code 127.0.1.2)", ""},
		{"a list of domains that fails counts nothing", func(w *fixture, v *visit) {
			w.err["list example.net.dbl.example"] = errDNS
		},
			"", "domain-list dbl.example"},

		{"bad karma weighs", func(w *fixture, v *visit) { w.facts.Address = mail.Karma{Score: -20, Votes: 10} },
			"karma 2.4: destinations refused mail of this client or its network as unwanted", ""},
		{"good karma speaks for a client", func(w *fixture, v *visit) {
			w.facts.Address = mail.Karma{Score: 40, Votes: 40}
		},
			"karma -1.6: destinations take the mail of this client and its network", ""},

		{"an address without a name", func(w *fixture, v *visit) { delete(w.dns, "PTR 203.0.113.9") },
			"no-ptr 2: the address has no name in reverse DNS", ""},
		{"reverse DNS that fails counts nothing", func(w *fixture, v *visit) { w.err["PTR"] = errDNS }, "", "fcrdns"},
		{"a name that leads elsewhere", func(w *fixture, v *visit) { w.dns["PTR 203.0.113.9"] = "other.example.net" },
			"fcrdns 1.5: its name other.example.net does not lead back to it", ""},
		{"a name that leads nowhere", func(w *fixture, v *visit) { w.dns["PTR 203.0.113.9"] = "gone.example.net" },
			"fcrdns 1.5: its name gone.example.net does not lead back to it", ""},
		{"a name that cannot be looked up counts nothing", func(w *fixture, v *visit) {
			w.dns["PTR 203.0.113.9"] = "other.example.net"
			w.err["A other.example.net"] = errDNS
		}, "", "fcrdns"},
		{"part of an answer is enough if the client is in it", func(w *fixture, v *visit) {
			w.dns["PTR 203.0.113.9"] = "part.example.net"
			w.dns["A part.example.net"] = "203.0.113.9"
			w.err["A part.example.net"] = errDNS
		}, "", ""},
		{"one of several names is enough", func(w *fixture, v *visit) {
			w.dns["PTR 203.0.113.9"] = "gone.example.net other.example.net mail.example.net"
		}, "", ""},
		{"also while others cannot be looked up", func(w *fixture, v *visit) {
			w.dns["PTR 203.0.113.9"] = "gone.example.net other.example.net mail.example.net"
			w.err["A other.example.net"] = errDNS
		}, "", ""},
		{"a failure among names that do not fit makes it unsure", func(w *fixture, v *visit) {
			w.dns["PTR 203.0.113.9"] = "gone.example.net other.example.net"
			w.err["A other.example.net"] = errDNS
		}, "", "fcrdns"},
		{"a name that is no host name", func(w *fixture, v *visit) { w.dns["PTR 203.0.113.9"] = `\"bad..name` },
			"fcrdns 1.5: its name in reverse DNS is no host name", ""},
		{"a generic name, even one that leads back", func(w *fixture, v *visit) {
			w.dns["PTR 203.0.113.9"] = "203-0-113-9.dsl.example.net"
			w.dns["A 203-0-113-9.dsl.example.net"] = "203.0.113.9"
		}, "generic-ptr 1.5: its name 203-0-113-9.dsl.example.net is made of its address", ""},
		{"a proper name beside a generic one", func(w *fixture, v *visit) {
			w.dns["PTR 203.0.113.9"] = "203-0-113-9.dsl.example.net mail.example.net"
		}, "", ""},

		{"an early talker", func(w *fixture, v *visit) {
			v.talks = true
		}, "early-talker 4: spoke before it was greeted", ""},

		{"a name of one label", func(w *fixture, v *visit) { v.helo = "localhost" },
			`helo-syntax 3: says "localhost" in EHLO, which is not a full domain name`, ""},
		{"an address without brackets", func(w *fixture, v *visit) { v.helo = "203.0.113.9" },
			"helo-syntax 3: says 203.0.113.9 in EHLO, an address without brackets", ""},
		{"an invalid name in EHLO", func(w *fixture, v *visit) { v.helo = "a..b\x1b[1m" },
			`helo-syntax 3: says "a..b?[1m" in EHLO, which is neither a domain name nor an address literal`, ""},
		{"a last label of digits", func(w *fixture, v *visit) { v.helo = "300.0.113.9" },
			`helo-syntax 3: says "300.0.113.9" in EHLO, which is neither a domain name nor an address literal`, ""},
		{"the client's address as a literal", func(w *fixture, v *visit) { v.helo = "[203.0.113.9]" }, "", ""},
		{"the same over IPv6", func(w *fixture, v *visit) {
			v.addr, v.helo = clientV6, "[IPv6:2001:db8:1:2::9]"
		}, "", ""},
		{"another address as a literal", func(w *fixture, v *visit) { v.helo = "[203.0.113.10]" },
			"helo-literal 3: says [203.0.113.10] in EHLO, which is not its address", ""},
		{"our own name", func(w *fixture, v *visit) { v.helo = "MX1.example.org." },
			"helo-self 5: says in EHLO that it is MX1.example.org., which is us", ""},
		{"our own address", func(w *fixture, v *visit) { v.helo = "[198.51.100.1]" },
			"helo-self 5: says in EHLO that it is [198.51.100.1], which is us", ""},
		{"our own name from our own address", func(w *fixture, v *visit) {
			v.addr, v.helo = ours, "mx1.example.org"
			w.dns["PTR 198.51.100.1"], w.dns["A mx1.example.org"] = "mx1.example.org", "198.51.100.1"
		}, "", ""},
		{"a name without an address", func(w *fixture, v *visit) { v.helo = "gone.example.net" },
			"helo-unresolved 2: says gone.example.net in EHLO, a name without an address", ""},
		{"a name with another address", func(w *fixture, v *visit) { v.helo = "other.example.net" },
			"helo-mismatch 0.5: says other.example.net in EHLO, which has another address", ""},
		{"a name with an address of the other family", func(w *fixture, v *visit) {
			v.addr, v.helo = clientV6, "other.example.net"
		}, "", ""},
		{"a name in EHLO that cannot be looked up counts nothing", func(w *fixture, v *visit) {
			v.helo, w.err["A gone.example.net"] = "gone.example.net", errDNS
		}, "", "helo"},
		{"a name in other letters is not looked up", func(w *fixture, v *visit) {
			v.helo = "пример.example"
		}, "", ""},

		{"a sender's domain with a null MX", func(w *fixture, v *visit) { w.dns["MX example.net"] = "." },
			"sender-null-mx 5: the sender's domain example.net has a null MX and takes no mail", ""},
		{"a sender's domain without an MX, but an address", func(w *fixture, v *visit) {
			w.dns["MX example.net"], w.dns["A example.net"] = "", "203.0.113.80"
		}, "", ""},
		{"a sender's domain with nothing", func(w *fixture, v *visit) { v.reverse = "a@gone.example.net" },
			"sender-domain 4: the sender's domain gone.example.net has neither an MX nor an address", ""},
		{"an MX that cannot be looked up counts nothing", func(w *fixture, v *visit) {
			w.err["MX"] = errDNS
		}, "", "sender-domain"},
		{"nor does an address that cannot be", func(w *fixture, v *visit) {
			v.reverse, w.err["A gone.example.net"] = "a@gone.example.net", errDNS
		}, "", "sender-domain"},
		{"the null sender has no domain", func(w *fixture, v *visit) {
			v.reverse, v.spf = "<>", spfResult{"none", "mail.example.net"}
		}, "", ""},
		{"a sender at an address literal", func(w *fixture, v *visit) { v.reverse = "a@[203.0.113.9]" }, "", ""},

		{"SPF fails", func(w *fixture, v *visit) { v.spf = spfResult{"fail", "example.net"} },
			"spf-fail 3: SPF of example.net says that it does not send for it", ""},
		{"SPF fails softly", func(w *fixture, v *visit) { v.spf = spfResult{"softfail", "example.net"} },
			"spf-softfail 1: SPF of example.net says that it should not send for it", ""},
		{"there is no SPF", func(w *fixture, v *visit) {
			v.spf = spfResult{"none", "example.net"}
		}, "spf-none 0.5: the sender's domain example.net has no SPF", ""},
		{"SPF cannot be read", func(w *fixture, v *visit) {
			v.spf = spfResult{"permerror", "example.net"}
		}, "spf-permerror 0.5: SPF of example.net cannot be read", ""},
		{"SPF is neutral", func(w *fixture, v *visit) { v.spf = spfResult{"neutral", "example.net"} }, "", ""},
		{"SPF that is not known counts nothing", func(w *fixture, v *visit) {
			v.spf = spfResult{"temperror", "example.net"}
		}, "", "spf"},
		{"SPF of the name in EHLO for the null sender", func(w *fixture, v *visit) {
			v.reverse, v.spf = "<>", spfResult{"fail", "mail.example.net"}
		},
			"spf-fail 3: SPF of mail.example.net says that it does not send for it", ""},
		{"no SPF is checked", func(w *fixture, v *visit) { v.spf = nil }, "", ""},

		{"an address that is not known has no signals of an address", func(w *fixture, v *visit) {
			v.addr, v.spf = netip.Addr{}, spfResult{"fail", "example.net"}
		}, "", ""},
		{"but its name in EHLO counts", func(w *fixture, v *visit) {
			v.addr, v.helo = netip.Addr{}, "gone.example.net"
		},
			"helo-unresolved 2: says gone.example.net in EHLO, a name without an address", ""},

		{"a store that fails counts nothing", func(w *fixture, v *visit) { w.storeErr = errDNS }, "", "store"},
		{"what a node knows by itself counts", func(w *fixture, v *visit) {
			w.facts = mail.Facts{Degraded: true, Address: mail.Karma{Score: -20, Votes: 10}}
		}, "karma 2.4: destinations refused mail of this client or its network as unwanted", "store"},
		{"lists are asked although the store fails", func(w *fixture, v *visit) {
			w.storeErr, w.dns["list 9.113.0.203.zen.example"] = errDNS, "127.0.0.2"
		}, "dnsbl 10: listed by zen.example (code 127.0.0.2)", "store"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, v := proper(), good()
			c.change(w, &v)
			cfg := w.config()
			cfg.Lists = w.lists(t)
			k, verdict := v.score(t, scorer(t, cfg))
			if got := texts(verdict); got != c.want {
				t.Errorf("reasons:\n%s\nwant:\n%s", got, c.want)
			}
			if got := strings.Join(k.Unheard(), ","); got != c.unheard {
				t.Errorf("unheard %q, want %q", got, c.unheard)
			}
			sum := 0.0
			for _, r := range verdict.Reasons {
				sum += r.Weight
			}
			if math.Abs(sum-verdict.Score) > 1e-6 {
				t.Errorf("score %v, and the reasons weigh %v", verdict.Score, sum)
			}
			if again := k.Verdict(t.Context()); texts(again) != texts(verdict) {
				t.Errorf("asked again:\n%s", texts(again))
			}
		})
	}
}

// TestDefaultWeights: no soft signal refuses or defers a client alone.
func TestDefaultWeights(t *testing.T) {
	for name, weight := range DefaultWeights() {
		if name == "karma" {
			weight *= 6 // the most that karma.Weight returns
		}
		if weight >= defaultDefer && name != "block" {
			t.Errorf("%s weighs %v, from %v on a client is deferred", name, weight, float64(defaultDefer))
		}
		if name == "block" && weight < 2*defaultReject {
			t.Errorf("block weighs %v", weight)
		}
	}
	// A small host whose administrator never looked at DNS or SPF.
	careless := 0.0
	for _, name := range []string{"no-ptr", "helo-syntax", "spf-none"} {
		careless += DefaultWeights()[name]
	}
	if careless >= defaultDefer {
		t.Errorf("a careless host is deferred with %v", careless)
	}
}

// TestScore_PrivateAddresses: private addresses have no signals of DNS.
func TestScore_PrivateAddresses(t *testing.T) {
	for _, addr := range []string{
		"10.0.0.9", "127.0.0.1", "100.64.3.4", "169.254.0.9", "192.168.1.2", "fd00::9", "fe80::9%eth0", "::1",
	} {
		w, v := proper(), good()
		cfg := w.config()
		cfg.Private = false
		v.addr, v.helo, v.spf = netip.MustParseAddr(addr), "[203.0.113.80]", nil
		if _, verdict := v.score(t, scorer(t, cfg)); len(verdict.Reasons) != 0 {
			t.Errorf("%s: %s", addr, texts(verdict))
		}
	}
}

// TestScore_ManyNames: at most ten names of an address are looked up.
func TestScore_ManyNames(t *testing.T) {
	w, v := proper(), visit{addr: client}
	var names []string
	for i := range 50 {
		names = append(names, "h"+strings.Repeat("x", i+1)+".example.net")
	}
	w.dns["PTR 203.0.113.9"] = strings.Join(names, " ")
	_, verdict := v.score(t, scorer(t, w.config()))
	if verdict.Score != 1.5 {
		t.Errorf("got %s", texts(verdict))
	}
	if got := w.count(); got != 1+maxPTR {
		t.Errorf("%d questions", got)
	}
}

// TestScorer_Weights: weights are configured by name.
func TestScorer_Weights(t *testing.T) {
	w, v := proper(), good()
	v.helo, v.spf = "localhost", spfResult{"fail", "example.net"}
	w.facts.Address = mail.Karma{Score: -20, Votes: 10}
	cfg := w.config()
	cfg.Weights = map[string]float64{"helo-syntax": 7.5, "spf-fail": 0, "karma": 2}
	_, verdict := v.score(t, scorer(t, cfg))
	if got, want := Signals(verdict), "helo-syntax 7.5, karma 5.333"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestScore_Sources has no source that is late and has no name, or lies where Explain keeps its locations.
func TestScore_Sources(t *testing.T) {
	here := fromEntries | fromTalk | fromHelo // known without a question
	var all source
	for _, info := range catalogue {
		all |= info.from
	}
	for from := source(1); from != 0; from <<= 1 {
		if all&from == 0 {
			continue
		}
		if from > lastSource || from >= locationOfAllow {
			t.Errorf("source %b is behind the last one", from)
		}
		if named := from.unheard() != "other"; named == (here&from != 0) {
			t.Errorf("source %b: named %t, known here %t", from, named, here&from != 0)
		}
	}
}
