package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/account/verify"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/loadtest/extern"
)

// A lineChan gets the lines of a log.
type lineChan chan string

func (c lineChan) Write(p []byte) (int, error) {
	c <- string(p)
	return len(p), nil
}

// TestProof_Knot: a TXT record in a zone that Knot DNS serves verifies a destination, unless an address of its host is
// private.
func TestProof_Knot(t *testing.T) {
	text := ""
	a, err := account.New(account.Config{
		State: t.TempDir(), ALabels: func(s string) (string, bool) { return strings.ToLower(s), s != "" },
		Rules: account.Rules{
			Text: func() string { return text },
			Change: func(_ context.Context, edit func(string) (string, error)) (err error) {
				text, err = edit(text)
				return err
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	owner := account.Principal{ID: "o", Name: "o", Role: account.Owner, Domains: []string{"example.com"}}
	zone := "@ 60 SOA ns. host. 1 60 60 60 60\n@ 60 NS ns.\n"
	var list []account.Destination
	for host, addrs := range map[string]string{
		"mail": "A 9.9.9.9", "inside": "A 10.0.0.7", "half": "A 9.9.9.9\nhalf 60 AAAA fd00::1",
	} {
		d, err := a.AddDestination(t.Context(), owner, "lmtp://"+host+".home.example:24")
		if err != nil {
			t.Fatal(err)
		}
		proof, _ := d.Proof()
		zone += fmt.Sprintf("%[1]s 60 %[2]s\n_millrace.%[1]s 60 TXT \"other=1\"\n_millrace.%[1]s 60 TXT %[3]q\n",
			host, addrs, proof.Token)
		list = append(list, d)
	}
	resolver, err := dns.New(dns.Config{Servers: []string{extern.StartKnot(t, "home.example", zone)}})
	if err != nil {
		t.Fatal(err)
	}
	defer resolver.Close()
	web, err := hook.New(hook.Config{Resolver: resolver})
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	lines := make(lineChan, 100)
	v := verify.New(verify.Config{
		Account: a, Log: slog.New(slog.NewTextHandler(lines, nil)), Lookups: lookups(resolver, web, nil),
	})
	defer v.Close()
	for _, d := range list {
		for range 2 { // the first says what to publish
			if d, err = a.Destination(owner, d.ID); err != nil {
				t.Fatal(err)
			}
			if err := v.Ask(t.Context(), owner, d); err == nil || !strings.Contains(err.Error(), "_millrace.") {
				t.Errorf("%s: %v", d.Address, err)
			}
		}
	}
	if line := <-lines; !strings.Contains(line, "mail.home.example") || !strings.Contains(line, "how=txt") {
		t.Errorf("got %s", line)
	}
	for _, d := range list {
		addrs, err := lookups(resolver, web, nil).Addrs(t.Context(), strings.Split(d.Address[7:], ":")[0])
		if err != nil || len(addrs) == 0 {
			t.Errorf("%s: %v, %v", d.Address, addrs, err)
		}
		got, err := a.Destination(owner, d.ID)
		if err != nil || (got.Verified != nil) != strings.Contains(d.Address, "//mail.") {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// TestProof_Rebinding: mail for a host that its owner proved goes to no private address, wherever its name leads later.
func TestProof_Rebinding(t *testing.T) {
	b := startNodeIn(t, dnstest.Start(t, "mail.home.example. 60 IN A 127.0.0.1\n"),
		fmt.Sprintf("state: %q\n", t.TempDir()), nil)
	_, port, err := net.SplitHostPort(b.dest.Addr())
	if err != nil {
		t.Fatal(err)
	}
	host := "smtp://mail.home.example:" + port
	a := b.Node.rules.account
	owner := account.Principal{ID: "o", Name: "o", Role: account.Owner, Domains: []string{"made.example"}}
	d, err := a.AddDestination(t.Context(), owner, host)
	if err != nil {
		t.Fatal(err)
	}
	set := func(how string) {
		t.Helper()
		_, err := a.ChangeDestination(t.Context(), account.Node("test"), d.ID, func(d *account.Destination) error {
			now := time.Now()
			d.Verified, d.How = &now, how
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = a.AddRule(t.Context(), owner, account.Rule{Pattern: "info@made.example", Target: host, Enabled: true})
	if err != nil {
		t.Fatal(err)
	}
	set(account.ByTXT)
	if code := b.rcpt(t, "info@made.example"); code != 451 {
		t.Errorf("where its name leads now: %d", code)
	}
	if set(account.ByAdmin); a.IsProved("mail.home.example") {
		t.Error("by the word of an operator it is still the owner's alone")
	}
}
