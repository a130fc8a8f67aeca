package egress

import (
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_Elsewhere: what a first host answers to MAIL, RCPT or DATA is the destination's answer, or a reason to ask
// the second one; and who is sent to the second one at once afterwards.
func TestRelay_Elsewhere(t *testing.T) {
	for _, c := range []struct {
		name, verb string
		answer     smtptest.Answer
		want       string // of the first attempt; "" if the second host takes it
		marks      bool   // the first is passed over by the next message like it
	}{
		{"450 to MAIL", "MAIL", smtptest.Answer{Reply: "450 4.3.0 Later"}, "", true},
		{"451 to MAIL", "MAIL", smtptest.Answer{Reply: "451 4.3.5 Local error"}, "", true},
		{"452 to MAIL", "MAIL", smtptest.Answer{Reply: "452 4.3.1 Disk full"}, "", true},
		{"421 to MAIL", "MAIL", smtptest.Answer{Reply: "421 4.3.2 Closing", Close: true}, "", true},
		{"503 to MAIL", "MAIL", smtptest.Answer{Reply: "503 5.5.1 Bad sequence"}, "", true},
		{"502 to MAIL", "MAIL", smtptest.Answer{Reply: "502 5.5.1 What"}, "", true},
		{"a 4yz that speaks of the sender", "MAIL", smtptest.Answer{Reply: "451 4.1.8 Who is that"}, "", false},
		{"a 4yz for want of SPF", "MAIL", smtptest.Answer{Reply: "451 4.7.24 SPF cannot be checked"}, "", false},
		{"a 4yz for a sender without DNS", "MAIL", smtptest.Answer{Reply: "450 4.1.7 Sender unknown"}, "", false},
		{"550 to MAIL is believed", "MAIL", smtptest.Answer{Reply: "550 5.1.8 Who is that"}, "550 5.1.8", false},
		{"552 to MAIL is believed", "MAIL", smtptest.Answer{Reply: "552 5.3.4 Too large"}, "552 5.3.4", false},
		{"450 to RCPT is the recipient's", "RCPT", smtptest.Answer{Reply: "450 4.2.1 Busy"}, "450 4.2.1", false},
		{"451 to RCPT too", "RCPT", smtptest.Answer{Reply: "451 4.7.1 Greylisted"}, "451 4.7.1", false},
		{"550 to RCPT too", "RCPT", smtptest.Answer{Reply: "550 5.1.1 Unknown"}, "550 5.1.1", false},
		{"421 to RCPT", "RCPT", smtptest.Answer{Reply: "421 4.3.2 Closing", Close: true}, "", true},
		{"the end at RCPT", "RCPT", smtptest.Answer{Close: true}, "", true},
		{"a 354 to RCPT", "RCPT", smtptest.Answer{Reply: "354 What"}, "", true},
		{"421 to DATA", "DATA", smtptest.Answer{Reply: "421 4.3.2 Closing", Close: true}, "", true},
		{"the end at DATA", "DATA", smtptest.Answer{Close: true}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := smtptest.Behaviour{
				Extensions: smtptest.Without("CHUNKING"), Answers: map[string]smtptest.Answer{c.verb: c.answer},
			}
			w, s1, s2 := two(t, first, smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")},
				limits(t, "connections=5 messages=1 idle=1m age=1h"))
			send := func() error {
				ctx := mail.Until(t.Context(), time.Now().Add(time.Minute))
				tx, err := w.relay.Begin(ctx, to("two.test"))
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Abort()
				if err := tx.Rcpt(ctx, path("b@two.test")); err != nil {
					return err
				}
				if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
					t.Fatalf("got %+v", out)
				}
				return nil
			}
			err := send()
			if c.want != "" {
				want(t, err, c.want)
				if n := s2.Counts().Connections; n != 0 {
					t.Errorf("the second host was asked %d times", n)
				}
				return
			}
			if err != nil || len(s2.Messages()) != 1 || s1.Counts().Connections != 1 {
				t.Fatalf("got %v, %d messages", err, len(s2.Messages()))
			}
			err = send()
			if n := s1.Counts().Connections; err != nil || c.marks && n != 1 || !c.marks && n != 2 {
				t.Errorf("got %v, %d connections with the first", err, n)
			}
		})
	}
}

// TestRelay_BothMarked: when each host failed, the one that failed longest ago is tried first, and none is left out.
func TestRelay_BothMarked(t *testing.T) {
	w, s1, s2 := two(t, sick(atGreeting, closed), sick(atGreeting, closed), nil)
	for range 2 { // the second attempt is the probe of the Site that cools
		w.relay.local.pool.Resume("mx1.two.test,mx2.two.test")
		_, err := w.relay.Begin(t.Context(), to("two.test"))
		want(t, err, "451 4.4.1")
	}
	if a, b := s1.Counts().Connections, s2.Counts().Connections; a != 2 || b != 2 {
		t.Errorf("%d and %d connections, want 2 and 2", a, b)
	}
	s1.Set(smtptest.Behaviour{})
	s2.Set(smtptest.Behaviour{})
	w.relay.local.pool.Resume("mx1.two.test,mx2.two.test")
	deliver(t, w, to("two.test"), "b@two.test")
	if len(s1.Messages()) != 1 {
		t.Error("the one that failed last was tried first")
	}
}

// TestRelay_OwnFault: what this machine lacks is not held against a destination: it is asked again at once, and in the
// order of before.
func TestRelay_OwnFault(t *testing.T) {
	w, s1, s2 := two(t, smtptest.Behaviour{}, smtptest.Behaviour{}, func(c *Config) {
		c.Sources = []netip.Addr{netip.MustParseAddr("192.0.2.77")} // no address of this machine
	})
	for range 3 {
		_, err := w.relay.Begin(t.Context(), to("two.test"))
		if r := want(t, err, "451 4.4.1"); r.Reason != "unreachable" {
			t.Errorf("reason %s", r.Reason)
		}
	}
	at := feedback.Spot{
		Host: "mx1.two.test", Addr: netip.MustParseAddr("127.0.0.2"), Port: uint16(port(t, s1)),
	}
	if _, marked := w.relay.local.marks.FailedAt(at, feedback.Of{}); marked {
		t.Error("an address is marked")
	}
	if a, b := s1.Counts().Connections, s2.Counts().Connections; a+b != 0 {
		t.Errorf("%d and %d connections", a, b)
	}
}
