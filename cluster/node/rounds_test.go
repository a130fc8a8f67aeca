package node

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/hook"
)

// TestRounds: what is wrong in the DNS is said once when it is new and once when it is gone, and counted meanwhile. A
// name server that fails says nothing of what was wrong.
func TestRounds(t *testing.T) {
	const zone = `
example.org. 60 IN MX 10 mx1.example.org.
mx1.example.org. 60 IN A 192.0.2.25
mx1.example.org. 60 IN TXT "v=spf1 a -all"
25.2.0.192.in-addr.arpa. 60 IN PTR mx1.example.org.
_dmarc.example.org. 60 IN TXT "v=DMARC1; p=reject; rua=mailto:a@example.org"
`
	names := dnstest.Start(t, zone)
	dir := t.TempDir()
	text := "hostname: mx1.example.org\npostmaster: a@b.example\nlisten: [{addr: \"127.0.0.1:0\"}]\nroutes: " +
		"routes.txt\n"
	cfg, err := config.Parse(filepath.Join(dir, "millrace.yaml"), []byte(text), "@example.org a@b.example\n")
	if err != nil {
		t.Fatal(err)
	}
	// A resolver of its own each time, so that no answer is one of before.
	examine := func(r *rounds) {
		resolver, err := dns.New(dns.Config{Servers: []string{names.Addr()}})
		if err != nil {
			t.Fatal(err)
		}
		defer resolver.Close()
		web, err := hook.New(hook.Config{Resolver: resolver})
		if err != nil {
			t.Fatal(err)
		}
		defer web.Close()
		if r.doctor, err = doctor.New(doctor.Config{Node: cfg, Resolver: resolver, Web: web}); err != nil {
			t.Fatal(err)
		}
		r.examine(t.Context())
	}
	var lines []string
	r := &rounds{domains: func() []string { return []string{"example.org"} }}
	r.say = func(level slog.Level, message string, args ...any) {
		var fault any
		for i := 0; i+1 < len(args); i += 2 {
			if args[i] == "fault" {
				fault = args[i+1]
			}
		}
		lines = append(lines, fmt.Sprintf("%s %s: %v", level, message, fault))
	}
	for _, step := range []struct {
		name, zone string
		fault      string // a name that fails
		lines      string
		wrong      int // findings that are misconfigured
	}{
		{"all is well", zone, "", "", 0},
		{"a null MX", strings.Replace(zone, "MX 10 mx1.example.org.", "MX 0 .", 1), "",
			"WARN the DNS is not as mail needs it: mx-null", 1},
		{"the same again", strings.Replace(zone, "MX 10 mx1.example.org.", "MX 0 .", 1), "", "", 1},
		{"it is right, and the policy cannot be had", zone, "_dmarc.example.org",
			"INFO the DNS is not as mail needs it: no-answer, INFO the DNS is right again: mx-null", 0},
		{"all is well again", zone, "", "INFO the DNS is right again: no-answer", 0},
	} {
		lines = nil
		if err := names.SetZone(step.zone); err != nil {
			t.Fatal(err)
		}
		names.SetFault("_dmarc.example.org", "*", dnstest.Fault{})
		if step.fault != "" {
			names.SetFault(step.fault, "*", dnstest.Fault{Rcode: "SERVFAIL"})
		}
		examine(r)
		if got := strings.Join(lines, ", "); got != step.lines {
			t.Errorf("%s: said %q, want %q", step.name, got, step.lines)
		}
		seen := r.last.Load()
		if got := seen.Findings[admin.Finding{Domain: "example.org", State: "misconfigured"}]; got != step.wrong {
			t.Errorf("%s: %d are counted, want %d", step.name, got, step.wrong)
		}
	}
}
