package loadtest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
)

// patience bounds every wait of these tests that is to end by itself.
const patience = 30 * time.Second

// srsKey is in the file srs.key beside every configuration, which names it or not.
const srsKey = "a key for the reverse-paths of these tests"

// A world is the configuration of one node, in parts.
type world struct {
	routes string // rules
	// messages are authenticated; else the rules turn that off, unless they have a line for "domain *"
	judged bool
	listen string          // of the listener, besides addr, such as "xclient: [127.0.0.1/32]"
	dir    string          // where the files are put; a new folder when empty
	config string          // lines of the file besides those that every node has
	log    string          // the level; "error" when empty
	dns    *dnstest.Server // nil: a server that knows no name
}

// write puts the files of a node into dir and gives the name of the configuration.
func (w world) write(t testing.TB, dir, addr string) string {
	t.Helper()
	if w.dns == nil {
		w.dns = dnstest.Start(t, "")
	}
	if w.log == "" {
		w.log = "error"
	}
	listen := fmt.Sprintf("addr: %q", addr)
	if w.listen != "" {
		listen += ", " + w.listen
	}
	config := fmt.Sprintf("hostname: relay.example\npostmaster: ops@elsewhere.example\nlisten:\n  - {%s}\nroutes: "+
		"routes.txt\n"+
		"dns: {servers: [%q]}\nlog: {level: %s}\n%s\n", listen, w.dns.Addr(), w.log, w.config)
	if !w.judged && !strings.Contains(w.routes, "domain *") {
		w.routes = "domain * dmarc=off require_auth=no seal=never\n" + w.routes
	}
	save(t, filepath.Join(dir, "routes.txt"), w.routes)
	save(t, filepath.Join(dir, "srs.key"), srsKey+"\n")
	name := filepath.Join(dir, "millrace.yaml")
	save(t, name, config)
	return name
}

func save(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A logBuffer keeps what a node logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// anyCertificate is how a client takes the certificate that a node made for itself.
func anyCertificate() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// dial opens a session that is closed when the test ends.
func dial(t testing.TB, cfg source.Config) *source.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := source.Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Abort(false) })
	return s
}

// send sends a message and wants a 2yz.
func send(t testing.TB, s *source.Session, m source.Message) source.Result {
	t.Helper()
	r, err := s.Send(m)
	if err != nil {
		t.Fatal(err)
	}
	if r.End.Class() != 2 {
		t.Fatalf("%s", r.End)
	}
	return r
}

// messages waits for n messages at a destination.
func messages(t testing.TB, d *smtptest.Server, n int) []smtptest.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := d.WaitMessages(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// await waits until cond holds.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not in %s", what, patience)
		case <-tick.C:
		}
	}
}

// ownField is our Received field above a message for one recipient. Its end is that of the hop mark's line: a message
// may begin with a blank, which is no part of our field.
var ownField = regexp.MustCompile(`^Received: from [^\r\n]*\r\n\tby relay\.example with [A-Z0-9]+ id [0-9a-f]{32}\r\n(\tfor <[^\r\n]*>;\r\n)?\t[^\r\n]* \(hop=[0-9a-f]{16}\)\r\n`)

// below gives what stands below our Received field.
func below(octets []byte) ([]byte, error) {
	field := ownField.Find(octets)
	if field == nil {
		return nil, fmt.Errorf("does not begin with our Received field: %.300q", octets)
	}
	return octets[len(field):], nil
}

// differ says where two messages differ.
func differ(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	from := max(0, i-20)
	return fmt.Sprintf("%d octets, want %d; they differ at %d: got %.60q, want %.60q", len(got), len(want), i,
		got[min(from, len(got)):], want[min(from, len(want)):])
}

// parallel runs n cases on a few goroutines and waits for them.
func parallel(n int, run func(i int)) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		next int
	)
	for range 4 * runtime.GOMAXPROCS(0) {
		wg.Go(func() { // ends when there is no case left
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return
				}
				run(i)
			}
		})
	}
	wg.Wait()
}

// violations reports what the relay did at a destination that the RFCs forbid.
func violations(t testing.TB, d *smtptest.Server) {
	t.Helper()
	if v := d.Violations(); len(v) > 0 {
		t.Errorf("%d breaches at the destination, such as %s", len(v), strings.Join(v[:min(3, len(v))], "; "))
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
