package router

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/srs"
)

const (
	keyA = "the key that was current before.."
	keyB = "the key that is current now......"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func keys(list ...string) func() ([][]byte, error) {
	return func() ([][]byte, error) {
		var out [][]byte
		for _, k := range list {
			out = append(out, []byte(k))
		}
		return out, nil
	}
}

// rewritten returns the address that a reverse-path has with a key on a day, which opens to bounces.
func rewritten(t *testing.T, key, reverse string, made time.Time) string {
	t.Helper()
	return rewrittenAs(t, key, reverse, made, mail.OpensToBounces)
}

// from is the network of the clients.
var from = netip.MustParsePrefix("192.0.2.0/24")

func rewrittenAs(t *testing.T, key, reverse string, made time.Time, opens mail.Opens) string {
	t.Helper()
	w, err := srs.New(srs.Config{Domain: "srs.example.net", Keys: [][]byte{[]byte(key)}, Now: func() time.Time {
		return made
	}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.Forward(query(t, reverse).Forward, opens, from)
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

const srsRules = `domain hosted.example
domain always.example srs=always
domain never.example srs=never
fwd@hosted.example x@t.example
two@hosted.example x@t.example, y@t.example
alias@hosted.example fwd@hosted.example
both@hosted.example x@t.example, x@t.example
fixed@hosted.example smtp://192.0.2.7
smarthost@hosted.example submission://u@smarthost.example lend=anybody
lmtp@hosted.example lmtp://192.0.2.7
unix@hosted.example lmtp+unix:/run/lmtp
trap@hosted.example drop
odd@hosted.example x@t.example srs=never
fwd@always.example x@t.example
fixed@always.example smtp://192.0.2.7
lmtp@always.example lmtp://192.0.2.7
fwd@never.example x@t.example
yes@never.example x@t.example srs=always
`

func srsConfig() Config {
	cfg := testConfig("routes.txt")
	cfg.Text = srsRules
	cfg.SRSKeys = keys(keyB, keyA)
	cfg.HasCredentials = func(string, string, uint16) bool { return true }
	cfg.Now = func() time.Time { return noon }
	return cfg
}

func newRouter(t *testing.T, cfg Config) *Router {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRouter_Rewrite: reverse-paths are rewritten where their policy says so.
func TestRouter_Rewrite(t *testing.T) {
	r := newRouter(t, srsConfig())
	const alice = "alice@sender.example"
	long := strings.Repeat("a", mail.MaxLocal-20) + "@sender.example"
	other := "SRS0=abcd=JL=sender.example=alice@forwarder.example"
	tests := []struct {
		name, from, to string
		trusted        bool
		rewritten      bool
		remark         string
	}{
		{"forwarded by MX", alice, "fwd@hosted.example", false, true, ""},
		{"to several mailboxes of one next hop", alice, "two@hosted.example", false, true, ""},
		{"by an alias", alice, "alias@hosted.example", false, true, ""},
		{"for a trusted client, by a rule", alice, "fwd@hosted.example", true, true, ""},
		{"to the postmaster elsewhere", alice, "postmaster@hosted.example", false, true, ""},
		{"to the postmaster without a domain", alice, "Postmaster", false, true, ""},
		{"by always, to MX", alice, "fwd@always.example", false, true, ""},
		{"by always, to a fixed next hop", alice, "fixed@always.example", false, true, ""},
		{"by always, to LMTP", alice, "lmtp@always.example", false, true, ""},
		{"by a rule's always in a domain with never", alice, "yes@never.example", false, true, ""},
		{"rewritten by another forwarder", other, "fwd@hosted.example", false, true, ""},
		{"a non-ASCII one", "größe@sender.example", "fwd@hosted.example", false, true, ""},

		{"the null one", "", "fwd@hosted.example", false, false, ""},
		{"the null one, by always", "", "fixed@always.example", false, false, ""},
		{"one in a hosted domain", "bob@Hosted.EXAMPLE", "fwd@hosted.example", false, false, ""},
		{"one in a hosted domain, by always", "bob@hosted.example", "fwd@always.example", false, false, ""},
		{"one at our own name", "ops@mx1.example.net", "fwd@hosted.example", false, false, ""},
		{
			"one at the SRS domain", "SRS0=SLDBQZPI=JL=sender.example=alice@srs.example.net", "fwd@hosted.example",
			false, false, "",
		},
		{"to a fixed next hop", alice, "fixed@hosted.example", false, false, ""},
		{"to a smarthost", alice, "smarthost@hosted.example", false, false, ""},
		{"to LMTP", alice, "lmtp@hosted.example", false, false, ""},
		{"to LMTP over a unix socket", alice, "unix@hosted.example", false, false, ""},
		{"by never", alice, "fwd@never.example", false, false, ""},
		{"by a rule's never", alice, "odd@hosted.example", false, false, ""},
		{"dropped", alice, "trap@hosted.example", false, false, ""},
		{"relayed for a trusted client", alice, "bob@t.example", true, false, ""},
		{"one that is too long", long, "fwd@hosted.example", false, false, RemarkSRSTooLong},
		{"one without a domain", "Postmaster", "fwd@hosted.example", false, false, RemarkSRSNoDomain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := query(t, tt.to)
			q.Trusted = tt.trusted
			if tt.from != "" {
				q.Reverse = query(t, tt.from).Forward
			}
			routes, err := r.Route(q)
			if err != nil || len(routes) != 1 {
				t.Fatalf("%v, %v", routes, err)
			}
			if got := routes[0]; got.Reverse != q.Reverse || got.Rewrite != (tt.rewritten || tt.remark != "") ||
				got.Alone || got.Rates != nil {
				t.Errorf("got %+v", got)
			}
			for _, opens := range []mail.Opens{mail.OpensToNone, mail.OpensToReports, mail.OpensToBounces} {
				if !routes[0].Rewrite {
					continue
				}
				want := tt.from
				if tt.rewritten {
					want = rewrittenAs(t, keyB, tt.from, noon, opens)
				}
				q.Client = from
				if got, remark := r.Rewrite(q, opens); got.String() != want || remark != tt.remark {
					t.Errorf("got %s and %q, want %s", got, remark, want)
				}
			}
			steps, same, err := r.Explain(q)
			if err != nil || same[0].Reverse != routes[0].Reverse {
				t.Errorf("Explain returns %v, %v", same, err)
			}
			explained := strings.Contains(strings.Join(steps, "\n"), "the reverse-path")
			if explained != (tt.rewritten || tt.remark != "") {
				t.Errorf("steps %q", steps)
			}
		})
	}
}

// TestRouter_NoKeys: without keys no reverse-path is rewritten.
func TestRouter_NoKeys(t *testing.T) {
	cfg := srsConfig()
	cfg.SRSKeys = nil
	r := newRouter(t, cfg)
	q := query(t, "fwd@hosted.example")
	q.Reverse = query(t, "alice@sender.example").Forward
	routes, err := r.Route(q)
	if err != nil || routes[0].Reverse != q.Reverse || routes[0].Rewrite {
		t.Errorf("%v, %v", routes, err)
	}
	if got, _ := r.Rewrite(q, mail.OpensToBounces); got != q.Reverse {
		t.Errorf("after the keys went: %s", got)
	}
	_, err = r.Route(query(t, rewritten(t, keyB, "alice@sender.example", noon)))
	if got := mail.ReplyFor(err); got.Code != 550 || got.Enhanced != (mail.EnhancedCode{Subject: 1, Detail: 1}) {
		t.Errorf("a rewritten address: %v", err)
	}
}

// TestRouter_Bounce: a bounce to a rewritten reverse-path goes to the original one.
func TestRouter_Bounce(t *testing.T) {
	cfg := srsConfig()
	cfg.Text += "@srs.example.net catchall@t.example\n"
	r := newRouter(t, cfg)
	for _, tt := range []struct{ name, to, forward, hop string }{
		{
			"with the current key", rewritten(t, keyB, "alice@Sender.example", noon), "alice@Sender.example",
			"mx:sender.example",
		},
		{
			"with the previous key", rewritten(t, keyA, "alice@sender.example", noon.AddDate(0, 0, -10)),
			"alice@sender.example", "mx:sender.example",
		},
		{
			"in small letters", strings.ToLower(rewritten(t, keyB, "alice@sender.example", noon)),
			"alice@sender.example", "mx:sender.example",
		},
		{
			"at the domain in capitals",
			strings.Replace(rewritten(t, keyB, "alice@sender.example", noon), "srs.example.net", "SRS.EXAMPLE.NET", 1),
			"alice@sender.example", "mx:sender.example",
		},
		{
			"behind a source route", "@x.example:" + rewritten(t, keyB, "alice@sender.example", noon),
			"alice@sender.example", "mx:sender.example",
		},
		{
			"behind a source route of two hosts", "@x.example,@y.example:" +
				rewritten(t, keyB, "alice@sender.example", noon), "alice@sender.example", "mx:sender.example",
		},
		{
			"put into quotes", `"` + strings.Replace(rewritten(t, keyB, "alice@sender.example", noon), "@", `"@`, 1),
			`"alice"@sender.example`, "mx:sender.example",
		},
		{"quoted", rewritten(t, keyB, `"a b"@sender.example`, noon), `"a b"@sender.example`, "mx:sender.example"},
		{"with dots", rewritten(t, keyB, `"a..b."@sender.example`, noon), `"a..b."@sender.example`,
			"mx:sender.example"},
		{
			"with what reads as a route", rewritten(t, keyB, `a%b@sender.example`, noon), `a%b@sender.example`,
			"mx:sender.example",
		},
		{"to the first forwarder only", rewritten(t, keyB, "SRS0=abcd=JL=sender.example=alice@first.example", noon),
			"SRS0=abcd=JL=sender.example=alice@first.example", "mx:first.example"},
		{
			"to a U-label", rewritten(t, keyB, "alice@bücher.example", noon), "alice@bücher.example",
			"mx:xn--bcher-kva.example",
		},
		{"to an address literal", rewritten(t, keyB, "alice@[192.0.2.9]", noon), "alice@[192.0.2.9]", "mx:[192.0.2.9]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes, err := r.Route(query(t, tt.to))
			if err != nil || len(routes) != 1 {
				t.Fatalf("%v, %v", routes, err)
			}
			got := routes[0]
			if !got.Reverse.IsNull() || len(got.Forwards) != 1 || got.Forwards[0].String() != tt.forward ||
				got.NextHop.String() != tt.hop {
				t.Errorf("got %+v", got)
			}
			if !got.Alone || !got.Rewrote || got.Policy.UpstreamText != mail.UpstreamTextFull ||
				got.Rule.Pattern != "srs" || got.Reports || got.Policy.DMARC != mail.DMARCEnforce {
				t.Errorf("got %+v", got)
			}
			steps, _, err := r.Explain(query(t, tt.to))
			want := "it stands for <" + tt.forward + "> and opens to bounces"
			if err != nil || !strings.Contains(strings.Join(steps, "\n"), want) {
				t.Errorf("steps %q, %v", steps, err)
			}
		})
	}
}

// TestRouter_BounceReports: an address that opens to reports alone says so, and takes three in its life.
func TestRouter_BounceReports(t *testing.T) {
	r := newRouter(t, srsConfig())
	to := rewrittenAs(t, keyB, "alice@sender.example", noon, mail.OpensToReports)
	routes, err := r.Route(query(t, to))
	if err != nil || len(routes) != 1 || !routes[0].Reports ||
		routes[0].Forwards[0].String() != "alice@sender.example" {
		t.Fatalf("%v, %v", routes, err)
	}
	// One comes back after 31 days, when the address has long expired.
	if got := routes[0].Rates[0]; got.Burst != 3 || got.Count != 1 || got.Per != 31*24*time.Hour ||
		got.Per < srs.Validity {
		t.Errorf("it is counted as %+v", got)
	}
	steps, _, err := r.Explain(query(t, to))
	if err != nil || !strings.Contains(strings.Join(steps, "\n"),
		"it stands for <alice@sender.example> and opens to reports") {
		t.Errorf("steps %q, %v", steps, err)
	}
}

// TestRouter_BounceRate: spellings of one rewritten address have one counter, its domain has another one for each
// network, and what is refused is counted apart.
func TestRouter_BounceRate(t *testing.T) {
	r := newRouter(t, srsConfig())
	plain := rewritten(t, keyB, "Alice@sender.example", noon)
	local, _, _ := strings.Cut(plain, "@")
	rates := func(to string) (taken, refused []mail.Rate) {
		t.Helper()
		q := query(t, to)
		q.Client = from
		routes, err := r.Route(q)
		if err != nil || len(routes[0].Rates) != 2 || len(routes[0].RefusedRates) != 2 {
			t.Fatalf("%s: %v, %v", to, routes, err)
		}
		barren := routes[0].BarrenRates
		for i, want := range []int{20 * 20, 20 * 100} {
			if len(barren) != 2 || barren[i].Name != "srs barren" || barren[i].Count != want ||
				barren[i].Group != routes[0].Rates[i].Group {
				t.Errorf("%s without a message is counted as %+v", to, barren)
			}
		}
		return routes[0].Rates, routes[0].RefusedRates
	}
	first, _ := rates(plain)
	name := first[0].Group
	for _, to := range []string{
		plain, strings.ToUpper(plain), strings.ToLower(plain), `"` + local + `"@srs.example.net`,
		`"` + local[:4] + `\` + local[4:] + `"@SRS.example.net`,
	} {
		taken, refused := rates(to)
		for i, rate := range []mail.Rate{taken[0], refused[0]} {
			if rate.Group != name || rate.Name != []string{"srs", "srs refused"}[i] || rate.Count != 20 ||
				rate.Per != 24*time.Hour || rate.Burst != 0 || rate.Peek || rate.Client.IsValid() {
				t.Errorf("%s is counted as %+v", to, rate)
			}
		}
		for i, rate := range []mail.Rate{taken[1], refused[1]} {
			if rate.Group != "sender.example" || rate.Name != []string{"srs", "srs refused"}[i] || rate.Count != 100 ||
				rate.Per != 24*time.Hour || rate.Client != from {
				t.Errorf("the domain of %s is counted as %+v", to, rate)
			}
		}
	}
	if other, _ := rates(rewritten(t, keyB, "bob@sender.example", noon)); other[0].Group == name {
		t.Errorf("another address is counted as %+v", other)
	}
}

// TestRouter_BounceRefused: what is no bounce to a rewritten address is refused.
func TestRouter_BounceRefused(t *testing.T) {
	r := newRouter(t, srsConfig())
	good := rewritten(t, keyB, "alice@sender.example", noon)
	for _, tt := range []struct {
		name, from, to string
		code           int
		enhanced       mail.EnhancedCode
		reason         string
	}{
		{"a sender", "eve@attacker.example", good, 550, mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSNotNull},
		{
			"a MAC that is wrong", "", strings.Replace(good, "=alice", "=bob", 1), 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSForged,
		},
		{
			"a tag put behind it", "", strings.Replace(good, "@", "+x@", 1), 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSForged,
		},
		{
			"a key that is not ours", "", rewritten(t, "a key of a node of another cluster", "a@b.example", noon), 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSForged,
		},
		{
			"eleven days", "", rewritten(t, keyB, "alice@sender.example", noon.AddDate(0, 0, -11)), 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSExpired,
		},
		{
			"a form that is wrong", "", "SRS0=x@srs.example.net", 550, mail.EnhancedCode{Subject: 7, Detail: 1},
			ReasonSRSSyntax,
		},
		{
			"a sender whom SPF failed", "", rewrittenAs(t, keyB, "alice@sender.example", noon, mail.OpensToNone), 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSClosed,
		},
		{
			"a hosted domain behind it", "", rewritten(t, keyB, "bob@hosted.example", noon), 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSOurs,
		},
		{
			"our own name behind it", "", rewritten(t, keyB, "bob@mx1.example.net", noon), 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, ReasonSRSOurs,
		},
		{"another address", "", "bob@srs.example.net", 550, mail.EnhancedCode{Subject: 1, Detail: 1}, "no such user"},
		{
			"a word that begins so", "", "srs0@srs.example.net", 550, mail.EnhancedCode{Subject: 1, Detail: 1},
			"no such user",
		},
		{
			"an SRS domain elsewhere", "", "SRS0=SLDBQZPI=JL=sender.example=alice@srs.example.com", 550,
			mail.EnhancedCode{Subject: 7, Detail: 1}, "relaying denied",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, trusted := range []bool{false, true} {
				q := query(t, tt.to)
				if tt.from != "" {
					q.Reverse = query(t, tt.from).Forward
				}
				if q.Trusted = trusted; trusted && tt.reason == "relaying denied" {
					continue
				}
				routes, err := r.Route(q)
				var refusal *mail.Refusal
				if !errors.As(err, &refusal) || refusal.Reply.Code != tt.code ||
					refusal.Reply.Enhanced != tt.enhanced || refusal.Reason != tt.reason {
					t.Errorf("got %v, %v", routes, err)
				}
				if strings.HasSuffix(tt.reason, "srs address") || strings.HasPrefix(tt.reason, "srs address") ||
					strings.HasPrefix(tt.reason, "malformed srs") {
					if refusal.Reply.Text != mail.NoSuchMail {
						t.Errorf("it reads otherwise: %s", refusal.Reply.Text)
					}
				}
			}
		})
	}
}

// TestRouter_SRSPostmaster: the postmaster of the SRS domain takes mail from every sender.
func TestRouter_SRSPostmaster(t *testing.T) {
	r := newRouter(t, srsConfig())
	for _, to := range []string{"postmaster@srs.example.net", "ABUSE@srs.example.net"} {
		q := query(t, to)
		q.Reverse = query(t, "alice@sender.example").Forward
		routes, err := r.Route(q)
		if err != nil || routes[0].Forwards[0].String() != "ops@elsewhere.example" || routes[0].Alone {
			t.Errorf("%s: %v, %v", to, routes, err)
		}
	}
}

// TestRouter_ReloadKeys: keys are swapped with the rules.
func TestRouter_ReloadKeys(t *testing.T) {
	file := write(t, "fwd@hosted.example x@t.example\n")
	current := keys(keyA)
	cfg := srsConfig()
	cfg.Text, cfg.Paths = "", []string{file}
	cfg.SRSKeys = func() ([][]byte, error) { return current() }
	r := newRouter(t, cfg)
	check := func(key, hop string) {
		t.Helper()
		q := query(t, "fwd@hosted.example")
		q.Reverse = query(t, "alice@sender.example").Forward
		routes, err := r.Route(q)
		reverse, _ := r.Rewrite(q, mail.OpensToBounces)
		if err != nil || reverse.String() != rewritten(t, key, "alice@sender.example", noon) ||
			routes[0].NextHop.Host != hop {
			t.Errorf("%v, %v", routes, err)
		}
	}
	check(keyA, "t.example")
	current = keys(keyB, keyA)
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(keyB, "t.example")
	broken := errors.New("broken")
	current = func() ([][]byte, error) { return nil, broken }
	overwrite(t, file, "fwd@hosted.example x@u.example\n")
	if err := r.Reload(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	check(keyB, "t.example")
	current = keys("short")
	var field *mail.FieldError
	if err := r.Reload(t.Context()); !errors.As(err, &field) || field.Field != "srs.keys[0]" {
		t.Errorf("got %v", err)
	}
	check(keyB, "t.example")
	current = keys(keyA)
	overwrite(t, file, "nonsense here\n")
	if err := r.Reload(t.Context()); err == nil {
		t.Error("bad rules loaded")
	}
	check(keyB, "t.example")
}

// TestConfig_SRSDomain: keys need a domain.
func TestConfig_SRSDomain(t *testing.T) {
	cfg := srsConfig()
	cfg.SRSDomain = ""
	var field *mail.FieldError
	if _, err := New(cfg); !errors.As(err, &field) || field.Field != "srs.domain" {
		t.Errorf("got %v", err)
	}
}
