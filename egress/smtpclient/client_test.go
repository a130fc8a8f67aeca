package smtpclient

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// target returns the Target of a test's destination, in clear.

func target(s *smtptest.Server) Target {
	return Target{Network: s.Network(), Addr: s.Addr(), Host: "mx.dest.test", Helo: "relay.test"}
}

// dial opens a Client that is closed when the test ends.

func dial(t testing.TB, tg Target) *Client {
	t.Helper()
	s, err := Dial(t.Context(), Config{tune: tuning{half: 100 * time.Millisecond}}, tg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func path(s string) mail.Path {
	p, err := mail.ParsePath(s, true)
	if err != nil {
		panic(err)
	}
	return p
}

// octets makes a piece of text, in segments of at most n octets, n 0 for one. The end of data lies

// behind the last segment where spare is set.

func octets(text string, n int, spare bool) mail.Octets {
	var o mail.Octets
	b := []byte(text)
	if spare {
		b = append(b, ".\r\n"...)[:len(b)]
	} else {
		b = slices.Clip(b)
	}
	for i := range b {
		if b[i] == '.' && (i == 0 || b[i-1] == '\n') {
			o.Dots = append(o.Dots, uint32(i))
		}
	}
	if n == 0 {
		n = max(1, len(b))
	}
	for len(b) > n {
		o.Segments, b = append(o.Segments, b[:n:n]), b[n:]
	}
	o.Segments = append(o.Segments, b)
	return o
}

// send carries one message in pieces, the last by Commit.

func send(t testing.TB, s *Client, form mail.Form, pieces ...mail.Octets) []mail.Outcome {
	t.Helper()
	s.Begin(mail.Delivery{Reverse: path("from@client.test")})
	if err := s.Rcpt(t.Context(), path("to@dest.test")); err != nil {
		t.Fatalf("Rcpt: %v", err)
	}
	if err := s.Data(t.Context(), form); err != nil {
		t.Fatalf("Data: %v", err)
	}
	for i := range pieces {
		pieces[i].Form = form
	}
	for _, p := range pieces[:len(pieces)-1] {
		if err := s.Write(p); err != nil {
			t.Fatalf("Write: %v", err)
		}
	}
	return s.Commit(t.Context(), pieces[len(pieces)-1])
}

// one is the only message that d accepted.

func one(t testing.TB, d *smtptest.Server) smtptest.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := d.WaitMessages(ctx, 1)
	if err != nil || len(m) != 1 {
		t.Fatalf("got %d messages, %v", len(m), err)
	}
	return m[0]
}

func clean(t testing.TB, d *smtptest.Server) {
	t.Helper()
	if v := d.Violations(); len(v) > 0 {
		t.Errorf("the destination complains: %q", v)
	}
}

// Each form reaches each kind of destination octet for octet.

func TestClient_Forms(t *testing.T) {
	ca := smtptest.NewCA()
	plain := "Subject: x\r\n\r\n.one\r\n..two\r\nthree.\r\n.\r\n" + strings.Repeat("x\r\n", 30)
	flood := strings.Repeat(".\r\n", 500)
	for _, dest := range []struct {
		name  string
		b     smtptest.Behaviour
		tls   TLSPolicy
		lmtp  bool
		chunk bool
	}{
		{name: "DATA", b: smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")}},
		{
			name: "DATA without PIPELINING",
			b:    smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING", "PIPELINING")},
		},
		{name: "BDAT", chunk: true},
		{
			name: "BDAT without PIPELINING", b: smtptest.Behaviour{Extensions: smtptest.Without("PIPELINING")},
			chunk: true,
		},
		{
			name: "DATA in TLS",
			b:    smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING"), TLS: ca.Server("mx.dest.test")},
			tls:  Opportunistic,
		},
		{
			name: "BDAT in verified TLS", b: smtptest.Behaviour{TLS: ca.Server("mx.dest.test")}, tls: Required,
			chunk: true,
		},
		{
			name: "DATA in implicit TLS",
			b:    smtptest.Behaviour{TLS: ca.Server("mx.dest.test"), Implicit: true, Extensions: []string{}},
			tls:  Implicit,
		},
		{name: "LMTP", b: smtptest.Behaviour{LMTP: true, Extensions: smtptest.Without("CHUNKING")}, lmtp: true},
		{name: "LMTP by BDAT", b: smtptest.Behaviour{LMTP: true}, lmtp: true, chunk: true},
	} {
		t.Run(dest.name, func(t *testing.T) {
			for _, form := range []mail.Form{mail.Stuffed, mail.Plain} {
				for _, text := range []string{
					"", "a\r\n", plain, flood, "no line end", strings.Repeat("0123456789abcdef\r\n", 4000),
				} {
					if form == mail.Stuffed && text == "no line end" {
						continue // DATA cannot have brought it
					}
					for _, size := range []int{0, 1, 7, 70000} {
						if size > 0 && len(text)/size > 3000 {
							continue
						}
						d := smtptest.Start(t, dest.b)
						tg := target(d)
						tg.TLS, tg.LMTP, tg.TLSConfig = dest.tls, dest.lmtp, ca.Client()
						s := dial(t, tg)
						given := text
						if form == mail.Stuffed {
							given = stuffed(text)
						}
						checkSend(t, d, s, form, given, text, size, dest.chunk)
						s.Close()
						d.Close()
					}
				}
			}
		})
	}
}

// checkSend sends text, as given in its form, twice on one connection: whole, and in two pieces.

func checkSend(t *testing.T, d *smtptest.Server, s *Client, form mail.Form, given, text string, size int, chunk bool) {
	t.Helper()
	half := strings.LastIndex(given[:len(given)/2], "\n") + 1
	for i, pieces := range [][]mail.Octets{
		{octets(given, size, form == mail.Stuffed)},
		{octets(given[:half], size, false), octets(given[half:], size, size == 0)},
	} {
		out := send(t, s, form, pieces...)
		if len(out) != 1 || out[0].Reply.Code != 250 || out[0].InDoubt || out[0].Host != "mx.dest.test" ||
			out[0].Reused != (i > 0) {
			t.Fatalf("got %+v", out)
		}
		if !s.Reusable() || !s.Alive() {
			t.Fatal("the Client should be reusable")
		}
	}
	want := text
	if !chunk && text != "" && !strings.HasSuffix(text, "\r\n") {
		want += "\r\n"
	}
	m := d.Messages()
	if len(m) != 2 {
		t.Fatalf("got %d messages", len(m))
	}
	for _, m := range m {
		if string(m.Octets) != want || m.Mail[:len("MAIL FROM:<from@client.test>")] != "MAIL FROM:<from@client.test>" ||
			m.Rcpt[0] != "RCPT TO:<to@dest.test>" {
			t.Fatalf("got %.200q in %s %s, want %.200q", m.Octets, m.Mail, m.Rcpt, want)
		}
		if (m.Chunks != nil) != chunk {
			t.Errorf("got chunks %v", m.Chunks)
		}
	}
	clean(t, d)
}

// stuffed is the oracle: a second dot before each that opens a line.

func stuffed(text string) string {
	if strings.HasPrefix(text, ".") {
		text = "." + text
	}
	return strings.ReplaceAll(text, "\r\n.", "\r\n..")
}

// Replies to the envelope are passed on.

// The parameters of MAIL follow what is offered.

// LMTP has one outcome per recipient.

func TestClient_LMTP(t *testing.T) {
	for _, ext := range [][]string{nil, {}} {
		d, err := smtptest.Listen(filepath.Join(t.TempDir(), "s"), smtptest.Behaviour{LMTP: true, Extensions: ext,
			Dots: map[string]smtptest.Answer{"b": {Reply: "452 4.2.2 full"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		tg := target(d)
		tg.LMTP = true
		s := dial(t, tg)
		s.Begin(mail.Delivery{})
		for _, r := range []string{"a@x.test", "b@x.test", "c@x.test"} {
			if err := s.Rcpt(t.Context(), path(r)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Data(t.Context(), mail.Plain); err != nil {
			t.Fatal(err)
		}
		out := s.Commit(t.Context(), octets("x\r\n", 0, false))
		if len(out) != 3 || out[0].Reply.Code != 250 || out[1].Reply.String() != "452 4.2.2 full" ||
			out[2].Reply.Code != 250 {
			t.Errorf("got %+v", out)
		}
		if m := one(t, d); len(m.Forwards) != 2 {
			t.Errorf("got %v", m.Forwards)
		}
		if !s.Reusable() || !s.Alive() {
			t.Error("not reusable")
		}
		clean(t, d)
	}
}

// Dial tells where it failed.

// Dial copes with what a server lacks.

// Quit waits for the server to close, but not for long.

func TestClient_Quit(t *testing.T) {
	server := smtptest.Start(t, smtptest.Behaviour{})
	s, err := Dial(t.Context(), Config{},
		Target{Network: "tcp", Addr: server.Addr(), Host: "mx.test", Helo: "relay.test"})
	if err != nil {
		t.Fatal(err)
	}
	s.Quit(10 * time.Second)
	if c := server.Counts(); c.Current != 0 || c.Quits != 1 {
		t.Errorf("%+v", c)
	}
	server.Set(smtptest.Behaviour{Answers: map[string]smtptest.Answer{"QUIT": {After: time.Hour}}})
	if s, err = Dial(t.Context(), Config{},
		Target{Network: "tcp", Addr: server.Addr(), Host: "mx.test", Helo: "relay.test"}); err != nil {
		t.Fatal(err)
	}
	s.Quit(20 * time.Millisecond) // or an hour
}

func TestClient_Reset(t *testing.T) {
	for _, ext := range [][]string{nil, smtptest.Without("CHUNKING")} {
		d := smtptest.Start(t, smtptest.Behaviour{Extensions: ext})
		s := dial(t, target(d))
		if err := s.Reset(t.Context()); err != nil || d.Counts().Commands["RSET"] != 0 {
			t.Errorf("nothing to reset: %v", err)
		}
		s.Begin(mail.Delivery{})
		if err := s.Rcpt(t.Context(), path("a@x.test")); err != nil {
			t.Fatal(err)
		}
		if err := s.Reset(t.Context()); err != nil || !s.Reusable() || !s.Alive() || s.work != nil {
			t.Errorf("got %v", err)
		}
		begin(t, s)
		if err := s.Write(octets("x\r\n", 0, false)); err != nil {
			t.Fatal(err)
		}
		if s.Reusable() {
			t.Error("reusable inside a message")
		}
		err := s.Reset(t.Context())
		if (err == nil) != s.ext.Has(Chunking) {
			t.Errorf("got %v", err)
		}
		if err != nil {
			writes := s.wire.writes
			s.Close()
			if s.wire.writes != writes {
				t.Error("something was written behind the octets of a message")
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := d.WaitFor(ctx, func(n smtptest.Counts) bool { return n.Current == 0 }); err != nil {
				t.Error(err)
			}
			if n := d.Counts(); n.Quits != 0 || n.Halves != 1 || n.Messages != 0 {
				t.Errorf("got %+v", n)
			}
			continue
		}
		// A transaction that is left open is reset by the next.
		s.Begin(mail.Delivery{})
		if err := s.Rcpt(t.Context(), path("a@x.test")); err != nil {
			t.Fatal(err)
		}
		if out := send(t, s, mail.Stuffed, octets("y\r\n", 0, true)); out[0].Reply.Code != 250 {
			t.Errorf("got %+v", out)
		}
		clean(t, d)
	}
}

func TestClient_Alive(t *testing.T) {
	ca := smtptest.NewCA()
	for _, policy := range []TLSPolicy{None, Required} {
		for _, end := range []bool{false, true} {
			d := smtptest.Start(t, smtptest.Behaviour{TLS: ca.Server("mx.dest.test")})
			tg := target(d)
			tg.TLS, tg.TLSConfig = policy, ca.Client()
			s := dial(t, tg)
			send(t, s, mail.Stuffed, octets("x\r\n", 0, true))
			for range 3 {
				if !s.Alive() || !s.Reusable() {
					t.Fatal("dead too soon")
				}
			}
			d.Unasked("421 4.3.2 shutting down", end)
			wait(t, func() bool { return !s.Alive() })
			if s.Reusable() {
				t.Error("reusable")
			}
			d.Close()
		}
	}
}

func wait(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

func TestClient_Order(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")})
	s := dial(t, target(d))
	s.Begin(mail.Delivery{})
	if err := s.Data(t.Context(), mail.Stuffed); !errors.Is(err, errOrder) {
		t.Errorf("Data without Rcpt: got %v", err)
	}
	if err := s.Write(octets("x\r\n", 0, false)); !errors.Is(err, errOrder) {
		t.Errorf("Write without Data: got %v", err)
	}
	if out := s.Commit(t.Context(), octets("x\r\n", 0, true)); len(out) != 0 {
		t.Errorf("Commit without Data: got %+v", out)
	}
	begin(t, s)
	if err := s.Rcpt(t.Context(), path("b@x.test")); !errors.Is(err, errOrder) {
		t.Errorf("Rcpt behind Data: got %v", err)
	}
	s.Begin(mail.Delivery{})
	if s.Reusable() {
		t.Error("reusable although a message was left open")
	}
	if n := d.Counts(); n.Commands["DATA"] != 1 || n.Messages != 0 {
		t.Errorf("got %+v", n)
	}
}

func TestClient_Getters(t *testing.T) {
	ca := smtptest.NewCA()
	d := smtptest.Start(t, smtptest.Behaviour{Size: 1234, TLS: ca.Server("x")})
	at := time.Unix(1000, 0)
	tg := target(d)
	tg.TLS = Opportunistic
	s, err := Dial(t.Context(), Config{Now: func() time.Time { at = at.Add(time.Second); return at }}, tg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	send(t, s, mail.Stuffed, octets("x\r\n", 0, true))
	if s.Host() != "mx.dest.test" || s.TLS() != "TLS 1.3" || s.Size() != 1234 || !s.SMTPUTF8() || s.Messages() != 1 ||
		s.Born() != time.Unix(1001, 0) || s.LastUsed() != time.Unix(1002, 0) {
		t.Errorf("got %s %s %d %v %d %v %v", s.Host(), s.TLS(), s.Size(), s.SMTPUTF8(), s.Messages(), s.Born(),
			s.LastUsed())
	}
}
