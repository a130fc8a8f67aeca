package main

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/loadtest/source"
)

// prefixPlaces is how many places strangers of one /56 may have.
const prefixPlaces = 200

// onePrefix takes the places: one /56 opens connections and keeps them with a NOOP now and then.
var onePrefix = scenario{
	name:   "places: one /56",
	small:  "limits: {connections: 1000}",
	memory: [2]int{64, 128},
	attack: func(t *trial) {
		var open atomic.Int64
		wanted, every := int64(t.size(1000, 4000)), time.Duration(t.size(1, 10))*time.Second
		t.crowd(t.size(1500, 4000), func(i int) { t.occupy(t.from(stranger6(1, i%256)), every, &open) })
		t.stands(func() bool { return open.Load() >= wanted })
		held := open.Load()
		t.tell("%d held", held)
		if held > prefixPlaces {
			t.harmed("one /56 holds %d places", held)
		}
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
		t.crowd(700, func(i int) { t.occupy(t.from(stranger(i%200, i/200)), time.Second, &open) })
		t.stands(func() bool { return open.Load() >= 600 })
		t.rest(4 * time.Second) // a crowd that has just come could be honest, and is let be for a moment
		t.tell("%d held", open.Load())
	},
}

// occupy keeps a connection for as long as it can, by a NOOP now and then, and counts those that are kept.
func (t *trial) occupy(cfg source.Config, every time.Duration, open *atomic.Int64) {
	if s := t.open(cfg); s != nil {
		open.Add(1)
		t.hold(s, every, "NOOP\r\n")
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
		t.rest(time.Duration(t.size(0, 5)) * time.Second)
		t.tell("%d refusals", sent.Load())
	},
	harm: func(t *trial) {
		lines := 0
		t.stands(func() bool { // they are written a moment later
			lines = strings.Count(t.entry.process.Log.String(), `"msg":"relayed"`)
			return lines >= 2*t.messages()
		})
		t.tell("%d lines of %d relayed messages", lines, 2*t.messages())
		if lines < 2*t.messages() {
			t.harmed("the log tells of %d of %d relayed messages", lines, 2*t.messages())
		}
	},
}
