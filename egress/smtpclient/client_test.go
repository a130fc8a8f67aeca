package smtpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
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
	s, err := Dial(t.Context(), Config{}, tg)
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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
			t.Fatal("the session should be reusable")
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
func TestTransaction_Replies(t *testing.T) {
	recipients := smtptest.ByLocalPart()
	recipients["multi"] = smtptest.Answer{Reply: "550-5.1.1 no such\n550-5.1.1 user\n550 5.1.1 here"}
	for _, tc := range []struct {
		name     string
		verb     string
		answer   smtptest.Answer
		rcpts    []string
		want     []string // the replies to each Rcpt; "" for accepted
		us       bool
		reusable bool
	}{
		{
			"a refused MAIL is the error of every Rcpt", "MAIL", smtptest.Answer{Reply: "550 5.7.1 not you"},
			[]string{"a@x.test", "b@x.test"}, []string{"550 5.7.1 not you", "550 5.7.1 not you"}, false, true,
		},
		{
			"a refused first RCPT leaves MAIL open", "", smtptest.Answer{},
			[]string{"550@x.test", "a@x.test", "451@x.test", "b@x.test"},
			[]string{
				"550 5.1.1 Refused, as this address asks for", "", "451 4.1.1 Refused, as this address asks for", "",
			}, false, true,
		},
		{
			"lines are kept and codes stripped", "", smtptest.Answer{}, []string{"multi@x.test"},
			[]string{"550 5.1.1 no such / user / here"}, false, true,
		},
		{
			"421 is passed on as 451", "", smtptest.Answer{}, []string{"421@x.test"},
			[]string{"451 4.3.2 Closing, as this address asks for"}, false, false,
		},
		{
			"503 is about us", "MAIL", smtptest.Answer{Reply: "503 5.5.1 what?"}, []string{"a@x.test"},
			[]string{"451 4.7.0 Destination does not take mail from here at the moment, try again later"}, true, true,
		},
		{
			"our own address is about us", "RCPT", smtptest.Answer{Reply: "550 5.7.1 [127.0.0.1] is on my list"},
			[]string{"a@x.test"},
			[]string{"451 4.7.0 Destination does not take mail from here at the moment, try again later"}, true, true,
		},
		{
			"another address that begins like ours is not", "RCPT",
			smtptest.Answer{Reply: "550 5.7.1 127.0.0.12 is on my list"}, []string{"a@x.test"},
			[]string{"550 5.7.1 127.0.0.12 is on my list"}, false, true,
		},
		{
			"354 to RCPT is a protocol error", "RCPT", smtptest.Answer{Reply: "354 go"}, []string{"a@x.test"},
			[]string{"451 4.5.0 Destination does not keep to the protocol, try again later"}, false, false,
		},
	} {
		for _, ext := range [][]string{nil, smtptest.Without("PIPELINING")} {
			t.Run(tc.name, func(t *testing.T) {
				d := smtptest.Start(t,
					smtptest.Behaviour{
						Extensions: ext, Recipients: recipients,
						Answers: map[string]smtptest.Answer{tc.verb: tc.answer},
					})
				s := dial(t, target(d))
				s.Begin(mail.Delivery{})
				for i, r := range tc.rcpts {
					err := s.Rcpt(t.Context(), path(r))
					var refusal *mail.Refusal
					got := ""
					if errors.As(err, &refusal) {
						got = refusal.Reply.String()
						if refusal.AboutUs != tc.us || refusal.Host != "mx.dest.test" {
							t.Errorf("got %+v", refusal)
						}
					}
					if got != tc.want[i] {
						t.Errorf("%s: got %q (%v), want %q", r, got, err, tc.want[i])
					}
				}
				if s.Reusable() != tc.reusable {
					t.Errorf("reusable: got %v", s.Reusable())
				}
				if !tc.reusable {
					return
				}
				d.Set(smtptest.Behaviour{Extensions: ext})
				if out := send(t, s, mail.Stuffed, octets("a: b\r\n\r\n", 0, true)); out[0].Reply.Code != 250 {
					t.Errorf("next message: got %+v", out)
				}
				clean(t, d)
			})
		}
	}
}

// The parameters of MAIL follow what is offered.
func TestTransaction_Parameters(t *testing.T) {
	eight := mail.Params{Body: mail.Body8BitMIME}
	for _, tc := range []struct {
		name    string
		b       smtptest.Behaviour
		d       mail.Delivery
		forward string
		want    string // the MAIL line, or the refusal
		unsaid  bool
	}{
		{
			"SIZE counts our fields", smtptest.Behaviour{Size: 5000},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test", "MAIL FROM:<> SIZE=1200", false,
		},
		{
			"SIZE is not said where it is not offered", smtptest.Behaviour{},
			mail.Delivery{Params: mail.Params{Size: 1000}}, "a@x.test", "MAIL FROM:<>", false,
		},
		{
			"SIZE stays inside the limit where only our fields may go over it", smtptest.Behaviour{Size: 1100},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test", "MAIL FROM:<> SIZE=1100", false,
		},
		{
			"SIZE at the limit is the destination's to judge", smtptest.Behaviour{Size: 1000},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test", "MAIL FROM:<> SIZE=1000", false,
		},
		{
			"SIZE over the limit is refused at once", smtptest.Behaviour{Size: 999},
			mail.Delivery{Params: mail.Params{Size: 1000}, Extra: 200}, "a@x.test",
			"552 5.3.4 Message is larger than the destination takes", false,
		},
		{
			"BODY is passed on", smtptest.Behaviour{}, mail.Delivery{Params: eight}, "a@x.test",
			"MAIL FROM:<> BODY=8BITMIME", false,
		},
		{
			"BODY is left out where it is not offered", smtptest.Behaviour{Extensions: []string{}},
			mail.Delivery{Params: eight}, "a@x.test", "MAIL FROM:<>", true,
		},
		{
			"8-bit may be refused", smtptest.Behaviour{Extensions: []string{}},
			mail.Delivery{Params: eight, EightBit: mail.EightBitRefuse}, "a@x.test",
			"550 5.6.3 Destination does not take 8-bit messages", false,
		},
		{
			"SMTPUTF8 is passed on", smtptest.Behaviour{}, mail.Delivery{Params: mail.Params{SMTPUTF8: true}},
			"a@x.test", "MAIL FROM:<> SMTPUTF8", false,
		},
		{
			"SMTPUTF8 is said for a path that needs it", smtptest.Behaviour{}, mail.Delivery{}, "ä@x.test",
			"MAIL FROM:<> SMTPUTF8", false,
		},
		{
			"SMTPUTF8 is left out for an ASCII envelope where it is not offered",
			smtptest.Behaviour{Extensions: []string{}}, mail.Delivery{Params: mail.Params{SMTPUTF8: true}}, "a@x.test",
			"MAIL FROM:<>", false,
		},
		{
			"a reverse-path beyond ASCII is refused there", smtptest.Behaviour{Extensions: []string{}},
			mail.Delivery{Reverse: path("ü@x.test")}, "a@x.test",
			"550 5.6.7 Destination does not take addresses beyond ASCII", false,
		},
		{
			"a forward-path beyond ASCII too", smtptest.Behaviour{Extensions: []string{}}, mail.Delivery{}, "ü@x.test",
			"550 5.6.7 Destination does not take addresses beyond ASCII", false,
		},
		{
			"a path that ends the command is not sent", smtptest.Behaviour{},
			mail.Delivery{Reverse: mail.Path{Local: "a> SIZE=1 <b", Domain: "x.test"}}, "a@x.test",
			"550 5.1.7 Sender address cannot be passed on", false,
		},
		{
			"quotes are kept", smtptest.Behaviour{}, mail.Delivery{Reverse: path(`"a> \"b"@x.test`)}, "a@x.test",
			`MAIL FROM:<"a> \"b"@x.test>`, false,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := smtptest.Start(t, tc.b)
			s := dial(t, target(d))
			s.Begin(tc.d)
			err := s.Rcpt(t.Context(), path(tc.forward))
			got := ""
			if err != nil {
				got = mail.ReplyFor(err).String()
				if d.Counts().Commands["MAIL"] != 0 {
					t.Error("MAIL was sent")
				}
			} else {
				all := d.Commands()
				_, got, _ = strings.Cut(all[slices.IndexFunc(all, func(l string) bool {
					return strings.Contains(l, "MAIL")
				})], " ")
			}
			if got != tc.want || s.EightBitUnannounced() != tc.unsaid {
				t.Errorf("got %q, unsaid %v, want %q", got, s.EightBitUnannounced(), tc.want)
			}
			clean(t, d)
		})
	}
}

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
		{
			"a greeting with more behind it", answer(smtptest.Greeting, "220 hello\n250 more"), None, "", StageGreeting,
			"451 4.5.0",
		},
		{"nonsense", answer(smtptest.Greeting, "hello"), None, "", StageGreeting, "451 4.5.0"},
		{"EHLO refused", answer("EHLO", "550 5.7.1 no"), None, "", StageHelo, "451 4.7.0"},
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
			_, err := Dial(t.Context(), Config{}, tg)
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

// Dial copes with what a server lacks.
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
	begun := time.Now()
	s.Quit(20 * time.Millisecond)
	if got := time.Since(begun); got > 5*time.Second {
		t.Errorf("waited %v", got)
	}
}
