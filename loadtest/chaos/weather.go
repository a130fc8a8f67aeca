package main

import (
	"errors"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// The scenarios here are about networks that are slow, and that lose what is long.

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

// holed is what a frame may have where longer ones are swallowed: less than what all sides believe, 1514.
const holed = 1214

// swallow loses the long frames of all nodes.
func swallow(out, in int) func(*trial) error {
	return func(t *trial) error {
		for _, m := range t.Fleet.Nodes {
			m.Port.Swallow(out, in)
		}
		return nil
	}
}

// hole makes a scenario of an MTU black hole that is mended after a while: what is short goes on, and what is long
// waits for it, or is put off.
func hole(name, about string, out, in int) scenario {
	return scenario{
		name: name, about: about, limit: 2 * time.Minute, wire: fleet.Wire{Delay: time.Millisecond},
		play: func(t *trial) error {
			short := small()
			short.Clients = 4
			stop := t.begin(short)
			err := fault{
				lasts: 6 * time.Second,
				load: func() *fleet.Load {
					l := heavy()
					l.Timeout, l.Patience = 70*time.Second, time.Minute
					return l
				},
				begin: swallow(out, in), heal: swallow(0, 0),
			}.play(t)
			shortOnes(t, stop())
			return err
		},
	}
}

// unhindered is the most that a short message may take meanwhile.
const unhindered = 5 * time.Second

// shortOnes tells how long short messages took, and what must not be.
func shortOnes(t *trial, sent []fleet.Sent) {
	var longest time.Duration
	for _, m := range sent {
		longest = max(longest, m.Took)
	}
	t.tell("short ones: %d, the longest took %s", len(sent), fleet.MS(longest))
	if longest > unhindered {
		t.harmed("a short message took %s, want %s at most", fleet.MS(longest), unhindered)
	}
}

var (
	holeOut = hole("mtu-out", "frames over 1214 octets that nodes send vanish without a word", holed, 0)
	holeIn  = hole("mtu-in", "frames over 1214 octets to nodes vanish without a word", 0, holed)
)

// holeProbed is a black hole that nothing mends, where the kernels of nodes, clients and destination look for a size
// that gets through (tcp_mtu_probing). All mail does.
var holeProbed = scenario{
	name: "mtu-probing", about: "the same in both directions for good, with tcp_mtu_probing", limit: 2 * time.Minute,
	wire: fleet.Wire{Delay: time.Millisecond},
	play: func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		err := fleet.ProbeMTU()
		for _, m := range t.Fleet.Nodes {
			err = errors.Join(err, m.Port.Do(fleet.ProbeMTU))
		}
		if err != nil {
			return err
		}
		return fault{
			lasts: 12 * time.Second,
			load: func() *fleet.Load {
				l := heavy()
				l.Timeout, l.Patience = 70*time.Second, time.Minute
				return l
			},
			begin: swallow(holed, holed),
		}.play(t)
	},
}
