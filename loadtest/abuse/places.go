package main

import (
	"strings"
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
	long:   true,
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

// refusedRecipients fills the log: connections repeat a recipient that is refused.
var refusedRecipients = scenario{
	name: "records: refused recipients",
	attack: func(t *trial) {
		batch := []byte(strings.Repeat("RCPT TO:<x@elsewhere.example>\r\n", 50))
		var sent atomic.Int64
		t.crowd(4, func(i int) {
			s := t.open(t.from(stranger(i, 0)))
			if s == nil {
				return
			}
			defer s.Abort(true)
			if _, err := s.Command("MAIL FROM:<s@e0.example>"); err != nil {
				return
			}
			for s.Write(batch) == nil {
				for range 50 {
					if _, err := s.Read(); err != nil {
						return
					}
					sent.Add(1)
				}
			}
		})
		t.stands(func() bool { return sent.Load() >= 1000 })
	},
	harm: func(t *trial) {
		lines := 0
		t.stands(func() bool { // they are written a moment later
			lines = strings.Count(t.node.Log.String(), `"msg":"relayed"`)
			return lines >= 2*honestMessages
		})
		t.tell("%d lines of %d relayed messages", lines, 2*honestMessages)
		if lines < 2*honestMessages {
			t.harmed("the log tells of %d of %d relayed messages", lines, 2*honestMessages)
		}
	},
}
