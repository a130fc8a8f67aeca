package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A patientSession does something of its own at the greeting and at RCPT.
type patientSession struct {
	Session
	greet func(context.Context) error
	rcpt  func(context.Context, mail.Path) error
}

func (s *patientSession) Greet(ctx context.Context) error {
	if s.greet == nil {
		return s.Session.Greet(ctx)
	}
	return s.greet(ctx)
}

func (s *patientSession) Rcpt(ctx context.Context, p mail.Path) error {
	if s.rcpt != nil {
		if err := s.rcpt(ctx, p); err != nil {
			return err
		}
	}
	return s.Session.Rcpt(ctx, p)
}

// patient makes the Sessions of cfg patient ones.
func patient(cfg *Config, make func(c *Client, s *patientSession)) {
	inner := cfg.NewSession
	cfg.NewSession = func(ctx context.Context, c *Client) Session {
		s := &patientSession{Session: inner(ctx, c)}
		make(c, s)
		return s
	}
}

// A quietRig greets after d of silence and tells how it went.
type quietRig struct {
	*rig
	begun chan struct{} // gets a value when the wait begins
	quiet chan bool     // and what it gave
	took  chan time.Duration
}

func startQuiet(t *testing.T, d time.Duration, change func(*Config)) *quietRig {
	q := &quietRig{begun: make(chan struct{}, 8), quiet: make(chan bool, 8), took: make(chan time.Duration, 8)}
	q.rig = start(t, func(cfg *Config) {
		if change != nil {
			change(cfg)
		}
		patient(cfg, func(c *Client, s *patientSession) {
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

const long = time.Hour // nobody waits that long: what ends is ended by something else

// talk says one whole session before its greeting was read, in pieces, and gives what the server said.
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

func TestAClientThatSpeaksBeforeTheGreetingIsFoundOutAndHeard(t *testing.T) {
	secure := certificate(t)
	for _, tc := range []struct {
		name   string
		change func(*Config)
		talk   func(t *testing.T, p *peer) string
	}{
		{"in clear", nil, func(t *testing.T, p *peer) string { return talk(t, p) }},
		{"one octet at first", nil, func(t *testing.T, p *peer) string { return talk(t, p, "NOO", "P\r\n") }},
		{"more than the small buffer", nil, func(t *testing.T, p *peer) string {
			return talk(t, p, strings.Repeat("NOOP\r\n", 300))
		}},
		{"implicit TLS", func(c *Config) {
			c.TLS, c.Implicit = tlsOf(secure), true
		}, func(t *testing.T, p *peer) string {
			return talk(t, tls.Client(p, &tls.Config{InsecureSkipVerify: true}))
		}},
		{"behind a PROXY header in one segment", func(c *Config) {
			c.Proxy = loopback
		}, func(t *testing.T, p *peer) string {
			return talk(t, p, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\nNOOP\r\n")
		}},
		{"behind a PROXY header in a segment of its own", func(c *Config) {
			c.Proxy = loopback
		}, func(t *testing.T, p *peer) string {
			return talk(t, p, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\n")
		}},
		{"behind a PROXY header under implicit TLS", func(c *Config) {
			c.Proxy, c.TLS, c.Implicit = loopback, tlsOf(secure), true
		}, func(t *testing.T, p *peer) string {
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

func TestASilentClientIsGreetedAfterTheDelay(t *testing.T) {
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

func TestWithoutADelayOnlyWhatHasComeIsLookedAt(t *testing.T) {
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

func TestShutdownEndsTheWaitBeforeTheGreetingAtOnce(t *testing.T) {
	r := startQuiet(t, long, nil)
	p := r.dial()
	<-r.begun
	waitFor(t, func() bool { return resting(r.srv) == 1 })
	begun := time.Now()
	if err := r.srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	// some milliseconds, on a machine with something else to do
	if took := time.Since(begun); took > 500*time.Millisecond {
		t.Errorf("Shutdown took %v", took)
	}
	if !<-r.quiet {
		t.Error("Shutdown was taken for an early talker")
	}
	p.want("421 4.3.2")
	p.want("")
}

func TestAClientThatHangsUpBeforeTheGreetingIsNoEarlyTalker(t *testing.T) {
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

func TestAGreetingBehindXCLIENTIsNotWaitedFor(t *testing.T) {
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

// TestADelayedClientHoldsNothingButItsConnection looks at what waiting connections have borrowed.
func TestADelayedClientHoldsNothingButItsConnection(t *testing.T) {
	const n = 20
	r := startStalling(t, long, nil)
	group := "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\n" + strings.Repeat("RCPT TO:<b@y.example>\r\n", 60)
	for range n {
		p := r.dial()
		p.want("220")
		p.say(group)
		<-r.begun
		p.want("250 ")
		p.want("250 2.1.0")
	}
	waitFor(t, func() bool { return resting(r.srv) == n })
	if lent := r.srv.cfg.Slabs.Lent(); lent != 0 {
		t.Errorf("%d slabs are lent", lent)
	}
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for c := range r.srv.conns {
		c.life.mu.Lock()
		if c.out.batch != nil || len(c.in.buf) > 2*len(group) {
			t.Errorf("replies held: %t, buffer of %d octets", c.out.batch != nil, len(c.in.buf))
		}
		c.life.mu.Unlock()
	}
}

// A stallRig stalls at each RCPT for d, or what d gives it.
type stallRig struct {
	*rig
	begun chan struct{}
	whole chan bool // what Stall gave
}

func startStalling(t *testing.T, d time.Duration, change func(*Config)) *stallRig {
	s := &stallRig{begun: make(chan struct{}, 1000), whole: make(chan bool, 1000)}
	s.rig = start(t, func(cfg *Config) {
		if change != nil {
			change(cfg)
		}
		patient(cfg, func(c *Client, ps *patientSession) {
			ps.rcpt = func(ctx context.Context, p mail.Path) error {
				wait := d
				if p.Local == "quick" {
					wait = 0
				}
				s.begun <- struct{}{}
				whole := c.Stall(ctx, wait)
				s.whole <- whole
				return nil
			}
		})
	})
	return s
}

func TestAStallDelaysItsOwnReplyAndNoEarlierOne(t *testing.T) {
	secure := certificate(t)
	for _, under := range []string{"clear", "TLS"} {
		t.Run(under, func(t *testing.T) {
			const d = 60 * time.Millisecond
			r := startStalling(t, d, func(c *Config) { c.TLS, c.Implicit = tlsOf(secure), under == "TLS" })
			p := r.dial()
			if under == "TLS" {
				p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
			}
			p.want("220")
			begun := time.Now()
			p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<quick@y.example>\r\nRCPT " +
				"TO:<b@y.example>\r\nRCPT TO:<quick@y.example>\r\nDATA\r\n")
			p.want("250 ")
			p.want("250 2.1.0")
			p.want("250 2.1.5")
			if took := time.Since(begun); took >= d {
				t.Errorf("the replies before took %v", took)
			}
			p.want("250 2.1.5")
			if took := time.Since(begun); took < d {
				t.Errorf("the reply came after %v", took)
			}
			p.want("250 2.1.5")
			p.want("354")
			for range 3 {
				if !<-r.whole {
					t.Error("cut short")
				}
			}
			p.say("hi\r\n.\r\nQUIT\r\n")
			p.want("250 2.0.0 took 4")
			p.want("221")
			if ms := r.accepted(); len(ms) != 1 || len(ms[0].forwards) != 3 {
				t.Errorf("got %+v", ms)
			}
		})
	}
}

func TestNothingIsLostOfWhatComesDuringAStall(t *testing.T) {
	const d = 20 * time.Millisecond
	r := startStalling(t, d, func(c *Config) { c.Recipients = 1000 })
	p := r.dial()
	p.want("220")
	group := "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
	for i := range 400 {
		local := "quick"
		if i == 100 { // here a slab is half read, and is to be given back
			local = "b"
		}
		group += fmt.Sprintf("RCPT TO:<%s@y%03d.example>\r\n", local, i)
	}
	p.say(group)
	for range 102 {
		<-r.begun
	}
	p.say("RCPT TO:<b@y.example>\r\nDA")
	p.say("TA\r\n")
	for range 2 + 402 {
		p.want("250")
	}
	p.want("354")
	p.say("hi\r\n.\r\n")
	p.want("250 2.0.0 took 4")
	ms := r.accepted()
	if len(ms) != 1 || len(ms[0].forwards) != 402 || ms[0].forwards[400] != "quick@y399.example" {
		t.Fatalf("got %+v", ms)
	}
	p.say("RSET\r\nQUIT\r\n")
	p.want("250")
	p.want("221")
}

func TestAStallEndsWhenTheClientHangsUp(t *testing.T) {
	for _, tc := range []struct {
		name, pipelined string
		hangUp          func(*net.TCPConn)
	}{
		{"FIN", "", func(c *net.TCPConn) { c.Close() }},
		{"RST", "", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }},
		{"FIN behind octets that nobody read", strings.Repeat("NOOP\r\n", 2000), func(c *net.TCPConn) {
			c.CloseWrite()
		}},
		{"RST behind octets that nobody read", strings.Repeat("NOOP\r\n", 2000), func(c *net.TCPConn) {
			c.SetLinger(0)
			c.Close()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startStalling(t, long, nil)
			p := r.dial()
			p.want("220")
			p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n" + tc.pipelined)
			<-r.begun
			p.want("250 ")
			p.want("250 2.1.0")
			waitFor(t, func() bool { return resting(r.srv) == 1 })
			p.say("NOOP\r\n")
			begun := time.Now()
			tc.hangUp(p.Conn.(*net.TCPConn))
			if <-r.whole {
				t.Error("the whole of an hour has passed")
			}
			r.expect(t, 0, "close")
			if took := time.Since(begun); took > 500*time.Millisecond {
				t.Errorf("noticed after %v", took)
			}
		})
	}
}

func TestAStallEndsWithShutdown(t *testing.T) {
	r := startStalling(t, long, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example>\r\n")
	<-r.begun
	begun := time.Now()
	if err := r.srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 500*time.Millisecond {
		t.Errorf("Shutdown took %v", took)
	}
	if <-r.whole {
		t.Error("the whole of an hour has passed")
	}
	p.want("250 ")
	p.want("250 2.1.0")
	p.want("250 2.1.5")
	p.want("421 4.3.2")
}

func TestAStallKeepsToTheContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	results := make(chan bool, 3)
	r := start(t, func(cfg *Config) {
		patient(cfg, func(c *Client, s *patientSession) {
			s.greet = func(ctx context.Context) error {
				results <- c.Stall(ended, long)
				results <- c.Stall(mail.Until(ctx, time.Now().Add(10*time.Millisecond)), long)
				results <- c.Stall(ctx, 0)
				return nil
			}
		})
	})
	r.dial().want("220")
	if a, b, c := <-results, <-results, <-results; a || !b || !c {
		t.Errorf("got %t with a context that has ended, %t with one whose deadline passes, %t without a delay", a, b, c)
	}
}

func TestAStallOnAConnectionWithoutADescriptorStillWaits(t *testing.T) {
	for _, shut := range []bool{false, true} {
		d := 20 * time.Millisecond
		if shut {
			d = long
		}
		r := startStalling(t, d, nil)
		client, server := net.Pipe()
		r.srv.startConn(server)
		p := &peer{t: t, Conn: client}
		p.want("220")
		p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n")
		p.want("250 ")
		p.want("250 2.1.0")
		if shut {
			done, end := r.drained()
			if <-r.whole {
				t.Error("the whole of an hour has passed")
			}
			p.want("250 2.1.5")
			p.want("421")
			if err := <-done; err != nil {
				t.Error(err)
			}
			end()
			continue
		}
		p.want("250 2.1.5")
		if !<-r.whole {
			t.Error("cut short")
		}
		client.Close()
	}
}

func TestAStallAtTheEndOfADrainIsCut(t *testing.T) {
	r := startStalling(t, long, nil)
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<hang@y.example>\r\n")
	<-r.begun
	done, end := r.drained()
	<-r.whole
	r.expect(t, 0, "rcpt") // which now waits for the end of its context
	end()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAClientThatNoEngineMadeWaitsForNothing(t *testing.T) {
	var c Client
	if !c.Quiet(long) || !c.Stall(t.Context(), long) || c.Ahead(10) != nil {
		t.Error("it does")
	}
}
