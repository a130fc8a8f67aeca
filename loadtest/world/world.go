// Package world is what the tests of whole nodes share: the configuration of a node in parts, nodes in the test's
// process and in their own, a Redis, the corpus, and the small questions that tests ask of what arrived.
//
// It owns what it starts until the test ends, and refuses to know what a test wants to show.
package world

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

// Patience bounds every wait of these tests that is to end by itself.
const Patience = 30 * time.Second

// A TB is the part of testing.TB that the world of a process needs. It is declared here so that a program can have one.
type TB interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// SRSKey is in the file srs.key beside every configuration, which names it or not.
const SRSKey = "a key for the reverse-paths of these tests"

// A World is the configuration of one node, in parts.
type World struct {
	Routes string // rules
	// messages are authenticated; else the rules turn that off, unless they have a line for "domain *"
	Judged  bool
	Listen  string          // of the listener, besides addr, such as "xclient: [127.0.0.1/32]"
	Proxied string          // where a second listener is, for a balancer on loopback; "": none
	Dir     string          // where the files are put; a new folder when empty
	Config  string          // lines of the file besides those that every node has
	Log     string          // the level; "error" when empty
	DNS     *dnstest.Server // nil: a server that knows no name
	TrustAD bool            // the AD bit of DNS counts
}

// Write puts the files of a node into dir and returns the name of the configuration.
func (w World) Write(t TB, dir, addr string) string {
	t.Helper()
	if w.DNS == nil {
		w.DNS = dnstest.Start(t, "")
	}
	if w.Log == "" {
		w.Log = "error"
	}
	listen := fmt.Sprintf("addr: %q", addr)
	if w.Listen != "" {
		listen += ", " + w.Listen
	}
	if w.Proxied != "" {
		listen += fmt.Sprintf("}\n  - {addr: %q, proxy_protocol: [\"127.0.0.1/32\"]", w.Proxied)
	}
	config := fmt.Sprintf("hostname: relay.example\npostmaster: ops@elsewhere.example\nlisten:\n  - {%s}\nroutes: "+
		"routes.txt\n"+
		"dns: {servers: [%q], trust_ad: %t}\nlog: {level: %s}\n%s\n", listen, w.DNS.Addr(), w.TrustAD, w.Log, w.Config)
	if !w.Judged && !strings.Contains(w.Routes, "domain *") {
		w.Routes = "domain * dmarc=off require_auth=no seal=never\n" + w.Routes
	}
	Save(t, filepath.Join(dir, "routes.txt"), w.Routes)
	Save(t, filepath.Join(dir, "srs.key"), SRSKey+"\n")
	name := filepath.Join(dir, "millrace.yaml")
	Save(t, name, config)
	return name
}

// Save writes a file of a node.
func Save(t TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// AnyCertificate is how a client takes the certificate that a node made for itself.
func AnyCertificate() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// Dial opens a session that is closed when the test ends.
func Dial(t testing.TB, cfg source.Config) *source.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	s, err := source.Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Abort(false) })
	return s
}

// Send sends a message and wants a 2yz.
func Send(t testing.TB, s *source.Session, m source.Message) source.Result {
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

// Messages waits for n Messages at a destination.
func Messages(t testing.TB, d *smtptest.Server, n int) []smtptest.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	got, err := d.WaitMessages(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Await waits until cond holds.
func Await(t TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not in %s", what, Patience)
		case <-tick.C:
		}
	}
}

// OwnField is our Received field above a message for one recipient. Its end is that of the hop mark's line: a message
// may begin with a blank, which is no part of our field.
var OwnField = regexp.MustCompile(`^Received: from [^\r\n]*\r\n\tby relay\.example with [A-Z0-9]+ id [0-9a-f]{32}\r\n` +
	`(\tfor <[^\r\n]*>;\r\n)?\t[^\r\n]* \(hop=[0-9a-f]{16}\)\r\n`)

// Below returns what stands Below our Received field.
func Below(octets []byte) ([]byte, error) {
	field := OwnField.Find(octets)
	if field == nil {
		return nil, fmt.Errorf("does not begin with our Received field: %.300q", octets)
	}
	return octets[len(field):], nil
}

// Differ says where two messages Differ.
func Differ(got, want []byte) string {
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

// Parallel runs n cases on a few goroutines and waits for them.
func Parallel(n int, run func(i int)) {
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

// Violations reports what the relay did at a destination that the RFCs forbid.
func Violations(t testing.TB, d *smtptest.Server) {
	t.Helper()
	if v := d.Violations(); len(v) > 0 {
		t.Errorf("%d breaches at the destination, such as %s", len(v), strings.Join(v[:min(3, len(v))], "; "))
	}
}

// AddrPort parses an address and a port that must be ones.
func AddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// ReplyID is the trace id in a reply.
var ReplyID = regexp.MustCompile("id=[0-9a-f]{32}")
