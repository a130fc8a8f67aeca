package karma

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/router/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRecorder_Vote: what became of mail is a vote.
func TestRecorder_Vote(t *testing.T) {
	w := newWorld(t, nil)
	w.believe("a.test", "b.test")
	w.see(Outcome{Client: client, Domain: "A.test", Reply: taken, Answer: MessageTaken})
	w.see(Outcome{Client: netip.MustParseAddr("::ffff:203.0.113.9"), Domain: "b.test", Reply: spammy})
	w.see(Outcome{Domain: "a.test", Reply: spammy})
	w.see(Outcome{Client: client, Reply: spammy})
	w.want("203.0.113.9 a.test 1\n203.0.113.9 b.test -3\n")
	if s := w.Stats(); s.Votes != 2 {
		t.Errorf("got %+v", s)
	}
}

// TestRecorder_WorseVote: within an hour only a worse vote is sent.
func TestRecorder_WorseVote(t *testing.T) {
	w := newWorld(t, nil)
	w.believe("a.test")
	for range 3 {
		w.see(Outcome{Client: client, Domain: "a.test", Reply: taken, Answer: MessageTaken})
	}
	w.see(Outcome{Client: client, Domain: "a.test", Reply: spammy})
	w.see(Outcome{Client: client, Domain: "a.test", Reply: taken, Answer: MessageTaken})
	w.pass(time.Hour)
	w.see(Outcome{Client: client, Domain: "a.test", Reply: taken, Answer: MessageTaken})
	w.want("203.0.113.9 a.test 1\n203.0.113.9 a.test -3\n203.0.113.9 a.test 1\n")
}

// TestRecorder_Believed: nothing is learnt from a domain that took little.
func TestRecorder_Believed(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Volume, c.Networks = 40, 8 })
	from := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i), 1}) }
	for range 200 {
		w.see(Outcome{Client: client, Domain: "mine.test", Reply: taken, Answer: MessageTaken})
	}
	w.want("") // one network brought it all
	for i := range 39 {
		w.see(Outcome{Client: from(i), Domain: "big.test", Reply: taken, Answer: MessageTaken})
	}
	w.see(Outcome{Client: client, Domain: "big.test", Reply: spammy})
	w.want("")
	w.see(Outcome{Client: from(40), Domain: "big.test", Reply: taken, Answer: MessageTaken})
	w.see(Outcome{Client: client, Domain: "big.test", Reply: spammy})
	w.want("198.51.40.1 big.test 1\n203.0.113.9 big.test -3\n")
	w.pass(8 * 24 * time.Hour)
	w.see(Outcome{Client: client, Domain: "big.test", Reply: spammy})
	w.want("198.51.40.1 big.test 1\n203.0.113.9 big.test -3\n")
	if s := w.Stats(); s.Unbelieved != 200+39+1+1 {
		t.Errorf("believed after the window: %+v", s)
	}
}

// TestRecorder_Exempted: clients that are allowed or known good are not voted on.
func TestRecorder_Exempted(t *testing.T) {
	w := newWorld(t, nil)
	w.believe("a.test")
	w.see(Outcome{Client: client, Domain: "a.test", Reply: spammy, Allowed: true})
	w.KnowGood(t.Context(), client, "", time.Hour)
	w.see(Outcome{Client: client, Domain: "a.test", Reply: spammy})
	w.see(Outcome{Client: client, Domain: "a.test", Reply: taken, Answer: MessageTaken})
	w.want("")
	if s := w.Stats(); s.Exempted != 3 {
		t.Errorf("got %+v", s)
	}
}

// TestRecorder_Tolerated: a few refusals of a large sender are tolerated.
func TestRecorder_Tolerated(t *testing.T) {
	w := newWorld(t, nil)
	w.believe("a.test")
	for i := range 100 {
		w.see(Outcome{Client: client, Domain: "a.test", Reply: taken, Answer: MessageTaken})
		if i%20 == 19 {
			w.see(Outcome{Client: client, Domain: "a.test", Reply: spammy})
			w.see(Outcome{Client: client, Domain: "a.test", Reply: noUser, Answer: RcptRefused})
		}
	}
	w.want("203.0.113.9 a.test 1\n")
	if s := w.Stats(); s.Tolerated != 10 {
		t.Errorf("got %+v", s)
	}
}

// TestRecorder_Unknown: unknown recipients are a vote if most recipients are unknown.
func TestRecorder_Unknown(t *testing.T) {
	w := newWorld(t, nil)
	w.believe("a.test")
	for range 2 {
		w.see(Outcome{Client: client, Domain: "a.test", Reply: noUser, Answer: RcptRefused})
	}
	w.want("")
	w.pass(time.Minute)
	w.see(Outcome{Client: client, Domain: "a.test", Reply: noUser, Answer: RcptRefused})
	w.want("203.0.113.9 a.test -0.5\n")
}

// earn sends mail of a network to three domains until it is known good, and returns the hours that it took.
func (w *fixture) earn() int {
	w.Helper()
	for hour := range 200 {
		for _, d := range []string{"a.test", "b.test", "c.test"} {
			o := Outcome{Client: client, Domain: d, Reply: taken, Answer: MessageTaken}
			w.facts(&o)
			if o.KnownGood {
				return hour
			}
			w.learn(context.Background(), &o)
		}
		w.pass(time.Hour)
	}
	w.Fatal("it is never known good")
	return 0
}

// TestRecorder_KnownGood: a network earns to be known good, and has to earn it again.
func TestRecorder_KnownGood(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.tune.window = 365 * 24 * time.Hour })
	w.believe("a.test", "b.test", "c.test")
	if got := w.earn(); got < 8 || got > 12 {
		t.Errorf("known good after %d hours of 3 votes each", got)
	}
	w.pass(8 * 24 * time.Hour)
	if got := w.earn(); got < 1 || got > 30 {
		t.Errorf("known good again after %d hours", got)
	}
	if s := w.Stats(); s.Good != 2 || s.EndedEarly != 0 {
		t.Errorf("got %+v", s)
	}
}

// TestRecorder_Neighbour: what a domain earns in a network is not its neighbour's, and what the neighbour loses is not
// its own.
func TestRecorder_Neighbour(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.tune.window = 365 * 24 * time.Hour })
	w.believe("a.test", "b.test", "c.test")
	neighbour := netip.MustParseAddr("203.0.113.200")
	earned := func(addr netip.Addr, sender string) bool {
		o := Outcome{Client: addr, Sender: sender, Domain: "a.test"}
		w.facts(&o)
		return o.KnownGood
	}
	take := func(addr netip.Addr, sender string) {
		for _, d := range []string{"a.test", "b.test", "c.test"} {
			o := Outcome{Client: addr, Sender: sender, Domain: d, Reply: taken, Answer: MessageTaken}
			w.facts(&o)
			w.learn(context.Background(), &o)
		}
	}
	for hour := 0; !earned(client, "good.example"); hour++ {
		if hour > 200 {
			t.Fatal("it is never known good")
		}
		take(client, "good.example")
		w.pass(time.Hour)
	}
	if earned(neighbour, "bad.example") || earned(neighbour, "") || earned(client, "") {
		t.Error("another sender of the network is known good for it")
	}
	known := func(addr netip.Addr, sender string) mail.Karma {
		o := Outcome{Client: addr, Sender: sender}
		w.facts(&o)
		return o.Network
	}
	if k := known(neighbour, "bad.example"); k != (mail.Karma{}) {
		t.Errorf("the neighbour inherits %+v", k)
	}
	before := known(client, "good.example")
	for range 20 { // the neighbour turns bad, as far as a standing can end early
		for _, d := range []string{"a.test", "b.test"} {
			o := Outcome{Client: neighbour, Sender: "bad.example", Domain: d, Reply: spammy}
			w.facts(&o)
			w.learn(context.Background(), &o)
		}
		w.pass(time.Second)
	}
	if k := known(client, "good.example"); k != before {
		t.Errorf("the neighbour's votes changed %+v to %+v", before, k)
	}
	if k := known(neighbour, "bad.example"); k.Score != -6 || k.Votes != 2 {
		t.Errorf("the neighbour has %+v", k)
	}
	for _, d := range []string{"a.test", "b.test"} { // too little to end a standing, but with the neighbour's refusals
		o := Outcome{Client: client, Sender: "good.example", Domain: d, Reply: spammy}
		w.facts(&o)
		w.learn(context.Background(), &o)
	}
	if !earned(client, "good.example") {
		t.Error("the neighbour ended it")
	}
	if s := w.Stats(); s.Good != 1 || s.EndedEarly != 0 {
		t.Errorf("got %+v", s)
	}
}

// TestRecorder_OtherName: what is refused counts against the address under each name, and the hour's vote under one
// name does not stand for another.
func TestRecorder_OtherName(t *testing.T) {
	w := newWorld(t, nil)
	w.believe("a.test")
	karma := func(sender string) (address, network mail.Karma) {
		o := Outcome{Client: client, Sender: sender}
		w.facts(&o)
		return o.Address, o.Network
	}
	for _, sender := range []string{"one.example", "two.example", "", "one.example"} {
		w.see(Outcome{Client: client, Sender: sender, Domain: "a.test", Reply: spammy})
	}
	for _, sender := range []string{"one.example", "two.example", ""} {
		if _, k := karma(sender); k != (mail.Karma{Score: -3, Votes: 1}) {
			t.Errorf("%q: %+v", sender, k)
		}
	}
	address, network := karma("three.example")
	if address != (mail.Karma{Score: -3, Votes: 1}) || network != (mail.Karma{}) {
		t.Errorf("under a new name: %+v, %+v", address, network)
	}
	if s := w.Stats(); s.Votes != 3 {
		t.Errorf("got %+v", s)
	}
}

// TestRecorder_TwoDomains: two domains are too few to make a network known good.
func TestRecorder_TwoDomains(t *testing.T) {
	w := newWorld(t, nil)
	w.believe("a.test", "b.test")
	for range 100 {
		for _, d := range []string{"a.test", "b.test"} {
			w.believe(d)
			w.see(Outcome{Client: client, Domain: d, Reply: taken, Answer: MessageTaken})
		}
		w.pass(time.Hour)
	}
	if s := w.Stats(); s.Good != 0 {
		t.Errorf("got %+v", s)
	}
}

// TestRecorder_EndedEarly: a known good network that turns bad ceases to be known good.
func TestRecorder_EndedEarly(t *testing.T) {
	for _, c := range []struct {
		name    string
		domains []string
		between int // messages that are taken for each that is refused
		want    uint64
	}{
		{"refused by two domains", []string{"a.test", "b.test"}, 0, 1},
		{"refused by one domain", []string{"a.test"}, 0, 0},
		{"refused now and then", []string{"a.test", "b.test"}, 20, 0},
		{"refused by a domain that is not believed", []string{"a.test", "x.test"}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.tune.window = 365 * 24 * time.Hour })
			w.believe("a.test", "b.test", "c.test")
			w.earn()
			w.pass(3 * 24 * time.Hour)
			before := w.weights()
			for i := range 12 {
				for range c.between {
					w.see(Outcome{Client: client, Domain: "c.test", Reply: taken, Answer: MessageTaken})
				}
				w.see(Outcome{Client: client, Domain: c.domains[i%len(c.domains)], Reply: spammy})
				w.pass(time.Second)
			}
			if s := w.Stats(); s.EndedEarly != c.want {
				t.Fatalf("got %+v", s)
			}
			if c.want == 0 {
				if w.weights() != before {
					t.Error("it was voted on")
				}
				return
			}
			if w.weights() == before {
				t.Error("it fell and is not voted on")
			}
			for range 24 {
				for _, d := range []string{"a.test", "b.test", "c.test"} {
					w.see(Outcome{Client: client, Domain: d, Reply: taken, Answer: MessageTaken})
				}
				w.pass(time.Hour)
			}
			if s := w.Stats(); s.Good != 1 {
				t.Errorf("it is known good again a day later: %+v", s)
			}
		})
	}
}

// TestRecorder_Full: Record never waits, and drops the oldest Outcome.
func TestRecorder_Full(t *testing.T) {
	hold := make(chan struct{})
	w := newWorld(t, func(c *Config) { c.tune.waiting, c.tune.timeout = 4, time.Minute })
	w.ledger.hold = hold
	w.believe("a.test")
	for i := range 100 {
		w.Record(Outcome{Client: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Domain: "a.test", Reply: spammy})
	}
	close(hold)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := w.Stats()
	if s.Seen != 100 || s.Dropped < 90 || s.Votes+s.Dropped != 100 {
		t.Errorf("got %+v", s)
	}
	if !strings.HasSuffix(w.weights(),
		"10.0.0.96 a.test -3\n10.0.0.97 a.test -3\n10.0.0.98 a.test -3\n10.0.0.99 a.test -3\n") {
		t.Errorf("the last ones were forgotten: %s", w.weights())
	}
	w.Record(Outcome{Client: client, Domain: "a.test", Reply: spammy})
	if got := w.Stats().Dropped; got != s.Dropped+1 {
		t.Errorf("taken after Close")
	}
}

// TestRecorder_Close: what is not learnt when its time is over is dropped.
func TestRecorder_Close(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.tune.timeout = time.Hour })
	w.ledger.hold = make(chan struct{})
	w.believe("a.test")
	for range 3 {
		w.Record(Outcome{Client: client, Domain: "a.test", Reply: spammy})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ctx); err == nil {
		t.Error("no error")
	}
	if s := w.Stats(); s.Votes != 0 || s.Dropped < 2 {
		t.Errorf("got %+v", s)
	}
}

// TestTable: a table is bounded, and keeps what is in use.
func TestTable(t *testing.T) {
	table := newTable[int, int](10)
	for i := range 1000 {
		table.put(i, i)
		table.put(-1, table.get(-1)+1)
	}
	if table.size() > 20 || table.get(-1) != 1000 || table.get(999) != 999 || table.get(1) != 0 {
		t.Errorf("size %d, in use %d, newest %d", table.size(), table.get(-1), table.get(999))
	}
}

// TestWeight: what a karma weighs, and whether it is good enough to be known good.
func TestWeight(t *testing.T) {
	k := func(score, votes float64) mail.Karma { return mail.Karma{Score: score, Votes: votes} }
	for _, c := range []struct {
		name             string
		address, network mail.Karma
		low, high        float64
		good             bool
	}{
		{"nothing is known", k(0, 0), k(0, 0), 0, 0, false},
		{"one refusal as spam", k(-3, 1), k(-3, 1), 1, 2, false},
		{"ten refusals as spam", k(-30, 10), k(-30, 10), 4, 5, false},
		{"nothing but spam", k(-100, 400), k(-100, 5000), 3, 6, false},
		{"a neighbour's spam", k(0, 0), k(-30, 10), 2, 3.5, false},
		{"a few messages taken", k(3, 3), k(3, 3), -1.5, -0.5, false},
		{"much taken", k(60, 60), k(100, 3000), -3, -1.5, true},
		{"much taken, by a bad neighbour of the good", k(-1, 5), k(100, 3000), -3, 0, false},
		{"as much spam as not", k(-20, 40), k(-20, 40), 0.5, 2, false},
		{"no numbers", k(math.NaN(), 1), k(math.Inf(1), math.NaN()), 0, 0, false},
		{"votes without end", k(1, math.Inf(1)), k(1, 1), -1, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why := Weight(c.address, c.network)
			if !(got >= c.low && got <= c.high) || (why == "") != (got == 0) {
				t.Errorf("got %v %q, want %v to %v", got, why, c.low, c.high)
			}
			if got := Good(c.address, c.network); got != c.good {
				t.Errorf("good: %v", got)
			}
		})
	}
}

// TestConfig_Validate: the error names the field that is wrong.
func TestConfig_Validate(t *testing.T) {
	store := newLedger(time.Now)
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Store: store}, ""},
		{Config{}, "store"},
		{Config{Store: store, Volume: -1}, "volume"},
		{Config{Store: store, Networks: 33}, "networks"},
	} {
		got := ""
		if err := c.config.Validate(); err != nil {
			got, _, _ = strings.Cut(err.Error(), ":")
		}
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New took it")
	}
}

// TestRecorder_Allocations: Record allocates nothing.
func TestRecorder_Allocations(t *testing.T) {
	w := newWorld(t, nil)
	o := Outcome{Client: client, Domain: "a.test", Reply: mail.NewReply(451, 0, 0, "later")}
	if got := testing.AllocsPerRun(1000, func() { w.Record(o) }); got >= 1 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkRecorder(b *testing.B) {
	k, err := New(Config{Store: newLedger(time.Now)})
	if err != nil {
		b.Fatal(err)
	}
	o := Outcome{Client: client, Domain: "a.test", Reply: taken, Answer: MessageTaken}
	b.ReportAllocs()
	for b.Loop() {
		k.Record(o)
	}
	if err := k.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// TestRecorder_Crowd: a stranger with a sender of its own for each message does not push out what others are earning.
func TestRecorder_Crowd(t *testing.T) {
	w := newWorld(t, nil)
	domains := []string{"a.test", "b.test", "c.test"}
	w.believe(domains...)
	learn := func(addr netip.Addr, sender, domain string) {
		well := mail.Karma{Score: 100, Votes: 100}
		w.learn(context.Background(), &Outcome{
			Client: addr, Sender: sender, Domain: domain, Reply: taken, Answer: MessageTaken,
			Address: well, Network: well,
		})
	}
	stranger := netip.MustParseAddr("198.51.100.200")
	for i, d := range domains {
		learn(client, "good.example", d)
		for j := range 2 * maxEntries {
			learn(stranger, fmt.Sprintf("%d-%d.stranger.example", i, j), "a.test")
		}
	}
	if got := w.Stats().Good; got != 1 {
		t.Errorf("%d are known good", got)
	}
	if n := len(w.senders); n > maxEntries {
		t.Errorf("%d networks are counted", n)
	}
}
