package store

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// conformance is how a store has to behave with and without Redis. Each row has a store of its own and uses clients of
// 192.0.2.0/24 unless it says otherwise.
var conformance = []struct {
	name string
	test func(*testing.T, *Store)
}{
	{"a burst passes and the next one is told when to come back", func(t *testing.T, s *Store) {
		rate := mail.Rate{Group: "a.example", Name: "n", Count: 3, Per: time.Hour}
		for i := range 3 {
			if got := draw(t, s, rate); !got[0].Allowed || got[0].RetryAfter != 0 {
				t.Errorf("%d: %+v", i, got)
			}
		}
		got := draw(t, s, rate)[0]
		if got.Allowed || got.RetryAfter > 20*time.Minute || got.RetryAfter < 19*time.Minute {
			t.Errorf("over the limit: %+v", got)
		}
	}},
	{"what is used up comes back with time", func(t *testing.T, s *Store) {
		rate := mail.Rate{Group: "a.example", Name: "n", Count: 20, Per: time.Second, Burst: 1}
		draw(t, s, rate)
		if got := draw(t, s, rate)[0]; got.Allowed && s.Stats().Trips == 0 {
			t.Error("nothing was used up")
		}
		until(t, func() bool { return draw(t, s, rate)[0].Allowed })
	}},
	{"a refused rate does not consume the others of its unit", func(t *testing.T, s *Store) {
		small := mail.Rate{Group: "a.example", Name: "small", Count: 1, Per: time.Hour}
		big := mail.Rate{Group: "b.example", Name: "big", Count: 2, Per: time.Hour}
		last := mail.Rate{Group: "c.example", Name: "last", Count: 2, Per: time.Hour}
		draw(t, s, small, big, last)
		for range 3 {
			got := draw(t, s, big, small, last)
			if !got[0].Allowed || got[1].Allowed || !got[2].Allowed {
				t.Errorf("got %+v", got)
			}
		}
		if got := draw(t, s, big, last); !allAllowed(got) {
			t.Errorf("the others were consumed: %+v", got)
		}
		if got := draw(t, s, big); got[0].Allowed {
			t.Error("the others were given back more than they drew")
		}
	}},
	{"units do not touch each other", func(t *testing.T, s *Store) {
		shared := mail.Rate{Group: "a.example", Name: "domain", Count: 2, Per: time.Hour}
		rates := []mail.Rate{shared, {Group: "x.example", Name: "one", Count: 1, Per: time.Hour}, shared,
			{Group: "x.example", Name: "one", Count: 1, Per: time.Hour},
			shared, {Group: "x.example", Name: "two", Count: 1, Per: time.Hour}, shared}
		for i := range rates {
			rates[i].Unit = i / 2
		}
		want := []bool{true, true, true, false, true, true, false}
		for i, got := range draw(t, s, rates...) {
			if s.redis != nil && s.redis.clustered && i >= 4 {
				continue // the second unit's draw on the one slot is given back only afterwards
			}
			if got.Allowed != want[i] {
				t.Errorf("rate %d: %+v", i, got)
			}
		}
	}},
	{"a peek draws nothing", func(t *testing.T, s *Store) {
		rate := mail.Rate{Group: "a.example", Name: "n", Count: 1, Per: time.Hour}
		peek := rate
		peek.Peek = true
		for range 3 {
			if !draw(t, s, peek)[0].Allowed {
				t.Error("used up by looking")
			}
		}
		draw(t, s, rate)
		if got := draw(t, s, peek)[0]; got.Allowed || got.RetryAfter == 0 {
			t.Errorf("used up, and seen as %+v", got)
		}
	}},
	{"a cost counts as often, and one above the burst never passes", func(t *testing.T, s *Store) {
		rate := mail.Rate{Group: "a.example", Name: "n", Count: 100, Per: time.Hour, Burst: 10, Cost: 6}
		if !draw(t, s, rate)[0].Allowed || draw(t, s, rate)[0].Allowed {
			t.Error("want the first of two")
		}
		rate.Cost = 4
		if !draw(t, s, rate)[0].Allowed {
			t.Error("the rest was not left")
		}
		rate.Name, rate.Cost = "other", 11
		if draw(t, s, rate)[0].Allowed {
			t.Error("more than the burst")
		}
	}},
	{"what has happened is drawn though it is used up, and is owed", func(t *testing.T, s *Store) {
		rate := mail.Rate{Group: "a.example", Name: "n", Count: 2, Per: 2 * time.Hour, Happened: true}
		other := mail.Rate{Group: "a.example", Name: "other", Count: 2, Per: 2 * time.Hour}
		for range 5 {
			if !draw(t, s, rate)[0].Allowed {
				t.Error("what has happened is refused")
			}
		}
		rate.Peek = true
		got := draw(t, s, rate, other)
		if w := got[0].RetryAfter; got[0].Allowed || w < 3*time.Hour || w > 4*time.Hour {
			t.Errorf("five of two an hour are drawn, and the next is told %v", w)
		}
		if got := draw(t, s, other)[0]; !got.Allowed {
			t.Error("a rate of the unit was drawn though another one is used up")
		}
		rate.Peek = false
		for range 200 {
			draw(t, s, rate)
		}
		rate.Peek = true
		if w := draw(t, s, rate)[0].RetryAfter; w < 64*time.Hour || w > 66*time.Hour {
			t.Errorf("what is owed is bounded, and 205 are told %v", w)
		}
	}},
	{"a group may have any name", func(t *testing.T, s *Store) {
		for _, group := range []string{"", "}", "{", "a{b}c", "ü.example", string(make([]byte, 600))} {
			rates := []mail.Rate{
				{Group: group, Name: "a}b{", Count: 1, Per: time.Hour},
				{Group: group, Name: "", Count: 1, Per: time.Hour},
			}
			if got := draw(t, s, rates...); !allAllowed(got) {
				t.Errorf("%q: %+v", group, got)
			}
			if got := draw(t, s, rates[1])[0]; got.Allowed {
				t.Errorf("%q: was not counted", group)
			}
		}
	}},
	{"a client's counter is one at each stage", func(t *testing.T, s *Store) {
		rate := mail.Rate{Client: network.Host(clientA), Name: "refused", Count: 1, Per: time.Hour}
		draw(t, s, rate)
		facts := ask(t, s, mail.ClientQuery{Addr: clientA, Rates: []mail.Rate{rate}})
		if facts.Rates[0].Allowed {
			t.Error("counted apart")
		}
		rate.Client = network.Of(clientA)
		if facts := ask(t, s, mail.ClientQuery{Addr: clientA, Rates: []mail.Rate{rate}}); !facts.Rates[0].Allowed {
			t.Error("the network's counter is the address's")
		}
	}},
	{"nothing is known of a stranger", func(t *testing.T, s *Store) {
		facts := ask(t, s, mail.ClientQuery{Addr: clientA, Lists: []string{"bl.example"}})
		if facts.Address != (mail.Karma{}) || facts.Network != nil || facts.KnownGood != nil ||
			facts.Degraded ||
			facts.Lists[0].State != mail.ListUnknown {
			t.Errorf("got %+v", facts)
		}
	}},
	{"the first caller looks a list up, the others wait", func(t *testing.T, s *Store) {
		q := mail.ClientQuery{Addr: clientA, Lists: []string{"bl.example", "wl.example"}, Lock: time.Minute}
		for i, want := range []mail.ListState{mail.ListAskedOfYou, mail.ListPending, mail.ListPending} {
			if got := ask(t, s, q).Lists; got[0].State != want || got[1].State != want {
				t.Errorf("%d: %+v", i, got)
			}
		}
		s.PutDNSBL(t.Context(), clientA, "bl.example", codes("127.0.0.2", "127.0.0.4"), time.Minute)
		s.PutDNSBL(t.Context(), clientA, "wl.example", nil, time.Minute)
		got := ask(t, s, q).Lists
		if got[0].State != mail.ListKnown || !slices.Equal(got[0].Codes, codes("127.0.0.2", "127.0.0.4")) ||
			got[0].TTL <= 50*time.Second || got[0].TTL > time.Minute {
			t.Errorf("listed: %+v", got[0])
		}
		if got[1].State != mail.ListKnown || len(got[1].Codes) != 0 {
			t.Errorf("not listed: %+v", got[1])
		}
		q.Addr = clientB
		if got := ask(t, s, q).Lists; got[0].State != mail.ListAskedOfYou {
			t.Errorf("the neighbour: %+v", got)
		}
	}},
	{"a lock that brought nothing passes on", func(t *testing.T, s *Store) {
		q := mail.ClientQuery{Addr: clientA, Lists: []string{"bl.example"}, Lock: 30 * time.Millisecond}
		ask(t, s, q)
		until(t, func() bool { return ask(t, s, q).Lists[0].State == mail.ListAskedOfYou })
	}},
	{"an answer ends with its time", func(t *testing.T, s *Store) {
		s.PutDNSBL(t.Context(), clientA, "bl.example", codes("127.0.0.2"), 30*time.Millisecond)
		s.PutDNSBL(t.Context(), clientA, "long.example", codes("127.0.0.2"), time.Minute)
		until(t, func() bool {
			got := ask(t, s, mail.ClientQuery{Addr: clientA, Lists: []string{"bl.example", "long.example"}}).Lists
			if got[1].State != mail.ListKnown {
				t.Fatalf("ended with another: %+v", got)
			}
			return got[0].State == mail.ListUnknown
		})
	}},
	{"a caller that waits for a list gets the answer", func(t *testing.T, s *Store) {
		lists := []string{"bl.example"}
		ask(t, s, mail.ClientQuery{Addr: clientA, Lists: lists, Lock: time.Minute})
		done := make(chan []mail.ListAnswer)
		go func() { // ends with the answer
			got, _ := s.AwaitLists(context.Background(), clientA, lists, time.Minute) // its state is judged
			done <- got
		}()
		s.PutDNSBL(t.Context(), clientA, "bl.example", nil, time.Minute)
		if got := <-done; got[0].State != mail.ListKnown {
			t.Errorf("got %+v", got)
		}
		gone, cancel := context.WithCancel(t.Context())
		ask(t, s, mail.ClientQuery{Addr: clientB, Lists: lists, Lock: time.Minute})
		cancel()
		if got, err := s.AwaitLists(gone, clientB, lists, time.Minute); err != nil || got[0].State == mail.ListKnown {
			t.Errorf("after the end: %+v, %v", got, err)
		}
	}},
	{"a destination has one vote an hour", func(t *testing.T, s *Store) {
		vote := mail.Vote{Client: clientA, Domain: "a.example", Weight: 1}
		if !s.Vote(t.Context(), vote) || s.Vote(t.Context(), vote) {
			t.Error("want the first of two to count")
		}
		vote.Domain = "b.example"
		s.Vote(t.Context(), vote)
		vote.Client = clientB
		s.Vote(t.Context(), vote)
		facts := ask(t, s, mail.ClientQuery{Addr: clientA})
		near(t, "address", facts.Address, mail.Karma{Score: 2, Votes: 2})
		near(t, "network", facts.Network.Of(""), mail.Karma{Score: 3, Votes: 3})
	}},
	{"a vote in the same hour can only become worse", func(t *testing.T, s *Store) {
		for i, c := range []struct {
			weight  float64
			counted bool
		}{{1, true}, {-2, true}, {5, false}, {-2, false}} {
			if got := s.Vote(t.Context(),
				mail.Vote{Client: clientA, Domain: "a.example", Weight: c.weight}); got != c.counted {
				t.Errorf("vote %d: counted %v", i, got)
			}
		}
		near(t, "address", ask(t, s, mail.ClientQuery{Addr: clientA}).Address, mail.Karma{Score: -2, Votes: 1})
	}},
	{"votes on a network are a sender's, and those on an address are its own", func(t *testing.T, s *Store) {
		for sender, weight := range map[string]float64{"bad.example": -3, "good.example": 1, "": -1} {
			for _, d := range []string{"a.example", "b.example"} {
				if !s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: d, Sender: sender, Weight: weight}) {
					t.Errorf("%q: the first vote of the hour did not count", sender)
				}
				if s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: d, Sender: sender, Weight: weight}) {
					t.Errorf("%q: the second vote of the hour counted", sender)
				}
			}
		}
		neighbour := ask(t, s, mail.ClientQuery{Addr: clientB})
		near(t, "the neighbour's address", neighbour.Address, mail.Karma{})
		near(t, "the neighbour's own sender", neighbour.Network.Of("other.example"), mail.Karma{})
		near(t, "bad", neighbour.Network.Of("bad.example"), mail.Karma{Score: -6, Votes: 2})
		near(t, "good", neighbour.Network.Of("good.example"), mail.Karma{Score: 2, Votes: 2})
		near(t, "none", neighbour.Network.Of(""), mail.Karma{Score: -2, Votes: 2})
		near(t, "the address, of which the worst counts", ask(t, s, mail.ClientQuery{Addr: clientA}).Address,
			mail.Karma{Score: -6, Votes: 2})
	}},
	{"new senders push out none that was voted on for long, and wash off nothing", func(t *testing.T, s *Store) {
		vote := func(sender, domain string) {
			s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: domain, Sender: sender, Weight: -3})
		}
		for _, d := range []string{"a.example", "b.example", "c.example"} {
			vote("old.example", d)
		}
		for i := range 3 * maxSenders {
			vote(fmt.Sprintf("d%d.example", i), "d.example")
		}
		before := s.Stats()
		got := ask(t, s, mail.ClientQuery{Addr: clientA})
		if after := s.Stats(); s.redis != nil && after.Trips != before.Trips+1 {
			t.Errorf("%d round trips", after.Trips-before.Trips)
		}
		if len(got.Network) != maxSenders {
			t.Errorf("%d senders are kept", len(got.Network))
		}
		near(t, "old", got.Network.Of("old.example"), mail.Karma{Score: -9, Votes: 3})
		near(t, "new", got.Network.Of(fmt.Sprintf("d%d.example", 3*maxSenders-1)), mail.Karma{Score: -3, Votes: 1})
		near(t, "the address", got.Address, mail.Karma{Score: -12, Votes: 4})
	}},
	{"a score is bounded", func(t *testing.T, s *Store) {
		s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: "a.example", Weight: -1e6})
		if got := ask(t, s, mail.ClientQuery{Addr: clientA}).Address.Score; got < -100.001 {
			t.Errorf("score %v", got)
		}
	}},
	{"a network is known good for some domains", func(t *testing.T, s *Store) {
		s.KnowGood(t.Context(), clientA, "a.example", time.Minute)
		s.KnowGood(t.Context(), clientB, "", time.Minute)
		s.KnowGood(t.Context(), clientB, "gone.example", time.Millisecond)
		for slices.Contains(ask(t, s, mail.ClientQuery{Addr: clientA}).KnownGood, "gone.example") {
			continue // a millisecond
		}
		for addr, want := range map[netip.Addr][]string{
			clientA: {"", "a.example"}, clientB: {"", "a.example"}, stranger: nil,
		} {
			got := ask(t, s, mail.ClientQuery{Addr: addr}).KnownGood
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", addr, got, want)
			}
		}
		for i := range 3 * maxGoodDomains {
			s.KnowGood(t.Context(), clientA, fmt.Sprintf("d%d.example", i), time.Hour+time.Duration(i)*time.Minute)
		}
		got := ask(t, s, mail.ClientQuery{Addr: clientA}).KnownGood
		last := fmt.Sprintf("d%d.example", 3*maxGoodDomains-1)
		if len(got) != maxGoodDomains || !slices.Contains(got, last) {
			t.Errorf("after many more: %q", got)
		}
	}},
	{"a peek at a triplet is not remembered, and tells what an attempt would be told", func(t *testing.T, s *Store) {
		triplet := mail.Triplet{Client: clientA, Key: "k", Delay: time.Minute, Window: time.Hour, Keep: time.Hour}
		peeked := triplet
		peeked.Peek = true
		now := triplet // comes again at once, and passes then
		now.Delay = 0
		if got := greyed(t, s, peeked); got.Passed || got.Wait != time.Minute {
			t.Errorf("a peek at a triplet that never came: %+v", got)
		}
		if got := greyed(t, s, triplet); got.Passed || got.Wait != time.Minute {
			t.Errorf("the first attempt, behind a peek: %+v", got)
		}
		peeked.Delay = 0
		if got := greyed(t, s, peeked); !got.Passed {
			t.Errorf("a peek at a triplet whose delay is over: %+v", got)
		}
		if got := greyed(t, s, triplet); got.Passed {
			t.Error("a peek let a triplet pass")
		}
		if greyed(t, s, now); !greyed(t, s, triplet).Passed {
			t.Error("a triplet that has passed is deferred")
		}
	}},
	{"a triplet passes when it comes again after the delay", func(t *testing.T, s *Store) {
		triplet := mail.Triplet{
			Client: clientA, Key: "k", Delay: 50 * time.Millisecond, Window: time.Minute, Keep: time.Minute,
		}
		first := greyed(t, s, triplet)
		if first.Passed || first.Wait <= 0 || first.Wait > 50*time.Millisecond {
			t.Errorf("first: %+v", first)
		}
		triplet.Client = clientB // of the same network
		until(t, func() bool { return greyed(t, s, triplet).Passed })
		if !greyed(t, s, triplet).Passed {
			t.Error("forgotten at once")
		}
		triplet.Client = stranger
		if greyed(t, s, triplet).Passed {
			t.Error("another network passed")
		}
	}},
	{"a triplet of a proved domain passes from any network, and from no other domain", func(t *testing.T, s *Store) {
		triplet := mail.Triplet{
			Group: "g1", Key: "k", Delay: 30 * time.Millisecond, Window: time.Minute, Keep: time.Minute,
		}
		if first := greyed(t, s, triplet); first.Passed {
			t.Errorf("first: %+v", first)
		}
		until(t, func() bool { return greyed(t, s, triplet).Passed })
		other := triplet
		other.Group, other.Delay = "g2", time.Hour
		if greyed(t, s, other).Passed {
			t.Error("another domain passed")
		}
		other.Group, other.Client = "", clientA
		if greyed(t, s, other).Passed {
			t.Error("a network passed")
		}
	}},
	{"a triplet that does not come again in time begins anew", func(t *testing.T, s *Store) {
		triplet := mail.Triplet{
			Client: clientA, Key: "k", Delay: time.Minute, Window: 30 * time.Millisecond, Keep: time.Minute,
		}
		greyed(t, s, triplet)
		again := triplet
		again.Delay = 30 * time.Millisecond // it would pass by now, had the first attempt not been forgotten
		until(t, func() bool {
			return greyed(t, s,
				mail.Triplet{
					Client: clientA, Key: "k", Delay: time.Minute, Window: 30 * time.Millisecond, Keep: time.Minute,
				}).Wait > 59*time.Second
		})
		if got := greyed(t, s, again); got.Passed {
			t.Errorf("got %+v", got)
		}
	}},
	{"a mark stands for its time", func(t *testing.T, s *Store) {
		s.Mark(t.Context(), "a", time.Minute)
		s.Mark(t.Context(), "b", 30*time.Millisecond)
		s.Mark(t.Context(), "c", time.Minute)
		s.Unmark(t.Context(), "c")
		until(t, func() bool {
			marked, _ := s.Marked(t.Context(), "a", "b", "c", "d")
			return slices.Equal(marked, []bool{true, false, false, false})
		})
	}},
	{"a group of recipients is asked for at once", func(t *testing.T, s *Store) {
		s.Mark(t.Context(), "mark", time.Minute)
		before := s.Stats()
		facts, err := s.Rcpt(t.Context(), mail.RcptQuery{
			Rates: []mail.Rate{
				{Group: "from.example", Name: "reverse", Count: 10, Per: time.Minute},
				{Group: "to.example", Name: "recipient:u", Count: 10, Per: time.Minute},
				{Group: "to.example", Name: "route", Count: 10, Per: time.Minute},
			},
			Marks: []string{"mark", "none"},
			Triplets: []mail.Triplet{{
				Client: clientA, Key: "k", Delay: time.Minute, Window: time.Hour, Keep: time.Hour,
			}},
		})
		if err != nil || !allAllowed(facts.Rates) || !slices.Equal(facts.Marked, []bool{true, false}) ||
			facts.Grey[0].Passed || facts.Degraded {
			t.Errorf("got %+v, %v", facts, err)
		}
		if after := s.Stats(); s.redis != nil && after.Trips != before.Trips+1 {
			t.Errorf("%d round trips", after.Trips-before.Trips)
		}
	}},
	{"an address in another form is the same client", func(t *testing.T, s *Store) {
		s.KnowGood(t.Context(), netip.MustParseAddr("::ffff:192.0.2.1"), "a.example", time.Minute)
		if ask(t, s, mail.ClientQuery{Addr: clientA}).KnownGood == nil {
			t.Error("is not")
		}
		six := netip.MustParseAddr("2001:db8::1%eth0")
		s.Vote(t.Context(), mail.Vote{Client: six, Domain: "a.example", Weight: 1})
		facts := ask(t, s, mail.ClientQuery{Addr: netip.MustParseAddr("2001:db8::2")})
		near(t, "network", facts.Network.Of(""), mail.Karma{Score: 1, Votes: 1})
		near(t, "address, which is a /64", facts.Address, mail.Karma{Score: 1, Votes: 1})
	}},
	{"what cannot be answered is an error", func(t *testing.T, s *Store) {
		if _, err := s.Client(t.Context(), mail.ClientQuery{}); err == nil {
			t.Error("no address")
		}
		if _, err := s.Lists(t.Context(), netip.Addr{}, nil, 0); err == nil {
			t.Error("no address on lists")
		}
		for _, r := range []mail.Rate{
			{Count: 0, Per: time.Second}, {Count: 1}, {Count: -1, Per: time.Second}, {Count: 1, Per: maxPer + 1},
			{Count: 1, Per: time.Second, Burst: -1},
			{Count: 1, Per: time.Second, Cost: maxBurst + 1},
			{Count: 1, Per: time.Second, Name: string(make([]byte, maxName+1))},
		} {
			if _, err := s.Rates(t.Context(), []mail.Rate{r}); err == nil {
				t.Errorf("%+v", r)
			}
		}
		s.PutDNSBL(t.Context(), netip.Addr{}, "bl.example", nil, time.Minute)
		s.KnowGood(t.Context(), netip.Addr{}, "", time.Minute)
		if s.Vote(t.Context(), mail.Vote{Domain: "a.example", Weight: 1}) {
			t.Error("a vote without a client")
		}
	}},
}

var (
	clientA  = netip.MustParseAddr("192.0.2.1")
	clientB  = netip.MustParseAddr("192.0.2.2")
	stranger = netip.MustParseAddr("198.51.100.1")
)

// conform runs the table on stores with the configuration c.
func conform(t *testing.T, c Config) {
	for _, row := range conformance {
		t.Run(row.name, func(t *testing.T) {
			c.Prefix = t.Name()
			row.test(t, open(t, c))
		})
	}
}

// The local store conforms.
func TestStore_Local(t *testing.T) { conform(t, Config{}) }

// A store with Redis conforms.
func TestStore_Redis(t *testing.T) {
	addr := extern.StartRedis(t)
	conform(t, Config{URL: "redis://" + addr, Timeout: slow})
}

// slow is a deadline for tests that do not test it, on a busy machine.
const slow = 5 * time.Second

// Karma fades. The half-life is so short that a test can wait for it.
func TestStore_KarmaFades(t *testing.T) {
	addr := extern.StartRedis(t)
	for name, url := range map[string]string{"local": "", "redis": "redis://" + addr} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Config{URL: url, Timeout: slow, tune: tuning{halfLife: 50 * time.Millisecond}})
			s.Vote(t.Context(), mail.Vote{Client: clientA, Domain: "a.example", Weight: 10})
			until(t, func() bool {
				k := ask(t, s, mail.ClientQuery{Addr: clientA}).Address
				return k.Score < 1 && k.Votes < 0.1
			})
		})
	}
}

// Three nodes look an address up once: the lock holds in the whole cluster.
func TestStore_LookUpOnce(t *testing.T) {
	addr := extern.StartRedis(t)
	var nodes []*Store
	for range 3 {
		nodes = append(nodes, open(t, Config{URL: "redis://" + addr, Timeout: slow}))
	}
	lists := []string{"a.example", "b.example"}
	const clients = 20
	yours := make(chan int)
	for i := range clients * len(nodes) {
		go func() { // ends when it knows both answers
			s, addr := nodes[i%len(nodes)], netip.AddrFrom4([4]byte{192, 0, byte(i / len(nodes)), 1})
			n := 0
			for answers := ask(t, s, mail.ClientQuery{Addr: addr, Lists: lists, Lock: time.Minute}).Lists; ; {
				for j, a := range answers {
					if a.State == mail.ListAskedOfYou {
						n++
						s.PutDNSBL(t.Context(), addr, lists[j], codes("127.0.0.2"), time.Minute)
					}
				}
				if answers, _ = s.AwaitLists(t.Context(), addr, lists,
					time.Minute); answers[0].State == mail.ListKnown && answers[1].State == mail.ListKnown {
					break
				}
			}
			yours <- n
		}()
	}
	total := 0
	for range clients * len(nodes) {
		total += <-yours
	}
	if want := clients * len(lists); total != want {
		t.Errorf("%d look-ups, want %d", total, want)
	}
	for _, s := range nodes {
		trips := s.Stats().Trips
		got := ask(t, s, mail.ClientQuery{Addr: netip.MustParseAddr("192.0.0.1"), Lists: lists, Lock: time.Minute})
		if got.Lists[1].State != mail.ListKnown || s.Stats().Trips != trips+1 {
			t.Errorf("not in the first-level cache: %+v", got.Lists)
		}
	}
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ask(t testing.TB, s *Store, q mail.ClientQuery) mail.Facts {
	t.Helper()
	facts, err := s.Client(t.Context(), q)
	if err != nil {
		t.Error(err)
	}
	return facts
}

func draw(t testing.TB, s *Store, rates ...mail.Rate) []mail.RateResult {
	t.Helper()
	results, err := s.Rates(t.Context(), rates)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func greyed(t testing.TB, s *Store, triplet mail.Triplet) mail.GreylistAnswer {
	t.Helper()
	facts, err := s.Rcpt(t.Context(), mail.RcptQuery{Triplets: []mail.Triplet{triplet}})
	if err != nil {
		t.Fatal(err)
	}
	return facts.Grey[0]
}

func codes(addrs ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// near compares karma that has had a little time to fade.
func near(t *testing.T, what string, got, want mail.Karma) {
	t.Helper()
	if d := got.Score - want.Score; d > 0.01 || d < -0.01 {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
	if d := got.Votes - want.Votes; d > 0.01 || d < -0.01 {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

// until waits for a condition.
func until(t testing.TB, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatal("the condition was not met")
		case <-tick.C:
		}
	}
}
