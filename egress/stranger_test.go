package egress

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// offer tries to send one message, and returns the code that its client reads.
func offer(t *testing.T, w *world, d mail.Delivery) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tx, err := w.relay.Begin(ctx, d)
	if err != nil {
		return mail.ReplyFor(err).Code
	}
	if err = tx.Rcpt(ctx, path("b@"+d.RecipientDomain)); err == nil {
		err = tx.Data(ctx, mail.Stuffed)
	}
	if err != nil {
		tx.Abort()
		return mail.ReplyFor(err).Code
	}
	return tx.Commit(ctx, octets(message))[0].Reply.Code
}

// evil has a destination say a reply at a verb, but only of mail for evil.test.
func evil(verb, reply string) smtptest.Behaviour {
	extensions := smtptest.Without("CHUNKING")
	return smtptest.Behaviour{Extensions: extensions, On: func(s smtptest.Step) (smtptest.Answer, bool) {
		isEvil := strings.HasSuffix(s.Forward, "@evil.test") || strings.Contains(s.Message.Reverse+s.Line, "mallory") ||
			len(s.Message.Forwards) > 0 && strings.HasSuffix(s.Message.Forwards[0], "@evil.test")
		return smtptest.Answer{Reply: reply}, s.Verb == verb && isEvil
	}}
}

// TestRelay_StrangersMailbox: a stranger has a mailbox of its own at the MX hosts of others, and has it say what
// it likes, ten times a second. All mail to the other domains of the Site is accepted meanwhile.
func TestRelay_StrangersMailbox(t *testing.T) {
	for _, c := range []struct{ name, verb, reply string }{
		{"a poor reputation", "RCPT", "550 5.7.1 <[127.0.0.1]>: Client host rejected: poor reputation"},
		{"a list", "RCPT", "450 4.7.1 127.0.0.1 is listed"},
		{"530", "RCPT", "530 5.7.0 Authentication required"},
		{"521", "RCPT", "521 5.3.2 Host takes no mail"},
		{"530 to DATA", "DATA", "530 5.7.0 Authentication required"},
		{"421 to RCPT", "RCPT", "421 4.7.0 127.0.0.1 has a poor reputation"},
		{"421 to MAIL", "MAIL", "421 4.7.0 Try again later"},
		{"550 to MAIL", "MAIL", "550 5.7.1 127.0.0.1 is listed"},
		{"at the dot", smtptest.Dot, "550 5.7.1 127.0.0.1 is listed"},
		{"X.7.28 at the dot", smtptest.Dot, "421 4.7.28 An unusual rate of mail"},
		{"fewer sessions", "RCPT", "450 4.7.0 Too many concurrent connections"},
		{"fewer sessions at the dot", smtptest.Dot, "450 4.7.0 Too many concurrent connections"},
		{"slower", "RCPT", "450 4.7.0 Message rate limit exceeded"},
		{"a suspension", "RCPT", "421 4.7.1 [TS03] All messages are deferred"},
	} {
		for _, srs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, SRS %v", c.name, srs), func(t *testing.T) {
				var ahead atomic.Int64
				rules, err := feedback.Parse("test", "421 * * \"[ts03]\" -> suspend 15m\n")
				if err != nil {
					t.Fatal(err)
				}
				w, s := one(t, evil(c.verb, c.reply), func(cfg *Config) {
					cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
					cfg.Reactions, cfg.SRSDomain = rules.Before(feedback.Shipped()), "srs.test"
				})
				attack := to("evil.test")
				attack.Client, attack.Reverse.Local = netip.MustParsePrefix("198.51.100.0/24"), "mallory"
				if srs { // a bounce to a reverse-path that we wrote, at which the stranger reads
					attack.Reverse = mail.Path{}
					if c.verb == "MAIL" {
						attack.Reverse = mail.Path{Local: "SRS0=abcd=XY=evil.test=mallory", Domain: "srs.test"}
					}
				}
				refused, asked := 0, 0
				for i := range 150 {
					ahead.Add(int64(100 * time.Millisecond))
					if code := offer(t, w, attack); code/100 == 2 {
						t.Fatalf("the stranger's message is taken: %d", code)
					}
					asked++
					if code := offer(t, w, from(i%7, []string{"one.test", "uno.test", "eins.test"}[i%3])); code != 250 {
						refused++
					}
				}
				t.Logf("%d of %d honest messages refused beside %d attempts", refused, asked, asked)
				if refused > 0 {
					t.Errorf("%d of %d honest messages refused", refused, asked)
				}
				if n := s.Counts(); n.Messages < asked {
					t.Errorf("%d messages arrived", n.Messages)
				}
				if got := w.relay.local.pool.Adaptations(); len(got) != 0 {
					t.Errorf("the Site is limited: %+v", got)
				}
			})
		}
	}
}

// TestRelay_BlockedDestination: a destination that really refuses us is left alone after the evidence.
func TestRelay_BlockedDestination(t *testing.T) {
	for _, c := range []struct{ name, verb, reply string }{
		{"MAIL", "MAIL", "550 5.7.1 127.0.0.1 is listed"},
		{"421 to MAIL", "MAIL", "421 4.7.0 Try again later"},
		{"RCPT", "RCPT", "550 5.7.1 127.0.0.1 is listed"},
		{"the dot", smtptest.Dot, "550 5.7.1 127.0.0.1 is listed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ahead atomic.Int64
			w, s := one(t, smtptest.Behaviour{}, func(cfg *Config) {
				cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			})
			domains := []string{"one.test", "uno.test", "eins.test"}
			for i, domain := range domains {
				if code := offer(t, w, from(i, domain)); code != 250 {
					t.Fatal(code)
				}
			}
			s.Set(smtptest.Behaviour{
				Extensions: smtptest.Without("CHUNKING"), Answers: map[string]smtptest.Answer{c.verb: {Reply: c.reply}},
			})
			w.relay.Yield(func(mail.Site) bool { return false }) // its sessions know the old extensions
			w.relay.Yield(func(mail.Site) bool { return true })
			ahead.Store(int64(time.Second))
			mails := func() int { return strings.Count(strings.Join(s.Commands(), "\n"), "MAIL FROM") }
			before := mails()
			for i := range 300 {
				ahead.Add(int64(100 * time.Millisecond))
				if code := offer(t, w, from(i%20, domains[i%3])); code != 451 {
					t.Fatalf("%d: %d", i, code)
				}
			}
			if n := mails() - before; n > 60 {
				t.Errorf("it was asked %d times for 300 messages in 30 s", n)
			} else {
				t.Logf("it was asked %d times for 300 messages in 30 s", n)
			}
			s.Set(smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")})
			ahead.Add(int64(61 * time.Second))
			for i := range 10 {
				if code := offer(t, w, from(i, domains[i%3])); code != 250 {
					t.Errorf("%d after it takes mail again: %d", i, code)
				}
			}
		})
	}
}
