package tlspolicy

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const stsZone = `
one.test. 60 IN MX 10 mx1.one.test.
mta-sts.one.test. 0 IN A 127.0.0.1
`

const enforced = "version: STSv1\nmode: enforce\nmx: mx1.one.test\nmax_age: 86400\n"

// A domain is one.test: its name server, the HTTPS server of its policy, and what asks both.
type domain struct {
	*Policies
	dns     *dnstest.Server
	handler atomic.Pointer[http.HandlerFunc]
	tls     atomic.Pointer[tls.Config]
	fetches atomic.Int32
	mu      sync.Mutex
	ahead   time.Duration // of the clock
	saved   map[string]string
}

func (d *domain) now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Add(d.ahead)
}

// pass lets time pass.
func (d *domain) pass(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ahead += by
}

// record publishes records of MTA-STS.
func (d *domain) record(t *testing.T, records ...string) {
	t.Helper()
	zone := stsZone
	for _, r := range records {
		zone += fmt.Sprintf("_mta-sts.one.test. 1 IN TXT %q\n", r)
	}
	if err := d.dns.SetZone(zone); err != nil {
		t.Fatal(err)
	}
}

// serves has the HTTPS server answer with a policy.
func (d *domain) serves(text string) {
	d.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(text))
	})
}

func (d *domain) answers(h http.HandlerFunc) { d.handler.Store(&h) }

// newDomain starts one.test, with a policy that is enforced. The node may connect to private networks if private says
// so.
func newDomain(t *testing.T, ca *smtptest.CA, private bool) *domain {
	t.Helper()
	d := &domain{dns: dnstest.Start(t, stsZone), saved: make(map[string]string)}
	d.record(t, "v=STSv1; id=1;")
	d.serves(enforced)
	d.tls.Store(ca.Server("mta-sts.one.test"))
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.fetches.Add(1)
		if r.Host == "" || r.URL.Path != "/.well-known/mta-sts.txt" {
			t.Errorf("asked for %s of %s", r.URL, r.Host)
		}
		(*d.handler.Load())(w, r)
	}))
	web.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return d.tls.Load(), nil
	}}
	web.Config.ErrorLog = nil
	web.StartTLS()
	t.Cleanup(web.Close)
	resolver, err := dns.New(dns.Config{Servers: []string{d.dns.Addr()}, Now: d.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	cfg := hook.Config{Resolver: resolver, Roots: ca.Pool()}
	if private {
		cfg.Private = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	client, err := hook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	at, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	d.Policies = New(Config{
		Resolver: resolver, Now: d.now,
		Fetch: func(ctx context.Context, r hook.Request) (hook.Response, error) {
			if !strings.HasPrefix(r.URL, "https://mta-sts.one.test/") {
				t.Errorf("asked for %s", r.URL)
			}
			// The port of the test in place of 443.
			r.URL = strings.Replace(r.URL, "one.test/", "one.test:"+at.Port()+"/", 1)
			defer client.Close() // so that each fetch makes a handshake
			return client.Do(ctx, r)
		},
		Load: func(_ context.Context, domain string) (string, bool) {
			d.mu.Lock()
			defer d.mu.Unlock()
			policy, ok := d.saved[domain]
			return policy, ok
		},
		Save: func(_ context.Context, domain, policy string, _ time.Duration) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.saved[domain] = policy
		},
	})
	t.Cleanup(d.Close)
	return d
}

// demand returns what is demanded of a host of one.test.
func (d *domain) demand(t *testing.T, host string) Demand {
	t.Helper()
	p := d.Of(t.Context(), "one.test", &mx.Set{Hosts: []mx.Host{{Name: host}}})
	return (&Demands{Policy: p}).Of(host)
}

// TestPolicies_MTASTS: what is published and served, by what it demands of the host, and what a report is to say.
func TestPolicies_MTASTS(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(code)
			_, _ = w.Write([]byte(enforced))
		}
	}
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = w.Write([]byte(s))
		}
	}
	verified := mail.TLSReport{Policy: mail.PolicySTS}
	wrong := func(r mail.TLSResult) mail.TLSReport { return mail.TLSReport{Policy: mail.PolicySTS, Result: r} }
	for _, c := range []struct {
		name    string
		records []string
		answer  http.HandlerFunc
		tls     *tls.Config
		host    string
		level   Level
		report  mail.TLSReport
		refused bool
	}{
		{"valid", []string{"v=STSv1; id=1"}, nil, nil, "mx1.one.test", Verified, verified, false},
		{"a host that the policy does not name", []string{"v=STSv1; id=1"}, nil, nil, "mx2.one.test", Opportunistic,
			wrong(mail.TLSFailed), true},
		{"a wildcard", []string{"v=STSv1; id=1"}, text(strings.Replace(enforced, "mx1.", "*.", 1)), nil, "mx2.one.test",
			Verified, verified, false},
		{"testing", []string{"v=STSv1; id=1"}, text(strings.Replace(enforced, "enforce", "testing", 1)), nil,
			"mx1.one.test", Opportunistic, verified, false},
		{"testing, a host that the policy does not name", []string{"v=STSv1; id=1"},
			text(strings.Replace(enforced, "enforce", "testing", 1)), nil, "mx2.one.test", Opportunistic,
			verified, false},
		{"none", []string{"v=STSv1; id=1"}, text("version: STSv1\nmode: none\nmax_age: 86400\n"), nil, "mx1.one.test",
			Opportunistic, mail.TLSReport{}, false},
		{"no record", nil, nil, nil, "mx1.one.test", Opportunistic, mail.TLSReport{}, false},
		{"two records", []string{"v=STSv1; id=1", "v=STSv1; id=2"}, nil, nil, "mx1.one.test", Opportunistic,
			mail.TLSReport{}, false},
		{"no page", []string{"v=STSv1; id=1"}, status(404), nil, "mx1.one.test", Opportunistic, wrong(mail.TLSNoPolicy),
			false},
		{"a server that fails", []string{"v=STSv1; id=1"}, status(503), nil, "mx1.one.test", Opportunistic,
			wrong(mail.TLSNoPolicy), false},
		{"a redirect", []string{"v=STSv1; id=1"}, http.RedirectHandler("/there", http.StatusFound).ServeHTTP, nil,
			"mx1.one.test", Opportunistic, wrong(mail.TLSNoPolicy), false},
		{"a page that is too large", []string{"v=STSv1; id=1"}, text(enforced + strings.Repeat("x: y\n", mostPolicy/5)),
			nil, "mx1.one.test", Opportunistic, wrong(mail.TLSNoPolicy), false},
		{"the largest page", []string{"v=STSv1; id=1"},
			text(enforced + strings.Repeat("x", mostPolicy-len(enforced)-2) + ":y"), nil, "mx1.one.test",
			Verified, verified, false},
		{"another type", []string{"v=STSv1; id=1"}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte(enforced))
		}, nil, "mx1.one.test", Opportunistic, wrong(mail.TLSPolicyInvalid), false},
		{"what is no policy", []string{"v=STSv1; id=1"}, text("<html>"), nil, "mx1.one.test", Opportunistic,
			wrong(mail.TLSPolicyInvalid), false},
		{"no answer", []string{"v=STSv1; id=1"}, func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}, nil, "mx1.one.test", Opportunistic, wrong(mail.TLSNoPolicy), false},
		{"a certificate of another name", []string{"v=STSv1; id=1"}, nil, ca.Server("one.test"), "mx1.one.test",
			Opportunistic, wrong(mail.TLSWebPKIInvalid), false},
		{"a certificate that has ended", []string{"v=STSv1; id=1"}, nil, &tls.Config{Certificates: []tls.Certificate{
			ca.CertificateUntil(time.Now().Add(-time.Hour), "mta-sts.one.test"),
		}}, "mx1.one.test", Opportunistic, wrong(mail.TLSWebPKIInvalid), false},
		{"a certificate of an authority that is not believed", []string{"v=STSv1; id=1"}, nil,
			other.Server("mta-sts.one.test"), "mx1.one.test", Opportunistic, wrong(mail.TLSWebPKIInvalid), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDomain(t, ca, true)
			d.record(t, c.records...)
			if c.answer != nil {
				d.answers(c.answer)
			}
			if c.tls != nil {
				d.tls.Store(c.tls)
			}
			got := d.demand(t, c.host)
			if got.Level != c.level || got.Report != c.report || (got.Err != nil) != c.refused {
				t.Errorf("got %v, %+v, %v", got.Level, got.Report, got.Err)
			}
			if r := new(mail.Refusal); c.refused && (!errors.As(got.Err, &r) || r.Reply.Code != 451) {
				t.Errorf("got %v", got.Err)
			}
			before := d.fetches.Load()
			d.demand(t, c.host)
			if d.fetches.Load() != before {
				t.Error("it was fetched again at once")
			}
		})
	}
}

// TestPolicies_Private: no policy is fetched of a private address, and so none of this machine.
func TestPolicies_Private(t *testing.T) {
	d := newDomain(t, smtptest.NewCA(), false)
	if got := d.demand(t, "mx1.one.test"); got.Report.Result != mail.TLSNoPolicy || d.fetches.Load() != 0 {
		t.Errorf("got %+v after %d fetches", got, d.fetches.Load())
	}
}

// TestPolicies_Kept: what was fetched stands until its end, whatever becomes of the record and of the server, until
// another id brings what takes its place.
func TestPolicies_Kept(t *testing.T) {
	d := newDomain(t, smtptest.NewCA(), true)
	level := func() Level { return d.demand(t, "mx1.one.test").Level }
	expect := func(when string, want Level, fetches int32) {
		t.Helper()
		if got := level(); got != want || d.fetches.Load() != fetches {
			t.Errorf("%s: got %v after %d fetches, want %v after %d", when, got, d.fetches.Load(), want, fetches)
		}
	}
	expect("at first", Verified, 1)
	d.pass(2 * time.Minute)
	expect("the same record", Verified, 1)
	d.record(t)
	d.pass(10 * time.Minute)
	expect("the record is gone", Verified, 1)
	d.dns.SetFault("_mta-sts.one.test", "TXT", dnstest.Fault{Rcode: "SERVFAIL"})
	d.pass(10 * time.Minute)
	expect("the name server fails", Verified, 1)
	d.dns.SetFault("_mta-sts.one.test", "TXT", dnstest.Fault{})
	d.record(t, "v=STSv1; id=2")
	d.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	d.pass(10 * time.Minute)
	expect("another record, and the server fails", Verified, 2)
	d.pass(2 * time.Minute)
	expect("it is not asked again so soon", Verified, 2)
	d.serves(strings.Replace(enforced, "enforce", "none", 1))
	d.pass(10 * time.Minute)
	expect("another record says none", Opportunistic, 3)
	d.record(t, "v=STSv1; id=3")
	d.serves(enforced)
	d.pass(10 * time.Minute)
	expect("and the next one enforces again", Verified, 4)
	d.record(t)
	d.pass(25 * time.Hour)
	expect("its age is over", Opportunistic, 4)
}

// TestPolicies_Age: a policy of no age counts for the messages of a minute, and is fetched again for those behind.
func TestPolicies_Age(t *testing.T) {
	d := newDomain(t, smtptest.NewCA(), true)
	d.serves(strings.Replace(enforced, "86400", "0", 1))
	for i := range 3 {
		if got := d.demand(t, "mx1.one.test").Level; got != Verified || d.fetches.Load() != int32(1+i) {
			t.Errorf("got %v after %d fetches", got, d.fetches.Load())
		}
		d.pass(2 * time.Minute)
	}
}

// TestPolicies_Ahead: a policy that is in use is fetched again long before its end, while mail goes on.
func TestPolicies_Ahead(t *testing.T) {
	d := newDomain(t, smtptest.NewCA(), true)
	d.demand(t, "mx1.one.test")
	d.pass(13 * time.Hour)
	if got := d.demand(t, "mx1.one.test").Level; got != Verified {
		t.Errorf("got %v", got)
	}
	d.sts.flying.Wait()
	if n := d.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
	d.record(t) // so that nothing else is fetched
	d.pass(23 * time.Hour)
	if got := d.demand(t, "mx1.one.test").Level; got != Verified {
		t.Errorf("got %v 36 hours behind the first fetch", got)
	}
}

// TestPolicies_Store: what one node fetched another one knows, when the server of the policy fails it as well.
func TestPolicies_Store(t *testing.T) {
	ca := smtptest.NewCA()
	d := newDomain(t, ca, true)
	d.demand(t, "mx1.one.test")
	next := newDomain(t, ca, true)
	next.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	next.saved = d.saved
	if got := next.demand(t, "mx1.one.test").Level; got != Verified || next.fetches.Load() != 0 {
		t.Errorf("got %v after %d fetches", got, next.fetches.Load())
	}
	last := newDomain(t, ca, true)
	last.record(t)
	last.saved = map[string]string{"one.test": "what is none"}
	if got := last.demand(t, "mx1.one.test").Level; got != Opportunistic {
		t.Errorf("got %v of what cannot be read", got)
	}
}

// TestPolicies_Leaves: a message whose client leaves while a policy is looked up takes nothing from those behind.
func TestPolicies_Leaves(t *testing.T) {
	d := newDomain(t, smtptest.NewCA(), true)
	asked, answer := make(chan struct{}), make(chan struct{})
	d.answers(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(enforced))
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() { // ends when its context does
		d.Of(ctx, "one.test", &mx.Set{Hosts: []mx.Host{{Name: "mx1.one.test"}}})
		close(left)
	}()
	<-asked
	leave()
	<-left
	close(answer)
	if got := d.demand(t, "mx1.one.test").Level; got != Verified || d.fetches.Load() != 1 {
		t.Errorf("got %v after %d fetches", got, d.fetches.Load())
	}
}

// TestPolicies_WantOfQuestions: that one client may ask no more questions does not leave others without the policy.
func TestPolicies_WantOfQuestions(t *testing.T) {
	for _, cause := range []error{dns.ErrEnough, dns.ErrBusy} {
		d := newDomain(t, smtptest.NewCA(), true)
		fetch := d.cfg.Fetch
		d.cfg.Fetch = func(context.Context, hook.Request) (hook.Response, error) {
			return hook.Response{}, &dns.Error{Name: "mta-sts.one.test", Type: "A", Err: cause}
		}
		d.demand(t, "mx1.one.test")
		d.cfg.Fetch = fetch
		if got := d.demand(t, "mx1.one.test").Level; got != Verified {
			t.Errorf("%v: got %v", cause, got)
		}
	}
}

// TestPolicies_LeavesDANE: the same where TLSA records are looked up.
func TestPolicies_LeavesDANE(t *testing.T) {
	server := dnstest.Start(t, "_25._tcp.mx1.one.test. 60 IN TLSA 3 1 1 "+strings.Repeat("ab", sha256.Size)+"\n")
	server.SetAD(true)
	resolver, err := dns.New(dns.Config{Servers: []string{server.Addr()}, TrustAD: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	p := New(Config{Resolver: resolver, Now: time.Now, Port: 25})
	t.Cleanup(p.Close)
	left, leave := context.WithCancel(t.Context())
	leave()
	for _, ctx := range []context.Context{left, t.Context()} {
		found := p.Of(ctx, "one.test", &mx.Set{AD: true, Hosts: []mx.Host{{Name: "mx1.one.test", AD: true}}})
		demand := (&Demands{Policy: found}).Of("mx1.one.test")
		if ctx != left && (demand.Err != nil || demand.Level != DANE) {
			t.Errorf("got %v, %v", demand.Level, demand.Err)
		}
	}
}

// TestPolicies_Memory: domains with large policies leave room for fewer, so that who has many of them does not choose
// how much memory they take.
func TestPolicies_Memory(t *testing.T) {
	const domains, octets = 300, 60 << 10
	var zone string
	for i := range domains {
		zone += fmt.Sprintf("_mta-sts.d%d.test. 60 IN TXT \"v=STSv1; id=1\"\n", i)
	}
	for i := range 90 {
		zone += fmt.Sprintf("_25._tcp.mx1.one.test. 60 IN TLSA 3 0 0 %02x%s\n", i, strings.Repeat("ab", 600))
	}
	server := dnstest.Start(t, zone)
	server.SetAD(true)
	resolver, err := dns.New(dns.Config{Servers: []string{server.Addr()}, TrustAD: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resolver.Close)
	for _, c := range []struct {
		name string
		text string
		ad   bool
	}{
		{"MTA-STS", enforced + strings.Repeat("x: "+strings.Repeat("x", 77)+"\n", octets/81), false},
		{"DANE", enforced, true},
	} {
		p := New(Config{
			Resolver: resolver, Now: time.Now, Port: 25,
			Fetch: func(context.Context, hook.Request) (hook.Response, error) {
				return hook.Response{
					Status: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte(c.text),
				}, nil
			},
		})
		for i := range domains {
			set := &mx.Set{AD: c.ad, Hosts: []mx.Host{{Name: "mx1.one.test", AD: c.ad}}}
			found := p.Of(t.Context(), fmt.Sprintf("d%d.test", i), set)
			demand := (&Demands{Policy: found}).Of("mx1.one.test")
			if demand.Level < Verified {
				t.Fatalf("%s: %v, %v", c.name, demand.Level, demand.Err)
			}
		}
		if n := p.kept.Len(); n > policiesKept*256/octets || n == 0 {
			t.Errorf("%s: %d of %d policies are kept", c.name, n, domains)
		}
		p.Close()
	}
}

// TestPolicies_Allocations: what is known of a domain costs no allocation.
func TestPolicies_Allocations(t *testing.T) {
	d := newDomain(t, smtptest.NewCA(), true)
	set := &mx.Set{Hosts: []mx.Host{{Name: "mx1.one.test"}}}
	var demands Demands
	if n := testing.AllocsPerRun(100, func() {
		demands.Policy = d.Of(t.Context(), "one.test", set)
		if demand := demands.Of("mx1.one.test"); demand.Level != Verified {
			t.Error(demand.Level)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
