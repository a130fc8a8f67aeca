package egress

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_IPv6Refuses: IPv4 is tried where IPv6 refuses; that it is at once has TestRace of package dial.
func TestRelay_IPv6Refuses(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	deliver(t, w, to("both.test"), "b@both.test")
	if len(s.Messages()) != 1 {
		t.Error("it did not arrive")
	}
}

// TestRelay_IPv6First: IPv6 is preferred.
func TestRelay_IPv6First(t *testing.T) {
	w, s6, s4 := both(t, smtptest.Behaviour{}, smtptest.Behaviour{}, nil)
	deliver(t, w, to("both.test"), "b@both.test")
	if a, b := s6.Counts().Connections, s4.Counts().Connections; a != 1 || b != 0 {
		t.Errorf("%d connections by IPv6 and %d by IPv4", a, b)
	}
	if k := w.relay.local.pool.Count(); k.Idle != 1 {
		t.Errorf("%+v", k)
	}
}

func TestRelay_TLSPolicies(t *testing.T) {
	ca, stranger := smtptest.NewCA(), smtptest.NewCA()
	good := ca.Server("mx1.one.test")
	old := &tls.Config{Certificates: good.Certificates, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	for _, c := range []struct {
		name    string
		policy  TLS
		server  smtptest.Behaviour
		want    string // the refusal, "" if it is delivered
		version string // what the session speaks
		clients int
	}{
		{"opportunistic takes TLS", TLSOpportunistic, smtptest.Behaviour{TLS: good}, "", "TLS 1.3", 1},
		{
			"opportunistic takes a stranger's certificate", TLSOpportunistic,
			smtptest.Behaviour{TLS: stranger.Server("x")}, "", "TLS 1.3", 1,
		},
		{"opportunistic takes clear", TLSOpportunistic, smtptest.Behaviour{}, "", "", 1},
		{
			"opportunistic takes a refused STARTTLS", TLSOpportunistic,
			smtptest.Behaviour{
				TLS: good, Answers: map[string]smtptest.Answer{"STARTTLS": {Reply: "454 4.7.0 Not now"}},
			}, "", "", 1,
		},
		{"opportunistic ends in clear", TLSOpportunistic, smtptest.Behaviour{TLS: &tls.Config{}}, "", "", 3},
		{"none does not ask", TLSNone, smtptest.Behaviour{TLS: good}, "", "", 1},
		{"required takes the right certificate", TLSRequired, smtptest.Behaviour{TLS: good}, "", "TLS 1.3", 1},
		{
			"required refuses another's certificate", TLSRequired, smtptest.Behaviour{TLS: ca.Server("mx2.one.test")},
			"451 4.7.5", "", 1,
		},
		{
			"required refuses a stranger's certificate", TLSRequired,
			smtptest.Behaviour{TLS: stranger.Server("mx1.one.test")}, "451 4.7.5", "", 1,
		},
		{"required refuses clear", TLSRequired, smtptest.Behaviour{}, "451 4.7.5", "", 1},
		{"required refuses old TLS", TLSRequired, smtptest.Behaviour{TLS: old}, "451 4.7.5", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, c.server, func(cfg *Config) { cfg.TLS, cfg.tune.rootCAs = c.policy, ca.Pool() })
			if c.want != "" {
				for range 2 { // the Site is not cooled by it
					_, err := w.relay.Begin(t.Context(), to("one.test"))
					reason := "tls policy"
					if strings.Contains(c.name, "certificate") {
						reason = "certificate"
					}
					if r := want(t, err, c.want); r.Reason != reason {
						t.Errorf("reason %s, want %s", r.Reason, reason)
					}
				}
				if len(w.events()) != 0 {
					t.Errorf("got %+v", w.events())
				}
				return
			}
			if out := deliver(t, w, to("one.test"), "b@one.test"); out.TLS != c.version {
				t.Errorf("spoke %q", out.TLS)
			}
			if got := s.Counts().Connections; got != c.clients {
				t.Errorf("%d connections, want %d", got, c.clients)
			}
		})
	}
}

// TestRelay_HandshakeBreaksOff has a box in the middle that closes the line when it sees a ClientHello, the first times
// a large one and then any.
func TestRelay_HandshakeBreaksOff(t *testing.T) {
	for _, c := range []struct {
		name    string
		most    int // octets of a ClientHello that pass
		version string
		clients int32
	}{
		{"a large ClientHello is dropped", 1000, "TLS 1.2", 2},
		{"every ClientHello is dropped", 0, "", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Behaviour{TLS: smtptest.NewCA().Server("mx1.one.test")})
			box := newBox(t, s.Addr(), c.most)
			w := newWorld(t, box.port, nil)
			if out := deliver(t, w, to("one.test"), "b@one.test"); out.TLS != c.version {
				t.Errorf("spoke %q, want %q", out.TLS, c.version)
			}
			if got := box.clients.Load(); got != c.clients {
				t.Errorf("%d connections, want %d", got, c.clients)
			}
		})
	}
}

// A box passes octets on and closes connections whose client sends a TLS handshake record of more than most octets.
type box struct {
	port    int
	clients atomic.Int32
}

func newBox(t *testing.T, to string, most int) *box {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{port: l.Addr().(*net.TCPAddr).Port}
	done := make(chan struct{})
	go func() { // ends when the listener is closed, after its connections
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.clients.Add(1)
			b.pass(c, to, most)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return b
}

func (b *box) pass(client net.Conn, to string, most int) {
	server, err := net.Dial("tcp", to)
	if err != nil {
		client.Close()
		return
	}
	back := make(chan struct{})
	go func() { // ends when either side closes
		defer close(back)
		io.Copy(client, server)
		client.Close()
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := client.Read(buf)
		if err != nil || n > most && buf[0] == 0x16 {
			break
		}
		if _, err := server.Write(buf[:n]); err != nil {
			break
		}
	}
	client.Close()
	server.Close()
	<-back
}

// TestRelay_TLSResumption: a new session resumes TLS.
func TestRelay_TLSResumption(t *testing.T) {
	for _, policy := range []TLS{TLSOpportunistic, TLSRequired} {
		ca := smtptest.NewCA()
		w, s := one(t, smtptest.Behaviour{TLS: ca.Server("mx1.one.test")}, func(c *Config) {
			limits(t, "connections=5 messages=1 idle=1m age=1h")(c)
			c.tune.rootCAs, c.TLS = ca.Pool(), policy
		})
		for range 3 {
			deliver(t, w, to("one.test"), "b@one.test")
		}
		if c := s.Counts(); c.Handshakes != 3 || c.Resumed != 2 {
			t.Errorf("%d handshakes, %d resumed", c.Handshakes, c.Resumed)
		}
	}
}

// TestRelay_Smarthost: smarthosts are verified and authenticated with.
func TestRelay_Smarthost(t *testing.T) {
	ca := smtptest.NewCA()
	users := map[string]string{"u@x": "secret", "v@x": "other"}
	password := func(user, host string, port uint16) (string, bool) {
		p, ok := users[user]
		return p, ok && host == "fixed.test" && port != 0
	}
	for _, transport := range []mail.Transport{mail.Submission, mail.SMTPS, mail.SMTP} {
		w, s := one(t,
			smtptest.Behaviour{
				TLS: ca.Server("fixed.test"), Implicit: transport == mail.SMTPS, Users: users,
			}, func(c *Config) {
				c.tune.rootCAs, c.Password = ca.Pool(), password
			})
		d := to("one.test")
		d.NextHop = mail.NextHop{Transport: transport, Host: "fixed.test", Port: uint16(port(t, s)), User: "u@x"}
		deliver(t, w, d, "b@one.test")
		d.NextHop.User = "v@x" // another identity has its own session
		deliver(t, w, d, "b@one.test")
		deliver(t, w, d, "b@one.test")
		m := s.Messages()
		if len(m) != 3 || m[0].User != "u@x" || m[1].User != "v@x" || m[2].User != "v@x" || m[2].TLS == 0 ||
			s.Counts().Connections != 2 {
			t.Errorf("%v: %d connections, %+v", transport, s.Counts().Connections, m)
		}
		d.NextHop.User = "w@x"
		_, err := w.relay.Begin(t.Context(), d)
		want(t, err, "451 4.3.5")
		isIdle(t, w, 2)
	}
}

// TestRelay_WrongPassword: a wrong password is about us and never shown. It is the reason also of the mail that is put
// off for it without another try.
func TestRelay_WrongPassword(t *testing.T) {
	ca := smtptest.NewCA()
	w, s := one(t, smtptest.Behaviour{TLS: ca.Server("fixed.test"), Users: map[string]string{"u": "right"}},
		func(c *Config) {
			c.tune.rootCAs = ca.Pool()
			c.Password = func(string, string, uint16) (string, bool) { return "wr0ngsecret", true }
		})
	d := to("one.test")
	d.NextHop = mail.NextHop{Transport: mail.Submission, Host: "fixed.test", Port: uint16(port(t, s)), User: "u"}
	var err error
	for range 3 {
		_, err = w.relay.Begin(t.Context(), d)
		if r := want(t, err, "451 4.4.1"); r.Reason != "credentials" || r.Unreached {
			t.Errorf("reason %s, unreached %v", r.Reason, r.Unreached)
		}
	}
	if n := s.Counts().Connections; n != 1 {
		t.Errorf("the password was tried %d times", n)
	}
	if e := w.events(); len(e) != 1 || !strings.Contains(e[0].Cause.Error(), "535") {
		t.Errorf("got %+v", e)
	}
	if strings.Contains(err.Error(), "wr0ngsecret") {
		t.Error("the password stands in the error")
	}
}

// TestRelay_WrongPasswordAndUnreachable: a user that one host refuses is the reason also where another host is not
// reached, and a line that breaks off at AUTH says nothing of the user.
func TestRelay_WrongPasswordAndUnreachable(t *testing.T) {
	ca := smtptest.NewCA()
	refuses := smtptest.Behaviour{TLS: ca.Server("fixed.test"), Users: map[string]string{"u": "right"}}
	breaks := refuses
	breaks.Answers = map[string]smtptest.Answer{"AUTH": {Close: true}}
	for _, tt := range []struct {
		name   string
		first  smtptest.Behaviour
		reason string
	}{{"the user is refused", refuses, reasonCredentials}, {"the line is lost", breaks, reasonUnreachable}} {
		t.Run(tt.name, func(t *testing.T) {
			all := listen(t, endpoint{host: "127.0.0.1", behaviour: tt.first})
			w := newWorldOf(t, "fixed.test. 60 IN A 127.0.0.1\nfixed.test. 60 IN A 127.0.0.9\n", port(t, all[0]),
				func(c *Config) {
					c.tune.rootCAs = ca.Pool()
					c.Password = func(string, string, uint16) (string, bool) { return "wrong", true }
				})
			d := to("one.test")
			d.NextHop = mail.NextHop{
				Transport: mail.Submission, Host: "fixed.test", Port: uint16(port(t, all[0])), User: "u",
			}
			_, err := w.relay.Begin(t.Context(), d)
			if r := want(t, err, "451 4.4.1"); r.Reason != tt.reason {
				t.Errorf("reason %s, want %s: %v", r.Reason, tt.reason, err)
			}
		})
	}
}

// TestRelay_Source: a source address is always the same for a Site.
func TestRelay_Source(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, func(c *Config) {
		c.Sources = []netip.Addr{
			netip.MustParseAddr("127.0.0.7"), netip.MustParseAddr("127.0.0.8"), netip.MustParseAddr("::1"),
		}
		limits(t, "connections=5 messages=1 idle=1m age=1h")(c)
	})
	for range 3 {
		deliver(t, w, to("one.test"), "b@one.test")
	}
	m := s.Messages()
	for _, m := range m[1:] {
		a, _, _ := net.SplitHostPort(m.Client)
		b, _, _ := net.SplitHostPort(s.Messages()[0].Client)
		if a != b || !strings.HasPrefix(a, "127.0.0.") || a == "127.0.0.1" {
			t.Errorf("came from %s and %s", a, b)
		}
	}
}

// TestConfig_Validate: a field that makes no sense is named.
func TestConfig_Validate(t *testing.T) {
	w := newWorld(t, 1, nil)
	ok := w.relay.local.cfg
	for field, change := range map[string]func(*Config){
		"helo":      func(c *Config) { c.Helo = "not a name" },
		"tls":       func(c *Config) { c.TLS = 9 },
		"resolver":  func(c *Config) { c.Resolver = nil },
		"budget":    func(c *Config) { c.Budget = -1 },
		"source[1]": func(c *Config) { c.Sources = []netip.Addr{netip.MustParseAddr("192.0.2.1"), {}} },
		"source[0]": func(c *Config) {
			c.Sources, c.Family = []netip.Addr{netip.MustParseAddr("192.0.2.1")}, dial.IPv6
		},
		"self[0]": func(c *Config) { c.Self = []string{"a b"} },
		"stall":   func(c *Config) { c.Client.Stall = -1 },
	} {
		c := ok
		change(&c)
		_, err := NewRelay(c)
		var f *mail.FieldError
		if !errors.As(err, &f) || !strings.HasSuffix(f.Field, field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}
