package egress

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestTransaction_Lend: Lend hands the session back and the next call replays.
func TestTransaction_Lend(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, limits(t, "connections=1 messages=100 idle=1m age=1h"))
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test")
	if !tx.Lend() || tx.Lend() {
		t.Error("it was not lent, or twice")
	}
	deliver(t, w, to("one.test"), "x@one.test") // there is only the one session
	rcpt(t, tx, "c@one.test")
	if !tx.Lend() {
		t.Error("it was not lent again")
	}
	if err := tx.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tx.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !tx.Lend() {
		t.Error("it was not lent after Renew")
	}
	if out := finish(t, tx); len(out) != 2 || out[1].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	if c := s.Counts(); c.Connections != 1 || c.Messages != 2 || c.Commands["RSET"] != 3 {
		t.Errorf("%+v", c)
	}
	if tx.Lend() {
		t.Error("lent after Commit")
	}
}

// TestTransaction_OwnRefusalAtReplay: what we refuse ourselves at the replay is for now.
func TestTransaction_OwnRefusalAtReplay(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	d := to("one.test")
	d.Params.Size = 5000
	tx := begin(t, w, d)
	rcpt(t, tx, "b@one.test")
	tx.Lend()
	// as another host of the Site may have it
	s.Set(smtptest.Behaviour{Extensions: smtptest.DefaultExtensions(), Size: 100})
	s.Unasked("421 4.3.2 Closing", true)
	want(t, tx.Renew(t.Context()), "451 4.3.0")
	tx.Abort()
}

func TestTransaction_RefusalsAtReplay(t *testing.T) {
	gone, full, closing := "550 5.2.1 Gone", "450 4.2.1 Full", "421 4.3.2 Closing"
	for _, c := range []struct {
		name    string
		refused map[string]string
		reply   string
	}{
		{"one of two refused", map[string]string{"c": gone}, "451 4.3.0"},
		{"the other of two refused", map[string]string{"b": gone}, "451 4.3.0"},
		{"all refused for good", map[string]string{"b": gone, "c": "554 5.7.1 No"}, "550 5.2.1 Gone"},
		{"all refused for now", map[string]string{"b": full, "c": "452 4.2.2 Full too"}, "450 4.2.1 Full"},
		{"one refused for good and one for now", map[string]string{"b": gone, "c": full}, "451 4.3.0"},
		{"one refused for now and one for good", map[string]string{"b": full, "c": gone}, "451 4.3.0"},
		{"one refused for good and one with 421", map[string]string{"b": gone, "c": closing}, "451 4.3.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{}, nil)
			b := smtptest.Behaviour{Recipients: map[string]smtptest.Answer{}}
			for r, reply := range c.refused {
				b.Recipients[r] = smtptest.Answer{Reply: reply}
			}
			for _, renew := range []bool{true, false} {
				s.Set(smtptest.Behaviour{})
				tx := begin(t, w, to("one.test"))
				rcpt(t, tx, "b@one.test", "c@one.test")
				tx.Lend()
				s.Set(b)
				if renew {
					want(t, tx.Renew(t.Context()), c.reply)
				}
				want(t, tx.Data(t.Context(), mail.Plain), c.reply)
				want(t, tx.Rcpt(t.Context(), path("d@one.test")), "451 ") // which was not asked
				want(t, tx.Data(t.Context(), mail.Plain), "451 ")
				tx.Abort()
			}
			if c.refused["c"] != closing {
				isIdle(t, w, 1)
			}
		})
	}
}

// TestTransaction_NotAsked: a recipient that was not asked for gets no refusal of others.
func TestTransaction_NotAsked(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(*testing.T, *transaction, *smtptest.Server)
		b    smtptest.Behaviour
	}{
		{"lent, then RCPT is refused", func(_ *testing.T, tx *transaction, _ *smtptest.Server) { tx.Lend() },
			smtptest.Behaviour{Recipients: map[string]smtptest.Answer{"b": {Reply: "550 5.1.1 <b@one.test> unknown"}}}},
		{"lent, then MAIL is refused", func(_ *testing.T, tx *transaction, _ *smtptest.Server) { tx.Lend() },
			smtptest.Behaviour{Answers: map[string]smtptest.Answer{"MAIL": {Reply: "550 5.7.1 Not you"}}}},
		{"the session closed, then RCPT is refused", func(t *testing.T, _ *transaction, s *smtptest.Server) {
			s.Unasked("421 4.3.2 Restarting", true)
			if err := s.WaitFor(t.Context(), func(c smtptest.Counts) bool { return c.Current == 0 }); err != nil {
				t.Fatal(err)
			}
		}, smtptest.Behaviour{Recipients: map[string]smtptest.Answer{"b": {Reply: "550 5.1.1 <b@one.test> unknown"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{}, nil)
			deliver(t, w, to("one.test"), "x@one.test") // so that a refusal on this session is tried on another one
			tx := begin(t, w, to("one.test"))
			rcpt(t, tx, "b@one.test")
			c.lose(t, tx, s)
			s.Set(c.b)
			commands := len(s.Commands())
			for _, r := range []string{"c@one.test", "d@one.test", "b@one.test"} {
				want(t, tx.Rcpt(t.Context(), path(r)), "451 4.3.0")
			}
			want(t, tx.Data(t.Context(), mail.Stuffed), "451 4.3.0")
			want(t, tx.Renew(t.Context()), "451 4.3.0")
			for _, line := range s.Commands()[commands:] {
				if strings.Contains(line, "RCPT") && !strings.Contains(line, "<b@") {
					t.Errorf("it was asked for: %s", line)
				}
			}
			tx.Abort()
			s.Set(smtptest.Behaviour{})
			deliver(t, w, to("one.test"), "c@one.test")
		})
	}
}

// TestTransaction_BrokenAtOneRcpt: a recipient at which the line breaks does not take the others along.
func TestTransaction_BrokenAtOneRcpt(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, nil)
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test")
	want(t, tx.Rcpt(t.Context(), path("drop@one.test")), "451 4.4.2")
	rcpt(t, tx, "c@one.test")
	if out := finish(t, tx); len(out) != 2 || out[1].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	if m := s.Messages(); len(m) != 1 || len(m[0].Forwards) != 2 {
		t.Errorf("got %+v", m)
	}
}

// TestTransaction_LateReply: a late reply to RCPT is not counted as accepted.
func TestTransaction_LateReply(t *testing.T) {
	held := make(chan struct{})
	w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == "RCPT" && s.Forward == "late@one.test" {
			<-held
		}
		return smtptest.Answer{}, false
	}}, nil)
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	want(t, tx.Rcpt(ctx, path("late@one.test")), "451 4.4.2")
	close(held)
	if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	if m := s.Messages(); len(m) != 1 || len(m[0].Forwards) != 1 {
		t.Errorf("the late one is among %+v", m)
	}
}

// TestTransaction_UnaskedReply: a reply that came unasked is not taken for the reply to the message.
func TestTransaction_UnaskedReply(t *testing.T) {
	for name, ext := range map[string][]string{"BDAT": nil, "DATA": smtptest.Without("CHUNKING")} {
		for _, reply := range []string{"250 2.0.0 Accepted", "554 5.0.0 Refused"} {
			t.Run(name+" "+reply, func(t *testing.T) {
				w, s := one(t, smtptest.Behaviour{Extensions: ext}, nil)
				tx := begin(t, w, to("one.test"))
				rcpt(t, tx, "b@one.test")
				s.Unasked(reply, false)
				err := tx.Data(t.Context(), mail.Stuffed)
				if err != nil { // with DATA it may be taken for the reply to that command
					tx.Abort()
					if reply[0] == '2' {
						want(t, err, "451 ")
					}
					return
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				out := tx.Commit(ctx, octets(message))
				if len(out) != 1 || out[0].Reply.Code != 250 || len(s.Messages()) != 1 {
					t.Errorf("got %+v with %d messages there", out, len(s.Messages()))
				}
			})
		}
	}
}

// TestTransaction_DataWithoutRecipient: Data without a recipient is refused and sends nothing.
func TestTransaction_DataWithoutRecipient(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, nil)
	tx := begin(t, w, to("one.test"))
	want(t, tx.Rcpt(t.Context(), path("551@one.test")), "551 5.1.1")
	want(t, tx.Data(t.Context(), mail.Stuffed), "451 4.3.0")
	tx.Abort()
	isIdle(t, w, 1)
	if c := s.Counts(); c.Connections != 1 || c.Commands["DATA"]+c.Commands["BDAT"] != 0 {
		t.Errorf("%+v", c)
	}
}

// TestRelay_ShareOfNetworks: a client that waits loses its session to another network over its share.
func TestRelay_ShareOfNetworks(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, limits(t, "connections=4 messages=100 idle=1m age=1h"))
	var slow []*transaction
	for range 4 {
		tx := begin(t, w, to("one.test"))
		rcpt(t, tx, "slow@one.test")
		slow = append(slow, tx)
	}
	d := to("one.test")
	d.Client = other
	for range 3 { // they need no waiting, though no client has moved
		deliver(t, w, d, "b@one.test")
	}
	for _, tx := range slow {
		if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
			t.Fatalf("got %+v", out)
		}
	}
	if c := s.Counts(); c.Connections != 4 || c.Messages != 7 || c.Peak > 4 {
		t.Errorf("%+v", c)
	}
}

// TestTransaction_Abort: Abort leaves nothing and keeps the session where it can.
func TestTransaction_Abort(t *testing.T) {
	for _, c := range []struct {
		name string
		ext  []string
		walk func(*transaction)
		idle int
	}{
		{"before MAIL", nil, func(*transaction) {}, 1},
		{"after RCPT", nil, func(tx *transaction) { rcpt(t, tx, "b@one.test") }, 1},
		{"between chunks", nil, func(tx *transaction) {
			rcpt(t, tx, "b@one.test")
			tx.Data(t.Context(), mail.Plain)
			tx.Write(octets("x\r\n"))
		}, 1},
		{"in DATA", smtptest.Without("CHUNKING"), func(tx *transaction) {
			rcpt(t, tx, "b@one.test")
			tx.Data(t.Context(), mail.Plain)
			tx.Write(octets("x\r\n"))
		}, 0},
		{"after DATA was refused", []string{}, func(tx *transaction) {
			rcpt(t, tx, "b@one.test")
			want(t, tx.Data(t.Context(), mail.Stuffed), "452 4.3.1")
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := smtptest.Behaviour{Extensions: c.ext}
			if c.name == "after DATA was refused" {
				b.Answers = map[string]smtptest.Answer{"DATA": {Reply: "452 4.3.1 Full"}}
			}
			w, s := one(t, b, nil)
			tx := begin(t, w, to("one.test"))
			c.walk(tx)
			tx.Abort()
			isIdle(t, w, c.idle)
			s.Set(smtptest.Behaviour{Extensions: c.ext})
			deliver(t, w, to("one.test"), "b@one.test")
			if got := s.Messages(); len(got) != 1 || string(got[0].Octets) != message {
				t.Errorf("got %v", got)
			}
			if v := s.Violations(); len(v) > 0 {
				t.Error(v)
			}
		})
	}
}

// TestRelay_Cooling: a cooled Site is probed and opens again.
func TestRelay_Cooling(t *testing.T) {
	w, s := one(t,
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Greeting: {
			Reply: "421 4.3.2 Busy", Close: true,
		}}}, nil)
	_, err := w.relay.Begin(t.Context(), to("one.test"))
	want(t, err, "451 4.4.1")
	before := s.Counts().Connections
	for range 5 {
		_, err = w.relay.Begin(t.Context(), to("one.test"))
		want(t, err, "451 4.4.1")
	}
	if got := s.Counts().Connections; got != before {
		t.Errorf("%d connections while it cools", got-before)
	}
	s.Set(smtptest.Behaviour{})
	for { // until the first second is over
		tx, err := w.relay.Begin(t.Context(), to("one.test"))
		if err == nil {
			tx.Abort()
			break
		}
		var r *mail.Refusal
		if !errors.As(err, &r) || r.Reason != "cooling" {
			t.Fatal(err)
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-t.Context().Done():
			t.Fatal("it did not open again")
		}
	}
	deliver(t, w, to("one.test"), "b@one.test")
}

// TestRelay_ClientLeaves: a client that leaves does not cool the Site.
func TestRelay_ClientLeaves(t *testing.T) {
	held := make(chan struct{})
	w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == smtptest.Greeting {
			<-held
		}
		return smtptest.Answer{}, false
	}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { // ends with Begin
		_, err := w.relay.Begin(ctx, to("one.test"))
		done <- err
	}()
	if err := s.WaitFor(t.Context(), func(c smtptest.Counts) bool { return c.Connections == 1 }); err != nil {
		t.Fatal(err)
	}
	cancel()
	want(t, <-done, "451 ")
	close(held)
	deliver(t, w, to("one.test"), "b@one.test")
}

// TestRelay_Shutdown: Shutdown says QUIT and refuses what comes later.
func TestRelay_Shutdown(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	deliver(t, w, to("one.test"), "b@one.test")
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := w.relay.Shutdown(ctx); err == nil {
		t.Error("Shutdown did not wait for the transaction")
	}
	_, err := w.relay.Begin(t.Context(), to("one.test"))
	want(t, err, "451 4.3.2")
	if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	if err := w.relay.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.WaitFor(t.Context(), func(c smtptest.Counts) bool {
		return c.Current == 0 && c.Quits == 1
	}); err != nil {
		t.Error(err)
	}
}

// TestTransaction_SMTPUTF8: SMTPUTF8 that was promised is kept or refused.
func TestTransaction_SMTPUTF8(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, then []string
		said        bool
		reply       string
	}{
		{"offered by both", nil, nil, true, ""},
		{"offered by neither", smtptest.Without("SMTPUTF8"), smtptest.Without("SMTPUTF8"), false, ""},
		{"offered by the first only", nil, smtptest.Without("SMTPUTF8"), true, "451 4.3.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{Extensions: c.first}, nil)
			tx := begin(t, w, to("one.test"))
			rcpt(t, tx, "b@one.test")
			if got := tx.SMTPUTF8(); got != c.said {
				t.Errorf("said %v", got)
			}
			tx.Lend()
			s.Unasked("421 4.3.2 Restarting", true)
			s.Set(smtptest.Behaviour{Extensions: c.then})
			err := tx.Data(t.Context(), mail.Stuffed)
			tx.Abort()
			if c.reply == "" && err != nil {
				t.Error(err)
			}
			if c.reply != "" {
				want(t, err, c.reply)
			}
		})
	}
}
