package main

import (
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/loadtest/source"
)

// onePrefix takes the places: one /56 opens connections and keeps them with a NOOP now and then.
var onePrefix = scenario{
	name:   "places: one /56",
	config: "limits: {connections: 1000}",
	attack: func(t *trial) {
		var open atomic.Int64
		t.crowd(1500, func(i int) { t.occupy(t.from(stranger6(1, i%256)), &open) })
		t.stands(func() bool { return open.Load() >= 1000 })
		t.tell("%d held", open.Load())
	},
}

// manyNetworks does it from so many networks that each keeps to its share. What was sent away comes back after ten
// seconds: 70 connections a second for 600 places are more than 2000 a second for those that a node has.
var manyNetworks = scenario{
	name:   "places: 200 networks",
	config: "limits: {connections: 600}",
	attack: func(t *trial) {
		var open atomic.Int64
		t.crowd(700, func(i int) { t.occupy(t.from(stranger(i%200, i/200)), &open) })
		t.stands(func() bool { return open.Load() >= 600 })
		t.rest(4 * time.Second) // a crowd that has just come could be honest, and is let be for a moment
		t.tell("%d held", open.Load())
	},
}

// occupy keeps a connection for as long as it can, and counts those that are kept.
func (t *trial) occupy(cfg source.Config, open *atomic.Int64) {
	if s := t.open(cfg); s != nil {
		open.Add(1)
		t.hold(s, time.Second, "NOOP\r\n")
		s.Abort(true)
		open.Add(-1)
	}
	t.rest(10 * time.Second)
}
