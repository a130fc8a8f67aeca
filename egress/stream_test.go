package egress

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// streaming begins a message that streams, and sends a piece of it.
func streaming(t *testing.T, w *world, client, rcpt string) *transaction {
	t.Helper()
	d := to("one.test")
	d.Addr = netip.MustParseAddr(client)
	d.Client = netip.PrefixFrom(d.Addr, 24).Masked()
	tx := begin(t, w, d)
	for _, step := range []func() error{
		func() error { return tx.Rcpt(t.Context(), path(rcpt)) },
		func() error { return tx.Stream(t.Context()) },
		func() error { return tx.Data(t.Context(), mail.Stuffed) },
		func() error { return tx.Write(octets("Subject: x\r\n\r\n" + strings.Repeat("x\r\n", 1000))) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return tx
}

// TestRelay_StreamGivesWay: four streams of one network hold the places of a Site; when another client waits for one,
// one of them is told so where it asks, or where it writes, and its next attempt is accepted.
func TestRelay_StreamGivesWay(t *testing.T) {
	for name, tell := range map[string]func(tx *transaction) error{
		"at the next piece": func(tx *transaction) error { return tx.Write(octets("y\r\n")) },
		"while the client is waited for": func(tx *transaction) error {
			if !tx.Wanted() {
				return nil
			}
			return tx.Write(octets("y\r\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := one(t, smtptest.Behaviour{}, limits(t, "connections=8 messages=100 idle=1m age=1h"))
			var held []*transaction
			for range 4 {
				held = append(held, streaming(t, w, "192.0.2.1", "b@one.test"))
			}
			other := make(chan *transaction, 1)
			go func() { other <- streaming(t, w, "198.51.100.1", "c@one.test") }() // ends when it has a place
			var err error
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := 0; err == nil; i++ {
				<-tick.C
				if err = tell(held[i%4]); err != nil {
					held[i%4].Abort()
					held = append(held[:i%4], held[i%4+1:]...)
				}
			}
			want(t, err, "451 4.4.5")
			held = append(held, <-other)
			for _, tx := range held {
				if out := tx.Commit(t.Context(), octets("z\r\n")); out[0].Reply.Code != 250 {
					t.Error(out)
				}
			}
			again := streaming(t, w, "192.0.2.1", "b@one.test")
			if out := again.Commit(t.Context(), octets("z\r\n")); out[0].Reply.Code != 250 {
				t.Error(out)
			}
			if got := len(s.Messages()); got != 5 {
				t.Errorf("%d messages arrived", got)
			}
		})
	}
}

// TestRelay_StreamWaits: what finds no place within the time of a stalled write is refused, its session has gone back,
// and a client that is favoured needs no place.
func TestRelay_StreamWaits(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{}, func(c *Config) {
		limits(t, "connections=2 messages=100 idle=1m age=1h")(c)
		c.Client.Stall = 50 * time.Millisecond
	})
	held := streaming(t, w, "192.0.2.1", "b@one.test")
	d := to("one.test")
	tx := begin(t, w, d)
	rcpt(t, tx, "c@one.test")
	want(t, tx.Stream(t.Context()), "451 4.4.5")
	want(t, tx.Data(t.Context(), mail.Stuffed), "451 4.4.5")
	tx.Abort()
	d.Favoured = true
	tx = begin(t, w, d)
	rcpt(t, tx, "c@one.test")
	if err := tx.Stream(t.Context()); err != nil {
		t.Error(err)
	}
	for _, tx := range []*transaction{tx, held} {
		tx.Abort()
	}
}

// The attempts at one message are known by the reverse-path and the recipients, in any order.
func TestResources_Attempt(t *testing.T) {
	w, _ := one(t, smtptest.Behaviour{}, nil)
	r := w.relay.local.resources
	a, b, c := path("a@one.test"), path("b@one.test"), path("a@two.test")
	first := r.attempt(a, []mail.Path{b, c})
	if got := r.attempt(a, []mail.Path{c, b}); got != first {
		t.Error("another order is another message")
	}
	for _, other := range []uint64{r.attempt(b, []mail.Path{b, c}), r.attempt(a, []mail.Path{a, c})} {
		if other == first {
			t.Error("another sender or recipient is the same message")
		}
	}
}
