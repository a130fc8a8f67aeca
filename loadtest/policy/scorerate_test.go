package policy_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// comeBack is how a client is told when to come back.
var comeBack = regexp.MustCompile(`, try again in (\d+) seconds? id=\?$`)

// over wants a 450 that says what there was too much of, and when to come back.
func over(t testing.TB, reply, what string, least, most int) {
	t.Helper()
	m := comeBack.FindStringSubmatch(reply)
	if !strings.HasPrefix(reply, "450 4.7.1 "+what+", ") || m == nil {
		t.Fatalf("got %q, want what is %s", reply, what)
	}
	if n, err := strconv.Atoi(m[1]); err != nil || n < least || n > most {
		t.Errorf("%s: not from %d to %d seconds", reply, least, most)
	}
}

// counted returns when what the messages of a session draw is drawn: its next recipient waits for that.
func counted(t testing.TB, s *source.Session) {
	t.Helper()
	says(t, s, "MAIL FROM:<a@client.example>", "250")
	says(t, s, "RCPT TO:<b@x.example>", "")
}

// TestRate_Defers: rates defer with the time to come back.
func TestRate_Defers(t *testing.T) {
	near, far := netip.MustParseAddr("203.0.10.2"), netip.MustParseAddr("203.0.20.1")
	type attempt struct {
		client  netip.Addr
		reverse string
		to      []string // in one transaction, one after another
		want    []string // of each: "" is accepted
	}
	mine := func(want ...string) attempt {
		to := []string{"b@x.example", "c@x.example", "d@x.example"}
		return attempt{good, "a@client.example", to[:len(want)], want}
	}
	by := func(a attempt, client netip.Addr) attempt { a.client = client; return a }
	from := func(a attempt, reverse string) attempt { a.reverse = reverse; return a }
	to := func(a attempt, to ...string) attempt { a.to = to; return a }
	const tooMany, twice = "Too many ", "2/1h"
	for _, c := range []struct {
		name, rates string
		attempts    []attempt
	}{
		{
			"connections of a client", "client: " + twice,
			[]attempt{mine(""), mine(""), mine(tooMany + "connections from 203.0.10.1"), by(mine(""), near)},
		},
		{
			"connections of a network", "network: " + twice,
			[]attempt{
				mine(""), by(mine(""), near), mine(tooMany + "connections from 203.0.10.0/24"), by(mine(""), far),
			},
		},
		{
			"messages of a client", "messages: " + twice,
			[]attempt{
				mine(""), mine("", ""), mine(tooMany+"messages from 203.0.10.1", tooMany+"messages from 203.0.10.1"),
				by(mine(""), near),
			},
		},
		{
			"messages of a network", "network_messages: " + twice,
			[]attempt{
				mine(""), by(mine("", ""), near), mine(tooMany + "messages from 203.0.10.0/24"), by(mine(""), far),
			},
		},
		{
			"recipients of a client", "recipients: " + twice,
			[]attempt{mine("", "", tooMany+"recipients from 203.0.10.1"), by(mine(""), near)},
		},
		{"messages of a sender's domain", "sender: " + twice,
			[]attempt{mine("", ""), from(by(mine(""), far), "z@CLIENT.example"),
				mine(tooMany+"messages from this sender's domain", tooMany+"messages from this sender's domain"),
				from(mine(""), "a@elsewhere.example"), from(mine(""), "")}},
		{"messages to a recipient", "recipient: " + twice, []attempt{mine("", ""), to(by(mine(""), far), "B@x.example"),
			mine(tooMany+"messages to this recipient", "", "")}},
		{
			"messages to a domain", "domain: " + twice,
			[]attempt{
				mine("", ""), to(by(mine(tooMany+"messages to this domain"), far), "f@x.example"),
				to(mine(""), "b@y.example"),
			},
		},
		{"refused recipients of a client", "refused: " + twice, []attempt{mine(""), by(mine(""), near)}},
	} {
		for _, shared := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/redis=%t", c.name, shared), func(t *testing.T) {
				s := scored{
					zone:  zen,
					score: "weights: {no-ptr: 0, helo-unresolved: 0, spf-fail: 0}\nrates: {" + c.rates + "}\n",
				}
				s.dest = smtptest.Start(t, smtptest.Behaviour{})
				s.rules = "@y.example smtp://" + s.dest.Addr() + "\n"
				if shared {
					s.redis = world.StartRedis(t).URL()
				}
				n := world.Start(t, s.world(t))
				for i, a := range c.attempts {
					k := comes(t, n, a.client)
					says(t, k, "MAIL FROM:<"+a.reverse+">", "250")
					accepted := false
					for j, want := range a.want {
						got := says(t, k, "RCPT TO:<"+a.to[j]+">", "")
						if want == "" && !strings.HasPrefix(got, "250 ") {
							t.Errorf("attempt %d, %s: %s", i, a.to[j], got)
						} else if want != "" {
							over(t, got, want, 1700, 3600)
						}
						accepted = accepted || want == ""
					}
					if accepted {
						says(t, k, "DATA", "354")
						says(t, k, "Subject: hi\r\n\r\nhi\r\n.", "250")
						counted(t, k)
					}
					says(t, k, "QUIT", "221")
				}
			})
		}
	}
}

// TestRate_OneOfAGroup: a used up rate of one recipient refuses that one only in a group.
func TestRate_OneOfAGroup(t *testing.T) {
	s := scored{zone: zen, score: "rates: {recipient: 1/1h, messages: 3/1h}\n"}
	n := world.Start(t, s.world(t))
	cfg := proxied(n.Addr, good)
	cfg.Pipeline = true
	c := world.Dial(t, cfg)
	codes := func(to ...string) (got string) {
		t.Helper()
		m := letterOf("")
		m.Forward = to
		r, err := c.Send(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, rcpt := range r.Rcpt {
			got += fmt.Sprint(rcpt.Code, " ")
		}
		if r.End.Class() != 2 {
			if err := c.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		return got + fmt.Sprint(r.End.Code)
	}
	for i, want := range []struct {
		to   []string
		want string
	}{
		{[]string{"a@x.example"}, "250 250"},
		{[]string{"b@x.example", "a@x.example", "c@x.example"}, "250 450 250 250"},
		{[]string{"a@x.example", "d@x.example"}, "450 250 250"},
		{[]string{"e@x.example", "f@x.example"}, "450 450 450"}, // the fourth message
	} {
		if got := codes(want.to...); got != want.want {
			t.Errorf("message %d: got %s, want %s", i, got, want.want)
		}
	}
}

// TestRate_GuessedRecipients: who guesses recipients is held off.
func TestRate_GuessedRecipients(t *testing.T) {
	for _, where := range []string{"by a rule", "by the destination"} {
		t.Run(where, func(t *testing.T) {
			s := scored{
				zone: zen, score: "rates: {refused: 5/1h}\n", rules: "domain y.example\nb@y.example c@x.example\n",
			}
			s.dest = smtptest.Start(t, smtptest.Behaviour{On: func(at smtptest.Step) (smtptest.Answer, bool) {
				return smtptest.Answer{Reply: "550 5.1.1 Nobody"},
					at.Verb == "RCPT" && strings.HasPrefix(at.Forward, "guess")
			}})
			n := world.Start(t, s.world(t))
			domain := map[string]string{"by a rule": "y.example", "by the destination": "x.example"}[where]
			c := comes(t, n, good)
			says(t, c, "MAIL FROM:<a@client.example>", "250")
			for i := range 5 {
				says(t, c, fmt.Sprintf("RCPT TO:<guess%d@%s>", i, domain), "550 5.1.1")
			}
			// What was refused is counted off the path of mail, so soon.
			world.Await(t, "it is over the rate in the same session", func() bool {
				r, err := c.Command("RCPT TO:<b@x.example>")
				return err == nil && r.Code == 450 &&
					strings.HasPrefix(r.Text, "4.7.1 Too many refused recipients from 203.0.10.1, try again in ")
			})
			c = comes(t, n, good)
			says(t, c, "MAIL FROM:<a@client.example>", "250")
			over(t, says(t, c, "RCPT TO:<b@x.example>", "450"), "Too many refused recipients from 203.0.10.1", 1, 3600)
			world.Send(t, comes(t, n, netip.MustParseAddr("203.0.10.2")), letterOf("b@x.example"))
		})
	}
}

// TestGreylist_PassesOnRetry: greylisted mail passes when it comes again.
func TestGreylist_PassesOnRetry(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("redis=%t", shared), func(t *testing.T) {
			grey := netip.MustParseAddr("203.0.30.1") // without a name: 2
			s := scored{
				zone:  zen + mailServer(good) + fmt.Sprintf("%s. 60 IN A %s\n", nameOf(grey), grey),
				score: "greylist: {from: 1, to: 6, delay: 1s}\n",
			}
			if shared {
				s.redis = world.StartRedis(t).URL()
			}
			n := world.Start(t, s.world(t))
			world.Send(t, comes(t, n, good), letterOf("b@x.example")) // its score is 0

			c := comes(t, n, grey)
			says(t, c, "MAIL FROM:<a@client.example>", "250")
			if got := says(t, c, "RCPT TO:<b@x.example>",
				""); got != "450 4.7.1 Greylisted, try again in 1 second id=?" {
				t.Fatalf("got %q", got)
			}
			says(t, c, "QUIT", "221")
			began := time.Now()
			world.Await(t, "the mail passes", func() bool {
				return strings.HasPrefix(deliver(t.Context(), proxied(n.Addr, netip.MustParseAddr("203.0.30.1"))),
					"250 ")
			})
			if took := time.Since(began); took < 500*time.Millisecond {
				t.Errorf("passed after %s", took)
			}
			// What has passed passes at once, also from the next address of the network.
			neighbour := netip.MustParseAddr("203.0.30.2")
			cfg := proxied(n.Addr, neighbour)
			if got := deliver(t.Context(), cfg); !strings.HasPrefix(got, "250 ") {
				t.Errorf("got %s", got)
			}
		})
	}
}

// history is the section of a node that learns fast: from destinations that took one message of one network.
const history = "weights: {no-ptr: 0, fcrdns: 0, helo-unresolved: 0, helo-mismatch: 0, spf-fail: 0}\nkarma: " +
	"{volume: 1, networks: 1}\n"

// spammed returns rules and a destination that has many domains and refuses what is for "spam" at the dot.
func spammed(t *testing.T, s *scored, domains int) {
	t.Helper()
	s.dest = smtptest.Start(t, smtptest.Behaviour{Dots: map[string]smtptest.Answer{
		"spam":   {Reply: "550 5.7.1 Message rejected as spam by Content Filtering."},
		"policy": {Reply: "550 5.7.26 Unauthenticated"},
	}})
	for i := range domains {
		s.rules += fmt.Sprintf("@d%d.example smtp://%s\n", i, s.dest.Addr())
	}
}

// received returns the answer to the first recipient of a client.
func received(t *testing.T, n *world.Relay, client netip.Addr) string {
	t.Helper()
	c := comes(t, n, client)
	defer c.Abort(false)
	says(t, c, "MAIL FROM:<a@client.example>", "250")
	r, err := c.Command("RCPT TO:<b@x.example>")
	if err != nil {
		t.Fatal(err)
	}
	return world.ReplyID.ReplaceAllString(r.String(), "id=?")
}

// TestKarma_SpamLowers: what destinations refuse as spam lowers the standing of the client.
func TestKarma_SpamLowers(t *testing.T) {
	s := scored{zone: zen, score: history + "defer: 1\n", redis: world.StartRedis(t).URL()}
	spammed(t, &s, 6)
	w := s.world(t)
	n, other := world.Start(t, w), world.Start(t, w)
	teller := netip.MustParseAddr("203.0.40.1")
	for i := range 6 { // each destination is believed once it took something
		world.Send(t, comes(t, n, teller), letterOf(fmt.Sprintf("b@d%d.example", i)))
	}
	spammer := netip.MustParseAddr("203.0.50.1")
	c := comes(t, n, spammer)
	r, err := c.Send(letterOf("policy@d0.example")) // a refusal for authentication is no spam
	if err != nil || r.End.Code != 550 {
		t.Fatalf("%v %v", r.End, err)
	}
	for i := range 3 {
		r, err := c.Send(letterOf(fmt.Sprintf("spam@d%d.example", i)))
		if err != nil || r.End.Code != 550 {
			t.Fatalf("%v %v", r.End, err)
		}
	}
	const want = "450 4.7.1 203.0.50.1 deferred: destinations refused mail of this client or its network as " +
		"unwanted, try again later id=?"
	world.Await(t, "the client is deferred at the other node", func() bool {
		return received(t, other, spammer) == want
	})
	if got := received(t, n, teller); !strings.HasPrefix(got, "250 ") {
		t.Errorf("the others: %s", got)
	}
}

// TestKarma_Neighbour: what destinations refuse of a client does not lower its neighbours' standing, unless they send
// for the same domain, and another domain does not raise that of the client.
func TestKarma_Neighbour(t *testing.T) {
	s := scored{
		zone: zen + "other.example. 60 IN MX 10 mx.client.example.\n" +
			"other.example. 60 IN TXT \"v=spf1 ip4:203.0.0.0/16 -all\"\n",
		score: history + "defer: 1\n", redis: world.StartRedis(t).URL(),
	}
	spammed(t, &s, 12)
	w := s.world(t)
	n := world.Start(t, w)
	teller, spammer := netip.MustParseAddr("203.0.40.1"), netip.MustParseAddr("203.0.50.1")
	for i := range 12 { // each destination is believed once it took something
		world.Send(t, comes(t, n, teller), letterOf(fmt.Sprintf("b@d%d.example", i)))
	}
	c := comes(t, n, spammer)
	for i := range 12 {
		r, err := c.Send(letterOf(fmt.Sprintf("spam@d%d.example", i)))
		if err != nil || r.End.Code != 550 {
			t.Fatalf("%v %v", r.End, err)
		}
	}
	answer := func(addr, sender string) string {
		c := comes(t, n, netip.MustParseAddr(addr))
		defer c.Abort(false)
		says(t, c, "MAIL FROM:<a@"+sender+">", "250")
		r, err := c.Command("RCPT TO:<b@x.example>")
		if err != nil {
			t.Fatal(err)
		}
		return r.String()
	}
	world.Await(t, "a neighbour with the same domain is deferred", func() bool {
		return strings.HasPrefix(answer("203.0.50.2", "client.example"), "450 4.7.1 203.0.50.2 deferred: ")
	})
	if got := answer("203.0.50.2", "other.example"); !strings.HasPrefix(got, "250 ") {
		t.Errorf("a neighbour with another domain: %s", got)
	}
	if got := answer("203.0.50.1", "other.example"); !strings.HasPrefix(got, "450 4.7.1 203.0.50.1 deferred: ") {
		t.Errorf("the spammer with another domain: %s", got)
	}
}

// TestKarma_AcceptedRaises: mail that is taken raises the standing of the client.
func TestKarma_AcceptedRaises(t *testing.T) {
	s := scored{
		zone: zen, redis: world.StartRedis(t).URL(), score: history + "greylist: {from: -0.5, to: 6, delay: 24h}\n",
	}
	spammed(t, &s, 8)
	w := s.world(t)
	sure := s
	sure.score = history
	learning := world.Start(t, sure.world(t))
	n := world.Start(t, w) // its mail is put off, unless something speaks for the client
	client := netip.MustParseAddr("203.0.60.1")
	if got := received(t, n, client); !strings.HasPrefix(got, "450 4.7.1 Greylisted, try again in 86400 seconds") {
		t.Fatalf("got %s", got)
	}
	c := comes(t, learning, client)
	for i := range 8 {
		world.Send(t, c, letterOf(fmt.Sprintf("b@d%d.example", i)))
	}
	world.Await(t, "its standing is above the band", func() bool {
		return strings.HasPrefix(received(t, n, client), "250 ")
	})
}

// TestKarma_KnownGood: known good clients are neither greylisted nor made to wait. Their neighbours with another domain
// are greylisted.
func TestKarma_KnownGood(t *testing.T) {
	r := world.StartRedis(t)
	s := scored{
		zone: zen + "other.example. 60 IN MX 10 mx.client.example.\n" +
			"other.example. 60 IN TXT \"v=spf1 ip4:203.0.70.0/24 -all\"\n", redis: r.URL(),
		score: "greet: 30s\ngreylist: {from: -100, to: 6, delay: 24h}\n",
	}
	n := world.Start(t, s.world(t))
	// What the nodes do when a network has earned it.
	r.Do(t, "HSET", "millrace:{203.0.70.0}:wd", "client.example", "9999999999999")
	impatient := proxied(n.Addr, netip.MustParseAddr("203.0.70.1"))
	impatient.Timeout = 25 * time.Second
	world.Send(t, world.Dial(t, impatient), letterOf("b@x.example"))
	c := comes(t, n, netip.MustParseAddr("203.0.70.2"))
	says(t, c, "MAIL FROM:<a@other.example>", "250")
	says(t, c, "RCPT TO:<b@x.example>", "450 4.7.1 Greylisted")
	r.Do(t, "HSET", "millrace:{203.0.70.0}:wd", "other.example", "9999999999999")
	c = comes(t, n, netip.MustParseAddr("203.0.70.3"))
	says(t, c, "MAIL FROM:<a@other.example>", "250")
	says(t, c, "RCPT TO:<b@x.example>", "250")
}

// TestRate_OneRoundTrip: pipelined recipients are asked about in one round trip.
func TestRate_OneRoundTrip(t *testing.T) {
	r := world.StartRedis(t)
	s := scored{zone: population(1), redis: r.URL(), score: listScore + "greet: 1ms\n" +
		"rates: {client: 1000/1m, network: 1000/1m, messages: 1000/1m, recipients: 1000/1m, refused: 100/1m, " +
		"sender: 1000/1m, recipient: 1000/1m, domain: 1000/1m}\n"}
	n := world.Start(t, s.world(t))
	client := clientAt(0)
	first := comes(t, n, client)
	world.Send(t, first, letterOf("b@x.example")) // the scripts are loaded, the list's answer is known
	counted(t, first)
	for _, c := range []struct {
		name     string
		pipeline bool
		forward  int
		want     int
	}{{"one recipient", false, 1, 3}, {"a group of 12", true, 12, 3}, {"five by themselves", false, 5, 7}} {
		t.Run(c.name, func(t *testing.T) {
			m := letterOf("")
			m.Forward = nil
			for i := range c.forward {
				m.Forward = append(m.Forward, fmt.Sprintf("r%d@x.example", i))
			}
			before := r.Calls(t)
			cfg := proxied(n.Addr, client)
			cfg.Pipeline = c.pipeline
			s := world.Dial(t, cfg)
			if got := world.Send(t, s, m); len(got.Rcpt) != c.forward {
				t.Errorf("%+v", got)
			}
			if err := s.Quit(); err != nil {
				t.Error(err)
			}
			got := 0
			for tries := 0; got < c.want && tries < 1000; tries++ { // the message is counted behind the reply
				got = r.Calls(t) - before
			}
			if got != c.want {
				t.Errorf("%d scripts, want %d: at accept, for each group of recipients, and behind the message",
					got, c.want)
			}
		})
	}
	t.Run("a refused client", func(t *testing.T) {
		s := scored{zone: zen + mailServer(bad) + listed(bad), redis: r.URL(), score: s.score}
		n := world.Start(t, s.world(t))
		c := comes(t, n, bad)
		says(t, c, "MAIL FROM:<a@client.example>", "250")
		says(t, c, "RCPT TO:<b@x.example>", refusedText)
		says(t, c, "QUIT", "221")
		before := r.Calls(t)
		m := source.Message{
			Reverse: "a@client.example", Forward: []string{"b@x.example", "c@x.example"}, Octets: []byte("\r\n"),
		}
		cfg := proxied(n.Addr, bad)
		cfg.Pipeline = true
		if r, err := world.Dial(t, cfg).Send(m); err != nil || r.End.Class() != 5 {
			t.Fatalf("%+v %v", r, err)
		}
		if got := r.Calls(t) - before; got != 1 {
			t.Errorf("%d scripts for a refused client", got)
		}
	})
}
