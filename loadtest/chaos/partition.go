package main

import (
	"errors"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// A cut is a way from one node to another that is lost.
type cut struct{ from, to *fleet.Member }

// parted plays a partition: mail runs, the ways are cut, and after a while they heal.
func (t *trial) parted(cuts []cut) error {
	return t.under(small(), func() error {
		t.rest(t.between(300*time.Millisecond, 800*time.Millisecond))
		begun := time.Now()
		for _, c := range cuts {
			if err := c.from.Cut(t.ctx, c.to); err != nil {
				return err
			}
		}
		t.rest(t.between(6*time.Second, 8*time.Second))
		healed := time.Now()
		for _, c := range cuts {
			if err := c.from.Join(t.ctx, c.to); err != nil {
				return err
			}
		}
		err := fleet.Await(t.ctx, 20*time.Second, "one ring", func() bool { return t.Fleet.Merged(t.ctx) })
		merged := time.Since(healed)
		t.rest(500 * time.Millisecond)
		t.tell("none accepted for %s at most while cut, for %s after; one ring %s after it healed",
			fleet.MS(t.answers.silence(begun, healed)),
			fleet.MS(t.answers.silence(healed, time.Now())), fleet.MS(merged))
		return err
	})
}

// both is a cut in both directions.
func both(a, b *fleet.Member) []cut { return []cut{{a, b}, {b, a}} }

// partition makes a scenario of the ways that are cut between the owner and the two others.
func partition(name, about string, quick bool, of func(owner, one, two *fleet.Member) []cut) scenario {
	return scenario{
		name: name, about: about, quick: quick, plain: slowDot,
		play: func(t *trial) error {
			owner, others, err := t.warm()
			if err != nil {
				return err
			}
			if len(others) != 2 {
				return errors.New("want three nodes")
			}
			return t.parted(of(owner, others[0], others[1]))
		},
	}
}

var (
	split = partition("split", "the owner is cut off from the two other nodes, both ways", false,
		func(owner, one, two *fleet.Member) []cut { return append(both(owner, one), both(owner, two)...) })
	pairCut = partition("pair", "the owner and one other node are cut from each other", false,
		func(owner, one, _ *fleet.Member) []cut { return both(owner, one) })
	oneWay = partition("one-way", "what the owner says does not reach one other node", false,
		func(owner, one, _ *fleet.Member) []cut { return []cut{{owner, one}} })
)
