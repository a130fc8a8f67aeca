package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// TestForeign_DMARC: dmarc-cat of Debian reads a report.
func TestForeign_DMARC(t *testing.T) {
	c := NewCounts(time.Now, contact)
	for range 41 {
		c.See(message(nil))
	}
	c.See(message(func(e *mail.Event, v *mail.Evaluation) {
		e.Kind, e.Reason, v.SPF, v.Asked = mail.Refused, "dmarc", false, "reject"
	}))
	m := Make(&origin, Subject{DMARC, "example.com", 1767225600}, c.Part(DMARC, dayOf(time.Now()), "example.com"), nil)
	file := filepath.Join(t.TempDir(), m.file(m.Origin)+".xml.gz")
	if err := os.WriteFile(file, m.packed(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := extern.Find(t, "dmarc-cat").Command(t.Context(), "-N", file).CombinedOutput()
	for _, want := range []string{
		"Relay <& Co>", "reports@relay.example", "example.com", "p=reject", "192.0.2.1", "41", "news.example.com",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in what it prints (%v): %s", want, err, out)
		}
	}
}

// TestForeign_TLS: jq of Debian finds in a report what RFC 8460 section 4.4 puts there.
func TestForeign_TLS(t *testing.T) {
	c := NewCounts(time.Now, contact)
	c.Session(session(nil))
	c.Session(session(func(s *mail.TLSSession) { s.Result = mail.TLSHostMismatch }))
	m := Make(&origin, Subject{TLS, "example.com", 1767225600}, c.Part(TLS, dayOf(time.Now()), "example.com"), nil)
	cmd := extern.Find(t, "jq").Command(t.Context(), "-r", `.policies[] | .policy["policy-type"], .policy["mx-host"][0],
		.summary["total-successful-session-count"], (.["failure-details"][] | .["result-type"],
		.["failed-session-count"])`)
	cmd.Stdin = strings.NewReader(string(m.Text))
	out, err := cmd.CombinedOutput()
	const want = "sts *.example.com 1 certificate-host-mismatch 1"
	if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
}
