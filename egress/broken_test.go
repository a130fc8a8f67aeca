package egress

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// An extension that is offered and fails is not used for a day: the message is delivered by the second attempt.
func TestRelay_BrokenExtension(t *testing.T) {
	bdat := func(s smtptest.Step) bool { return s.Verb == smtptest.Dot && s.Message.Chunks != nil }
	chunk := func(s smtptest.Step) bool { return s.Verb == "BDAT" }
	piped := func(s smtptest.Step) bool { return s.Verb == "RCPT" && s.Session == 1 }
	var rcpts atomic.Int64
	pipedOnce := func(s smtptest.Step) bool { return s.Verb == "RCPT" && rcpts.Add(1) == 1 }
	for _, tc := range []struct {
		name    string
		answer  smtptest.Answer
		at      func(smtptest.Step) bool
		pieces  bool
		without smtpclient.Keyword // 0: the extension is used on
		first   int                // the code of the first attempt
	}{
		{"BDAT 500", smtptest.Answer{Reply: "500 5.5.1 what"}, bdat, false, smtpclient.Chunking, 451},
		{"BDAT 502", smtptest.Answer{Reply: "502 5.5.1 not implemented"}, bdat, false, smtpclient.Chunking, 451},
		{"BDAT 503", smtptest.Answer{Reply: "503 5.5.1 bad sequence"}, bdat, false, smtpclient.Chunking, 451},
		{"BDAT closes", smtptest.Answer{Close: true, Discard: true}, bdat, false, smtpclient.Chunking, 451},
		{"BDAT resets", smtptest.Answer{Reset: true, Discard: true}, bdat, false, smtpclient.Chunking, 451},
		{"the first chunk 502", smtptest.Answer{Reply: "502 5.5.1 what"}, chunk, true, smtpclient.Chunking, 451},
		{"the first chunk closes", smtptest.Answer{Close: true}, chunk, true, smtpclient.Chunking, 451},
		{"RCPT behind MAIL 503", smtptest.Answer{Reply: "503 5.5.1 improper pipelining"}, pipedOnce, false,
			smtpclient.Pipelining, 250},
		{"RCPT behind MAIL closes", smtptest.Answer{Close: true}, piped, false, smtpclient.Pipelining, 250},
		{"a refusal of the message", smtptest.Answer{Reply: "554 5.7.1 spam"}, bdat, false, 0, 554},
		{"a refusal of the recipient", smtptest.Answer{Reply: "550 5.1.1 no such user"}, piped, false, 0, 550},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var later atomic.Int64 // than now
			w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
				return tc.answer, tc.at(s)
			}}, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) } })
			try := func() int {
				tx, err := w.relay.Begin(t.Context(), to("one.test"))
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Abort()
				if err = tx.Rcpt(t.Context(), path("b@one.test")); err == nil {
					err = tx.Data(t.Context(), mail.Stuffed)
				}
				if err == nil && tc.pieces {
					err = tx.Write(octets("a: b\r\n"))
				}
				if err != nil {
					return mail.ReplyFor(err).Code
				}
				return tx.Commit(t.Context(), octets(message))[0].Reply.Code
			}
			first := try()
			if first != tc.first {
				t.Errorf("got %d at first", first)
			}
			later.Add(int64(6 * time.Minute)) // what the sender is put off for is over
			if tc.without == 0 {
				s.Set(smtptest.Behaviour{})
			}
			tx := begin(t, w, to("one.test"))
			if has := tx.conn.Extensions().Has(max(tc.without, smtpclient.ESMTP)); has != (tc.without == 0) {
				t.Errorf("first attempt %d, and the next session has %b", first, tx.conn.Extensions().Keywords)
			}
			tx.Abort()
			if second := try(); second != 250 {
				t.Errorf("got %d and %d", first, second)
			}
			told := 0
			for _, e := range w.events() {
				if strings.Contains(e.Reason, "is offered and fails") {
					told++
				}
			}
			if told > 1 || (told == 1) != (tc.without != 0) {
				t.Errorf("told %d times", told)
			}
			if n := len(s.Messages()); n == 0 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

// An extension that is offered and makes the host fall silent, as where a filter drops what stands behind a command, is
// not used by the second attempt.
func TestRelay_SilentExtension(t *testing.T) {
	for _, c := range []struct {
		name  string
		verb  string
		doubt bool
	}{{"RCPT behind MAIL", "RCPT", false}, {"BDAT", smtptest.Dot, true}} {
		t.Run(c.name, func(t *testing.T) {
			var later atomic.Int64 // than now
			w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
				return smtptest.Answer{After: time.Hour, Close: true, Discard: true}, s.Verb == c.verb && s.Session == 1
			}}, func(config *Config) {
				config.tune.unanswered = 100 * time.Millisecond
				config.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
			})
			tx := begin(t, w, to("one.test"))
			ctx := mail.Until(t.Context(), time.Now().Add(200*time.Millisecond))
			err := tx.Rcpt(ctx, path("b@one.test"))
			if c.doubt && err == nil {
				if err = tx.Data(t.Context(), mail.Stuffed); err != nil {
					t.Fatal(err)
				}
				ctx := mail.Until(t.Context(), time.Now().Add(200*time.Millisecond))
				if out := tx.Commit(ctx, octets(message)); !out[0].InDoubt {
					t.Errorf("got %+v", out)
				}
			} else if err == nil || mail.ReplyFor(err).Class() != 4 {
				t.Errorf("got %v", err)
			}
			tx.Abort()
			later.Add(int64(6 * time.Minute)) // what the sender is put off for is over
			deliver(t, w, to("one.test"), "b@one.test")
			if m := s.Messages(); len(m) != 1 || c.doubt && m[0].Chunks != nil {
				t.Errorf("got %+v", m)
			}
		})
	}
}

// A host that refuses the first RCPT of each session as out of order, alone as well, gets each message by the first
// attempt; one that refuses all of them gets none.
func TestRelay_OutOfOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes int // of each session, the first RCPT that is taken
		rcpts []int
	}{{"once", 2, []int{2, 4, 6}}, {"always", 99, []int{2, 4, 6}}} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			met := make(map[int64]int) // by session
			var later atomic.Int64     // than now
			w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
				mu.Lock()
				defer mu.Unlock()
				if s.Verb != "RCPT" {
					return smtptest.Answer{}, false
				}
				met[s.Session]++
				return smtptest.Answer{Reply: "503 5.5.1 improper pipelining"}, met[s.Session] < c.takes
			}}, func(config *Config) {
				limits(t, "connections=5 messages=1 idle=1m age=1h")(config)
				config.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
			})
			for i, rcpts := range c.rcpts {
				tx := begin(t, w, to("one.test"))
				err := tx.Rcpt(t.Context(), path("b@one.test"))
				if (err == nil) != (c.takes == 2) || mail.ReplyFor(err).Class() == 5 {
					t.Fatalf("message %d: got %v", i, err)
				}
				if err == nil {
					finish(t, tx)
				}
				tx.Abort()
				later.Add(int64(6 * time.Minute)) // what the sender is put off for is over
				if n := s.Counts().Commands["RCPT"]; n != rcpts {
					t.Errorf("message %d: %d RCPT, want %d", i, n, rcpts)
				}
			}
		})
	}
}

// After a day an extension is tried again.
func TestRelay_BrokenForADay(t *testing.T) {
	var later atomic.Int64
	w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		return smtptest.Answer{Reply: "502 5.5.1 no"}, s.Verb == smtptest.Dot && s.Message.Chunks != nil
	}}, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) } })
	attempt(t, w, to("one.test"), "b@one.test")
	later.Add(int64(time.Minute))
	deliver(t, w, to("one.test"), "b@one.test")
	s.Set(smtptest.Behaviour{})
	later.Add(int64(25 * time.Hour))
	tx := begin(t, w, to("one.test"))
	if !tx.conn.Extensions().Has(smtpclient.Chunking) {
		t.Error("CHUNKING is not tried again")
	}
	tx.Abort()
}

// The administrator names extensions that are not used.
func TestRelay_Without(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Size: 1000}, limits(t,
		"connections=5 messages=10 idle=1m age=1h without=CHUNKING,pipelining,8bitmime,SMTPUTF8,SIZE"))
	d := to("one.test")
	d.Params = mail.Params{Size: 10, Body: mail.Body8BitMIME, SMTPUTF8: true}
	tx := begin(t, w, d)
	if got := *tx.conn.Extensions(); got.Keywords != smtpclient.ESMTP|smtpclient.EnhancedStatusCodes {
		t.Errorf("got %b", got.Keywords)
	}
	rcpt(t, tx, "b@one.test")
	finish(t, tx)
	if m := s.Messages(); len(m) != 1 || m[0].Mail != "MAIL FROM:<a@client.test>" || m[0].Chunks != nil {
		t.Errorf("got %+v", m)
	}
}

// A lost connection may be the doing of what one client sent: for others the extension counts as broken once clients of
// two networks met it.
func TestRelay_BrokenForOne(t *testing.T) {
	var later atomic.Int64
	w, _ := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		return smtptest.Answer{Close: true, Discard: true}, s.Verb == smtptest.Dot && s.Message.Chunks != nil
	}}, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) } })
	from := func(client string) mail.Delivery {
		d := to("one.test")
		d.Client = netip.MustParsePrefix(client)
		later.Add(int64(6 * time.Minute)) // what a sender is put off for is over
		return d
	}
	uses := func(client string, want bool) {
		t.Helper()
		tx := begin(t, w, from(client))
		defer tx.Abort()
		tx.conn.Retire()
		if got := tx.conn.Extensions().Has(smtpclient.Chunking); got != want {
			t.Errorf("a client of %s has CHUNKING: %t", client, got)
		}
	}
	attempt(t, w, from("192.0.2.0/24"), "b@one.test")
	uses("192.0.2.0/24", false)
	uses("198.51.100.0/24", true)
	attempt(t, w, from("198.51.100.0/24"), "b@one.test")
	uses("203.0.113.0/24", false)
}

// A time-out of ours does not make an extension of the host a broken one.
func TestRelay_SlowIsNotBroken(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{"RCPT": {After: time.Hour}}}, nil)
	tx := begin(t, w, to("one.test"))
	if err := tx.Rcpt(mail.Until(t.Context(), time.Now().Add(100*time.Millisecond)), path("b@one.test")); err == nil {
		t.Fatal("accepted")
	}
	tx.Abort()
	for _, e := range w.events() {
		if strings.Contains(e.Reason, "is offered and fails") {
			t.Errorf("told %q", e.Reason)
		}
	}
}
