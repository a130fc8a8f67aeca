package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/cluster/account"
)

// A published is the world that a Verifier asks about the hosts of owners.
type published struct {
	*world
	mu     sync.Mutex // over what follows
	texts  []string
	addrs  []netip.Addr
	body   string
	status int
	err    error // of all
	asked  int   // times that the host was asked for a record or a file
}

// owner is one who has a domain.
var owner = account.Principal{ID: "o", Name: "o", Role: account.Owner, Domains: []string{"example.com"}}

func newPublished(t *testing.T) *published {
	t.Helper()
	p := &published{world: newWorld(t), addrs: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, status: 404}
	p.Verifier = New(Config{
		Account: p.account, Log: slog.New(slog.NewTextHandler(&p.log, nil)),
		Lookups: Lookups{
			Text: func(context.Context, string) ([]string, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.asked++
				return p.texts, p.err
			},
			Addrs: func(context.Context, string) ([]netip.Addr, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.addrs, p.err
			},
			Fetch: func(_ context.Context, url string, _ int) (int, []byte, error) {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.status, []byte(p.body), p.err
			},
			Own:    func(a netip.Addr) bool { return a == netip.MustParseAddr("8.8.8.8") },
			Spread: 2 * time.Second,
		},
	})
	return p
}

// publish changes what the host's owner publishes in the DNS, or how the DNS fails.
func (p *published) publish(err error, texts ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.texts, p.err = texts, err
}

// looks returns how often the host was asked.
func (p *published) looks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// ask asks twice, since the first answer says what to publish, and returns the destination afterwards.
func (p *published) ask(d account.Destination) account.Destination {
	p.t.Helper()
	for range 2 {
		if err := p.Ask(p.t.Context(), owner, p.now(d)); err == nil {
			p.t.Error("no one is told what to publish")
		}
		synctest.Wait()
		time.Sleep(3 * time.Second)
		synctest.Wait()
	}
	return p.now(d)
}

// TestVerifier_Proof: a record or a file with the token of this very destination verifies it, and nothing else does.
func TestVerifier_Proof(t *testing.T) {
	record := func(text string) func(p *published, token, others string) {
		return func(p *published, token, _ string) {
			p.texts = []string{"v=spf1 -all", strings.ReplaceAll(text, "T", token)}
		}
	}
	file := func(status int, text string) func(p *published, token, others string) {
		return func(p *published, token, _ string) { p.body, p.status = strings.ReplaceAll(text, "T", token), status }
	}
	for name, tt := range map[string]struct {
		publish func(p *published, token, others string)
		how     string
	}{
		"nothing":  {func(*published, string, string) {}, ""},
		"a record": {record("T"), account.ByTXT},
		"of another one": {func(p *published, _, others string) {
			p.texts, p.body, p.status = []string{others}, others, 200
		}, ""},
		"a longer record":   {record("T0"), ""},
		"a file":            {file(200, "# ours\r\nT\r\n"), account.ByFile},
		"a page that fails": {file(404, "T"), ""},
		"a redirect":        {file(302, "T"), ""},
		"inside a line":     {file(200, "<p>T</p>"), ""},
		"no answer": {func(p *published, token, _ string) {
			p.texts, p.err = []string{token}, errors.New("no answer")
		}, ""},
		"private":              {internal("9.9.9.9", "10.0.0.7"), ""},
		"loopback":             {internal("127.0.0.1"), ""},
		"link-local":           {internal("fe80::1"), ""},
		"unique local":         {internal("fd00::1"), ""},
		"mapped":               {internal("::ffff:10.0.0.7"), ""},
		"translated":           {internal("64:ff9b::10.0.0.7"), ""},
		"metadata":             {internal("169.254.169.254"), ""},
		"this machine":         {internal("8.8.8.8"), ""},
		"without an address":   {internal(), ""},
		"shared address space": {internal("100.64.0.1"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPublished(t)
				defer p.Close()
				d := p.add(owner, "smtp://mail.home.example:25")
				proof, _ := d.Proof()
				tt.publish(p, proof.Token, strings.ToUpper(proof.Token))
				got := p.ask(d)
				found := tt.how != ""
				if (got.Verified != nil) != found || got.How != tt.how || (got.Failed == "") != found {
					t.Errorf("got %+v", got)
				}
				if p.account.IsProved("MAIL.home.example.") != found {
					t.Error("that its name is the owner's is not known")
				}
			})
		})
	}
}

// internal publishes the token of a host with addresses.
func internal(addrs ...string) func(p *published, token, _ string) {
	return func(p *published, token, _ string) {
		p.texts, p.body, p.status, p.addrs = []string{token}, token, 200, nil
		for _, a := range addrs {
			p.addrs = append(p.addrs, netip.MustParseAddr(a))
		}
	}
}

// TestVerifier_ProofOfNothing: what no publication proves is not looked for.
func TestVerifier_ProofOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPublished(t)
		defer p.Close()
		for _, address := range []string{"lmtp+unix:/run/lmtp", "smtp://127.0.0.1:25", "smtp://localhost:25",
			"smtp://user@mail.home.example:25"} {
			if got := p.ask(p.add(owner, address)); got.Verified != nil || got.Asked != nil {
				t.Errorf("got %+v", got)
			}
		}
		if p.asked != 0 {
			t.Errorf("%d looks", p.asked)
		}
	})
}

// TestVerifier_ProofLimit: one owner has a bounded number of hosts looked at.
func TestVerifier_ProofLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPublished(t)
		defer p.Close()
		d := p.add(owner, "smtp://mail.home.example:25")
		for range 50 {
			_ = p.Ask(t.Context(), owner, p.now(d)) // which is always an error
			synctest.Wait()
		}
		if p.asked != looks.Burst {
			t.Errorf("%d looks, want %d", p.asked, looks.Burst)
		}
	})
}

// TestVerifier_ProofAgain: what was found is looked for each day. It counts for thirty days without being found again,
// for as long as it cannot be asked for, and the audit has no entry for each look.
func TestVerifier_ProofAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPublished(t)
		defer p.Close()
		d := p.add(owner, "smtp://mail.home.example:25")
		proof, _ := d.Proof()
		p.texts = []string{proof.Token}
		if p.ask(d).Verified == nil {
			t.Fatal("it is not verified")
		}
		const day = 24 * time.Hour
		entries := func() int {
			list, err := p.account.Audit(account.TokenFile(), 1000)
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		before, looks := entries(), p.looks()
		time.Sleep(40 * day)
		synctest.Wait()
		if got := p.now(d); got.Verified == nil || got.Failed != "" || entries()-before > 10 || p.looks()-looks < 39 {
			t.Errorf("%d entries, %d looks: %+v", entries()-before, p.looks()-looks, got)
		}
		p.publish(errors.New("no answer"))
		time.Sleep(40 * day)
		synctest.Wait()
		if got := p.now(d); got.Verified == nil || got.Failed == "" {
			t.Errorf("while nothing answers: %+v", got)
		}
		p.publish(nil, proof.Token)
		time.Sleep(2 * day)
		synctest.Wait()
		if got := p.now(d); got.Verified == nil || got.Failed != "" {
			t.Errorf("when it is there again: %+v", got)
		}
		p.publish(nil)
		time.Sleep(20 * day)
		synctest.Wait()
		if got := p.now(d); got.Verified == nil || got.Failed == "" {
			t.Errorf("it is not there for twenty days: %+v", got)
		}
		time.Sleep(13 * day)
		synctest.Wait()
		if got := p.now(d); got.Verified != nil || !p.account.IsProved(proof.Host) {
			t.Errorf("it was not found for more than thirty days: %+v", got)
		}
		if !strings.Contains(fmt.Sprint(&p.log), "verified no more") {
			t.Error("the log does not say so")
		}
	})
}
