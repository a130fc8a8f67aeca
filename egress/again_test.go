package egress

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// movedZone is moved.test, whose host has the address.
func movedZone(addr string) string {
	return "moved.test. 60 IN MX 10 mx.moved.test.\nmx.moved.test. 0 IN A " + addr + "\n"
}

// moving starts n machines on addresses of their own, at one port, and a world in which the first is the MX host of
// moved.test.
func moving(t *testing.T, n int) (w *world, machines []*smtptest.Server, addrs []string) {
	t.Helper()
	p := 0
	for i := range n {
		addr := fmt.Sprintf("127.0.0.%d", 11+i)
		s, err := smtptest.Listen(net.JoinHostPort(addr, strconv.Itoa(p)),
			smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		p = port(t, s)
		machines, addrs = append(machines, s), append(addrs, addr)
	}
	return newWorldOf(t, movedZone(addrs[0]), p, nil), machines, addrs
}

// point changes the address of moved.test's host.
func point(t *testing.T, w *world, addr string) {
	t.Helper()
	if err := w.dns.SetZone(movedZone(addr)); err != nil {
		t.Fatal(err)
	}
}

// attempt sends one message to a recipient and returns the code that ends it.
func attempt(t *testing.T, w *world, d mail.Delivery, to string) int {
	t.Helper()
	tx, err := w.relay.Begin(t.Context(), d)
	if err != nil {
		return mail.ReplyFor(err).Code
	}
	defer tx.Abort()
	if err := tx.Rcpt(t.Context(), path(to)); err != nil {
		return mail.ReplyFor(err).Code
	}
	if err := tx.Data(t.Context(), mail.Stuffed); err != nil {
		return mail.ReplyFor(err).Code
	}
	return tx.Commit(t.Context(), octets(message))[0].Reply.Code
}

// The machine that a host has left refuses its mail: the sessions that still lead there are not believed.
func TestRelay_MovedHost(t *testing.T) {
	for _, verb := range []string{"MAIL", "RCPT", "DATA", smtptest.Dot} {
		t.Run(verb, func(t *testing.T) {
			w, _, addrs := leavingOld(t, verb)
			point(t, w, addrs[1])
			var got []int
			for i := range 15 {
				got = append(got, attempt(t, w, from(i, "moved.test"), "b@moved.test"))
			}
			t.Log(got)
			taken := strings.Count(fmt.Sprint(got), "250")
			if least := map[bool]int{true: 12, false: 15}[verb == smtptest.Dot]; taken < least {
				t.Errorf("%d of 15 delivered at the first attempt: %v", taken, got)
			}
		})
	}
}

// A host whose DNS tells one of four addresses in turn keeps its sessions, whatever it refuses.
func TestRelay_RotatingHost(t *testing.T) {
	w, machines, addrs := moving(t, 4)
	for _, m := range machines {
		m.Set(smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING"), Recipients: smtptest.ByLocalPart()})
	}
	for i := range 100 {
		point(t, w, addrs[i%4])
		to, want := fmt.Sprintf("b%d@moved.test", i), 250
		if i%10 < 3 {
			to, want = "554@moved.test", 554
		}
		if got := attempt(t, w, from(i, "moved.test"), to); got != want {
			t.Errorf("message %d: got %d, want %d", i, got, want)
		}
	}
	connections := 0
	for _, m := range machines {
		connections += m.Counts().Connections
	}
	if t.Logf("%d connections for 100 messages", connections); connections > 5 {
		t.Errorf("%d connections", connections)
	}
}

// What a host says of its session is heard again on another.
func TestRelay_RefusalOfSession(t *testing.T) {
	for _, tc := range []struct {
		reply string
		again bool
	}{
		{"452 4.5.3 Too many recipients in this session", true},
		{"503 5.5.1 Bad sequence of commands", true},
		{"550 5.7.1 Limit of messages per connection reached", true},
		{"421 4.7.0 Closing", true},
		{"550 5.7.1 Your message is spam", false},
		{"550 5.1.1 No such user in this session", false},
	} {
		for _, verb := range []string{"RCPT", "DATA"} {
			t.Run(verb+" "+tc.reply, func(t *testing.T) {
				if strings.HasPrefix(tc.reply, "550 5.1.1") && verb == "DATA" {
					return // at DATA it is no word about an address
				}
				w, s := one(t, smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")}, nil)
				deliver(t, w, to("one.test"), "a@one.test")
				s.Set(smtptest.Behaviour{
					Extensions: smtptest.Without("CHUNKING"),
					On: func(s smtptest.Step) (smtptest.Answer, bool) {
						return smtptest.Answer{Reply: tc.reply}, s.Verb == verb && s.Session == 1
					},
				})
				if got := attempt(t, w, to("one.test"), "b@one.test"); (got == 250) != tc.again {
					t.Errorf("got %d", got)
				}
				if c := s.Counts(); (c.Connections == 2) != tc.again {
					t.Errorf("%d connections", c.Connections)
				}
			})
		}
	}
}

// A reverse-path domain whose MAIL is refused costs one session a minute, not one for each message.
func TestRelay_MailRefusedAgain(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, nil)
	deliver(t, w, from(0, "one.test"), "a@one.test")
	s.Set(smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		return smtptest.Answer{Reply: "550 5.1.8 Not this sender"},
			s.Verb == "MAIL" && strings.Contains(s.Line, "client1.test")
	}})
	for range 10 {
		if got := attempt(t, w, from(1, "one.test"), "b@one.test"); got != 550 {
			t.Errorf("got %d", got)
		}
		deliver(t, w, from(0, "one.test"), "a@one.test")
	}
	if c := s.Counts().Connections; c != 2 {
		t.Errorf("%d connections, want one more than the first", c)
	}
}

// A host that refuses our reverse-path for its length gets the sender's own; any other refusal of it is about us.
func TestRelay_ReverseTooLong(t *testing.T) {
	long := "SRS0=AAAAAAAA=AA=client.test=" + strings.Repeat("x", 40)
	for _, tc := range []struct {
		name, local, reply, verb string
		want, mails              int
	}{
		{"too long", long, "501 5.1.7 Bad sender address syntax", "MAIL", 250, 2},
		{"too long, by the text", long, "550 Local part too long", "MAIL", 250, 2},
		{"too long, at the recipient", long, "550 5.1.7 Sender address rejected", "RCPT", 250, 2},
		{"short enough", "SRS0=AAAA=AA=client.test=a", "501 5.1.7 Bad sender address syntax", "MAIL", 451, 1},
		{"a refusal of the message", long, "550 5.7.1 This message is spam", "MAIL", 550, 1},
		{"553 to the path", long, "553 5.1.0 Sender address malformed", "MAIL", 250, 2},
		{"an unknown domain", long, "450 4.1.8 Domain not found", "MAIL", 451, 1},
		{"a callback that failed for now", long, "451 4.1.7 Sender verification failed, try later", "MAIL", 451, 1},
		{"SPF of our domain", long, "550 5.7.23 SPF validation failed", "MAIL", 451, 1},
		{"an address that does not exist", long, "553 5.1.7 Sender address does not exist", "MAIL", 451, 1},
		{"a callback that failed", long, "550 5.1.7 Sender address rejected: undeliverable address", "MAIL", 451, 1},
		{"for now", long, "451 4.1.7 Local part too long", "MAIL", 451, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
				ours := strings.Contains(s.Line, "SRS0") || strings.Contains(s.Message.Mail, "SRS0")
				return smtptest.Answer{Reply: tc.reply}, s.Verb == tc.verb && ours
			}}, func(c *Config) { c.SRSDomain = "srs.test" })
			d := to("one.test")
			d.Own, d.Reverse = d.Reverse, mail.Path{Local: tc.local, Domain: "srs.test"}
			if got := attempt(t, w, d, "b@one.test"); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
			if c := s.Counts(); c.Commands["MAIL"] != tc.mails || c.Connections != 1 {
				t.Errorf("%d MAIL on %d connections, want %d on one", c.Commands["MAIL"], c.Connections, tc.mails)
			}
			if m := s.Messages(); tc.want == 250 && (len(m) != 1 || m[0].Reverse != "a@client.test") {
				t.Errorf("got %+v", m)
			}
			if e := w.events(); tc.want != 550 && (len(e) != 1 || e[0].Kind != mail.Anomaly) {
				t.Errorf("the operator is told %+v", e)
			}
		})
	}
}

// What a host says of the sender's own path, where that stands in place of ours, is for our forwarding.
func TestRelay_OwnRefused(t *testing.T) {
	for _, tc := range []struct {
		name, reply, verb string
		want              int
	}{
		{"SPF in the text, at RCPT", "550 5.7.1 SPF fail", "RCPT", 451},
		{"SPF by the code, at MAIL", "550 5.7.23 Validation failed", "MAIL", 451},
		{"DMARC, at the dot", "550 5.7.1 Rejected by the DMARC policy of client.test", smtptest.Dot, 451},
		{"the sender, at RCPT", "553 5.1.8 Sender not allowed", "RCPT", 451},
		{"the recipient", "550 5.1.1 No such user", "RCPT", 550},
		{"the message", "550 5.7.1 This message is spam", smtptest.Dot, 550},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, _ := one(t, smtptest.Behaviour{
				Extensions: smtptest.Without("CHUNKING"), On: refusingLong(tc.verb, tc.reply),
			}, func(c *Config) { c.SRSDomain = "srs.test" })
			if got := attempt(t, w, forwarded(), "b@one.test"); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// A path that was not rewritten after all stands in place of none.
func TestRelay_OwnNotRewritten(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{
		Answers: map[string]smtptest.Answer{"MAIL": {Reply: "550 5.7.1 SPF fail"}},
	}, nil)
	d := to("one.test")
	d.Own = d.Reverse
	if got := attempt(t, w, d, "b@one.test"); got != 550 {
		t.Errorf("got %d, want 550", got)
	}
}

// A recipient that was accepted from our path is not refused for good at the replay from the sender's own.
func TestRelay_OwnRefusedAtReplay(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")},
		func(c *Config) { c.SRSDomain = "srs.test" })
	tx := begin(t, w, forwarded())
	defer tx.Abort()
	rcpt(t, tx, "b@one.test")
	if !tx.Lend() {
		t.Fatal("not lent")
	}
	s.Set(smtptest.Behaviour{
		Extensions: smtptest.Without("CHUNKING"), On: refusingLong("RCPT", "550 5.7.1 Go away"),
	})
	if got := mail.ReplyFor(tx.Data(t.Context(), mail.Stuffed)).Code; got != 451 {
		t.Errorf("got %d at DATA, want 451", got)
	}
}

// forwarded is mail to one.test with a long reverse-path that we wrote.
func forwarded() mail.Delivery {
	d := to("one.test")
	d.Own = d.Reverse
	d.Reverse = mail.Path{Local: "SRS0=AAAAAAAA=AA=client.test=" + strings.Repeat("x", 40), Domain: "srs.test"}
	return d
}

// refusingLong refuses the reverse-path that we wrote for its length, and answers the sender's own with the reply.
func refusingLong(verb, reply string) func(smtptest.Step) (smtptest.Answer, bool) {
	return func(s smtptest.Step) (smtptest.Answer, bool) {
		if s.Verb == "MAIL" && strings.Contains(s.Line, "SRS0") {
			return smtptest.Answer{Reply: "501 5.1.7 Local part too long"}, true
		}
		return smtptest.Answer{Reply: reply}, s.Verb == verb
	}
}

// A refusal for good by the old machine is not believed while the question about it is open, or cannot be asked.
func TestRelay_MovedHostUnanswered(t *testing.T) {
	closes := smtptest.Answer{Close: true}
	for _, tc := range []struct {
		name  string
		fresh smtptest.Behaviour
	}{
		{"no session", smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Greeting: closes}}},
		{"closes at MAIL", smtptest.Behaviour{Answers: map[string]smtptest.Answer{"MAIL": closes}}},
	} {
		for _, verb := range []string{"MAIL", "RCPT", "DATA"} {
			t.Run(tc.name+", refused at "+verb, func(t *testing.T) {
				w, machines, addrs := leavingOld(t, verb)
				machines[1].Set(tc.fresh)
				point(t, w, addrs[1])
				for i := range 5 {
					if got := attempt(t, w, from(i, "moved.test"), "b@moved.test"); got != 451 {
						t.Errorf("attempt %d: got %d, want 451", i, got)
					}
				}
			})
		}
	}
}

// What is said of a session, or to MAIL, is not believed where no other session could be opened to hear it again.
func TestRelay_RefusalOfSessionUnanswered(t *testing.T) {
	for _, verb := range []string{"MAIL", "RCPT", "DATA"} {
		t.Run(verb, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{Extensions: smtptest.Without("CHUNKING")}, nil)
			var open []*transaction
			for i := range 3 {
				tx := begin(t, w, from(i, "one.test"))
				rcpt(t, tx, "b@one.test")
				open = append(open, tx)
			}
			for _, tx := range open {
				finish(t, tx)
			}
			s.Set(smtptest.Behaviour{
				Extensions: smtptest.Without("CHUNKING"),
				Answers: map[string]smtptest.Answer{
					smtptest.Greeting: {Close: true},
					verb:              {Reply: "550 5.7.1 Limit of messages per connection reached"},
				},
			})
			for i := range 5 {
				if got := attempt(t, w, from(7, "one.test"), "b@one.test"); got != 451 {
					t.Errorf("attempt %d: got %d, want 451", i, got)
				}
			}
		})
	}
}

// While one client's question waits for the new machine, the others' refusals are not believed.
func TestRelay_MovedHostSlow(t *testing.T) {
	w, machines, addrs := leavingOld(t, "RCPT")
	came, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	machines[1].Set(smtptest.Behaviour{
		Extensions: smtptest.Without("CHUNKING"),
		On: func(s smtptest.Step) (smtptest.Answer, bool) {
			if s.Verb == "EHLO" {
				once.Do(func() { close(came) })
				<-answer
			}
			return smtptest.Answer{}, false
		},
	})
	point(t, w, addrs[1])
	first := make(chan int, 1)
	go func() { first <- attempt(t, w, from(0, "moved.test"), "b@moved.test") }()
	<-came
	for i := range 2 {
		if got := attempt(t, w, from(i+1, "moved.test"), "b@moved.test"); got != 451 {
			t.Errorf("client %d: got %d, want 451", i+1, got)
		}
	}
	close(answer)
	if got := <-first; got != 250 {
		t.Errorf("the first got %d, want 250", got)
	}
}

// leavingOld is moving with three idle sessions to the first of two machines, which refuses a verb from now on.
func leavingOld(t *testing.T, verb string) (w *world, machines []*smtptest.Server, addrs []string) {
	t.Helper()
	w, machines, addrs = moving(t, 2)
	var open []*transaction
	for i := range 3 {
		tx := begin(t, w, from(i, "moved.test"))
		rcpt(t, tx, "b@moved.test")
		open = append(open, tx)
	}
	for _, tx := range open {
		finish(t, tx)
	}
	machines[0].Set(smtptest.Behaviour{
		Extensions: smtptest.Without("CHUNKING"),
		Answers:    map[string]smtptest.Answer{verb: {Reply: "550 5.7.1 Relaying denied"}},
	})
	return w, machines, addrs
}
