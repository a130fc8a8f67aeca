package smtpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

func TestDial_Errors(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	answer := func(verb, reply string) smtptest.Behaviour {
		return smtptest.Behaviour{
			TLS: ca.Server("mx.dest.test"), Answers: map[string]smtptest.Answer{verb: {Reply: reply}},
		}
	}
	users := smtptest.Behaviour{TLS: ca.Server("mx.dest.test"), Users: map[string]string{"u": "p"}}
	for _, tc := range []struct {
		name  string
		b     smtptest.Behaviour
		tls   TLSPolicy
		user  string
		stage Stage
		reply string // "": no refusal
	}{
		{"a greeting of 554", answer(smtptest.Greeting, "554 no"), None, "", StageGreeting, "451 4.7.0"},
		{"a greeting of 421", answer(smtptest.Greeting, "421 busy"), None, "", StageGreeting, "451 4.7.0"},
		{"nonsense", answer(smtptest.Greeting, "hello"), None, "", StageGreeting, "451 4.5.0"},
		{
			"EHLO refused, and HELO", smtptest.Behaviour{Answers: map[string]smtptest.Answer{
				"EHLO": {Reply: "550 5.7.1 no"}, "HELO": {Reply: "550 5.7.1 no"},
			}}, None, "", StageHelo, "451 4.7.0",
		},
		{"EHLO answered 421", answer("EHLO", "421 4.3.2 busy"), None, "", StageHelo, "451 4.7.0"},
		{"STARTTLS not offered", smtptest.Behaviour{}, Required, "", StageStartTLS, "451 4.7.5"},
		{"STARTTLS refused", answer("STARTTLS", "454 4.7.0 later"), Required, "", StageStartTLS, "451 4.7.0"},
		{
			"octets in clear behind the 220", answer("STARTTLS", "220 go\n250 injected"), Opportunistic, "",
			StageStartTLS, "451 4.5.0",
		},
		{
			"a certificate that is not trusted", smtptest.Behaviour{TLS: other.Server("mx.dest.test")}, Required, "",
			StageTLS, "451 4.7.5",
		},
		{
			"a certificate for another name", smtptest.Behaviour{TLS: ca.Server("else.test")}, Required, "", StageTLS,
			"451 4.7.5",
		},
		{"AUTH not offered", smtptest.Behaviour{TLS: ca.Server("mx.dest.test")}, Required, "u", StageAuth, "451 4.7.0"},
		{"a wrong password", users, Required, "wrong", StageAuth, "451 4.7.0"},
		{"AUTH in clear", users, Opportunistic, "u", StageAuth, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := smtptest.Start(t, tc.b)
			tg := target(d)
			tg.TLS, tg.TLSConfig, tg.User, tg.Password = tc.tls, ca.Client(), tc.user, "p"
			_, err := Dial(t.Context(), Config{tune: tuning{half: 100 * time.Millisecond}}, tg)
			var stage *DialError
			if !errors.As(err, &stage) || stage.Stage != tc.stage {
				t.Fatalf("got %v, want stage %s", err, tc.stage)
			}
			var refusal *mail.Refusal
			if !errors.As(err, &refusal) {
				if tc.reply != "" {
					t.Fatalf("got %v, want %s", err, tc.reply)
				}
				return
			}
			if !strings.HasPrefix(refusal.Reply.String(), tc.reply) || tc.reply == "" ||
				refusal.Host != "mx.dest.test" {
				t.Errorf("got %v, want %s", refusal, tc.reply)
			}
		})
	}
	t.Run("a port without a listener", func(t *testing.T) {
		l, _ := net.Listen("tcp", "127.0.0.1:0")
		l.Close()
		_, err := Dial(t.Context(), Config{}, Target{Network: "tcp", Addr: l.Addr().String()})
		var stage *DialError
		if !errors.As(err, &stage) || stage.Stage != StageConnect {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the context ends while the greeting is awaited", func(t *testing.T) {
		d := smtptest.Start(t,
			smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Greeting: {After: time.Hour}}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { // ends with the connection that it waits for, or the test's
			d.WaitFor(t.Context(), func(c smtptest.Counts) bool { return c.Connections > 0 })
			cancel()
		}()
		if _, err := Dial(ctx, Config{}, target(d)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestDial_Fallbacks(t *testing.T) {
	ca := smtptest.NewCA()
	t.Run("HELO where EHLO is not known", func(t *testing.T) {
		d := smtptest.Start(t,
			smtptest.Behaviour{Answers: map[string]smtptest.Answer{"EHLO": {Reply: "502 5.5.1 what?"}}})
		s := dial(t, target(d))
		if s.ext.Has(ESMTP) {
			t.Error("ESMTP")
		}
		if out := send(t, s, mail.Stuffed, octets("x\r\n", 0, true)); out[0].Reply.Code != 250 {
			t.Errorf("got %+v", out)
		}
		clean(t, d)
	})
	t.Run("clear where an opportunistic STARTTLS is refused", func(t *testing.T) {
		d := smtptest.Start(t,
			smtptest.Behaviour{
				TLS: ca.Server("x"), Answers: map[string]smtptest.Answer{"STARTTLS": {Reply: "454 4.7.0 later"}},
			})
		tg := target(d)
		tg.TLS = Opportunistic
		if s := dial(t, tg); s.TLS() != "" {
			t.Errorf("got %q", s.TLS())
		}
	})
	t.Run("old TLS, which is better than none", func(t *testing.T) {
		old := ca.Server("mx.dest.test")
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
		d := smtptest.Start(t, smtptest.Behaviour{TLS: old})
		tg := target(d)
		tg.TLS = Opportunistic
		if s := dial(t, tg); s.TLS() != "TLS 1.0" {
			t.Errorf("got %q", s.TLS())
		}
		tg.TLS, tg.TLSConfig = Required, ca.Client()
		if _, err := Dial(t.Context(), Config{},
			tg); mail.ReplyFor(err).Enhanced != (mail.EnhancedCode{Subject: 7, Detail: 5}) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("from the address it is told to", func(t *testing.T) {
		d := smtptest.Start(t, smtptest.Behaviour{})
		tg := target(d)
		tg.Source = netip.MustParseAddr("127.0.0.2")
		send(t, dial(t, tg), mail.Stuffed, octets("x\r\n", 0, true))
		if m := one(t, d); !strings.HasPrefix(m.Client, "127.0.0.2:") {
			t.Errorf("got %s", m.Client)
		}
	})
	t.Run("AUTH PLAIN and LOGIN", func(t *testing.T) {
		for _, mechanism := range []string{"PLAIN", "LOGIN"} {
			d := smtptest.Start(t,
				smtptest.Behaviour{TLS: ca.Server("mx.dest.test"), Users: map[string]string{"u": "pass word"}})
			tg := target(d)
			tg.TLS, tg.TLSConfig, tg.User, tg.Password = Required, ca.Client(), "u", "pass word"
			s := dial(t, tg)
			if mechanism == "LOGIN" {
				s.ext.Keywords &^= AuthPlain
				if err := (opening{&s.connection}).auth(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			send(t, s, mail.Stuffed, octets("x\r\n", 0, true))
			if m := one(t, d); m.User != "u" || m.SNI != "mx.dest.test" || m.TLS == 0 {
				t.Errorf("got %+v", m)
			}
			clean(t, d)
		}
	})
	t.Run("a TLS session is resumed", func(t *testing.T) {
		d := smtptest.Start(t, smtptest.Behaviour{TLS: ca.Server("mx.dest.test")})
		tg := target(d)
		tg.TLS, tg.TLSConfig = Required, ca.Client()
		for range 2 {
			s := dial(t, tg)
			if !s.Alive() {
				t.Error("not alive")
			}
			s.Close()
		}
		if n := d.Counts(); n.Handshakes != 2 || n.Resumed != 1 {
			t.Errorf("got %+v", n)
		}
	})
}
