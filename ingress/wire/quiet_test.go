package wire

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A scriptedSession does something of its own at the greeting and at RCPT.
type scriptedSession struct {
	Session
	greet func(context.Context) error
	rcpt  func(context.Context, mail.Path) error
	body  func(context.Context, *Body) mail.Reply
}

func (s *scriptedSession) Body(ctx context.Context, b *Body) mail.Reply {
	if s.body == nil {
		return s.Session.Body(ctx, b)
	}
	return s.body(ctx, b)
}

func (s *scriptedSession) Greet(ctx context.Context) error {
	if s.greet == nil {
		return s.Session.Greet(ctx)
	}
	return s.greet(ctx)
}

func (s *scriptedSession) Rcpt(ctx context.Context, p mail.Path) error {
	if s.rcpt != nil {
		if err := s.rcpt(ctx, p); err != nil {
			return err
		}
	}
	return s.Session.Rcpt(ctx, p)
}

// scripted wraps the Sessions of cfg in scripted ones.
func scripted(cfg *Config, make func(c *Client, s *scriptedSession)) {
	inner := cfg.NewSession
	cfg.NewSession = func(ctx context.Context, c *Client) Session {
		s := &scriptedSession{Session: inner(ctx, c)}
		make(c, s)
		return s
	}
}

// A quietRig greets after d of silence and reports how that went.
type quietRig struct {
	*rig
	begun chan struct{} // gets a value when the wait begins
	quiet chan bool     // and what it returned
	took  chan time.Duration
}

func startQuiet(t *testing.T, d time.Duration, change func(*Config)) *quietRig {
	q := &quietRig{begun: make(chan struct{}, 8), quiet: make(chan bool, 8), took: make(chan time.Duration, 8)}
	q.rig = start(t, func(cfg *Config) {
		if change != nil {
			change(cfg)
		}
		scripted(cfg, func(c *Client, s *scriptedSession) {
			s.greet = func(ctx context.Context) error {
				begun := time.Now()
				q.begun <- struct{}{}
				quiet := c.Quiet(d)
				q.took <- time.Since(begun)
				q.quiet <- quiet
				return s.Session.Greet(ctx)
			}
		})
	})
	return q
}

const long = time.Hour // longer than any test waits: what ends is ended by something else

// talk says one whole session before its greeting was read, in pieces, and returns what the server said.
func talk(t *testing.T, w io.ReadWriter, pieces ...string) string {
	t.Helper()
	for _, p := range append(pieces, "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRC",
		"PT TO:<b@y.example>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n") {
		if _, err := io.WriteString(w, p); err != nil {
			t.Fatal(err)
		}
	}
	all, _ := io.ReadAll(w)
	return string(all)
}

// TestQuiet_EarlyTalker shows that a client that speaks before the greeting is found out, and that its commands are
// carried out.
func TestQuiet_EarlyTalker(t *testing.T) {
	secure := certificate(t)
	for _, tc := range []struct {
		name   string
		change func(*Config)
		talk   func(t *testing.T, p *testClient) string
	}{
		{"in clear", nil, func(t *testing.T, p *testClient) string { return talk(t, p) }},
		{"one octet at first", nil, func(t *testing.T, p *testClient) string { return talk(t, p, "NOO", "P\r\n") }},
		{"more than the small buffer", func(c *Config) {
			c.tune.idlingBudget = 400
		}, func(t *testing.T, p *testClient) string {
			return talk(t, p, strings.Repeat("NOOP\r\n", 300))
		}},
		{"implicit TLS", func(c *Config) {
			c.TLS, c.Implicit = tlsOf(secure), true
		}, func(t *testing.T, p *testClient) string {
			return talk(t, tls.Client(p, &tls.Config{InsecureSkipVerify: true}))
		}},
		{"behind a PROXY header in one segment", func(c *Config) {
			c.Proxy = loopback
		}, func(t *testing.T, p *testClient) string {
			return talk(t, p, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\nNOOP\r\n")
		}},
		{"behind a PROXY header in a segment of its own", func(c *Config) {
			c.Proxy = loopback
		}, func(t *testing.T, p *testClient) string {
			return talk(t, p, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\n")
		}},
		{"behind a PROXY header under implicit TLS", func(c *Config) {
			c.Proxy, c.TLS, c.Implicit = loopback, tlsOf(secure), true
		}, func(t *testing.T, p *testClient) string {
			p.say("PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\n")
			return talk(t, tls.Client(p, &tls.Config{InsecureSkipVerify: true}))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startQuiet(t, long, tc.change)
			said := tc.talk(t, r.dial())
			if <-r.quiet {
				t.Error("taken for quiet")
			}
			if !strings.HasPrefix(said, "220 ") || !strings.Contains(said, "\r\n250 2.0.0 took 4\r\n221 ") {
				t.Errorf("got %q", said)
			}
			if ms := r.accepted(); len(ms) != 1 || ms[0].octets != "hi\r\n" ||
				fmt.Sprint(ms[0].forwards) != "[b@y.example]" {
				t.Errorf("got %+v", ms)
			}
		})
	}
}

// TestQuiet_SilentClient shows that a silent client is greeted after the delay.
func TestQuiet_SilentClient(t *testing.T) {
	secure := certificate(t)
	const d = 50 * time.Millisecond
	for _, tc := range []struct {
		name   string
		change func(*Config)
		before string
	}{
		{"in clear", nil, ""},
		{"implicit TLS", func(c *Config) { c.TLS, c.Implicit = tlsOf(secure), true }, ""},
		{"behind a PROXY header", func(c *Config) { c.Proxy = loopback }, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startQuiet(t, d, tc.change)
			p := r.dial()
			p.say(tc.before)
			if strings.HasSuffix(tc.name, "TLS") {
				p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
			}
			p.want("220") // after a deadline that passed, which TLS must survive
			if took, quiet := <-r.took, <-r.quiet; !quiet || took < d {
				t.Errorf("quiet %t after %v", quiet, took)
			}
			p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n")
			for _, want := range []string{"250 ", "250", "250", "354", "250 2.0.0 took 4", "221", ""} {
				p.want(want)
			}
		})
	}
}

// TestQuiet_WithoutDelay shows that Quiet without a delay only looks at what has come.
func TestQuiet_WithoutDelay(t *testing.T) {
	r := startQuiet(t, 0, func(c *Config) { c.Proxy = loopback })
	for _, behind := range []string{"", "NOOP\r\n"} {
		p := r.dial()
		p.say("PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\n" + behind)
		p.want("220")
		if quiet := <-r.quiet; quiet != (behind == "") {
			t.Errorf("quiet %t with %q", quiet, behind)
		}
	}
}

// TestQuiet_Shutdown shows that Shutdown ends the wait before the greeting at once.
func TestQuiet_Shutdown(t *testing.T) {
	r := startQuiet(t, long, nil)
	p := r.dial()
	<-r.begun
	waitFor(t, func() bool { return resting(r.srv) == 1 })
	if err := r.srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if <-r.took; !<-r.quiet {
		t.Error("Shutdown was taken for an early talker")
	}
	p.want("421 4.3.2")
	p.want("")
}

// TestQuiet_HangUp shows that a client that hangs up before the greeting is no early talker.
func TestQuiet_HangUp(t *testing.T) {
	r := startQuiet(t, long, nil)
	for name, hangUp := range map[string]func(*net.TCPConn){
		"FIN":          func(c *net.TCPConn) { c.Close() },
		"RST":          func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"half a close": func(c *net.TCPConn) { c.CloseWrite() },
	} {
		p := r.dial()
		<-r.begun
		hangUp(p.Conn.(*net.TCPConn))
		if !<-r.quiet {
			t.Errorf("%s: not quiet", name)
		}
		r.expect(t, 0, "close")
		r.recorder.mu.Lock()
		r.calls = nil
		r.recorder.mu.Unlock()
	}
}

// TestQuiet_AfterXclient shows that there is no delay before the greeting behind XCLIENT.
func TestQuiet_AfterXclient(t *testing.T) {
	r := startQuiet(t, 20*time.Millisecond, func(c *Config) { c.Xclient = loopback })
	p := r.dial()
	p.want("220")
	if !<-r.quiet {
		t.Error("not quiet")
	}
	p.say("EHLO c.example\r\nXCLIENT ADDR=192.0.2.1\r\nEHLO c.example\r\n")
	p.want("250 ")
	p.want("220")
	p.want("250 ")
	if !<-r.quiet {
		t.Error("what a host may pipeline behind XCLIENT was taken for the client's")
	}
}
