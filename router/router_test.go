package router

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// write writes a rules file in a folder of its own and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "routes.txt")
	overwrite(t, file, text)
	return file
}

// overwrite writes a file as if some time ago, so that a reload does not wait.
func overwrite(t *testing.T, file, text string) {
	t.Helper()
	overwriteAt(t, file, text, time.Now().Add(-2*quiet))
}

func overwriteAt(t *testing.T, file, text string, at time.Time) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

func testConfig(paths ...string) Config {
	return Config{
		Paths:      paths,
		Hostname:   "mx1.example.net",
		SRSDomain:  "srs.example.net",
		Postmaster: mail.Path{Local: "ops", Domain: "elsewhere.example"},
		LocalAddrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:25")},
	}
}

func query(t *testing.T, forward string) mail.Query {
	t.Helper()
	p, err := mail.ParsePath(forward, true)
	if err != nil {
		t.Fatal(err)
	}
	return mail.Query{Forward: p}
}

// TestConfig_Validate: the error names the field that is wrong.
func TestConfig_Validate(t *testing.T) {
	file := write(t, "a@h.example x@t.example\n")
	tests := []struct {
		name  string
		edit  func(*Config)
		field string
	}{
		{"all is well", func(*Config) {}, ""},
		{"a hostname that is no domain name", func(c *Config) { c.Hostname = "[192.0.2.1]" }, "hostname"},
		{"an SRS domain that is no domain name", func(c *Config) { c.SRSDomain = "a b" }, "srs.domain"},
		{"no postmaster", func(c *Config) { c.Postmaster = mail.Path{} }, "postmaster"},
		{"a postmaster without a domain", func(c *Config) { c.Postmaster.Domain = "" }, "postmaster"},
		{"a postmaster that is no address", func(c *Config) { c.Postmaster.Local = "a b" }, "postmaster"},
		{"a postmaster that no rule takes", func(c *Config) { c.Postmaster.Domain = "h.example" }, "postmaster"},
		{"no rules and no postmaster", func(c *Config) { c.Paths, c.Postmaster = nil, mail.Path{} }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(file)
			tt.edit(&cfg)
			_, err := New(cfg)
			var field *mail.FieldError
			switch {
			case tt.field == "" && err != nil:
				t.Error(err)
			case tt.field != "" && (!errors.As(err, &field) || field.Field != tt.field):
				t.Errorf("got %v, want field %s", err, tt.field)
			}
		})
	}
}

// TestRouter_Reload: a reload that fails changes nothing.
func TestRouter_Reload(t *testing.T) {
	file := write(t, "a@h.example x@t.example\n")
	cfg := testConfig(file)
	cfg.HasCredentials = func(string, string, uint16) bool { return true }
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	check := func(version uint64, host string) {
		t.Helper()
		routes, err := r.Route(query(t, "a@h.example"))
		if err != nil || routes[0].NextHop.Host != host || r.Version() != version {
			t.Errorf("version %d: %v, %v", r.Version(), routes, err)
		}
	}
	check(1, "t.example")

	overwrite(t, file, "a@h.example x@u.example\n\na@h.example x@u.example colour=red\n")
	err = r.Reload(t.Context())
	var errs *rules.Errors
	if !errors.As(err, &errs) || !strings.HasPrefix(err.Error(), file+":3:25: unknown option") {
		t.Errorf("got %v", err)
	}
	check(1, "t.example")

	overwrite(t, file, "a@h.example smtps://u@smart.example\n")
	if err = r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "lend=anybody") {
		t.Errorf("got %v", err)
	}
	check(1, "t.example")

	overwrite(t, file, "# being written\n")
	if err := r.Reload(t.Context()); err == nil {
		t.Error("a file without a rule took the place of one with rules")
	}
	check(1, "t.example")

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	check(1, "t.example")

	overwrite(t, file, "a@h.example x@u.example\nb@h.example x@u.example, y@v.example")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(2, "u.example")
	if got := r.Warnings(); len(got) != 1 || !strings.HasPrefix(got[0].String(), file+":2:1: a fan-out") {
		t.Errorf("warnings %q", got)
	}
	if r.Len() != 2 || r.Domains() != 1 || !r.Hosted("H.EXAMPLE") || r.Hosted("u.example") {
		t.Errorf("%d rules, %d domains", r.Len(), r.Domains())
	}
	if r.Needs().SRS.First.Line != 1 || r.Needs().Seal.Rules != 2 {
		t.Errorf("%v, %v", r.Needs().SRS, r.Needs().Seal)
	}
}

// TestRouter_Concurrency: routes and reloads at once see one table or the other.
func TestRouter_Concurrency(t *testing.T) {
	file := write(t, "a@h.example x@t.example\n@h.example x@t.example\n")
	r, err := New(testConfig(file))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { // ends after its reloads
			for range 50 {
				if err := r.Reload(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() { // ends after its questions
			for range 2000 {
				routes, err := r.Route(mail.Query{Forward: mail.Path{Local: "a", Domain: "h.example"}})
				if err != nil || len(routes) != 1 || routes[0].Rule.Line != 1 {
					t.Error(routes, err)
				}
			}
		})
	}
	wg.Wait()
	if v := r.Version(); v < 2 || v > 201 {
		t.Errorf("version %d", v)
	}
}

// TestRouter_Explain: Explain returns what was tried, and what Route returns.
func TestRouter_Explain(t *testing.T) {
	file := write(t, `domain h.example subaddress=+
info@h.example x@t.example
/(.+)-list/@h.example $1@lists.example
@h.example info@h.example
`)
	r, err := New(testConfig(file))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, rcpt string
		steps      []string
	}{
		{"a tag", "info+a@h.example", []string{
			"h.example is hosted here",
			"no rule for the literal address info+a@h.example",
			file + ":2 info@h.example is this address without its tag",
			"to <x@t.example> by mx:t.example",
		}},
		{"an alias by the catch-all", "bob@h.example", []string{
			"h.example is hosted here",
			"no rule for the literal address bob@h.example",
			file + ":3 /(.+)-list/@h.example does not match",
			file + ":4 @h.example is the catch-all",
			"<info@h.example> lies in a domain of ours and is looked up in turn",
			file + ":2 info@h.example is this address",
			"to <x@t.example> by mx:t.example",
		}},
		{"abuse", "abuse@h.example", []string{
			"h.example is hosted here",
			"no rule for the literal address abuse@h.example",
			"the postmaster takes it, because no literal address does",
			"to <ops@elsewhere.example> by mx:elsewhere.example",
		}},
		{"a foreign domain", "bob@t.example", []string{"t.example is not hosted here and the client is not trusted"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			steps, routes, err := r.Explain(query(t, tt.rcpt))
			if got, want := strings.Join(steps, "\n"), strings.Join(tt.steps, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			same, err2 := r.Route(query(t, tt.rcpt))
			if mail.ReplyFor(err) != mail.ReplyFor(err2) || len(same) != len(routes) {
				t.Errorf("Explain %v %v, Route %v %v", routes, err, same, err2)
			}
		})
	}
}
