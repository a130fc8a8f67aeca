package egress

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// atHello answers EHLO, outside TLS, as told.
func atHello(a smtptest.Answer) smtptest.Behaviour {
	return smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) { return a, s.Verb == "EHLO" }}
}

// TestRelay_EndsAtEHLO: a host that ends the connection at EHLO, and takes HELO on another one, gets its mail by the
// first attempt, and is greeted by HELO for a while.
func TestRelay_EndsAtEHLO(t *testing.T) {
	tls := func(b smtptest.Behaviour) smtptest.Behaviour {
		b.TLS = smtptest.NewCA().Server("mx1.one.test")
		return b
	}
	both := smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		return smtptest.Answer{Close: true}, s.Verb == "EHLO" || s.Verb == "HELO"
	}}
	utf8 := func(d *mail.Delivery) { d.Params.SMTPUTF8 = true }
	demanded := func(c *Config) { c.TLS = TLSRequired }
	for _, c := range []struct {
		name    string
		server  smtptest.Behaviour
		change  func(*Config)
		message func(*mail.Delivery)
		old     bool  // HELO is said, and the message arrives
		clients []int // connections after each of two messages
	}{
		{"without a word", atHello(smtptest.Answer{Close: true}), nil, nil, true, []int{2, 3}},
		{"by a reset", atHello(smtptest.Answer{Reset: true}), nil, nil, true, []int{2, 3}},
		{"with half of a reply", atHello(smtptest.Answer{Reply: "250-mx", Close: true}), nil, nil, true, []int{2, 3}},
		{"with 550", atHello(smtptest.Answer{Reply: "550 5.7.1 no", Close: true}), nil, nil, true, []int{2, 3}},
		{"with 500", atHello(smtptest.Answer{Reply: "500 5.5.1 what", Close: true}), nil, nil, true, []int{2, 3}},
		{"and would offer TLS", tls(atHello(smtptest.Answer{Close: true})), nil, nil, true, []int{2, 3}},
		{"where TLS is not wanted", atHello(smtptest.Answer{Close: true}), func(c *Config) { c.TLS = TLSNone }, nil,
			true, []int{2, 3}},
		{"with 421", atHello(smtptest.Answer{Reply: "421 4.3.2 later", Close: true}), nil, nil, false, []int{1, 1}},
		{"at HELO as well", both, nil, nil, false, []int{2, 2}},
		{"where TLS is demanded", tls(atHello(smtptest.Answer{Close: true})), demanded, nil, false, []int{1, 1}},
		{"for a message that needs SMTPUTF8", atHello(smtptest.Answer{Close: true}), nil, utf8, false, []int{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var opened atomic.Int64 // by Config.Connect
			w, s := one(t, c.server, func(config *Config) {
				limits(t, "connections=5 messages=1 idle=1m age=1h")(config)
				config.Connect = func(ctx context.Context, to smtpclient.Target) (net.Conn, error) {
					opened.Add(1)
					return smtpclient.Connect(ctx, to)
				}
				if c.change != nil {
					c.change(config)
				}
			})
			for i, clients := range c.clients {
				d := to("one.test")
				if c.message != nil {
					c.message(&d)
				}
				ctx := mail.Until(t.Context(), time.Now().Add(time.Minute))
				tx, err := w.relay.Begin(ctx, d)
				if (err == nil) != c.old {
					t.Fatalf("message %d: got %v", i, err)
				}
				if c.old {
					rcpt(t, tx, "b@one.test")
					if out := finish(t, tx); out[0].Reply.Code != 250 {
						t.Errorf("message %d: got %+v", i, out)
					}
				} else if got := mail.ReplyFor(err); got.Class() != 4 {
					t.Errorf("message %d: got %v", i, got)
				}
				if n := s.Counts().Connections; n != clients || opened.Load() != int64(clients) {
					t.Errorf("message %d: %d connections, %d by Connect, want %d", i, n, opened.Load(), clients)
				}
			}
		})
	}
}

// TestRelay_EndsAtEHLO_Remembered: HELO is said for five minutes, an hour if EHLO ended the connection again, and EHLO
// afterwards. It is not said where TLS has worked.
func TestRelay_EndsAtEHLO_Remembered(t *testing.T) {
	var later atomic.Int64
	clock := func(c *Config) {
		limits(t, "connections=5 messages=1 idle=1m age=1h")(c)
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	}
	ends := atHello(smtptest.Answer{Close: true})
	w, s := one(t, ends, clock)
	connections := 0
	for i, step := range []struct {
		after time.Duration
		costs int
	}{
		{0, 2}, {4 * time.Minute, 1}, {2 * time.Minute, 2}, {50 * time.Minute, 1}, {20 * time.Minute, 2},
	} {
		later.Add(int64(step.after))
		deliver(t, w, to("one.test"), "b@one.test")
		connections += step.costs
		if n := s.Counts().Connections; n != connections {
			t.Errorf("message %d: %d connections, want %d", i, n, connections)
		}
	}
	later.Add(int64(2 * time.Hour))
	s.Set(smtptest.Behaviour{})
	tx := begin(t, w, to("one.test"))
	if tx.conn.IsOld() || tx.conn.Extensions().Keywords == 0 {
		t.Error("EHLO is not said again")
	}
	tx.Abort()

	good := smtptest.Behaviour{TLS: smtptest.NewCA().Server("mx1.one.test")}
	w, s = one(t, good, clock)
	if out := deliver(t, w, to("one.test"), "b@one.test"); out.TLS == "" {
		t.Fatal("no TLS")
	}
	ends.TLS = good.TLS
	s.Set(ends)
	if tx, err := w.relay.Begin(t.Context(), to("one.test")); err == nil {
		tx.Abort()
		t.Error("a host that TLS worked with is spoken with in clear")
	}
}

// TestRelay_EndsAtEHLO_Pooled: a session that began with HELO does not serve a message that needs an extension, and
// refuses none for good for want of one.
func TestRelay_EndsAtEHLO_Pooled(t *testing.T) {
	w, s := one(t, atHello(smtptest.Answer{Close: true}), nil)
	deliver(t, w, to("one.test"), "b@one.test")
	tx := begin(t, w, to("one.test"))
	if !tx.conn.IsOld() {
		t.Fatal("the session is not used again")
	}
	err := tx.Rcpt(t.Context(), path("b\u00fc@one.test"))
	if r := mail.ReplyFor(err); r.Class() != 4 || r.Enhanced.Subject != 6 {
		t.Errorf("got %v", err)
	}
	tx.Abort()
	s.Set(smtptest.Behaviour{})
	d := to("one.test")
	d.Params.SMTPUTF8 = true
	tx = begin(t, w, d)
	defer tx.Abort()
	if tx.conn.IsOld() || !tx.conn.SMTPUTF8() {
		t.Error("it serves a message that needs SMTPUTF8")
	}
	if n := strings.Count(strings.Join(s.Commands(), "\n"), "EHLO"); n != 2 {
		t.Errorf("%d EHLO", n)
	}
}
