package main

import (
	"errors"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// The scenarios here are about slow networks.

// delayed is nodes that are far from each other, from their clients and from the destination. All mail is taken at its
// first attempt.
var delayed = scenario{
	name: "delay", about: "frames to and from nodes take 20 to 60 ms and overtake each other", limit: 2 * time.Minute,
	wire: fleet.Wire{Delay: 20 * time.Millisecond, Jitter: 40 * time.Millisecond}, plain: slowDot,
	play: func(t *trial) error {
		stop, stopHeavy := t.begin(&fleet.Load{Clients: 12}), t.begin(&fleet.Load{Clients: 4, Octets: 200 << 10})
		defer stopHeavy()
		t.rest(8 * time.Second)
		atOnce(t, "small ones", stop())
		atOnce(t, "200 KiB", stopHeavy())
		if !t.Fleet.Merged(t.ctx) {
			t.harmed("the nodes are not one ring")
		}
		return nil
	},
}

// narrowed is cables of 4 Mbit/s, for a while. Mail is slow, and none is put off.
var narrowed = scenario{
	name: "narrow", about: "4 Mbit/s to and from each node", limit: 2 * time.Minute,
	play: func(t *trial) error {
		each := func(rate string) func(t *trial) error {
			return func(t *trial) (err error) {
				for _, m := range t.Fleet.Nodes {
					err = errors.Join(err, m.Port.Narrow(t.ctx, rate))
				}
				return err
			}
		}
		return fault{
			lasts: 6 * time.Second, load: heavy, begin: each("4mbit"), heal: each(""), unfelt: true,
			silence: 3 * time.Second,
		}.play(t)
	},
}
