package egress

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestTransaction_Storm has many clients of several networks walk through transactions in every way, at a destination
// that refuses, closes and resets at random before the end of data.
func TestTransaction_Storm(t *testing.T) {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	trouble := []smtptest.Answer{
		{Reset: true}, {Close: true}, {Reply: "421 4.3.2 Closing", Close: true}, {Reply: "450 4.2.0 Later"},
		{Reply: "550 5.2.0 No"},
	}
	w, s := one(t, smtptest.Behaviour{On: func(s smtptest.Step) (smtptest.Answer, bool) {
		switch s.Verb {
		case "MAIL", "RCPT", "DATA", "RSET":
			return trouble[draw(len(trouble))], draw(20) == 0
		case smtptest.Dot:
			return trouble[3+draw(2)], draw(20) == 0
		}
		return smtptest.Answer{}, false
	}}, limits(t, "connections=6 messages=20 idle=1m age=1h"))
	networks := []netip.Prefix{subnet, subnet, subnet, other, netip.MustParsePrefix("2001:db8::/64")}
	acknowledged := make(map[string]int)
	var clients sync.WaitGroup
	for n := range 40 {
		clients.Go(func() { // ends after its messages
			for m := range 15 {
				d := to("one.test")
				d.Reverse.Local = fmt.Sprintf("n%d.%d", n, m)
				d.Client = networks[n%len(networks)]
				d.Favoured = n%13 == 12
				if count := stormWalk(t, w, d, draw); count > 0 {
					mu.Lock()
					acknowledged[d.Reverse.String()] = count
					mu.Unlock()
				}
			}
		})
	}
	clients.Wait()
	arrived := make(map[string]int)
	for _, m := range s.Messages() {
		if arrived[m.Reverse] != 0 {
			t.Errorf("%s arrived twice", m.Reverse)
		}
		arrived[m.Reverse] = len(m.Forwards)
		if string(m.Octets) != message+message {
			t.Fatalf("%s is not whole: %q", m.Reverse, m.Octets)
		}
	}
	for reverse, n := range acknowledged {
		if arrived[reverse] != n {
			t.Errorf("%s was acknowledged for %d recipients and arrived for %d", reverse, n, arrived[reverse])
		}
	}
	if len(arrived) != len(acknowledged) || len(arrived) < 20 { // how many depends on how often the Site is cooled
		t.Errorf("%d arrived, %d were acknowledged", len(arrived), len(acknowledged))
	}
	if c := w.relay.local.pool.Count(); c.Lent != 0 || c.Waiting != 0 || c.Idle > 6 {
		t.Errorf("%+v", c)
	}
	if v := s.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

// stormWalk tries to send one message and returns the number of recipients that were acknowledged.
func stormWalk(t *testing.T, w *world, d mail.Delivery, draw func(int) int) int {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tx, err := w.relay.Begin(ctx, d)
	if err != nil {
		return 0
	}
	accepted := 0
	for i := range 1 + draw(3) {
		if tx.Rcpt(ctx, path(fmt.Sprintf("r%d@one.test", i))) == nil {
			accepted++
		}
		if draw(4) == 0 {
			tx.Lend()
		}
		if draw(8) == 0 {
			tx.Renew(ctx)
		}
	}
	if accepted == 0 || draw(8) == 0 {
		tx.Abort()
		return 0
	}
	if tx.Data(ctx, mail.Form(draw(2))) != nil || tx.Write(octets(message)) != nil || draw(10) == 0 {
		tx.Abort()
		return 0
	}
	out := tx.Commit(ctx, octets(message))
	if len(out) != accepted {
		t.Errorf("%d outcomes for %d recipients", len(out), accepted)
		return 0
	}
	if out[0].Reply.Class() != 2 {
		return 0
	}
	return accepted
}
