package node

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

const (
	oneKey     = "one key of the SRS domain"
	anotherKey = "another key of the SRS domain"
)

// srsNode starts a node that rewrites the reverse-path of mail for example.com. write replaces its file of keys.
func srsNode(t *testing.T) (b *bench, write func(keys string)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "srs.key")
	write = func(keys string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(keys), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(oneKey + "\n")
	b = startNode(t, "srs:\n  domain: srs.example.net\n  key_file: "+file, nil)
	b.rules(t, "@example.com smtp://"+b.dest.Addr()+" srs=always\n")
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, write
}

// arrived returns the reverse-path of the n-th message at the destination.
func arrived(t *testing.T, d *smtptest.Server, n int) string {
	t.Helper()
	all, err := d.WaitMessages(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return all[n-1].Reverse
}

// TestReload_SRSKeys: SRS keys are read anew on reload.
func TestReload_SRSKeys(t *testing.T) {
	b, write := srsNode(t)
	b.dial(t).send("info@example.com")
	first := arrived(t, b.dest, 1)
	if !strings.HasPrefix(first, "SRS0=") || !strings.HasSuffix(first, "=sender.example=alice@srs.example.net") {
		t.Errorf("got %s", first)
	}
	write("# new\n" + anotherKey + "\nshort\n")
	err := b.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "srs.key:3:1: srs.key_file: a key of at least 16 octets") {
		t.Errorf("got %v", err)
	}
	b.dial(t).send("info@example.com")
	if got := arrived(t, b.dest, 2); got != first {
		t.Errorf("after a bad reload: got %s, want %s", got, first)
	}
	write(anotherKey + "\n" + oneKey + "\n")
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.dial(t).send("info@example.com")
	if got := arrived(t, b.dest, 3); got == first {
		t.Errorf("the old key is still the current one: %s", got)
	}
}

// TestNew_BadSRSKeys: a bad file of SRS keys is named by line.
func TestNew_BadSRSKeys(t *testing.T) {
	for _, tt := range []struct{ name, keys, want string }{
		{"a short key", oneKey + "\nshort\n", "file:2:1: srs.key_file: a key of at least 16 octets"},
		{"the only key is short", "short\n", "file:1:1: srs.key_file: a key of at least 16 octets"},
		{"the same key twice", oneKey + "\n" + oneKey + "\n", "file:2:1: srs.key_file: the same key as in line 1"},
		{"no key", "# none\n", "file:1:1: srs.key_file: holds no key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := configFile(t)
			if err := os.WriteFile(filepath.Join(filepath.Dir(name), "file"), []byte(tt.keys), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse(name, []byte(smallest+"srs: {domain: srs.example.net, key_file: file}\n"), "")
			if err != nil {
				t.Fatal(err)
			}
			c.Rules, c.Routes = "domain example.com\n", "routes.txt"
			c.Postmaster = "ops@elsewhere.example"
			_, err = New(c, Options{})
			var problems config.Problems
			if !errors.As(err, &problems) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestExplain_SRS: explain shows the rewritten reverse-path and counts nothing.
func TestExplain_SRS(t *testing.T) {
	b, _ := srsNode(t)
	ask := func(from, to string) *Answer {
		t.Helper()
		q := Question{IP: netip.MustParseAddr("192.0.2.1"), From: new(mail.Path), To: new(mail.Path)}
		for text, p := range map[string]*mail.Path{from: q.From, to: q.To} {
			if text == "" {
				continue
			}
			var err error
			if *p, err = mail.ParsePath(text, true); err != nil {
				t.Fatal(err)
			}
		}
		a, err := Explain(context.Background(), b.cfg, q)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := ask("alice@example.com.example", "info@example.com")
	if len(a.Ways) != 1 || !strings.HasPrefix(a.Ways[0].Reverse, "<SRS0=") {
		t.Fatalf("got %+v", a)
	}
	if got := strings.Join(a.Steps, "\n"); !strings.Contains(got, "SPF says none of the reverse-path") ||
		!strings.Contains(got, "the reverse-path becomes "+a.Ways[0].Reverse+", which opens to bounces") {
		t.Errorf("steps %q", got)
	}
	reverse := strings.Trim(a.Ways[0].Reverse, "<>")
	for range 25 {
		if a := ask("", reverse); a.Reply != "" && strings.HasPrefix(a.Reply, "450") || len(a.Steps) < 2 ||
			!strings.Contains(a.Steps[1], "<alice@example.com.example>") {
			t.Fatalf("got %+v", a)
		}
	}
	if a := ask("eve@attacker.example", reverse); a.Verdict != Reject || a.Reason != "no bounce to srs address" {
		t.Errorf("got %+v", a)
	}
}
