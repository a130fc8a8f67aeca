package smtpclient

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// begin brings a Client to an open message.

func begin(t testing.TB, s *Client) {
	t.Helper()
	s.Begin(mail.Delivery{})
	if err := s.Rcpt(t.Context(), path("to@dest.test")); err != nil {
		t.Fatalf("Rcpt: %v", err)
	}
	if err := s.Data(t.Context(), mail.Stuffed); err != nil {
		t.Fatalf("Data: %v", err)
	}
}

// flow writes pieces until Write fails, at most 64 MiB.

func flow(s *Client) error {
	piece := octets(strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1024), 0, false)
	for range 1024 {
		if err := s.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// A reply that comes before the end of data is the reply to the message.

func TestStream_EarlyReply(t *testing.T) {
	ca := smtptest.NewCA()
	for _, way := range []struct {
		name string
		ext  []string
		tls  TLSPolicy
	}{
		{"by DATA", smtptest.Without("CHUNKING"), None},
		{"by DATA in TLS", smtptest.Without("CHUNKING"), Required},
		{"by BDAT", nil, None},
		{"by BDAT in TLS", nil, Required},
	} {
		for _, tc := range []struct {
			name  string
			fault smtptest.Fault
			want  string // of the refusal
		}{
			{
				"while it reads on",
				smtptest.Fault{After: 100000, Answer: smtptest.Answer{Reply: "552 5.3.4 too much"}},
				"552 5.3.4 too much",
			},
			{
				"while it has stopped reading",
				smtptest.Fault{
					After: 100000, Answer: smtptest.Answer{Reply: "452-4.3.1 no\n452 4.3.1 room"}, Stall: true,
				}, "452 4.3.1 no / room",
			},
			{
				"before the connection is closed",
				smtptest.Fault{After: 100000, Answer: smtptest.Answer{Reply: "554 5.7.1 spam", Close: true}},
				"554 5.7.1 spam",
			},
			{
				"421 as 451",
				smtptest.Fault{After: 100000, Answer: smtptest.Answer{Reply: "421 4.3.2 going down", Close: true}},
				"451 4.3.2 going down",
			},
			{
				"or nonsense where it is positive",
				smtptest.Fault{After: 1000, Answer: smtptest.Answer{Reply: "250 ok"}},
				"451 4.5.0 Destination does not keep to the protocol, try again later",
			},
		} {
			if way.ext == nil && tc.fault.After == 1000 {
				continue // by BDAT it is the reply to a chunk
			}
			t.Run(tc.name+" "+way.name, func(t *testing.T) {
				t.Parallel()
				d := smtptest.Start(t,
					smtptest.Behaviour{Extensions: way.ext, TLS: ca.Server("mx.dest.test"), Body: &tc.fault})
				tg := target(d)
				tg.TLS, tg.TLSConfig = way.tls, ca.Client()
				s := dial(t, tg)
				begin(t, s)
				err := flow(s)
				var refusal *mail.Refusal
				if !errors.As(err, &refusal) || refusal.Reply.String() != tc.want {
					t.Errorf("got %v, want %s", err, tc.want)
				}
				if s.Reusable() {
					t.Error("the Client is reusable")
				}
				s.Close()
				if d.Counts().Messages != 0 {
					t.Error("a message was recorded")
				}
			})
		}
	}
}

// A write that stalls fails.

func TestStream_Stall(t *testing.T) {
	ca := smtptest.NewCA()
	for _, policy := range []TLSPolicy{None, Required} {
		for _, ext := range [][]string{nil, {}} {
			d := smtptest.Start(t,
				smtptest.Behaviour{
					Extensions: ext, TLS: ca.Server("mx.dest.test"), Body: &smtptest.Fault{After: 1000, Stall: true},
				})
			tg := target(d)
			tg.TLS, tg.TLSConfig = policy, ca.Client()
			s, err := Dial(t.Context(), Config{Stall: 50 * time.Millisecond}, tg)
			if err != nil {
				t.Fatal(err)
			}
			begin(t, s)
			err = flow(s)
			var connErr *ConnError
			if !errors.As(err, &connErr) ||
				mail.ReplyFor(err).String() != "451 4.4.1 Destination did not answer in time" {
				t.Errorf("got %v", err)
			}
			s.Close()
			d.Close()
		}
	}
}

// TestStream_StallOfData: one of several next hops may stall for less time, but for the last piece.
func TestStream_StallOfData(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{Body: &smtptest.Fault{After: 1000, Stall: true}})
	s, err := Dial(t.Context(), Config{Stall: time.Hour}, target(d))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Begin(mail.Delivery{})
	if err := s.Rcpt(t.Context(), mail.Path{Local: "b", Domain: "x.example"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Data(mail.WithStall(t.Context(), 50*time.Millisecond), mail.Stuffed); err != nil {
		t.Fatal(err)
	}
	var connErr *ConnError
	if err := flow(s); !errors.As(err, &connErr) {
		t.Errorf("got %v", err)
	}
}

// A destination that reads slowly gets the whole message.

func TestStream_SlowReader(t *testing.T) {
	// The destination answers chunks late, so that replies to chunks come while a write goes on in slices.
	ca := smtptest.NewCA()
	for _, tc := range []struct {
		ext []string
		tls TLSPolicy
	}{{nil, None}, {nil, Opportunistic}, {smtptest.Without("CHUNKING"), None}} {
		d := smtptest.Start(t,
			smtptest.Behaviour{
				Extensions: tc.ext, TLS: ca.Server("x"),
				Answers: map[string]smtptest.Answer{"BDAT": {After: 30 * time.Millisecond}},
			})
		tg := target(d)
		tg.TLS = tc.tls
		s := dial(t, tg)
		s.wire.slice = time.Millisecond
		begin(t, s)
		text := strings.Repeat(strings.Repeat("y", 510)+"\r\n", 2048)
		for range 8 {
			if err := s.Write(octets(text, 65536, false)); err != nil {
				t.Fatal(err)
			}
		}
		out := s.Commit(t.Context(), octets("end\r\n", 0, true))
		if out[0].Reply.Code != 250 || !s.Reusable() {
			t.Errorf("got %+v", out)
		}
		if m := one(t, d); string(m.Octets) != strings.Repeat(text, 8)+"end\r\n" {
			t.Errorf("got %d octets", len(m.Octets))
		}
		clean(t, d)
	}
}

// The reply to the end of data is passed on, or the outcome is in doubt.

func TestStream_FinalReply(t *testing.T) {
	ca := smtptest.NewCA()
	for _, tc := range []struct {
		name     string
		answer   smtptest.Answer
		want     string
		doubt    bool
		us       bool
		reusable bool
	}{
		{
			"2yz is passed on", smtptest.Answer{Reply: "250 2.6.0 queued as 17"}, "250 2.6.0 queued as 17", false,
			false, true,
		},
		{
			"5yz is passed on", smtptest.Answer{Reply: "554-5.7.1 spam\n554 5.7.1 go away"}, "554 5.7.1 spam / go away",
			false, false, true,
		},
		{"4yz is passed on", smtptest.Answer{Reply: "452 4.3.1 full"}, "452 4.3.1 full", false, false, true},
		{
			"421 is 451 and the end", smtptest.Answer{Reply: "421 4.3.2 bye", Close: true}, "451 4.3.2 bye", false,
			false, false,
		},
		{
			"what is about us is 451",
			smtptest.Answer{Reply: "550 5.7.1 Too much spam from 127.0.0.1"},
			"451 4.7.0 Destination does not take mail from here at the moment, try again later", false, true, true,
		},
		{
			"a closed connection is in doubt", smtptest.Answer{Close: true},
			"451 4.4.2 Connection to destination lost, try again later", true, false, false,
		},
		{
			"a reset one too", smtptest.Answer{Reset: true},
			"451 4.4.2 Connection to destination lost, try again later", true, false, false,
		},
		{
			"half a reply too", smtptest.Answer{Reply: "250-2.0.0 ok", Close: true},
			"451 4.4.2 Connection to destination lost, try again later", true, false, false,
		},
		{
			"silence too", smtptest.Answer{After: time.Hour},
			"451 4.4.2 Connection to destination lost, try again later", true, false, false,
		},
		{
			"354 and silence is in doubt", smtptest.Answer{Reply: "354 more"},
			"451 4.4.2 Connection to destination lost, try again later", true, false, false,
		},
		{
			"221 is in doubt", smtptest.Answer{Reply: "221 2.0.0 bye"},
			"451 4.5.0 Destination does not keep to the protocol, try again later", true, false, false,
		},
		{
			"nonsense is in doubt", smtptest.Answer{Reply: "OK"},
			"451 4.5.0 Destination does not keep to the protocol, try again later", true, false, false,
		},
		{
			"octets behind the reply end the connection", smtptest.Answer{Reply: "250 2.0.0 ok\n250 2.0.0 again"},
			"250 2.0.0 ok / again", false, false, false,
		},
	} {
		for _, ext := range [][]string{nil, smtptest.Without("CHUNKING")} {
			for _, policy := range []TLSPolicy{None, Opportunistic} {
				t.Run(tc.name, func(t *testing.T) {
					d := smtptest.Start(t,
						smtptest.Behaviour{
							Extensions: ext, TLS: ca.Server("x"),
							Answers: map[string]smtptest.Answer{smtptest.Dot: tc.answer},
						})
					tg := target(d)
					tg.TLS = policy
					s := dial(t, tg)
					begin(t, s)
					if err := s.Write(octets("a: b\r\n", 0, false)); err != nil {
						t.Fatal(err)
					}
					ctx := t.Context()
					if tc.answer.After > 0 || tc.answer.Reply == "354 more" || tc.answer.Reply == "OK" {
						ctx = mail.Until(ctx, time.Now().Add(100*time.Millisecond))
					}
					out := s.Commit(ctx, octets("\r\nc\r\n", 0, true))
					if len(out) != 1 || out[0].Reply.String() != tc.want || out[0].InDoubt != tc.doubt ||
						out[0].AboutUs != tc.us {
						t.Fatalf("got %+v, want %s", out, tc.want)
					}
					if (out[0].Cause != nil) != (out[0].Reply.Class() != 2) || (out[0].TLS != "") != (policy != None) {
						t.Errorf("got %+v", out)
					}
					if s.Reusable() != tc.reusable {
						t.Fatalf("reusable: got %v", s.Reusable())
					}
					if !tc.reusable {
						return
					}
					d.Set(smtptest.Behaviour{Extensions: ext})
					if out := send(t, s, mail.Stuffed, octets("x\r\n", 0, true)); out[0].Reply.Code != 250 ||
						!out[0].Reused {
						t.Errorf("next message: got %+v", out)
					}
					if got, want := d.Counts().Commands["RSET"] == 1, ext == nil &&
						out[0].Reply.Class() != 2; got != want {
						t.Errorf("RSET before the next message: got %v, want %v", got, want)
					}
					clean(t, d)
				})
			}
		}
	}
}

// A refused DATA leaves the Client usable.

// Reset ends a transaction.

// Alive sees what came unasked.

// wait looks at a condition that nothing signals, until it holds.

// The server's LIMITS are honoured.

// A refused chunk is the reply to the message, which is not in doubt.

func TestStream_RefusedChunk(t *testing.T) {
	for _, ext := range [][]string{nil, smtptest.Without("PIPELINING")} {
		for _, tc := range []struct {
			reply, want string
		}{
			{"452 4.3.1 no room", "452 4.3.1 no room"},
			{"354 what", "451 4.5.0 Destination does not keep to the protocol, try again later"},
		} {
			d := smtptest.Start(t,
				smtptest.Behaviour{Extensions: ext, Answers: map[string]smtptest.Answer{"BDAT": {Reply: tc.reply}}})
			s := dial(t, target(d))
			begin(t, s)
			if err := s.Write(octets("a: b\r\n", 0, false)); err != nil {
				t.Fatal(err)
			}
			out := s.Commit(t.Context(), octets("\r\nc\r\n", 0, true))
			if out[0].Reply.String() != tc.want || out[0].InDoubt && tc.reply[0] == '4' || s.Reusable() {
				t.Errorf("got %+v", out)
			}
		}
	}
}

// A connection that breaks is a ConnError and no reply of the host.

// Calls out of order send nothing.

// A Client tells of itself.

// A refusal that comes while a write stalls is seen at once.

func TestStream_RefusalDuringStall(t *testing.T) {
	ca := smtptest.NewCA()
	text := strings.Repeat(strings.Repeat("z", 1022)+"\r\n", 16384)
	for _, ext := range [][]string{nil, smtptest.Without("CHUNKING")} {
		for _, policy := range []TLSPolicy{None, Opportunistic} {
			for _, segment := range []int{0, 65536} {
				for _, last := range []bool{false, true} {
					d := smtptest.Start(t, smtptest.Behaviour{Extensions: ext, TLS: ca.Server("x"),
						Body: &smtptest.Fault{
							After: 5000, Answer: smtptest.Answer{Reply: "552 5.3.4 too much"}, Stall: true,
						}})
					tg := target(d)
					tg.TLS = policy
					s := dial(t, tg)
					s.wire.slice = 5 * time.Millisecond
					begin(t, s)
					reply := ""
					if last {
						out := s.Commit(t.Context(), octets(text, segment, true))
						reply = out[0].Reply.String()
						if out[0].InDoubt {
							t.Errorf("got %+v", out)
						}
					} else {
						reply = mail.ReplyFor(s.Write(octets(text, segment, false))).String()
					}
					if reply != "552 5.3.4 too much" || s.Reusable() {
						t.Errorf("got %s", reply)
					}
					s.Close()
					d.Close()
				}
			}
		}
	}
}

// A positive reply before the end of data is a protocol error.

func TestStream_UnaskedPositive(t *testing.T) {
	ca := smtptest.NewCA()
	for _, policy := range []TLSPolicy{None, Opportunistic} {
		for _, tc := range []struct {
			name  string
			b     smtptest.Behaviour
			write bool
		}{
			{
				"behind the 354",
				smtptest.Behaviour{Answers: map[string]smtptest.Answer{"DATA": {Reply: "354 go\n250 2.0.0 ok"}}}, false,
			},
			{
				"inside the octets",
				smtptest.Behaviour{Body: &smtptest.Fault{After: 4, Answer: smtptest.Answer{Reply: "250 2.0.0 ok"}}},
				true,
			},
		} {
			tc.b.Extensions, tc.b.TLS = smtptest.Without("CHUNKING"), ca.Server("x")
			d := smtptest.Start(t, tc.b)
			tg := target(d)
			tg.TLS = policy
			s := dial(t, tg)
			begin(t, s)
			if tc.write {
				if err := s.Write(octets("a: b\r\n", 0, false)); err != nil {
					t.Fatal(err)
				}
				wait(t, s.wire.spoke)
			}
			out := s.Commit(t.Context(), octets("\r\nc\r\n", 0, true))
			if out[0].Reply.Code != 451 || out[0].Reply.Enhanced.Subject != 5 || out[0].InDoubt || s.Reusable() {
				t.Errorf("%s: got %+v", tc.name, out)
			}
			s.Close()
			d.Close()
			if n := d.Counts().Messages; n != 0 {
				t.Errorf("%s: the end of data was sent", tc.name)
			}
		}
	}
}
