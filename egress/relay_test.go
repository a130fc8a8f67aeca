package egress

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_Reuse: a message reaches the MX host and the next reuses its session.
func TestRelay_Reuse(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	out := deliver(t, w, to("one.test"), "b@one.test")
	if out.Host != "mx1.one.test" || out.Reused || out.InDoubt {
		t.Errorf("got %+v", out)
	}
	if out = deliver(t, w, to("one.test"), "c@one.test"); !out.Reused {
		t.Errorf("got %+v, want a reused session", out)
	}
	isIdle(t, w, 1)
	if got := s.Messages(); len(got) != 2 || string(got[0].Octets) != message || s.Counts().Connections != 1 {
		t.Errorf("got %d messages over %d connections", len(got), s.Counts().Connections)
	}
	if v := s.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

// TestTransaction_Write: a streamed message arrives whole.
func TestTransaction_Write(t *testing.T) {
	for name, ext := range map[string][]string{
		"by BDAT": nil, "by DATA": smtptest.Without("CHUNKING"), "without PIPELINING": {},
	} {
		w, s := one(t, smtptest.Behaviour{Extensions: ext}, nil)
		tx := begin(t, w, to("one.test"))
		rcpt(t, tx, "b@one.test", "c@one.test")
		if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := tx.Write(octets("line\r\n")); err != nil {
				t.Fatal(err)
			}
		}
		out := tx.Commit(t.Context(), octets("end\r\n"))
		if len(out) != 2 || out[1].Reply.Code != 250 {
			t.Fatalf("%s: got %+v", name, out)
		}
		if got := s.Messages(); len(got) != 1 || string(got[0].Octets) != strings.Repeat("line\r\n", 10)+"end\r\n" {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// TestRelay_Begin: answers where no session can be opened.
func TestRelay_Begin(t *testing.T) {
	w := newWorld(t, 1, nil) // nothing listens there
	w.dns.SetFault("fails.test", "*", dnstest.Fault{Rcode: "SERVFAIL"})
	for domain, reply := range map[string]string{
		"null.test":   "556 5.1.10",
		"absent.test": "550 5.1.2",
		"fails.test":  "451 4.4.3",
		"self.test":   "554 5.4.6",
		"one.test":    "451 4.4.1",
		"[127.0.0.1]": "451 4.4.1",
	} {
		_, err := w.relay.Begin(t.Context(), to(domain))
		want(t, err, reply)
	}
}

// TestRelay_Cause: a cause tells of each host.
func TestRelay_Cause(t *testing.T) {
	w, _, _ := two(t,
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Greeting: {Reply: "554 5.7.1 No"}}},
		smtptest.Behaviour{Answers: map[string]smtptest.Answer{
			"EHLO": {Reply: "550 5.7.1 Not you"}, "HELO": {Reply: "550 5.7.1 Not you"},
		}}, nil)
	_, err := w.relay.Begin(t.Context(), to("two.test"))
	r := want(t, err, "451 4.4.1")
	for _, part := range []string{"mx1.two.test", "mx2.two.test", "554 5.7.1 No", "Not you"} {
		if !strings.Contains(r.Cause.Error(), part) {
			t.Errorf("%q is not in %q", part, r.Cause)
		}
	}
	if e := w.events(); len(e) != 2 || e[0].Kind != mail.Anomaly || e[0].Host != "mx1.two.test" {
		t.Errorf("got %+v", e)
	}
	_, err = w.relay.Begin(t.Context(), to("two.test"))
	if r = want(t, err, "451 4.4.1"); r.Reason != "cooling" || !strings.Contains(r.Cause.Error(), "Not you") {
		t.Errorf("got %v, %s", err, r.Reason)
	}
}

// TestRelay_NextHost: the next host is tried when one does not take us.
func TestRelay_NextHost(t *testing.T) {
	for name, b := range map[string]smtptest.Behaviour{
		"4yz greeting": {Answers: map[string]smtptest.Answer{smtptest.Greeting: {Reply: "450 4.3.2 Later"}}},
		"5yz greeting": {Answers: map[string]smtptest.Answer{smtptest.Greeting: {Reply: "554 5.7.1 No"}}},
		"421 greeting": {Answers: map[string]smtptest.Answer{smtptest.Greeting: {
			Reply: "421 4.3.2 Busy", Close: true,
		}}},
		"no greeting":         {Answers: map[string]smtptest.Answer{smtptest.Greeting: {Close: true}}},
		"reset at connection": {Answers: map[string]smtptest.Answer{smtptest.Greeting: {Reset: true}}},
		"EHLO refused": {Answers: map[string]smtptest.Answer{
			"EHLO": {Reply: "450 4.7.1 No"}, "HELO": {Reply: "450 4.7.1 No"},
		}},
		"not SMTP": {Answers: map[string]smtptest.Answer{smtptest.Greeting: {Reply: "SSH-2.0-x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, s2 := two(t, b, smtptest.Behaviour{}, nil)
			if out := deliver(t, w, to("two.test"), "b@two.test"); out.Host != "mx2.two.test" {
				t.Errorf("got %+v", out)
			}
			if len(s2.Messages()) != 1 {
				t.Error("the message is not at the second host")
			}
		})
	}
}

// TestRelay_FailedHost: a host that failed is tried last for a while.
func TestRelay_FailedHost(t *testing.T) {
	b := smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Greeting: {Reply: "554 5.7.1 No"}}}
	w, s1, s2 := two(t, b, smtptest.Behaviour{MaxMessages: 1}, limits(t, "connections=5 messages=1 idle=1m age=1h"))
	deliver(t, w, to("two.test"), "b@two.test")
	deliver(t, w, to("two.test"), "b@two.test")
	if a, b := s1.Counts().Connections, s2.Counts().Connections; a != 1 || b != 2 {
		t.Errorf("%d and %d connections, want 1 and 2", a, b)
	}
}

// TestRelay_AtCap: the Site at its cap is waited for until the deadline.
func TestRelay_AtCap(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, limits(t, "connections=1 messages=100 idle=1m age=1h"))
	first := begin(t, w, to("one.test"))
	ctx, end := context.WithCancelCause(t.Context())
	refused := make(chan error, 1)
	go func() { // ends with ctx
		_, err := w.relay.Begin(ctx, to("one.test"))
		refused <- err
	}()
	until(t, func() bool { return w.relay.local.pool.Count().Waiting == 1 })
	end(context.DeadlineExceeded)
	r := want(t, <-refused, "451 4.4.5")
	if r.Reason != "site at its cap" {
		t.Error(r.Reason)
	}
	first.Abort()
	deliver(t, w, to("one.test"), "b@one.test")
	if c := s.Counts(); c.Connections != 1 {
		t.Errorf("%d connections", c.Connections)
	}
}

// TestTransaction_Rcpt: answers to RCPT are the destination's own.
func TestTransaction_Rcpt(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, nil)
	tx := begin(t, w, to("one.test"))
	want(t, tx.Rcpt(t.Context(), path("550@one.test")), "550 5.1.1 Refused, as this address asks for")
	want(t, tx.Rcpt(t.Context(), path("451@one.test")), "451 4.1.1")
	want(t, tx.Rcpt(t.Context(), path("greylist@one.test")), "451 4.7.1")
	rcpt(t, tx, "b@one.test")
	if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	deliver(t, w, to("one.test"), "greylist@one.test")
	if s.Counts().Connections != 1 || len(w.events()) != 0 {
		t.Errorf("%d connections, %v", s.Counts().Connections, w.events())
	}
}

// TestTransaction_UnknownRecipient: a recipient that does not exist is asked for once in a while.
func TestTransaction_UnknownRecipient(t *testing.T) {
	now := time.Now()
	w, s := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, func(c *Config) {
		c.Now = func() time.Time { return now }
	})
	for range 3 {
		tx := begin(t, w, to("one.test"))
		want(t, tx.Rcpt(t.Context(), path("550@one.test")), "550 5.1.1")
		want(t, tx.Rcpt(t.Context(), path("553@one.test")), "553 5.1.1")
		tx.Abort()
	}
	if got := s.Counts().Commands["RCPT"]; got != 2 {
		t.Errorf("%d RCPT commands, want 2", got)
	}
	now = now.Add(6 * time.Minute)
	tx := begin(t, w, to("one.test"))
	want(t, tx.Rcpt(t.Context(), path("550@one.test")), "550 5.1.1")
	tx.Abort()
	if got := s.Counts().Commands["RCPT"]; got != 3 {
		t.Errorf("%d RCPT commands, want 3", got)
	}
}

// TestTransaction_MailRefused: a refusal of MAIL is the error of every recipient.
func TestTransaction_MailRefused(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{"MAIL": {Reply: "550 5.1.8 Bad sender"}}},
		nil)
	tx := begin(t, w, to("one.test"))
	want(t, tx.Rcpt(t.Context(), path("b@one.test")), "550 5.1.8")
	want(t, tx.Rcpt(t.Context(), path("c@one.test")), "550 5.1.8")
	tx.Abort()
	isIdle(t, w, 1)
	if got := s.Counts().Commands["MAIL"]; got != 1 {
		t.Errorf("%d MAIL commands", got)
	}
}

// TestTransaction_MailRefusedOnReused: a refusal of MAIL on a reused session is tried once on a fresh one.
func TestTransaction_MailRefusedOnReused(t *testing.T) {
	for name, refusal := range map[string]smtptest.Answer{
		"421": {Reply: "421 4.7.0 Too many messages", Close: true},
		"451": {Reply: "451 4.7.0 Too many messages"},
		"550": {Reply: "550 5.7.0 Too many messages"},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
				return refusal, s.Verb == "MAIL" && s.Session == 1 && s.Message.Mail != ""
			}}, nil)
			deliverOnce := func(step func(smtptest.Step) (smtptest.Answer, bool)) {
				s.Set(smtptest.Behaviour{On: step})
				deliver(t, w, to("one.test"), "b@one.test")
			}
			deliverOnce(nil)
			deliverOnce(func(s smtptest.Step) (smtptest.Answer, bool) {
				return refusal, s.Verb == "MAIL" && s.Session == 1
			})
			if c := s.Counts(); c.Connections != 2 || c.Messages != 2 {
				t.Errorf("%+v", c)
			}
			// On the fresh session it is believed.
			s.Set(smtptest.Behaviour{Answers: map[string]smtptest.Answer{"MAIL": refusal}})
			tx := begin(t, w, to("one.test"))
			err := tx.Rcpt(t.Context(), path("b@one.test"))
			tx.Abort()
			code := strings.Replace(name, "421", "451", 1)
			want(t, err, code)
			if c := s.Counts(); c.Connections != 3 {
				t.Errorf("%d connections, want one more", c.Connections)
			}
		})
	}
}

// TestRelay_DeadIdleSession: a dead idle session is replaced silently.
func TestRelay_DeadIdleSession(t *testing.T) {
	for name, kill := range map[string]func(*smtptest.Server){
		"the server said 421 and closed":   func(s *smtptest.Server) { s.Unasked("421 4.3.2 Shutting down", true) },
		"the server said 421 and stays on": func(s *smtptest.Server) { s.Unasked("421 4.3.2 Shutting down", false) },
	} {
		t.Run(name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{}, nil)
			deliver(t, w, to("one.test"), "b@one.test")
			kill(s)
			if out := deliver(t, w, to("one.test"), "b@one.test"); out.Reused {
				t.Errorf("got %+v", out)
			}
			if c := s.Counts(); c.Connections != 2 || c.Messages != 2 {
				t.Errorf("%+v", c)
			}
			isIdle(t, w, 1)
		})
	}
}

// TestTransaction_BrokenAtRcpt: a session lost at MAIL or RCPT is replaced.
func TestTransaction_BrokenAtRcpt(t *testing.T) {
	for _, verb := range []string{"MAIL", "RCPT"} {
		for name, reused := range map[string]bool{"reused": true, "fresh": false} {
			t.Run(verb+" "+name, func(t *testing.T) {
				w, s := one(t, smtptest.Behaviour{}, nil)
				bad := int64(1)
				if reused {
					deliver(t, w, to("one.test"), "b@one.test")
				}
				s.Set(smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
					return smtptest.Answer{Reset: true}, s.Verb == verb && s.Session == bad
				}})
				deliver(t, w, to("one.test"), "b@one.test")
				if c := s.Counts(); c.Connections != 2 {
					t.Errorf("%+v", c)
				}
			})
		}
	}
}

// TestTransaction_AlwaysBrokenAtRcpt: a host that always drops the line at RCPT is a 4yz.
func TestTransaction_AlwaysBrokenAtRcpt(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, nil)
	tx := begin(t, w, to("one.test"))
	err := tx.Rcpt(t.Context(), path("drop@one.test"))
	want(t, err, "451 4.4.2")
	tx.Abort()
	isIdle(t, w, 0)
	if c := s.Counts(); c.Connections != 1+maxRetries {
		t.Errorf("%d connections", c.Connections)
	}
}

// TestTransaction_Replay: a session lost after accepted recipients is replayed.
func TestTransaction_Replay(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		return smtptest.Answer{Close: true}, s.Verb == "RCPT" && s.Session == 1 && s.Forward == "c@one.test"
	}}, nil)
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test", "c@one.test")
	if out := finish(t, tx); len(out) != 2 || out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	if got := s.Messages(); len(got) != 1 || strings.Join(got[0].Forwards, " ") != "b@one.test c@one.test" {
		t.Errorf("got %+v", got)
	}
}

// TestTransaction_421: a 421 to a later RCPT leaves the others accepted.
func TestTransaction_421(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, nil)
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test")
	want(t, tx.Rcpt(t.Context(), path("421@one.test")), "451 4.3.2")
	if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
	if len(s.Messages()) != 1 || s.Counts().Connections != 2 {
		t.Errorf("%+v", s.Counts())
	}
}

// TestTransaction_EqualForwards: equal forward-paths make one RCPT and an outcome each.
func TestTransaction_EqualForwards(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test", "c@one.test", "b@one.test", "d@one.test", "c@one.test")
	if out := finish(t, tx); len(out) != 5 {
		t.Fatalf("%d outcomes", len(out))
	}
	if got := s.Messages(); len(got) != 1 || len(got[0].Rcpt) != 3 {
		t.Errorf("got %+v", got)
	}
}

// A deaf ledger has every message delivered.
type deafLedger struct{}

func (deafLedger) Claim(_ context.Context, a *mail.Attempt, _ bool) (answer mail.LedgerAnswer) {
	for i := range a.Keys[0].Recipients {
		answer.Open = append(answer.Open, i)
	}
	answer.Outcomes = make([]mail.Outcome, len(answer.Open))
	return answer
}

func (deafLedger) Settle(context.Context, *mail.Attempt, []int, []mail.Outcome) {}

// TestTransaction_LMTPWithLedger: with a ledger LMTP takes several recipients, each of which has its own outcome.
func TestTransaction_LMTPWithLedger(t *testing.T) {
	s := smtptest.Start(t, smtptest.Behaviour{LMTP: true, Dots: map[string]smtptest.Answer{
		"c": {Reply: "452 4.2.2 Full"}, "d": {Reply: "550 5.1.1 Gone"},
	}})
	w := newWorld(t, 1, func(c *Config) { c.Ledger = deafLedger{} })
	d := to("one.test")
	d.NextHop = mail.NextHop{Transport: mail.LMTP, Host: "fixed.test", Port: uint16(port(t, s))}
	tx := begin(t, w, d)
	rcpt(t, tx, "b@one.test", "c@one.test", "d@one.test", "b@one.test")
	var got []int
	for _, o := range finish(t, tx) {
		got = append(got, o.Reply.Code)
	}
	if want := []int{250, 452, 550, 250}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestTransaction_LMTP: LMTP takes one recipient per transaction.
func TestTransaction_LMTP(t *testing.T) {
	s := smtptest.Start(t, smtptest.Behaviour{LMTP: true})
	w := newWorld(t, 1, nil)
	d := to("one.test")
	d.NextHop = mail.NextHop{Transport: mail.LMTP, Host: "fixed.test", Port: uint16(port(t, s))}
	tx := begin(t, w, d)
	rcpt(t, tx, "b@one.test", "b@one.test")
	want(t, tx.Rcpt(t.Context(), path("c@one.test")), "452 4.5.3")
	if out := finish(t, tx); len(out) != 2 || out[1].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
}

// TestRelay_LMTPUnix: LMTP over a unix socket.
func TestRelay_LMTPUnix(t *testing.T) {
	sock := t.TempDir() + "/lmtp"
	s, err := smtptest.Listen(sock, smtptest.Behaviour{LMTP: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := newWorld(t, 1, nil)
	d := to("one.test")
	d.NextHop = mail.NextHop{Transport: mail.LMTPUnix, Host: sock}
	deliver(t, w, d, "b@one.test")
	if out := deliver(t, w, d, "b@one.test"); !out.Reused {
		t.Errorf("got %+v", out)
	}
}

// TestRelay_PrivateAddress: a fixed next hop may be private and an MX host may not.
func TestRelay_PrivateAddress(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, func(c *Config) { c.AllowPrivate = false })
	_, err := w.relay.Begin(t.Context(), to("one.test"))
	want(t, err, "451 4.4.1")
	for _, host := range []string{"127.0.0.1", "fixed.test"} {
		d := to("one.test")
		d.NextHop = mail.NextHop{Transport: mail.SMTP, Host: host, Port: uint16(port(t, s))}
		deliver(t, w, d, "b@one.test")
	}
}

// TestRelay_Rewrite: a reverse-path that is not known yet is awaited when a session is found. While it is awaited,
// another client may have the session, and an owner elsewhere is told the reverse-path when it is known.
func TestRelay_Rewrite(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, limits(t, "connections=1 messages=1000 idle=1m age=1h"))
	ring := &nodes{owners: []string{"b"}, others: w.relay}
	apart := newWorld(t, port(t, s), func(c *Config) { c.Cluster = ring })
	for _, from := range []*world{w, apart} {
		before := len(s.Messages())
		d := to("one.test")
		d.Reverse = mail.Path{}
		d.Rewrite = func(context.Context) (reverse, own mail.Path) {
			second := to("one.test")
			second.Client = other
			deliver(t, w, second, "second@one.test")
			return path("rewritten@srs.test"), mail.Path{}
		}
		tx, err := from.relay.Begin(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		rcpt(t, tx, "first@one.test")
		if out := finish(t, tx); len(out) != 1 || out[0].Reply.Code != 250 {
			t.Fatalf("got %+v", out)
		}
		got := s.Messages()[before:]
		if len(got) != 2 || got[0].Reverse != "a@client.test" || got[1].Reverse != "rewritten@srs.test" {
			t.Errorf("got %+v", got)
		}
	}
}
