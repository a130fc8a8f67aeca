package egress

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestRelay_MostAddrs: a recipient is worth eight connections, however many addresses its destination has, and the next
// attempt begins with those that were not tried.
func TestRelay_MostAddrs(t *testing.T) {
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	met := map[string]int{}
	var served sync.WaitGroup
	served.Go(func() { // ends when the listener is closed
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.LocalAddr().String())
			mu.Lock()
			met[host]++
			mu.Unlock()
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = listener.Close(); served.Wait() })
	var zone strings.Builder
	for host := range 4 {
		fmt.Fprintf(&zone, "many.test. 60 IN MX %d mx%d.many.test.\n", host, host)
		for i := range 4 {
			fmt.Fprintf(&zone, "mx%d.many.test. 60 IN A 127.0.1.%d\n", host, 1+4*host+i)
		}
	}
	w := newWorldOf(t, zone.String(), listener.Addr().(*net.TCPAddr).Port, nil)
	attempt := func() (connects int) {
		tx, err := w.relay.Begin(t.Context(), to("many.test"))
		if err == nil {
			err = tx.Rcpt(t.Context(), path("b@many.test"))
			tx.Abort()
		}
		if err == nil || mail.ReplyFor(err).Class() != 4 {
			t.Fatalf("got %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, n := range met {
			connects += n
		}
		return connects
	}
	first := attempt()
	if first != 8 {
		t.Errorf("%d connections for a recipient", first)
	}
	if second := attempt() - first; second != 8 {
		t.Errorf("%d connections for the second attempt", second)
	}
	if len(met) != 16 {
		t.Errorf("two attempts met %d addresses", len(met))
	}
}

// TestConnects: connections that failed to destinations which the strangers of a network chose are counted, and no
// others.
func TestConnects(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := newConnects(func() time.Time { return now })
	stranger := from(1, "one.test")
	byRule := stranger
	stranger.Chosen = true
	neighbour := stranger
	neighbour.Client = netip.MustParsePrefix("10.1.1.200/32")
	neighbourByRule := neighbour
	neighbourByRule.Chosen = false
	other, unknown := from(2, "one.test"), to("one.test")
	other.Chosen, unknown.Chosen = true, true
	unknown.Client = netip.Prefix{}
	for range mostFailed.Burst / 8 {
		c.draw(&stranger, 8)
		c.draw(&byRule, 8)
		c.draw(&unknown, 8)
	}
	if r := c.spent(&stranger); r != nil {
		t.Errorf("%d failures are too many: %v", mostFailed.Burst/8*8, r)
	}
	c.draw(&neighbour, 8)
	for name, tt := range map[string]struct {
		d    *mail.Delivery
		want bool
	}{
		"the stranger": {&stranger, true}, "its neighbour": {&neighbour, true}, "another network": {&other, false},
		"to a destination of our rules": {&byRule, false}, "an unknown client": {&unknown, false},
		"its neighbour to a destination of our rules": {&neighbourByRule, false},
	} {
		r := c.spent(tt.d)
		if (r != nil) != tt.want || r != nil && r.Reply.Code != 451 {
			t.Errorf("%s: %v", name, r)
		}
	}
	now = now.Add(time.Minute)
	if r := c.spent(&stranger); r != nil {
		t.Errorf("a minute later: %v", r)
	}
}

// TestRelay_FailedConnects: when a network's failed connections are used up, no connection is opened to a destination
// that one of its strangers chose. To those of our rules there is, whatever failed before.
func TestRelay_FailedConnects(t *testing.T) {
	w := newWorld(t, 1, nil) // a port without a listener
	d := to("one.test")
	for range mostFailed.Burst { // of a neighbour, to a destination of our rules that is down
		w.relay.local.connects.draw(&d, 8)
	}
	if r, ok := second(w.relay.Begin(t.Context(), d)).(*mail.Refusal); !ok || r.Reason != "unreachable" {
		t.Errorf("a destination of our rules: %v", r)
	}
	d = to("two.test")
	d.Chosen = true
	for range mostFailed.Burst {
		w.relay.local.connects.draw(&d, 8)
	}
	if r, ok := second(w.relay.Begin(t.Context(), d)).(*mail.Refusal); !ok || r.Reason != "failed connects" {
		t.Errorf("a destination that the client chose: %v", r)
	}
	other := from(1, "two.test")
	other.Chosen = true
	if r, ok := second(w.relay.Begin(t.Context(), other)).(*mail.Refusal); !ok || r.Reason != "unreachable" {
		t.Errorf("another network got %v", r)
	}
}

func second(_ mail.Transaction, err error) error { return err }

// TestRelay_ChosenNames: the names of a destination that a stranger chose are looked up in the share of its network,
// and those of our rules are not.
func TestRelay_ChosenNames(t *testing.T) {
	var resolver *dns.Resolver
	w, _ := one(t, smtptest.Behaviour{}, func(c *Config) { resolver = c.Resolver })
	for _, chosen := range []bool{true, false} {
		d := to("one.test")
		if !chosen {
			d = to("eins.test")
		}
		d.Chosen = chosen
		ours, theirs := resolver.Lanes()
		tx, err := w.relay.Begin(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		tx.Abort()
		oursNow, theirsNow := resolver.Lanes()
		if got := theirsNow.Asked > theirs.Asked; got != chosen || oursNow.Asked > ours.Asked == chosen {
			t.Errorf("chosen %v: %+v and %+v, before %+v and %+v", chosen, oursNow, theirsNow, ours, theirs)
		}
	}
}
