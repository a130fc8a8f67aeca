package rate

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLimits_Connect: a connection draws of its address and its network together or not at all.
func TestLimits_Connect(t *testing.T) {
	l, c := limits(t,
		Config{ClientConnections: Limit{2, time.Minute, 0}, NetworkConnections: Limit{3, time.Minute, 0}}), newCounter()
	connect := func(addr string) string {
		rates := l.Connect(netip.MustParseAddr(addr))
		results, _ := c.Rates(t.Context(), rates)
		if r := l.Refusal(rates, results); r != nil {
			return r.Reply.String()
		}
		return ""
	}
	for i, step := range []struct{ addr, want string }{
		{"203.0.113.9", ""},
		{"::ffff:203.0.113.9", ""},
		{"203.0.113.9", "450 4.7.1 Too many connections from 203.0.113.9, try again in 30 seconds"},
		{"203.0.113.9", "450 4.7.1 Too many connections from 203.0.113.9, try again in 30 seconds"},
		{"203.0.113.10", ""}, // what was refused above drew nothing from the network
		{"203.0.113.11", "450 4.7.1 Too many connections from 203.0.113.0/24, try again in 20 seconds"},
		{"203.0.114.11", ""},
		{"2001:db8::1", ""},
		{"2001:db8::2", ""},
		{"2001:db8::3", ""},
		{"2001:db8::4", "450 4.7.1 Too many connections from 2001:db8::/64, try again in 20 seconds"},
	} {
		if got := connect(step.addr); got != step.want {
			t.Errorf("step %d, %s: got %q, want %q", i, step.addr, got, step.want)
		}
	}
}

// TestLimits_Refused: a client over its refused recipients is refused at connect and at RCPT.
func TestLimits_Refused(t *testing.T) {
	l, c := limits(t,
		Config{ClientRefused: Limit{2, time.Hour, 0}, ClientRecipients: Limit{9, time.Hour, 0}}), newCounter()
	refusedOne, limited := l.Refused(client)
	if !limited {
		t.Fatal("not limited")
	}
	for range 3 {
		if _, err := c.Rates(t.Context(), []mail.Rate{refusedOne}); err != nil {
			t.Fatal(err)
		}
	}
	want := "450 4.7.1 Too many refused recipients from 203.0.113.9, try again in 1800 seconds"
	rates := l.Connect(client)
	results, _ := c.Rates(t.Context(), rates)
	if got := l.Refusal(rates, results); got == nil || got.Reply.String() != want || got.Reason != "rate" {
		t.Errorf("at connect: got %v", got)
	}
	got := refusals(t, c, l, RcptQuestion{Client: client, Rcpts: rcpts(t, "a@x.test", "b@x.test")})
	if got[0] != want || got[1] != want {
		t.Errorf("at RCPT: got %q", got)
	}
	if got := c.room(mail.Rate{Client: network.Host(client), Name: recipients, Count: 9, Per: time.Hour}); got != 9 {
		t.Errorf("a refused recipient was drawn: %d left", got)
	}
}

// TestLimits_RecipientAlone: one recipient's used up rate refuses that recipient only.
func TestLimits_RecipientAlone(t *testing.T) {
	l, c := limits(t, Config{
		ClientMessages: Limit{10, time.Minute, 0}, ClientRecipients: Limit{10, time.Minute, 0},
		RecipientMessages: Limit{1, time.Minute, 0}, DomainMessages: Limit{10, time.Minute, 0},
	}), newCounter()
	q := RcptQuestion{Client: client, Reverse: sender, First: true, Rcpts: rcpts(t, "full@x.test")}
	send(t, c, l, q)
	q.Rcpts = rcpts(t, "a@x.test", "FULL@X.test", "b@x.test")
	got := send(t, c, l, q)
	if want := "450 4.7.1 Too many messages to this recipient, try again in 60 seconds"; got[0] != "" ||
		got[1] != want || got[2] != "" {
		t.Errorf("got %q", got)
	}
	for _, left := range []struct {
		rate mail.Rate
		want int
	}{
		{mail.Rate{Client: network.Host(client), Name: messages}, 8},
		{mail.Rate{Client: network.Host(client), Name: recipients}, 7},
		{mail.Rate{Group: l.names.Of("domain", "x.test"), Name: taken}, 7},
	} {
		left.rate.Count, left.rate.Per = 10, time.Minute
		if got := c.room(left.rate); got != left.want {
			t.Errorf("%s: %d left, want %d", left.rate.Name, got, left.want)
		}
	}
}

// TestLimits_MessagesFirst: a client over its rate of messages uses up no recipient's rate.
func TestLimits_MessagesFirst(t *testing.T) {
	for _, size := range []int{1, 3} {
		l, c := limits(t,
			Config{
				NetworkMessages: Limit{1, time.Minute, 0}, ClientMessages: Limit{5, time.Minute, 0},
				RecipientMessages: Limit{2, time.Minute, 0},
			}), newCounter()
		q := RcptQuestion{Client: client, Reverse: sender, First: true, Rcpts: rcpts(t, "other@x.test")}
		send(t, c, l, q)
		q.Rcpts = rcpts(t, "a@x.test", "b@x.test", "c@x.test")[:size]
		for _, got := range send(t, c, l, q) {
			if want := "450 4.7.1 Too many messages from 203.0.113.0/24, try again in 60 seconds"; got != want {
				t.Errorf("got %q", got)
			}
		}
		q.Client = netip.MustParseAddr("192.0.2.1")
		for i, got := range append(send(t, c, l, q),
			send(t, c, l, RcptQuestion{Client: q.Client, Rcpts: q.Rcpts})...) {
			if got != "" {
				t.Errorf("group of %d, answer %d: %q", size, i, got)
			}
		}
		ofClient := mail.Rate{Client: network.Host(client), Name: messages, Count: 5, Per: time.Minute}
		if got := c.room(ofClient); got != 4 {
			t.Errorf("group of %d: %d messages left", size, got)
		}
	}
}

// TestLimits_Ended: what limits messages counts those that were brought, and transactions without one may be twenty
// times as many.
func TestLimits_Ended(t *testing.T) {
	two := Limit{2, time.Hour, 0}
	for name, c := range map[string]struct {
		limit Config
		of    string // in the refusal
	}{
		"of a client":             {Config{ClientMessages: two}, " from 203.0.113.9"},
		"of a network":            {Config{NetworkMessages: two}, " from 203.0.113.0/24"},
		"of a sender's domain":    {Config{SenderMessages: two}, " from this sender's domain"},
		"to a recipient":          {Config{RecipientMessages: two}, " to this recipient"},
		"to a recipient's domain": {Config{DomainMessages: two}, " to this domain"},
	} {
		t.Run(name, func(t *testing.T) {
			l, counts := limits(t, c.limit), newCounter()
			q := RcptQuestion{Client: client, Reverse: sender, First: true, Rcpts: rcpts(t, "a@x.test")}
			says := func(n int, want string) {
				t.Helper()
				if got := refusals(t, counts, l, q)[0]; !strings.HasPrefix(got, want) || want == "" && got != "" {
					t.Fatalf("number %d: got %q, want %q", n, got, want)
				}
			}
			for n := range 39 { // as hosts do that verify an address
				says(n, "")
				draw(t, counts, l.Ended(q, false))
			}
			for n := range 2 {
				says(n, "")
				draw(t, counts, l.Ended(q, true))
			}
			says(3, "450 4.7.1 Too many messages"+c.of+", try again in ")
			counts.now = counts.now.Add(time.Hour)
			for n := range 40 {
				says(n, "")
				draw(t, counts, l.Ended(q, false))
			}
			says(41, "450 4.7.1 Too many transactions without a message"+c.of+", try again in ")
		})
	}
}

// TestLimits_Together: messages that were under way together while there was room for one count all the same, so that a
// client with many connections has no more in the long run.
func TestLimits_Together(t *testing.T) {
	l, c := limits(t, Config{ClientMessages: Limit{1, time.Hour, 0}}), newCounter()
	q := RcptQuestion{Client: client, Reverse: sender, First: true, Rcpts: rcpts(t, "a@x.test")}
	for range 5 {
		if got := refusals(t, c, l, q)[0]; got != "" {
			t.Fatal(got)
		}
	}
	for range 5 {
		draw(t, c, l.Ended(q, true))
	}
	for h := range 5 {
		if got := refusals(t, c, l, q)[0]; got == "" {
			t.Errorf("hour %d: there is room", h)
		}
		c.now = c.now.Add(time.Hour)
	}
	if got := refusals(t, c, l, q)[0]; got != "" {
		t.Errorf("after five hours: %s", got)
	}
}

// TestLimits_Rcpt: which rates a group of recipients draws, with no address in clear.
func TestLimits_Rcpt(t *testing.T) {
	all := Limit{5, time.Minute, 0}
	l := limits(t, Config{
		ClientConnections: all, NetworkConnections: all, ClientMessages: all, NetworkMessages: all,
		ClientRecipients: all,
		ClientRefused:    all, SenderMessages: all, RecipientMessages: all, DomainMessages: all,
	})
	for _, c := range []struct {
		name string
		q    RcptQuestion
		want int
	}{
		{"no recipient", RcptQuestion{Client: client, First: true}, 0},
		{
			"the first one",
			RcptQuestion{Client: client, Reverse: sender, First: true, Rcpts: rcpts(t, "a@x.test")}, 2*5 + 2,
		},
		{"a later one", RcptQuestion{Client: client, Reverse: sender, Rcpts: rcpts(t, "a@x.test")}, 2*2 + 2},
		{
			"three at once",
			RcptQuestion{
				Client: client, Reverse: sender, First: true,
				Rcpts: rcpts(t, "a@x.test", "b@x.test", "c@y.test"),
			}, 3 * (2*5 + 2),
		},
		{"a bounce", RcptQuestion{Client: client, First: true, Rcpts: rcpts(t, "a@x.test")}, 2*4 + 2},
		{
			"a client without an address",
			RcptQuestion{Reverse: sender, First: true, Rcpts: rcpts(t, "Postmaster")}, 2 * 3,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := l.Rcpt(c.q)
			if len(got) != c.want || cap(got) > c.want+2*len(c.q.Rcpts) {
				t.Errorf("got %d rates, want %d", len(got), c.want)
			}
			for _, r := range got {
				if r.Unit == 0 {
					t.Errorf("%s has the unit of others", r.Name)
				}
				if in := r.Group + r.Name; strings.Contains(in, "test") || strings.Contains(in, "@") {
					t.Errorf("in clear: %q", in)
				}
			}
		})
	}
	unlimited := limits(t, Config{})
	lone := RcptQuestion{Client: client, First: true, Rcpts: rcpts(t, "a@x.test")}
	if got := unlimited.Rcpt(lone); got != nil {
		t.Errorf("nothing is limited: %v", got)
	}
	if got := unlimited.Connect(client); got != nil {
		t.Errorf("nothing is limited: %v", got)
	}
	if got := l.Connect(netip.Addr{}); got != nil {
		t.Errorf("no address: %v", got)
	}
}

// TestLimits_Spellings: spellings of one recipient are one recipient.
func TestLimits_Spellings(t *testing.T) {
	l := limits(t, Config{RecipientMessages: Limit{1, time.Minute, 0}})
	of := func(address string, separator byte) mail.Rate {
		r := l.Rcpt(RcptQuestion{Rcpts: []Rcpt{{ingresstest.Path(address), separator}}})[0]
		r.Unit = 0
		return r
	}
	same := of("user@x.test", 0)
	for _, c := range []struct {
		address   string
		separator byte
		same      bool
	}{
		{"USER@X.TEST", 0, true}, {`"user"@x.test`, 0, true}, {"user+tag@x.test", '+', true},
		{"user+tag@x.test", 0, false},
		{"user-tag@x.test", '-', true}, {"+user@x.test", '+', false}, {"user@y.test", 0, false},
		{"users@x.test", 0, false},
	} {
		if got := of(c.address, c.separator) == same; got != c.same {
			t.Errorf("%s: the same is %v", c.address, got)
		}
	}
}

// TestLimits_AnyGroup: for any rates and recipients, naming recipients draws of the client's recipients alone, one for
// each that is within its rates. A message draws one of the client's messages.
func TestLimits_AnyGroup(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := func(name string) Limit { return Limit{Count: rapid.IntRange(1, 4).Draw(r, name), Per: time.Hour} }
		config := Config{
			Key: key, ClientMessages: limit("messages"), ClientRecipients: Limit{20, time.Hour, 0},
			SenderMessages:    limit("sender"),
			RecipientMessages: limit("recipient"), DomainMessages: limit("domain"),
		}
		l, err := New(config)
		if err != nil {
			r.Fatal(err)
		}
		c := newCounter()
		host := network.Host(client)
		drawn := mail.Rate{Client: host, Name: recipients, Count: 20, Per: time.Hour}
		sends := mail.Rate{Client: host, Name: messages, Count: config.ClientMessages.Count, Per: time.Hour}
		for range 4 {
			q := RcptQuestion{
				Client: client, Reverse: mail.NewPath("s", "s.test"), First: rapid.Bool().Draw(r, "first"),
			}
			for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 4).Draw(r, "rcpts") {
				q.Rcpts = append(q.Rcpts,
					Rcpt{Forward: mail.NewPath(name, rapid.SampledFrom([]string{"x.test", "y.test"}).Draw(r, "at"))})
			}
			before, sent := c.room(drawn), c.room(sends)
			took := RcptQuestion{Client: q.Client, Reverse: q.Reverse, First: q.First}
			for i, text := range refusals(t, c, l, q) {
				if text == "" {
					took.Rcpts = append(took.Rcpts, q.Rcpts[i])
				}
			}
			if got := c.room(drawn); got != before-len(took.Rcpts) {
				r.Fatalf("%d accepted, recipients left %d of %d", len(took.Rcpts), got, before)
			}
			if got := c.room(sends); got != sent {
				r.Fatalf("%d messages drawn at RCPT", sent-got)
			}
			if len(took.Rcpts) == 0 {
				continue
			}
			draw(t, c, l.Ended(took, true))
			want := sent
			if q.First {
				want--
			}
			if got := c.room(sends); got != want {
				r.Fatalf("%d messages left, want %d", got, want)
			}
		}
	})
}

// TestPeek: rates that are peeked at draw nothing.
func TestPeek(t *testing.T) {
	l, c := limits(t, Config{ClientConnections: Limit{1, time.Minute, 0}}), newCounter()
	for range 3 {
		rates := Peek(l.Connect(client))
		results, _ := c.Rates(t.Context(), rates)
		if r := l.Refusal(rates, results); r != nil {
			t.Errorf("got %v", r)
		}
	}
}

// TestAgainIn: seconds are rounded up.
func TestAgainIn(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		0: "1 second", time.Millisecond: "1 second", time.Second: "1 second", time.Second + 1: "2 seconds",
		90 * time.Minute: "5400 seconds", -time.Hour: "1 second",
	} {
		if got := AgainIn(wait); got != "try again in "+want {
			t.Errorf("%s: %q", wait, got)
		}
	}
}

// TestExceeded: the cause of a refusal tells the administrator which rate was used up.
func TestExceeded(t *testing.T) {
	l := limits(t, Config{ClientConnections: Limit{2, time.Minute, 0}})
	r := l.Refusal(l.Connect(client), []mail.RateResult{{RetryAfter: time.Second}})
	if got, want := r.Cause.Error(), "connections of 203.0.113.9/32 over 2 in 1m0s, wait 1s"; got != want {
		t.Errorf("got %q", got)
	}
	if got := l.Refusal(l.Connect(client), nil); got != nil {
		t.Errorf("no answer refuses: %v", got)
	}
}

// TestConfig_Validate: the error names the field that cannot be kept.
func TestConfig_Validate(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Key: key}, ""},
		{Config{Key: key, DomainMessages: Limit{1, time.Second, 5}}, ""},
		{Config{}, "key"},
		{Config{Key: key, ClientConnections: Limit{-1, time.Second, 0}}, "client_connections"},
		{Config{Key: key, SenderMessages: Limit{1, 0, 0}}, "sender_messages"},
		{Config{Key: key, RecipientMessages: Limit{0, time.Second, 0}}, "recipient_messages"},
		{Config{Key: key, ClientRefused: Limit{1, 32 * 24 * time.Hour, 0}}, "client_refused"},
		{Config{Key: key, NetworkMessages: Limit{1, time.Second, 1 << 21}}, "network_messages"},
	} {
		got := ""
		if err := c.config.Validate(); err != nil {
			got, _, _ = strings.Cut(err.Error(), ":")
		}
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestNames: names of different things differ, and nodes with one key agree on them.
func TestNames(t *testing.T) {
	one, two, other := NewNames(key), NewNames(key), NewNames([]byte("another key of sixteen"))
	if one.Of("a", "b", "c") != two.Of("a", "b", "c") {
		t.Error("two nodes do not agree")
	}
	seen := map[string]bool{}
	for _, name := range []string{
		one.Of("a", "b", "c"), one.Of("a", "bc"), one.Of("ab", "c"), one.Of("a", "b", "c", ""), other.Of("a", "b", "c"),
	} {
		if seen[name] || len(name) != 22 {
			t.Errorf("%q", name)
		}
		seen[name] = true
	}
}

// FuzzNames: the rate of any path has a name of fixed length that shows nothing of the path, and the same one in any
// case of its letters.
func FuzzNames(f *testing.F) {
	f.Add("user", "x.test", byte('+'))
	f.Add(`"a \" b"`, "[192.0.2.1]", byte(0))
	f.Add("", "", byte('a'))
	l := limits(f, Config{RecipientMessages: Limit{1, time.Minute, 0}})
	f.Fuzz(func(t *testing.T, local, domain string, separator byte) {
		name := func(local, domain string) mail.Rate {
			return l.Rcpt(RcptQuestion{Rcpts: []Rcpt{{mail.Path{Local: local, Domain: domain}, separator}}})[0]
		}
		got := name(local, domain)
		if len(got.Group) != 22 || len(got.Name) != len(addressed)+22 {
			t.Errorf("%q %q", got.Group, got.Name)
		}
		folded := name(ascii.Fold(local), ascii.Fold(domain))
		if folded.Group != got.Group || separator == 0 && folded != got {
			t.Error("case matters")
		}
	})
}

func BenchmarkRcpt(b *testing.B) {
	all := Limit{5, time.Minute, 0}
	l := limits(b,
		Config{
			ClientMessages: all, NetworkMessages: all, ClientRecipients: all, ClientRefused: all, SenderMessages: all,
			RecipientMessages: all, DomainMessages: all,
		})
	q := RcptQuestion{Client: client, Reverse: sender, First: true, Rcpts: rcpts(b, "a@x.test")}
	b.ReportAllocs()
	for b.Loop() {
		l.Rcpt(q)
	}
}
