package score

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// A warmCache is a store and a resolver that answer at once and allocate nothing.
type warmCache struct {
	ingresstest.Store
	ingresstest.Zone // of the questions that no signal asks

	names, hosts []string
	addrs        []netip.Addr
	facts        mail.Facts
}

func (w *warmCache) LookupPTR(context.Context, netip.Addr) ([]string, error)   { return w.names, nil }
func (w *warmCache) LookupAddrs(context.Context, string) ([]netip.Addr, error) { return w.addrs, nil }
func (w *warmCache) LookupSameFamily(context.Context, string, netip.Addr) ([]netip.Addr, error) {
	return w.addrs, nil
}
func (w *warmCache) LookupMX(context.Context, string) ([]string, error) { return w.hosts, nil }
func (w *warmCache) LookupA(context.Context, string) ([]netip.Addr, time.Duration, error) {
	return nil, time.Minute, nil
}
func (w *warmCache) Client(context.Context, mail.ClientQuery) (mail.Facts, error) {
	return w.facts, nil
}

// warmScorer returns a Scorer over warm caches, with answers of three lists, of which the client is on one.
func warmScorer(t testing.TB) *Scorer {
	hit := mail.ListAnswer{State: mail.ListKnown, Codes: []netip.Addr{netip.MustParseAddr("127.0.0.2")}}
	not := mail.ListAnswer{State: mail.ListKnown}
	over := &warmCache{
		names: []string{"mail.example.net"}, hosts: []string{"mail.example.net"}, addrs: []netip.Addr{client},
		facts: mail.Facts{
			Lists: []mail.ListAnswer{not, hit, not}, Rates: []mail.RateResult{{Allowed: true}},
			Address: mail.Karma{Score: 5, Votes: 5},
		},
	}
	return scorer(t, Config{
		Store: over, Resolver: over, Lists: listsOver(t, proper(), over), Limits: limits(t),
		Hostnames: []string{"mx1.example.org"}, Greet: time.Second,
		Allow: []Entry{{Client: "198.51.100.0/24"}}, Block: []Entry{{Client: "192.0.2.0/24"}, {Helo: "*.dyn.example"}},
		Private: true,
	})
}

// BenchmarkScore scores one client from connect to close with answers that are there: what it costs beside the round
// trip. The metric cpu-ns/op is the processor time of the whole process, goroutines and collector included.
func BenchmarkScore(b *testing.B) {
	s := warmScorer(b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reverse, spf := path("a@example.net"), spfResult{"pass", "example.net"}
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		k := s.Connect(ctx, Client{Addr: client})
		if _, err := k.Greeting(ctx); err != nil {
			b.Fatal(err)
		}
		k.Helo("mail.example.net")
		k.Mail(reverse, spf)
		if v := k.Verdict(ctx); len(v.Reasons) == 0 {
			b.Fatal("nothing was found")
		}
		k.Close()
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpu is the processor time that this process has taken.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkVerdictAgain(b *testing.B) {
	k := warmScorer(b).Connect(context.Background(), Client{Addr: client})
	defer k.Close()
	k.Helo("localhost")
	k.Verdict(context.Background())
	b.ReportAllocs()
	for b.Loop() {
		k.Verdict(context.Background())
	}
}

func BenchmarkGenericName(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		generic("mail-am6eur05on2071.outbnd.protection.outlook.com", client)
	}
}

// TestScore_Idle: what a connection keeps once all is in, with two reasons against it.
func TestScore_Idle(t *testing.T) {
	s := warmScorer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const n = 2000
	scores := make([]*Score, n)
	goroutines := runtime.NumGoroutine()
	before := live()
	for i := range scores {
		k := s.Connect(ctx, Client{Addr: client})
		k.Helo("mail.example.net")
		k.Mail(path("a@example.net"), spfResult{"pass", "example.net"})
		if got := len(k.Verdict(ctx).Reasons); got != 2 {
			t.Fatalf("%d reasons", got)
		}
		k.inquiry.running.Wait() // a goroutine ends just after its report
		scores[i] = k
	}
	each := int64(live()-before) / n
	t.Logf("%d octets each", each)
	if each > 700 {
		t.Errorf("an idle score keeps %d octets", each)
	}
	if now := runtime.NumGoroutine(); now > goroutines+2 {
		t.Errorf("%d goroutines, %d before", now, goroutines)
	}
	for _, k := range scores {
		k.Close()
	}
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestScorer_ManyClients: many clients at once, for the race detector.
func TestScorer_ManyClients(t *testing.T) {
	w := proper()
	w.dns["list 9.113.0.203.zen.example"] = "127.0.0.2"
	w.err["A other.example.net"] = errDNS
	cfg := w.config()
	cfg.Lists, cfg.Greet, cfg.Tarpit = w.lists(t), time.Second, time.Second
	s := scorer(t, cfg)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			k := s.Connect(t.Context(), Client{Addr: client})
			defer k.Close()
			k.Greeting(t.Context())
			k.Helo("other.example.net")
			if i%3 == 0 {
				k.Helo("mail.example.net")
			}
			for range i % 4 {
				k.Mail(path("a@example.net"), spfResult{"softfail", "example.net"})
				if i%2 == 0 {
					k.Tarpit(k.Verdict(t.Context()))
				}
			}
			k.KnownGood()
			k.Allowed()
			k.Unheard()
		})
	}
	all.Wait()
	if s.HeldBack() != 0 {
		t.Errorf("%d are held back", s.HeldBack())
	}
}
