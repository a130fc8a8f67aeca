package egress

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// isCool checks whether the Site of one.test is left alone, for mail of d.
func isCool(t *testing.T, w *world, cool bool, d mail.Delivery) {
	t.Helper()
	tx, err := w.relay.Begin(t.Context(), d)
	if err == nil {
		tx.Abort()
	}
	switch {
	case !cool && err != nil:
		t.Errorf("it is left alone: %v", err)
	case cool:
		if r := want(t, err, "451 4.4.1"); r.Reason != "cooling" {
			t.Errorf("got %v", err)
		}
	}
}

// TestRelay_RefusalOfUs: replies about us are deferred, put their sender off and no other, and are told to the
// operator.
func TestRelay_RefusalOfUs(t *testing.T) {
	for _, c := range []struct{ name, verb, reply string }{
		{"530 to MAIL", "MAIL", "530 5.7.0 Authentication required"},
		{"our address at MAIL", "MAIL", "554 5.7.1 [127.0.0.1] is listed"},
		{"our address at RCPT", "RCPT", "550 5.7.1 <[127.0.0.1]>: Client host rejected: poor reputation"},
		{"our address at DATA", "DATA", "550 5.7.1 <[127.0.0.1]>: Client host rejected: poor reputation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, _ := one(t,
				smtptest.Behaviour{
					Extensions: smtptest.Without("CHUNKING"),
					Answers:    map[string]smtptest.Answer{c.verb: {Reply: c.reply}},
				}, nil)
			tx := begin(t, w, to("one.test"))
			err := tx.Rcpt(t.Context(), path("b@one.test"))
			if c.verb == "DATA" {
				err = tx.Data(t.Context(), mail.Stuffed)
			}
			if r := want(t, err, "451 "); !r.AboutUs {
				t.Error("it is not said to be about us")
			}
			tx.Abort()
			if e := w.events(); len(e) != 1 || e[0].Kind != mail.Anomaly || e[0].Site != "mx1.one.test" {
				t.Errorf("got %+v", e)
			}
			if _, err := w.relay.Begin(t.Context(), to("one.test")); want(t, err, "451 4.7.0").Reason != "put off" {
				t.Errorf("the sender itself: %v", err)
			}
			others, err := w.relay.Begin(t.Context(), from(1, "one.test"))
			if err != nil {
				t.Fatalf("another one: %v", err)
			}
			others.Abort()
			isCool(t, w, false, from(2, "uno.test"))
		})
	}
}

// TestRelay_ProvokedRefusal: a stranger's envelope does not cool the Site.
func TestRelay_ProvokedRefusal(t *testing.T) {
	for _, c := range []struct {
		name, verb, reply string
		reverse, forward  mail.Path
		want              string
		events            int
	}{
		{
			"a forward-path that the destination cannot read", "RCPT", "501 5.1.3 Bad address syntax",
			path("a@client.test"), path("odd@one.test"), "501 5.1.3", 0,
		},
		{
			"one that it cannot read and says so without a code of its own", "RCPT", "555 5.5.2 Syntax error",
			path("a@client.test"), path("odd@one.test"), "451 4.7.0", 1,
		},
		{
			"a reverse-path that it cannot read", "MAIL", "501 5.1.7 Bad sender address syntax", path("a@b_c.test"),
			path("b@one.test"), "501 5.1.7", 0,
		},
		{
			"one that it cannot read, with 555", "MAIL", "555 5.5.2 Syntax error", path(`"a b"@c.test`),
			path("b@one.test"), "555 5.5.2", 0,
		},
		{
			"a forward-path that is our address", "RCPT", "550 5.1.1 <127.0.0.1@one.test>: User unknown",
			path("a@client.test"), path("127.0.0.1@one.test"), "550 5.1.1", 0,
		},
		{
			"the same without an enhanced code", "RCPT", "550 <127.0.0.1@one.test>: User unknown",
			path("a@client.test"), path("127.0.0.1@one.test"), "550 5.0.0", 0,
		},
		{
			"a forward-path that is one of the phrases", "RCPT",
			`550 5.7.1 <"your ip is blacklisted"@one.test>: Rejected`, path("a@client.test"),
			path(`"your ip is blacklisted"@one.test`), "550 5.7.1", 0,
		},
		{
			"a reverse-path at our address", "MAIL", "550 5.7.1 <a@[127.0.0.1]>: Sender rejected",
			path("a@[127.0.0.1]"), path("b@one.test"), "550 5.7.1", 0,
		},
		{
			"a reverse-path that is echoed at RCPT", "RCPT",
			`450 4.7.1 <"Too Many Connections"@c.test>: Sender rejected`, path(`"Too Many Connections"@c.test`),
			path("b@one.test"), "450 4.7.1", 0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{c.verb: {Reply: c.reply}}}, nil)
			d := to("one.test")
			d.Reverse = c.reverse
			tx := begin(t, w, d)
			if r := want(t, tx.Rcpt(t.Context(), c.forward), c.want); r.AboutUs != (c.events > 0) {
				t.Errorf("about us: %v", r.AboutUs)
			}
			tx.Abort()
			if len(w.events()) != c.events {
				t.Errorf("got %+v", w.events())
			}
			s.Set(smtptest.Behaviour{})
			isCool(t, w, false, to("one.test"))
			deliver(t, w, to("one.test"), "b@one.test")
			if got := s.Counts().Connections; got != 1 {
				t.Errorf("%d connections: the idle sessions were closed", got)
			}
		})
	}
}

// dotFrom delivers a message of a client network and returns what became of it, and whether it cooled the Site.
func dotFrom(t *testing.T, w *world, network, domain string) (out mail.Outcome, cool bool) {
	t.Helper()
	d := to(domain)
	d.Client = netip.MustParsePrefix(network)
	d.Reverse.Domain = "of" + strings.ReplaceAll(d.Client.Addr().String(), ":", "-") + ".test"
	tx := begin(t, w, d)
	rcpt(t, tx, "b@"+domain)
	all := finish(t, tx)
	if len(all) != 1 {
		t.Fatalf("got %+v", all)
	}
	tx2, err := w.relay.Begin(t.Context(), to("one.test"))
	if err == nil {
		tx2.Abort()
	}
	return all[0], err != nil
}

// TestTransaction_RefusalOfUsAtDot: a refusal of us at the dot cools the Site when mail of three networks to three
// domains met it.
func TestTransaction_RefusalOfUsAtDot(t *testing.T) {
	for _, c := range []struct {
		name     string
		networks []string
		after    time.Duration // passes before the last one
		cool     bool
	}{
		{
			"one network, again and again", []string{"192.0.2.0/24", "192.0.2.0/24", "192.0.2.0/24", "192.0.2.0/24"}, 0,
			false,
		},
		{
			"two networks in turns", []string{"192.0.2.0/24", "198.51.100.0/24", "192.0.2.0/24", "198.51.100.0/24"}, 0,
			false,
		},
		{"three networks", []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"}, 0, true},
		{
			"three networks, one of them more than once",
			[]string{"192.0.2.0/24", "198.51.100.0/24", "192.0.2.0/24", "203.0.113.0/24"}, 9 * time.Minute, true,
		},
		{
			"three networks, one of them too long ago", []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"},
			11 * time.Minute, false,
		},
		{
			"three networks of one IPv6 site", []string{"2001:db8:1::/64", "2001:db8:1:1::/64", "2001:db8:1:2::/64"}, 0,
			false,
		},
		{"three IPv6 sites", []string{"2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64"}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			listed := map[string]smtptest.Answer{smtptest.Dot: {Reply: "554 5.7.1 127.0.0.1 is listed"}}
			w, _ := one(t, smtptest.Behaviour{Answers: listed}, func(c *Config) {
				c.Now = func() time.Time { return now }
			})
			domains := make(map[string]string)
			for i, network := range c.networks {
				last := i == len(c.networks)-1
				if now = now.Add(5 * time.Second); last { // no sender is put off for longer yet
					now = now.Add(c.after)
				}
				if domains[network] == "" {
					domains[network] = []string{"one.test", "uno.test", "eins.test"}[len(domains)]
				}
				out, cool := dotFrom(t, w, network, domains[network])
				if out.Reply.Code != 451 || !out.AboutUs || len(w.events()) != i+1 {
					t.Errorf("got %+v and %d events", out, len(w.events()))
				}
				if cool != (last && c.cool) {
					t.Errorf("cool after %d: %v", i+1, cool)
				}
			}
		})
	}
}

// TestTransaction_RefusalOfUsInMessage: a refusal of us inside the message counts as at the dot.
func TestTransaction_RefusalOfUsInMessage(t *testing.T) {
	w, _ := one(t,
		smtptest.Behaviour{
			Extensions: smtptest.Without("CHUNKING"),
			Body:       &smtptest.Fault{After: 10, Answer: smtptest.Answer{Reply: "554 5.7.1 127.0.0.1 is listed"}},
		}, nil)
	tx := begin(t, w, to("one.test"))
	rcpt(t, tx, "b@one.test")
	out := finish(t, tx)
	if len(out) != 1 || out[0].Reply.Code != 451 || !out[0].AboutUs || len(w.events()) != 1 {
		t.Fatalf("got %+v, %+v", out, w.events())
	}
	isCool(t, w, false, from(2, "one.test"))
}

// TestTransaction_RefusalOfAuthentication: a refusal for the authentication of a message is that of the message, not of
// us.
func TestTransaction_RefusalOfAuthentication(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{smtptest.Dot: {
		Reply: "550-5.7.26 This mail has been blocked because the sender is unauthenticated.\n550 5.7.26  SPF " +
			"[x.test] with ip: [127.0.0.1] = did not pass",
	}}}, nil)
	for _, network := range []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"} {
		out, cool := dotFrom(t, w, network, "one.test")
		if out.Reply.Code != 550 || out.AboutUs || cool || len(w.events()) != 0 {
			t.Errorf("got %+v, cool %v, %+v", out, cool, w.events())
		}
	}
}
