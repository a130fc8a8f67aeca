package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const smallest = "hostname: mx1.example.net\nlisten: [{addr: \"127.0.0.1:0\"}]\nroutes: file\n"

// configFile returns the name of a configuration in a folder that has a file named "file".
func configFile(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("domain example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "millrace.yaml")
}

// A bench is a whole node with a destination for example.com.
type bench struct {
	*Node
	dest *smtptest.Server
	dir  string
	log  *logtest.Log
	seen chan mail.Event // how transactions ended
}

// startNode runs a node until the test ends. extra is appended to its configuration, and may have listeners of its own;
// spans may be nil.
func startNode(t *testing.T, extra string, spans sdktrace.SpanExporter) *bench {
	t.Helper()
	return startNodeIn(t, dnstest.Start(t,
		"example.com. 60 IN MX 10 mx.example.com.\nmx.example.com. 60 IN A 127.0.0.1\n"), extra, spans)
}

// startNodeIn is startNode with a DNS server of the test's own.
func startNodeIn(t *testing.T, zone *dnstest.Server, extra string, spans sdktrace.SpanExporter) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), log: new(logtest.Log), seen: make(chan mail.Event, 1000)}
	b.dest = smtptest.Start(t, smtptest.Behaviour{})
	b.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%s\n", b.dest.Addr()))
	listen := "listen: [{addr: \"127.0.0.1:0\"}]\n"
	if strings.Contains(extra, "listen:") {
		listen = ""
	}
	yaml := fmt.Sprintf("hostname: mx1.example.net\npostmaster: ops@elsewhere.example\nroutes: routes.txt\ndns: "+
		"{servers: [%q]}\n%sadmin: {addr: \"127.0.0.1:0\", health: \"127.0.0.1:0\"}\n%s", zone.Addr(), listen, extra)
	cfg, err := config.Parse(filepath.Join(b.dir, "millrace.yaml"), []byte(yaml), "")
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Stderr: b.log, spans: spans, Observe: func(e *mail.Event) {
		if e.Kind != mail.Connected && e.Kind != mail.Disconnected && e.Kind != mail.Routed {
			b.seen <- *e
		}
	}}
	if b.Node, err = New(cfg, opts); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) rules(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(b.dir, "routes.txt")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute) // a reload waits for a file that has just been written
	if err := os.Chtimes(file, past, past); err != nil {
		t.Fatal(err)
	}
}

// A talk is a client's side of a dialogue.
type talk struct {
	t *testing.T
	*textproto.Conn
	raw      net.Conn
	greeting string
}

func (b *bench) dial(t *testing.T) *talk {
	t.Helper()
	return b.dialFor(t, 220)
}

// dialFor is dial where another greeting is expected.
func (b *bench) dialFor(t *testing.T, code int) *talk {
	t.Helper()
	raw, err := net.Dial("tcp", b.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &talk{t: t, Conn: textproto.NewConn(raw), raw: raw}
	t.Cleanup(func() { raw.Close() })
	c.greeting = c.expect(code)
	return c
}

// dialTLS is dial under TLS, from the first octet or by STARTTLS.
func (b *bench) dialTLS(t *testing.T, implicit bool) *talk {
	t.Helper()
	client := &tls.Config{InsecureSkipVerify: true}
	if !implicit {
		c := b.dial(t)
		c.say("EHLO x.example", 250)
		c.say("STARTTLS", 220)
		c.Conn = textproto.NewConn(tls.Client(c.raw, client))
		return c
	}
	raw, err := tls.Dial("tcp", b.Addrs()[0].String(), client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	c := &talk{t: t, Conn: textproto.NewConn(raw), raw: raw}
	c.greeting = c.expect(220)
	return c
}

func (c *talk) expect(code int) string {
	c.t.Helper()
	_, text, err := c.ReadResponse(code)
	if err != nil {
		c.t.Fatalf("want %d: %v", code, err)
	}
	return text
}

func (c *talk) say(line string, code int) string {
	c.t.Helper()
	if err := c.PrintfLine("%s", line); err != nil {
		c.t.Fatal(err)
	}
	return c.expect(code)
}

const canary = "the canary of this message"

// send sends a message to to, and returns the reply to the dot.
func (c *talk) send(to string) string {
	c.t.Helper()
	c.say("EHLO client.example", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	c.say("RCPT TO:<"+to+">", 250)
	c.say("DATA", 354)
	return c.say("Subject: "+canary+"\r\n\r\n"+canary+"\r\n.", 250)
}

func (b *bench) get(t *testing.T, path string) (int, string) {
	t.Helper()
	return getAt(t, b.AdminAddr(), path)
}

func getAt(t *testing.T, addr net.Addr, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequest("GET", "http://"+addr.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestNode_Relay: a whole node relays, logs and counts.
func TestNode_Relay(t *testing.T) {
	b := startNode(t, "", nil)
	b.dial(t).send("info@example.com")
	e := <-b.seen
	if e.Kind != mail.Relayed || len(b.dest.Messages()) != 1 {
		t.Fatalf("got %s, and %d messages", e.Kind, len(b.dest.Messages()))
	}
	if code, body := b.get(t, "/readyz"); code != 200 {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, body := getAt(t, b.HealthAddr(), "/readyz"); code != 200 {
		t.Errorf("readyz for balancers: %d %s", code, body)
	}
	_, metrics := b.get(t, "/metrics")
	for _, want := range []string{`millrace_messages_relayed_total{mode="hold"} 1`, "millrace_client_connections 1",
		"millrace_rules 1", "millrace_events_dropped_total 0",
		fmt.Sprintf(`millrace_sessions{site="smtp://%s",state="idle"} 1`, b.dest.Addr())} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	log := b.log.String()
	if strings.Contains(log, canary) {
		t.Error("the log holds octets of the message")
	}
	if !strings.Contains(log, `"msg":"relayed"`) || !strings.Contains(log, `"forward":"info@example.com"`) ||
		!strings.Contains(log, e.Trace.String()) {
		t.Errorf("the log lacks the transaction:\n%s", log)
	}
}

// TestNode_Decided: the line says by which rules, and by which entry of a list, a client was decided on, and the first
// line what runs.
func TestNode_Decided(t *testing.T) {
	b := startNode(t, "score:\n  allow:\n    - 127.0.0.1 for=score,dmarc a partner\n", nil)
	b.dial(t).send("info@example.com")
	e := <-b.seen
	files := "files " + b.Node.rules.router.Digest()[:12]
	if e.Entries != "allow "+b.dir+"/millrace.yaml:9 for=score,dmarc" || e.Rules != files {
		t.Errorf("got %q by %q", e.Entries, e.Rules)
	}
	b.rules(t, "domain example.com\n@example.com drop\n")
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.dial(t).send("info@example.com")
	again := <-b.seen
	if again.Rules == e.Rules {
		t.Errorf("after a reload %q", again.Rules)
	}
	if err := b.Shutdown(t.Context()); err != nil { // after which all of the log is written
		t.Error(err)
	}
	for _, want := range []string{
		`"msg":"starting","version":"","configuration":"` + b.dir + `/millrace.yaml","node":"mx1.example.net"}`,
		`"set":"` + e.Rules + `"`, `"set":"` + again.Rules + `"`, `"entries":"allow `,
	} {
		if !b.log.Has(want) {
			t.Errorf("the log lacks %s:\n%s", want, b.log.String())
		}
	}
}

// TestNode_Blocked: the line of a refusal names the entry that refused.
func TestNode_Blocked(t *testing.T) {
	b := startNode(t, "score:\n  block:\n    - helo:bad.example\n", nil)
	c := b.dial(t)
	c.say("EHLO bad.example", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	c.say("RCPT TO:<info@example.com>", 554)
	if e := <-b.seen; e.Entries != "block "+b.dir+"/millrace.yaml:9" {
		t.Errorf("got %q", e.Entries)
	}
}

// TestNode_HashedAddresses: addresses stay out of the log when they are hashed.
func TestNode_HashedAddresses(t *testing.T) {
	b := startNode(t, "log: {addresses: hash, level: debug}", nil)
	b.dial(t).send("info@example.com")
	<-b.seen
	c := b.dial(t)
	c.say("EHLO client.example", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	c.say("RCPT TO:<bob@foreign.example>", 550)
	<-b.seen
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for _, address := range []string{"alice", "info@", "bob"} {
		if strings.Contains(b.log.String(), address) {
			t.Errorf("%s stands in the log:\n%s", address, b.log.String())
		}
	}
}

// TestReload_BadRules: a bad reload changes nothing and names the line.
func TestReload_BadRules(t *testing.T) {
	b := startNode(t, "", nil)
	good, err := os.ReadFile(filepath.Join(b.dir, "routes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	b.rules(t, string(good)+"\nnonsense here\n")
	err = b.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "routes.txt:4:1: ") {
		t.Errorf("got %v", err)
	}
	b.Node.log.flush()
	if !strings.Contains(b.log.String(), "routes.txt:4:1: ") {
		t.Error("the log does not name the line")
	}
	b.dial(t).send("info@example.com")
	b.rules(t, string(good)+"info@example.com reject 550 5.1.1 Moved\n")
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := b.dial(t)
	c.say("EHLO client.example", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	if text := c.say("RCPT TO:<info@example.com>", 550); !strings.Contains(text, "Moved") {
		t.Errorf("got %s", text)
	}
}

// TestReload_Certificate: a certificate is swapped on reload.
func TestReload_Certificate(t *testing.T) {
	ca := smtptest.NewCA()
	write := func(dir, name string) {
		pair := ca.Certificate(name)
		writePair(t, dir, pair)
	}
	dir := t.TempDir()
	write(dir, "one.example")
	b := startNode(t,
		fmt.Sprintf("tls: {cert: %q, key: %q}", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")), nil)
	shown := func() string {
		c := b.dial(t)
		c.say("EHLO client.example", 250)
		c.say("STARTTLS", 220)
		conn := tls.Client(c.raw, &tls.Config{InsecureSkipVerify: true})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	if got := shown(); got != "one.example" {
		t.Errorf("got %s", got)
	}
	write(dir, "two.example")
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "two.example" {
		t.Errorf("after reload: got %s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "millrace.yaml:7:13: tls.cert") {
		t.Errorf("a broken certificate: got %v", err)
	}
	if got := shown(); got != "two.example" {
		t.Errorf("after a bad reload: got %s", got)
	}
	write(dir, "three.example")
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := "tls.key: " + filepath.Join(dir, "key.pem")
	if err := b.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), wrong) {
		t.Errorf("a broken key: got %v", err)
	}
}

// TestShutdown_Drain: a drain answers idle clients and finishes transactions.
func TestShutdown_Drain(t *testing.T) {
	b := startNode(t, "", nil)
	idle, busy := b.dial(t), b.dial(t)
	idle.say("EHLO idle.example", 250)
	busy.say("EHLO busy.example", 250)
	busy.say("MAIL FROM:<alice@sender.example>", 250)
	busy.say("RCPT TO:<info@example.com>", 250)
	busy.say("DATA", 354)
	ended := make(chan error)
	go func() { ended <- b.Shutdown(t.Context()) }()
	if text := idle.expect(421); !strings.Contains(text, "4.3.2") {
		t.Errorf("got %s", text)
	}
	if code, body := b.get(t, "/readyz"); code != 503 || !strings.Contains(body, "draining") {
		t.Errorf("readyz in a drain: %d %s", code, body)
	}
	if code, body := getAt(t, b.HealthAddr(), "/readyz"); code != 503 {
		t.Errorf("readyz for balancers in a drain: %d %s", code, body)
	}
	busy.say("Subject: x\r\n\r\nx\r\n.", 250)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(b.dest.Messages()); n != 1 {
		t.Errorf("%d messages", n)
	}
	if _, err := bufio.NewReader(busy.raw).ReadByte(); err == nil {
		// The 421 that follows the finished transaction.
		if _, err := io.Copy(io.Discard, busy.raw); err != nil {
			t.Errorf("the connection is left open: %v", err)
		}
	}
}

// TestShutdown_SilentNextHop: a drain ends in time although a next hop does not answer.
func TestShutdown_SilentNextHop(t *testing.T) {
	b := startNode(t, "log: {level: debug}\ndeadlines: {rcpt: 4m}", nil)
	asked := make(chan struct{}, 10)
	answer := make(chan struct{})
	slow := smtptest.Start(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == "RCPT" {
			asked <- struct{}{}
			<-answer
		}
		return smtptest.Answer{}, false
	}})
	t.Cleanup(func() { close(answer) })
	b.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%s\n", slow.Addr()))
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := b.dial(t)
	c.say("EHLO client.example", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	if err := c.PrintfLine("RCPT TO:<info@example.com>"); err != nil {
		t.Fatal(err)
	}
	<-asked
	if aborted, inDoubt := b.Abandon(); aborted != 1 || inDoubt != 0 {
		t.Errorf("in flight: %d cut, %d in doubt", aborted, inDoubt)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan error)
	go func() { ended <- b.Shutdown(ctx) }() // ends at once, or by the deadline of RCPT
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "1 connections cut") {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for the next hop")
	}
	if !strings.Contains(b.log.String(), `"msg":"ended before the drain was over","cut":1,"in_doubt":0`) {
		t.Errorf("the log does not say what was lost:\n%s", b.log.String())
	}
}

// TestShutdown_DeadCollector: a collector that does not take spans holds up no mail and does not delay the end.
func TestShutdown_DeadCollector(t *testing.T) {
	for _, tt := range []struct {
		name     string
		status   int  // 0 for none
		listens  bool // takes connections
		deadline bool // the end waits until our own deadline for the last spans
	}{
		{"it is not there", 0, false, false},
		{"it takes connections and never answers", 0, true, true},
		{"500", 500, true, false},
		{"400", 400, true, false},
		{"401", 401, true, false},
		{"429 with the time of the next try", 429, true, true},
		{"503 with the time of the next try", 503, true, true},
		{"307 to itself", 307, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := deadCollector(t, tt.status, tt.listens)
			b := startNode(t, fmt.Sprintf("telemetry: {otlp: \"http://%s\", sample: 1}", addr), nil)
			for range 3 { // each has many spans
				c := b.dial(t)
				for range 20 {
					c.send("info@example.com")
					<-b.seen
				}
			}
			// The error is that of our own deadline. When the exporter's is over, there is none.
			err := b.Shutdown(t.Context())
			late := errors.Is(err, context.DeadlineExceeded)
			if tt.deadline && !late || err != nil && (!late || !strings.Contains(err.Error(), "telemetry")) {
				t.Errorf("got %v", err)
			}
			if n := b.telemetry.dropped.Load(); n == 0 && !late {
				t.Error("no span was lost")
			}
		})
	}
}

// deadCollector returns the address of a collector that answers each request with a status, with none, or is not there.
func deadCollector(t *testing.T, status int, listens bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	switch {
	case !listens:
		l.Close()
	case status != 0:
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Location", r.URL.Path)
			w.WriteHeader(status)
		})}
		go func() { _ = s.Serve(l) }() // ends with Close
		t.Cleanup(func() { s.Close() })
	}
	return l.Addr().String()
}

// TestStart_AddressInUse: an address in use ends everything that was started.
func TestStart_AddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := configFile(t)
	yaml := fmt.Sprintf("hostname: mx1.example.net\npostmaster: o@p.example\nroutes: file\nlisten:\n  - addr: "+
		"127.0.0.1:0\n  - addr: %s\nadmin: {addr: \"127.0.0.1:0\"}\n", l.Addr())
	cfg, err := config.Parse(file, []byte(yaml), "")
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(cfg, Options{Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err == nil || !strings.Contains(err.Error(), "millrace.yaml:6:11: listen[1].addr: ") {
		t.Errorf("got %v", err)
	}
}

func writePair(t *testing.T, dir string, pair tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range pair.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	for name, data := range map[string][]byte{
		"cert.pem": chain, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
