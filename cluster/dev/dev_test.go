package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRun_Tour: the tour ends as expected and shows every message.
func TestRun_Tour(t *testing.T) {
	var out, log bytes.Buffer
	if err := Run(t.Context(), Config{Addr: "127.0.0.1:0", Once: true, Out: &out, Log: &log}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	text := out.String()
	for _, want := range []string{
		"C  RCPT TO:<refuse@dev.example>", "S  550 5.1.1 No such mailbox here id=", "D  RCPT TO:<inbox@accept.example>",
		"rule      dev-routes:2 accept@dev.example", "mx:accept.example, host mx.accept.example, TLS 1.3, warm session",
		"held until judged", "streamed", "commit ", "every outcome as expected",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown", want)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("colours where they are off")
	}
	if s := log.String(); strings.Contains(s, "only queue") || !strings.Contains(s, `"msg":"relayed"`) {
		t.Errorf("the log holds a message, or nothing of it:\n%s", s)
	}
}

// TestRun_JSON: for a program each message of the tour is an object on a line of its own, and the last one says how
// many there were.
func TestRun_JSON(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Config{Addr: "127.0.0.1:0", Once: true, JSON: true, Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	tour := 0
	for line := range strings.Lines(out.String()) {
		var o struct {
			Tour, Messages, Failed int
			Dialogue               []string
			Ended                  struct{ Msg, Trace, Reply string }
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if o.Messages > 0 {
			if o.Messages != tour || o.Failed != 0 {
				t.Errorf("%d messages: %s", tour, line)
			}
			return
		}
		tour++
		if e := &o.Ended; o.Tour != tour || len(o.Dialogue) == 0 || e.Msg == "" || len(e.Trace) != 32 || e.Reply == "" {
			t.Errorf("got %s", line)
		}
	}
	t.Errorf("no summary in %s", out.String())
}

// A pipe is a writer that a test can wait on.
type pipe struct {
	mu   sync.Mutex
	cond *sync.Cond
	text strings.Builder
}

func newPipe() *pipe {
	p := &pipe{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cond.Broadcast()
	return p.text.Write(b)
}

// await waits until all that was written satisfies ok.
func (p *pipe) await(t *testing.T, ok func(string) bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	defer context.AfterFunc(ctx, p.cond.Broadcast)()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !ok(p.text.String()) {
		if ctx.Err() != nil {
			t.Fatalf("waited in vain; so far:\n%s", p.text.String())
		}
		p.cond.Wait()
	}
	return p.text.String()
}

// TestRun_Others: what others send is shown after the tour.
func TestRun_Others(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := newPipe()
	ended := make(chan error)
	go func() { ended <- Run(ctx, Config{Addr: "127.0.0.1:0", Out: out}) }()
	text := out.await(t, func(s string) bool { return strings.Contains(s, "Metrics and health") })
	_, rest, _ := strings.Cut(text, "swaks --server ")
	addr, _, _ := strings.Cut(rest, " ")
	got, verb, _, err := send(addr,
		letter{helo: "you.example", reverse: "you@sender.example", forward: "refuse@dev.example"})
	if err != nil || verb != "RCPT" || !strings.Contains(got.last(), "No such mailbox here") {
		t.Errorf("got %v at %s, %v", got, verb, err)
	}
	out.await(t, func(s string) bool {
		_, after, _ := strings.Cut(s, "Metrics and health")
		return strings.Contains(after, "<you@sender.example> -> <refuse@dev.example>") &&
			strings.Contains(after, "refused: upstream")
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestRun_Browser: after `make run` a mail that is delivered and one that is refused are both in the browser, each with
// its trace, by the link that is printed. Beside the clone, two commands: make run, and one that sends.
func TestRun_Browser(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := newPipe()
	ended := make(chan error)
	go func() { ended <- Run(ctx, Config{Addr: "127.0.0.1:0", Out: out}) }()
	text := out.await(t, func(s string) bool { return strings.Contains(s, "Metrics and health") })
	_, rest, _ := strings.Cut(text, "swaks --server ")
	addr, _, _ := strings.Cut(rest, " ")
	link := regexp.MustCompile(`(http://[^/ ]+)/login#(\S+)`).FindStringSubmatch(text)
	if link == nil {
		t.Fatalf("no link in %s", text)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	browser := &http.Client{Jar: jar, Transport: transport}
	read := func(answer *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		page, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", answer.Request.URL, answer.Status, err)
		}
		return string(page)
	}
	read(browser.PostForm(link[1]+"/login", url.Values{"token": {link[2]}}))
	for to, says := range map[string]string{"accept": "250 ", "refuse": "No such mailbox here"} {
		got, _, _, err := send(addr, letter{
			helo: "you.example", reverse: "you@sender.example", forward: to + "@dev.example",
			octets: "Subject: hi\r\n\r\nHi\r\n",
		})
		_, id, traced := strings.Cut(got.last(), "id=")
		if err != nil || !traced || !strings.Contains(got.last(), says) {
			t.Fatalf("%s: got %v, %v", to, got, err)
		}
		out.await(t, func(s string) bool { return strings.Contains(s, "-> <"+to+"@dev.example>") })
		if page := read(browser.Get(link[1] + "/log?to=" + to + "@dev.example")); !strings.Contains(page, "/log/"+id) {
			t.Errorf("%s: the log has no %s", to, id)
		}
		page := read(browser.Get(link[1] + "/log/" + id))
		if !strings.Contains(page, to+"@dev.example") || !strings.Contains(page, says) {
			t.Errorf("%s: the page of the message is %s", to, page)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestRun_AddressInUse: an address in use is said clearly.
func TestRun_AddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Run(t.Context(), Config{Addr: l.Addr().String(), Once: true, Out: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "another program listens on "+l.Addr().String()) {
		t.Errorf("got %v", err)
	}
	if err := Run(t.Context(), Config{Addr: "nonsense", Once: true, Out: io.Discard}); err == nil {
		t.Error("an address that is none was taken")
	}
}

// TestConsole_HostileText: text from outside cannot control the terminal.
func TestConsole_HostileText(t *testing.T) {
	var out bytes.Buffer
	c := &console{out: &out}
	hostile := "x\x1b[2J\u009b31m\u202e\r\n"
	c.others(&mail.Event{Kind: mail.Refused, Time: time.Unix(1, 0), Client: netip.MustParseAddr("::1"), Helo: hostile,
		Reverse: mail.Path{Local: hostile, Domain: hostile}, Forward: mail.Path{Local: hostile}, Host: hostile,
		Reply: mail.NewReply(550, 0, 0, hostile), Cause: errors.New(hostile), Reason: hostile})
	if s := out.String(); strings.ContainsAny(s, "\x1b\u009b\u202e\r") {
		t.Errorf("got %q", s)
	}
}
