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

// occupy keeps a connection for as long as it can, and counts those that are kept.
func (t *trial) occupy(cfg source.Config, open *atomic.Int64) {
	s := t.open(cfg)
	if s == nil {
		t.rest(5 * time.Second)
		return
	}
	open.Add(1)
	t.hold(s, time.Second, "NOOP\r\n")
	s.Abort(true)
	open.Add(-1)
}
