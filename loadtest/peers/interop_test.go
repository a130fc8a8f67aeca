package peers_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// letter holds what relays and destinations are prone to change: dots that open a line, octets above 127, trailing
// blanks, empty lines, and a long line.
var letter = []byte("Subject: test\r\nFrom: <a@client.example>\r\n\r\n.dot\r\n..\r\n\xe9\xff \r\n\r\n" +
	strings.Repeat("long ", 400) + "\r\n.\x00\r\n\r\n")

// Clients.

func TestInterop_FromSmtpSource(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		n    int
	}{
		{"in sessions that carry many messages", []string{"-d", "-s", "10", "-m", "200", "-l", "4096"}, 200},
		{"in a session per message", []string{"-s", "10", "-m", "100", "-l", "4096"}, 100},
		{"beyond the hold window", []string{"-d", "-s", "4", "-m", "20", "-l", "1048576"}, 20},
		{"to several recipients", []string{"-d", "-s", "4", "-m", "20", "-r", "5", "-l", "1000"}, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{})
			n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
			ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
			defer cancel()
			cmd := extern.Find(t, "smtp-source").Command(ctx,
				append(c.args, "-f", "a@client.example", "-t", "b@x.example", n.Addr)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got := d.Counts().Messages; got != c.n {
				t.Errorf("got %d messages, want %d", got, c.n)
			}
			world.Violations(t, d)
		})
	}
}

// TestInterop_FromSwaks: swaks sends through the relay.
func TestInterop_FromSwaks(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"in clear", nil},
		{"with PIPELINING", []string{"--pipeline"}},
		{"over STARTTLS", []string{"--tls"}},
		{"over STARTTLS with PIPELINING", []string{"--tls", "--pipeline"}},
		{"behind a PROXY header",
			[]string{"--proxy-version", "1", "--proxy-family", "TCP4", "--proxy-source", "192.0.2.7",
				"--proxy-source-port", "1025", "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{})
			w := world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"}
			if slices.Contains(c.args, "--proxy-version") {
				w.Listen = `proxy_protocol: ["127.0.0.1/32"]`
			}
			n := world.Start(t, w)
			host, port, err := net.SplitHostPort(n.Addr)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
			defer cancel()
			args := append([]string{"--server", host, "--port", port, "--helo", "client.example", "--from",
				"a@client.example",
				"--to", "b@x.example,c@x.example", "--body", ".by swaks"}, c.args...)
			if out, err := extern.Find(t, "swaks").Command(ctx, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got := world.Messages(t, d, 1)[0]
			if !bytes.Contains(got.Octets, []byte("\r\n.by swaks\r\n")) || len(got.Forwards) != 2 {
				t.Errorf("got %q for %q", got.Octets, got.Forwards)
			}
			if with := map[bool]string{
				true: "with ESMTPS id", false: "with ESMTP id",
			}[slices.Contains(c.args, "--tls")]; !bytes.Contains(got.Octets, []byte(with)) {
				t.Errorf("no %q in %.300q", with, got.Octets)
			}
			if w.Listen != "" && !bytes.Contains(got.Octets, []byte("[192.0.2.7]")) {
				t.Errorf("the carried address is not in %.300q", got.Octets)
			}
			world.Violations(t, d)
		})
	}
}

// TestInterop_FromAPipeliningClient: a pipelining client sends through the relay.
func TestInterop_FromAPipeliningClient(t *testing.T) {
	proxied := `proxy_protocol: ["127.0.0.1/32"]`
	client, server := world.AddrPort("192.0.2.7:1025"), world.AddrPort("192.0.2.1:25")
	client6, server6 := world.AddrPort("[2001:db8::7]:1025"), world.AddrPort("[2001:db8::1]:25")
	for _, c := range []struct {
		name   string
		listen string
		cfg    source.Config
	}{
		{"by DATA", "", source.Config{Pipeline: true}},
		{"by one chunk", "", source.Config{Chunking: true}},
		{"by small chunks", "", source.Config{Chunking: true, Chunk: 7}},
		{"by small chunks in one go", "", source.Config{Chunking: true, Chunk: 7, Pipeline: true}},
		{
			"by small chunks under TLS", "",
			source.Config{Chunking: true, Chunk: 700, Pipeline: true, TLS: world.AnyCertificate()},
		},
		{
			"in implicit TLS", "tls: implicit",
			source.Config{Pipeline: true, TLS: world.AnyCertificate(), Implicit: true},
		},
		{"octet by octet", "", source.Config{Pace: source.Pace{Octets: 1}}},
		{"behind PROXY v1", proxied, source.Config{Proxy: source.ProxyV1(client, server)}},
		{"behind PROXY v1 over IPv6", proxied, source.Config{Proxy: source.ProxyV1(client6, server6)}},
		{"behind PROXY v2", proxied, source.Config{Proxy: source.ProxyV2(client, server), Pipeline: true}},
		{"behind PROXY v2 over IPv6 in implicit TLS", proxied + ", tls: implicit",
			source.Config{Proxy: source.ProxyV2(client6, server6), TLS: world.AnyCertificate(), Implicit: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{})
			n := world.Start(t, world.World{Listen: c.listen, Routes: "@x.example smtp://" + d.Addr() + "\n"})
			c.cfg.Addr = n.Addr
			s := world.Dial(t, c.cfg)
			if c.cfg.TLS != nil && s.TLSState() == nil {
				t.Error("in clear")
			}
			for range 3 {
				world.Send(t, s,
					source.Message{
						Reverse: "a@client.example", Forward: []string{"b@x.example", "c@x.example"},
						Mail: "BODY=8BITMIME", Octets: letter,
					})
			}
			if err := s.Quit(); err != nil {
				t.Error(err)
			}
			for _, m := range world.Messages(t, d, 3) {
				if !bytes.HasSuffix(m.Octets, letter) || m.Reverse != "a@client.example" ||
					!slices.Equal(m.Forwards, []string{"b@x.example", "c@x.example"}) {
					t.Errorf("got %q for %q", m.Octets, m.Forwards)
				}
			}
			world.Violations(t, d)
		})
	}
}

// TestInterop_FromGoSMTP: go SMT ps client sends through the relay.
func TestInterop_FromGoSMTP(t *testing.T) {
	for _, under := range []string{"clear", "TLS"} {
		t.Run(under, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{})
			n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
			c, err := goSMTPDial(n.Addr, under == "TLS")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for range 3 {
				if err := c.SendMail("a@client.example", []string{"b@x.example", "c@x.example"},
					bytes.NewReader(letter)); err != nil {
					t.Fatal(err)
				}
			}
			for _, m := range world.Messages(t, d, 3) {
				if !bytes.HasSuffix(m.Octets, letter) {
					t.Errorf("got %q", m.Octets)
				}
			}
			world.Violations(t, d)
		})
	}
}

func goSMTPDial(addr string, underTLS bool) (*smtp.Client, error) {
	if underTLS {
		return smtp.DialStartTLS(addr, world.AnyCertificate())
	}
	return smtp.Dial(addr)
}

// Destinations.

// relayed sends the letter through a node with that next hop, by DATA and by BDAT, and returns when both were accepted.
func relayed(t *testing.T, nextHop string, forward ...string) {
	t.Helper()
	n := world.Start(t, world.World{Routes: "@x.example " + nextHop + "\n"})
	for _, cfg := range []source.Config{{Addr: n.Addr}, {Addr: n.Addr, Chunking: true, Chunk: 100}} {
		world.Send(t, world.Dial(t, cfg),
			source.Message{Reverse: "a@client.example", Forward: forward, Mail: "BODY=8BITMIME", Octets: text})
	}
}

// text is the letter without its NUL, for programs that keep messages as text.
var text = bytes.ReplaceAll(letter, []byte("\x00"), []byte("0"))

func checkLetters(t *testing.T, got []extern.Message, n int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("got %d messages, want %d", len(got), n)
	}
	for _, m := range got {
		rest, err := world.Below(m.Content)
		if err != nil {
			t.Error(err)
			continue
		}
		if d := world.Differ(rest, text); d != "" {
			t.Error(d)
		}
		if m.Reverse != "a@client.example" {
			t.Errorf("reverse-path %q", m.Reverse)
		}
	}
}

// TestInterop_ToSmtpSink: the relay delivers to smtp sink.
func TestInterop_ToSmtpSink(t *testing.T) {
	addr, dir := extern.StartSmtpSink(t, extern.SinkOptions{Dump: true})
	relayed(t, "smtp://"+addr, "b@x.example")
	checkLetters(t, extern.SinkMessages(t, dir), 2)
}

// TestInterop_ToSmtpSinkByLMTP: the relay delivers to smtp sink that speaks LMTP.
func TestInterop_ToSmtpSinkByLMTP(t *testing.T) {
	addr, dir := extern.StartSmtpSink(t, extern.SinkOptions{Dump: true, Args: []string{"-L"}})
	relayed(t, "lmtp://"+addr, "b@x.example")
	checkLetters(t, extern.SinkMessages(t, dir), 2)
}

// TestInterop_ToSmtpSinkWithoutPipelining: the relay delivers to smtp sink without pipelining.
func TestInterop_ToSmtpSinkWithoutPipelining(t *testing.T) {
	addr, dir := extern.StartSmtpSink(t, extern.SinkOptions{Dump: true, Args: []string{"-p", "-8"}})
	relayed(t, "smtp://"+addr, "b@x.example")
	checkLetters(t, extern.SinkMessages(t, dir), 2)
}

// TestInterop_ToSmtpSinkWithoutESMTP: the relay delivers to smtp sink without ESMTP.
func TestInterop_ToSmtpSinkWithoutESMTP(t *testing.T) {
	addr, dir := extern.StartSmtpSink(t, extern.SinkOptions{Dump: true, Args: []string{"-e"}})
	relayed(t, "smtp://"+addr, "b@x.example")
	checkLetters(t, extern.SinkMessages(t, dir), 2)
}

// TestInterop_ToExim: the relay delivers to exim.
func TestInterop_ToExim(t *testing.T) {
	addr, read := extern.StartExim(t)
	relayed(t, "smtp://"+addr, "b@x.example")
	world.Await(t, "two messages in Exim", func() bool { return len(read()) == 2 })
	got := read()
	for _, m := range got { // Exim offers STARTTLS and CHUNKING, and puts one field of its own on top
		if !slices.Equal(m.Forward, []string{"b@x.example"}) {
			t.Errorf("forward-path %q", m.Forward)
		}
	}
	checkLetters(t, got, 2)
}

// TestInterop_ToDovecot: the relay delivers to dovecot.
func TestInterop_ToDovecot(t *testing.T) {
	tcp, unix, read := extern.StartDovecotLMTP(t)
	relayed(t, "lmtp://"+tcp, "b@x.example")
	relayed(t, "lmtp+unix:"+unix, "c@x.example")
	checkLetters(t, read(), 4)
}

// TestInterop_ToGoSMTP: the relay delivers to go SMT ps server.
func TestInterop_ToGoSMTP(t *testing.T) {
	for _, under := range []string{"clear", "TLS"} {
		t.Run(under, func(t *testing.T) {
			d := startGoSMTP(t, under == "TLS")
			n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.addr + "\n"})
			s := world.Dial(t, source.Config{Addr: n.Addr, Pipeline: true})
			for range 3 {
				world.Send(t, s,
					source.Message{
						Reverse: "a@client.example", Forward: []string{"b@x.example", "c@x.example"}, Octets: letter,
					})
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.got) != 3 || d.connections != 1 {
				t.Errorf("got %d messages over %d connections, want 3 over 1", len(d.got), d.connections)
			}
			for _, m := range d.got {
				if !bytes.HasSuffix(m, letter) {
					t.Errorf("got %q", m)
				}
			}
		})
	}
}

// A goSMTP is a destination made of go-smtp's server.
type goSMTP struct {
	addr string

	mu          sync.Mutex
	got         [][]byte
	connections int // that said EHLO, once before and once after STARTTLS
}

func startGoSMTP(t *testing.T, underTLS bool) *goSMTP {
	t.Helper()
	d := new(goSMTP)
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.connections++
		return goSession{d}, nil
	}))
	s.Domain, s.EnableSMTPUTF8 = "gosmtp.example", true
	s.MaxLineLength = 1 << 20
	s.ErrorLog = discard{}
	if underTLS {
		s.TLSConfig = smtptest.NewCA().Server("127.0.0.1")
		d.connections-- // see connections
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) }) // ends when the server is closed
	t.Cleanup(func() {
		_ = s.Close() // what it says of connections it cut does not matter
		serving.Wait()
	})
	return d
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

type goSession struct{ d *goSMTP }

func (goSession) Reset()                               {}
func (goSession) Logout() error                        { return nil }
func (goSession) Mail(string, *smtp.MailOptions) error { return nil }
func (goSession) Rcpt(string, *smtp.RcptOptions) error { return nil }

func (s goSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.got = append(s.d.got, b)
	return nil
}

// Both at once.

func TestInterop_BehindHAProxy(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	n := world.Start(t,
		world.World{Listen: `proxy_protocol: ["127.0.0.1/32"]`, Routes: "@x.example smtp://" + d.Addr() + "\n"})
	for _, version := range []string{"send-proxy", "send-proxy-v2"} {
		front := extern.StartHAProxy(t, extern.TCPProxy(n.Addr, version))
		s := world.Dial(t, source.Config{Addr: front})
		world.Send(t, s, source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: letter})
	}
	for _, m := range world.Messages(t, d, 2) {
		if !bytes.Contains(m.Octets, []byte("[127.0.0.1]")) || !bytes.HasSuffix(m.Octets, letter) {
			t.Errorf("got %q", m.Octets)
		}
	}
}

// TestInterop_TLSResumption: TLS sessions upstream resume.
func TestInterop_TLSResumption(t *testing.T) {
	ca := smtptest.NewCA()
	d := smtptest.Start(t, smtptest.Behaviour{TLS: ca.Server("127.0.0.1"), MaxMessages: 1})
	n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
	for range 4 {
		s := world.Dial(t, source.Config{Addr: n.Addr})
		world.Send(t, s, source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: letter})
	}
	if c := d.Counts(); c.Messages != 4 || c.Handshakes != 4 || c.Resumed != 3 {
		t.Errorf("got %+v, want 4 handshakes, 3 of them resumed", c)
	}
}

// TestInterop_AliasLoop: a loop through two aliases is seen.
func TestInterop_AliasLoop(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	n := world.Start(t, world.World{Routes: "@x.example smtp://" + d.Addr() + "\n"})
	s := world.Dial(t, source.Config{Addr: n.Addr})
	world.Send(t, s, source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: letter})
	back := world.Messages(t, d, 1)[0].Octets
	r, err := s.Send(source.Message{Reverse: "a@client.example", Forward: []string{"b@x.example"}, Octets: back})
	if err != nil || !strings.HasPrefix(r.End.String(), "554 5.4.6 ") {
		t.Errorf("the same recipient: got %s, %v", r.End, err)
	}
	for i := range 5 { // five marks may stand above a message, and six may not
		world.Send(t, s,
			source.Message{
				Reverse: "a@client.example", Forward: []string{fmt.Sprintf("c%d@x.example", i)}, Octets: back,
			})
		back = world.Messages(t, d, 2+i)[1+i].Octets
	}
	r, err = s.Send(source.Message{Reverse: "a@client.example", Forward: []string{"d@x.example"}, Octets: back})
	if err != nil || !strings.HasPrefix(r.End.String(), "554 5.4.6 ") {
		t.Errorf("the sixth pass: got %s, %v", r.End, err)
	}
}

// TestInterop_SiteAtItsCap: a site at its cap is told.
func TestInterop_SiteAtItsCap(t *testing.T) {
	release := make(chan struct{})
	d := smtptest.Start(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == smtptest.Dot {
			<-release
		}
		return smtptest.Answer{}, false
	}})
	defer close(release) // before node and destination end, which wait for their sessions
	n := world.Start(t,
		world.World{Routes: "@x.example smtp://" + d.Addr() + "\n", Config: "deadlines: {rcpt: 1s, lend: 1m}"})
	for range 20 { // whose end of data is not answered yet: such a session cannot be taken away
		s := world.Dial(t, source.Config{Addr: n.Addr})
		if r, ok, err := s.Envelope(source.Message{
			Reverse: "a@client.example", Forward: []string{"b@x.example"},
		}); err != nil || !ok {
			t.Fatal(r.End, err)
		}
		if r, err := s.Command("DATA"); err != nil || r.Code != 354 {
			t.Fatal(r, err)
		}
		if err := s.Write(append(source.Body(2<<10), ".\r\n"...)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), world.Patience)
	defer cancel()
	if err := d.WaitFor(ctx, func(c smtptest.Counts) bool { return c.Commands["BDAT"] >= 20 }); err != nil {
		t.Fatal(err)
	}
	// Of deadlines.rcpt: what is usual is more than the client waits for.
	r, _, err := world.Dial(t,
		source.Config{Addr: n.Addr, Timeout: world.Patience}).Envelope(source.Message{
		Reverse: "a@client.example", Forward: []string{"b@x.example"},
	})
	if err != nil || !strings.HasPrefix(r.End.String(), "451 4.4.5 ") {
		t.Errorf("got %s, %v", r.End, err)
	}
	if peak := d.Counts().Peak; peak > 20 {
		t.Errorf("%d sessions at once", peak)
	}
}
