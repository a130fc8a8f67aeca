package pool

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// paced is a Request to a Site with these rates.
func paced(client netip.Prefix, rate, opens float64, atOnce int) Request {
	r := request(20, client)
	r.Limits.Rate, r.Limits.Opens, r.Limits.OpensAtOnce = rate, opens, atOnce
	return r
}

// Messages over the rate wait, and each network has its turn.
func TestPool_Rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		took := func(client netip.Prefix) { get(t, p, d, paced(client, 10, 0, 0)).Put() }
		took(netA)
		begun := time.Now()
		order := make(chan netip.Prefix, 40)
		for i := range 24 {
			client := netA
			if i >= 20 {
				client = netB
			}
			go func() { took(client); order <- client }() // ends with its turn, awaited below
			synctest.Wait()
		}
		var seen []netip.Prefix
		for range 24 {
			seen = append(seen, <-order)
		}
		if got, want := time.Since(begun), 24*time.Second/10; got < want || got > want*11/10 {
			t.Errorf("took %v, want %v", got, want)
		}
		others := 0
		for _, client := range seen[:9] {
			if client == netB {
				others++
			}
		}
		if others != 4 {
			t.Errorf("%d of the 4 of another network are among the first 9: %v", others, seen)
		}
		if d.peak.Load() > 2 {
			t.Errorf("%d connections for messages that wait for their time", d.peak.Load())
		}
	})
}

// A message that cannot be sent in time is refused and takes nothing of the rate.
func TestPool_RateTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		get(t, p, d, paced(netA, 1, 0, 0)).Put()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := p.Get(ctx, paced(netA, 1, 0, 0)); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v", err)
		}
		begun := time.Now()
		get(t, p, d, paced(netA, 1, 0, 0)).Put()
		if got := time.Since(begun); got > 600*time.Millisecond {
			t.Errorf("the next one waits for %v", got)
		}
		r := paced(netA, 1, 0, 0)
		r.Again = true
		begun = time.Now()
		get(t, p, d, r).Put()
		if time.Since(begun) != 0 {
			t.Error("a message that was counted waits again")
		}
	})
}

// Connections are opened at their rate, and idle ones serve meanwhile.
func TestPool_Opens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t), new(dest)
		r := paced(netA, 0, 2, 3)
		begun := time.Now()
		var held []*Slot[*fake]
		for range 3 {
			held = append(held, get(t, p, d, r))
		}
		if time.Since(begun) != 0 {
			t.Error("the burst waits")
		}
		next := ask(t, p, r)
		synctest.Wait()
		held[0].Put()
		if s := <-next; s == nil || time.Since(begun) != 0 {
			t.Error("an idle connection was not used")
		}
		get(t, p, d, r)
		if got := time.Since(begun); got < 450*time.Millisecond || got > 550*time.Millisecond {
			t.Errorf("the fourth connection after %v", got)
		}
		// A dead connection is no way around the rate.
		conn(held[1]).dead.Store(true)
		held[1].Put()
		get(t, p, d, r)
		if got := time.Since(begun); got < 950*time.Millisecond || got > 1050*time.Millisecond {
			t.Errorf("the fifth connection after %v", got)
		}
		if got, want := p.Count(), (Count{Lent: 5 - 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
