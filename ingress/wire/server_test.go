package wire

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

func TestPlaces(t *testing.T) {
	t.Run("in total", func(t *testing.T) {
		r := start(t, func(c *Config) { c.Places = NewPlaces(Limits{Total: 2}) })
		a, b := r.dial(), r.dial()
		a.want("220")
		b.want("220")
		c := r.dial()
		c.want("421 4.7.0 Too many connections")
		c.want("")
		a.say("QUIT\r\n")
		a.all()
		r.expect(t, 0, "close")
		waitFor(t, func() bool { return r.srv.cfg.Places.Open() == 1 })
		r.dial().want("220")
	})
	t.Run("per client", func(t *testing.T) {
		r := start(t, func(c *Config) { c.Places = NewPlaces(Limits{Client: 1}) })
		r.dial().want("220")
		r.dial().want("421 4.7.0")
	})
	t.Run("per client behind a proxy", func(t *testing.T) {
		r := start(t, func(c *Config) { c.Places, c.Proxy = NewPlaces(Limits{Client: 1}), loopback })
		hello := func(addr string) *testClient {
			p := r.dial()
			p.say("PROXY TCP6 " + addr + " 2001:db8::1 1 25\r\n")
			return p
		}
		hello("2001:db8:0:1::1").want("220")
		hello("2001:db8:0:2::1").want("220")
		hello("2001:db8:0:1::2").want("421 4.7.0")
	})
	t.Run("per client named by XCLIENT", func(t *testing.T) {
		r := start(t, func(c *Config) { c.Places, c.Xclient = NewPlaces(Limits{Client: 1}), loopback })
		hello := func(addr string) *testClient {
			p := r.dial()
			p.want("220")
			p.say("XCLIENT ADDR=" + addr + "\r\n")
			return p
		}
		a := hello("192.0.2.1")
		a.want("220")
		hello("192.0.2.2").want("220")
		hello("192.0.2.1").want("421 4.7.0")
		a.say("XCLIENT ADDR=192.0.2.1\r\n")
		a.want("220")
		a.say("XCLIENT ADDR=192.0.2.3\r\n")
		a.want("220")
		hello("192.0.2.1").want("220")
	})
}

// waitFor polls until cond holds: for what has no event of its own.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 60_000 {
		if cond() {
			return
		}
		<-tick.C
	}
	t.Fatal("waited too long")
}

// TestConn_Panic shows that a panic in a Session ends its connection and no other.
func TestConn_Panic(t *testing.T) {
	for _, script := range []string{
		"EHLO c.example\r\nMAIL FROM:<panic@x.example>\r\n",
		"EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<panic@x.example>\r\n",
		"EHLO c.example\r\nMAIL FROM:<panicdata@x.example>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n",
		"EHLO c.example\r\nMAIL FROM:<panicbody@x.example>\r\nRCPT TO:<a@x.example>\r\nDATA\r\nhi\r\n.\r\n",
		"EHLO c.example\r\nMAIL FROM:<panicbody@x.example>\r\nRCPT TO:<a@x.example>\r\nBDAT 3 LAST\r\nabc",
	} {
		r := start(t, nil)
		other := r.dial()
		other.want("220")
		p := r.dial()
		p.say(script)
		got := ids.ReplaceAllString(p.all(), "")
		if !strings.HasSuffix(got, "421 4.3.0 Local error, try again later\r\n") {
			t.Errorf("got %q", got)
		}
		r.expect(t, 0, "close")
		if len(r.panics) != 1 {
			t.Errorf("%d panics were told", len(r.panics))
		}
		other.say("NOOP\r\n")
		other.want("250")
	}
}

// TestConn_WriteTimeout shows that a connection ends when its client does not read.
func TestConn_WriteTimeout(t *testing.T) {
	r := start(t, func(c *Config) { c.tune.write = 30 * time.Millisecond })
	client, server := net.Pipe()
	defer client.Close()
	r.srv.startConn(server)
	r.expect(t, 0, "close")
}

// TestConn_Events shows the events of connections and refusals.
func TestConn_Events(t *testing.T) {
	r := start(t, func(c *Config) { c.tune.errorBudget = 1; c.Places = NewPlaces(Limits{Total: 1}) })
	p := r.dial()
	p.want("220")
	r.dial().want("421")
	waitFor(t, func() bool { // the event comes behind the reply
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.events) == 2
	})
	p.say("FOO\r\n")
	p.all()
	r.expect(t, 0, "close")
	waitFor(t, func() bool { return r.srv.cfg.Places.Open() == 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	var got []string
	for _, e := range r.events {
		got = append(got, e.Kind.String()+" "+e.Reason)
		if e.Client != netip.MustParseAddr("127.0.0.1") || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	const want = "connected , deferred connections, refused protocol, deferred error budget, disconnected "
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got %s", s)
	}
}

func TestShutdown(t *testing.T) {
	shut := func(r *rig, wait time.Duration) chan error {
		done := make(chan error, 1)
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		go func() { // ends with Shutdown
			defer cancel()
			done <- r.srv.Shutdown(ctx)
		}()
		return done
	}
	t.Run("idle clients are told at once", func(t *testing.T) {
		r := start(t, nil)
		idle, open := r.dial(), r.dial()
		idle.want("220")
		open.want("220")
		open.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\n")
		open.want("250 ")
		open.want("250")
		done := shut(r, 5*time.Second)
		idle.want("421 4.3.2")
		idle.want("")
		open.want("421 4.3.2")
		open.want("")
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := <-r.served; err != nil {
			t.Error(err)
		}
	})
	t.Run("clients that have been idle for long are told too", func(t *testing.T) {
		r := start(t, nil)
		p := r.dial()
		p.want("220")
		waitFor(t, func() bool { return resting(r.srv) == 1 })
		p.say("NOOP\r\n")
		p.want("250")
		waitFor(t, func() bool { return resting(r.srv) == 1 })
		done := shut(r, 5*time.Second)
		p.want("421 4.3.2")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("a message in flight is finished and answered", func(t *testing.T) {
		for _, bdat := range []bool{false, true} {
			r := start(t, nil)
			r.reading = make(chan struct{}, 1)
			p := r.dial()
			p.want("220")
			p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n")
			p.want("250 ")
			p.want("250")
			p.want("250")
			if bdat {
				p.say("BDAT 2\r\nhi")
				p.want("250")
			} else {
				p.say("DATA\r\n")
				p.want("354")
			}
			<-r.reading
			done := shut(r, 10*time.Second)
			<-r.srv.drain
			if bdat {
				p.say("BDAT 2 LAST\r\n\r\nMAIL FROM:<a@x.example>\r\n")
			} else {
				p.say("hi\r\n.\r\nMAIL FROM:<a@x.example>\r\n")
			}
			p.want("250 2.0.0 took 4")
			p.want("421 4.3.2")
			p.want("")
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("what outlasts the context is cut", func(t *testing.T) {
		r := start(t, nil)
		r.reading = make(chan struct{}, 1)
		p := r.dial()
		p.say("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhi\r\n")
		<-r.reading
		if err := <-shut(r, 20*time.Millisecond); err == nil {
			t.Error("no error")
		}
		r.expect(t, 0, "body client lost")
	})
	t.Run("clients that come and go meanwhile are answered or cut", func(t *testing.T) {
		r := start(t, nil)
		stop := make(chan struct{})
		ended := make(chan struct{})
		go func() { // ends with stop
			defer close(ended)
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					return
				}
				_, _ = io.WriteString(c,
					"EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhi\r\n.\r\n")
				_ = c.SetReadDeadline(time.Now().Add(time.Minute))
				var buf [512]byte
				_, _ = c.Read(buf[:])
				c.Close()
			}
		}()
		r.expect(t, 0, "message")
		if err := <-shut(r, 10*time.Second); err != nil {
			t.Error(err)
		}
		close(stop)
		<-ended
	})
}

// TestConfig_Validate shows the field that Validate names for each unusable Config.
func TestConfig_Validate(t *testing.T) {
	ok := Config{Hostname: "mx.example", NewSession: (&recorder{}).session}
	for _, tc := range []struct {
		field  string
		change func(*Config)
	}{
		{"", func(*Config) {}},
		{"hostname", func(c *Config) { c.Hostname = "" }},
		{"hostname", func(c *Config) { c.Hostname = "a\r\nb" }},
		{"session", func(c *Config) { c.NewSession = nil }},
		{"tls", func(c *Config) { c.Implicit = true }},
		{"limits.message_size", func(c *Config) { c.MessageSize = -1 }},
		{"limits.line", func(c *Config) { c.Line = 997 }},
		{"limits.recipients", func(c *Config) { c.Recipients = -1 }},
		{"listen.proxy_protocol", func(c *Config) { c.Proxy = []netip.Prefix{{}} }},
		{"listen.xclient", func(c *Config) { c.Xclient = []netip.Prefix{{}} }},
	} {
		c := ok
		tc.change(&c)
		_, err := NewServer(c)
		got := ""
		if e, ok := err.(*mail.FieldError); ok {
			got = e.Field
		}
		if got != tc.field {
			t.Errorf("got %v, want %q", err, tc.field)
		}
	}
}
