package score

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	client   = netip.MustParseAddr("203.0.113.9")
	clientV6 = netip.MustParseAddr("2001:db8:1:2::9")
	ours     = netip.MustParseAddr("198.51.100.1")
	errDNS   = errors.New("SERVFAIL")
)

// errHangs is an error that a fixture returns only when its context ends.
var errHangs = errors.New("hangs")

// errLate is an error with which a fixture answers after its time late.
var errLate = errors.New("late")

// A fixture is what DNS and the store say: "PTR 203.0.113.9", "A mail.example.net", "MX example.net" and the like.
type fixture struct {
	ingresstest.Store
	ingresstest.Zone // of the questions that no signal asks

	dns  map[string]string // answers separated by blanks; what is not there is empty
	late time.Duration
	err  map[string]error // by the same keys, "PTR" for all of a type, "" for all

	facts    mail.Facts
	storeErr error

	mu    sync.Mutex
	asked []string
	query mail.ClientQuery
}

// proper is a fixture in which the client is what a mail server should be.
func proper() *fixture {
	return &fixture{
		dns: map[string]string{
			"PTR 203.0.113.9":     "mail.example.net",
			"PTR 2001:db8:1:2::9": "mail.example.net",
			"A mail.example.net":  "203.0.113.9 2001:db8:1:2::9",
			"A other.example.net": "203.0.113.10",
			"MX example.net":      "mail.example.net",
		},
		err: map[string]error{},
	}
}

func (w *fixture) ask(ctx context.Context, kind, name string) ([]string, error) {
	key := kind + " " + name
	w.mu.Lock()
	w.asked = append(w.asked, key)
	w.mu.Unlock()
	for _, k := range []string{key, kind, ""} {
		if err := w.err[k]; errors.Is(err, errHangs) {
			<-ctx.Done()
			return strings.Fields(w.dns[key]), ctx.Err()
		} else if errors.Is(err, errLate) {
			select {
			case <-time.After(w.late):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		} else if err != nil {
			return strings.Fields(w.dns[key]), err
		}
	}
	return strings.Fields(w.dns[key]), nil
}

func (w *fixture) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	return w.ask(ctx, "PTR", addr.String())
}

func (w *fixture) LookupMX(ctx context.Context, name string) ([]string, error) {
	return w.ask(ctx, "MX", name)
}

func (w *fixture) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error) {
	found, err := w.ask(ctx, "A", name)
	return addrs(found), err
}

func (w *fixture) LookupSameFamily(ctx context.Context, name string, as netip.Addr) ([]netip.Addr, error) {
	found, err := w.LookupAddrs(ctx, name)
	return slices.DeleteFunc(found, func(a netip.Addr) bool { return a.Is4() != as.Is4() }), err
}

// LookupA answers lists.
func (w *fixture) LookupA(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	found, err := w.ask(ctx, "list", name)
	return addrs(found), time.Minute, err
}

func addrs(texts []string) []netip.Addr {
	var all []netip.Addr
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func (w *fixture) Client(ctx context.Context, q mail.ClientQuery) (mail.Facts, error) {
	w.mu.Lock()
	w.query = q
	w.mu.Unlock()
	if errors.Is(w.storeErr, errHangs) {
		<-ctx.Done()
		return mail.Facts{}, ctx.Err()
	}
	facts := w.facts
	if facts.Lists == nil {
		for range q.Lists {
			facts.Lists = append(facts.Lists, mail.ListAnswer{State: mail.ListAskedOfYou})
		}
	}
	return facts, w.storeErr
}

func (w *fixture) AwaitLists(_ context.Context, _ netip.Addr, lists []string,
	_ time.Duration) ([]mail.ListAnswer, error) {
	return make([]mail.ListAnswer, len(lists)), nil
}

func (w *fixture) PutDNSBL(context.Context, netip.Addr, string, []netip.Addr, time.Duration) {}

// count returns how often DNS was asked.
func (w *fixture) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// lists makes a Set that is not started: zen weighs 10, half 4, white -5, and dbl, of domains, 3.
func (w *fixture) lists(t testing.TB) *dnsbl.Set { return listsOver(t, w, w) }

func listsOver(t testing.TB, store world.Store, resolver world.Resolver) *dnsbl.Set {
	t.Helper()
	set, err := dnsbl.New(dnsbl.Config{
		Store: store, Resolver: resolver, Private: true,
		Lists: []dnsbl.List{
			{Zone: "zen.example", Weight: 10}, {Zone: "half.example", Weight: 4}, {Zone: "white.example", Weight: -5},
			{Zone: "dbl.example", Kind: dnsbl.Domains, Weight: 3},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	return set
}

// config is a Config over w.
func (w *fixture) config() Config {
	return Config{
		Store: w, Resolver: w, Private: true, Hostnames: []string{"mx1.example.org"}, OwnAddrs: []netip.Addr{ours},
	}
}

// limits are 2 connections a minute.
func limits(t testing.TB) *rate.Limits {
	t.Helper()
	l, err := rate.New(rate.Config{
		Key: make([]byte, rate.MinKey), ClientConnections: rate.Limit{Count: 2, Per: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func scorer(t testing.TB, c Config) *Scorer {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An spfResult is a check of SPF that has ended.
type spfResult struct{ word, domain string }

func (r spfResult) Wait(context.Context) (string, string) { return r.word, r.domain }

// An spfHang is a check of SPF that never ends.
type spfHang struct{}

func (spfHang) Wait(ctx context.Context) (string, string) {
	<-ctx.Done()
	return "temperror", ""
}

// A visit is what a client does. Empty parts are left out, but for the reverse-path: "" is left out and "<>" is null.
type visit struct {
	addr    netip.Addr
	helo    string
	reverse string
	spf     SPF
	talks   bool
}

// good returns the visit of a proper client.
func good() visit {
	return visit{
		addr: client, helo: "mail.example.net", reverse: "a@example.net", spf: spfResult{"pass", "example.net"},
	}
}

func (v visit) to(k *Score) *Score {
	if v.talks {
		k.EarlyTalker()
	}
	if v.helo != "" {
		k.Helo(v.helo)
	}
	if v.reverse != "" {
		k.Mail(path(v.reverse), v.spf)
	}
	return k
}

// score returns the visit's score and verdict.
func (v visit) score(t testing.TB, s *Scorer) (*Score, mail.Verdict) {
	t.Helper()
	k := s.Connect(t.Context(), Client{Addr: v.addr})
	t.Cleanup(k.Close)
	v.to(k)
	return k, k.Verdict(t.Context())
}

func path(s string) mail.Path {
	if s == "<>" {
		return mail.Path{}
	}
	at := strings.LastIndexByte(s, '@')
	return mail.Path{Local: s[:at], Domain: s[at+1:]}
}

// texts returns the reasons as "name weight: text", one a line.
func texts(v mail.Verdict) string {
	var lines []string
	for _, r := range v.Reasons {
		lines = append(lines, r.Name+" "+number(r.Weight)+": "+r.Text)
	}
	return strings.Join(lines, "\n")
}
