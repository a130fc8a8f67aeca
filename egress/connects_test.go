package egress

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

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

// TestConnects: a network's failed connections are counted, and only strangers have a limit.
func TestConnects(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	c := newConnects(func() time.Time { return now })
	stranger := from(1, "one.test")
	neighbour := stranger
	neighbour.Client = netip.MustParsePrefix("10.1.1.200/32")
	favoured := stranger
	favoured.Favoured = true
	other, unknown := from(2, "one.test"), to("one.test")
	unknown.Client = netip.Prefix{}
	for range mostFailed / 8 {
		c.draw(&stranger, 8)
		c.draw(&favoured, 8)
		c.draw(&unknown, 8)
	}
	if r := c.spent(&stranger); r != nil {
		t.Errorf("%d failures are too many: %v", mostFailed/8*8, r)
	}
	c.draw(&neighbour, 8)
	for name, tt := range map[string]struct {
		d    *mail.Delivery
		want bool
	}{
		"the stranger": {&stranger, true}, "its neighbour": {&neighbour, true}, "another network": {&other, false},
		"a trusted client": {&favoured, false}, "an unknown client": {&unknown, false},
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

// TestRelay_FailedConnects: when a network's failed connections are used up, no connection is opened for it.
func TestRelay_FailedConnects(t *testing.T) {
	w := newWorld(t, 1, nil) // a port without a listener
	d := to("one.test")
	w.relay.local.connects.draw(&d, mostFailed+8)
	_, err := w.relay.Begin(t.Context(), d)
	if r, ok := err.(*mail.Refusal); !ok || r.Reason != "failed connects" {
		t.Errorf("got %v", err)
	}
	other := from(1, "one.test")
	if r, ok := second(w.relay.Begin(t.Context(), other)).(*mail.Refusal); !ok || r.Reason != "unreachable" {
		t.Errorf("another network got %v", r)
	}
}

func second(_ mail.Transaction, err error) error { return err }
