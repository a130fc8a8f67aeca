package main

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/source"
)

// mostSilent bounds the clients whose names have silent servers.
const mostSilent = 20_000

// silentClient is such a client; 256 of them share a network.
func silentClient(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{46, byte(i >> 16), byte(i >> 8), byte(i)})
}

func silentDomain(i int) string { return fmt.Sprintf("s%d.silent.example", i) }

func silentHelo(i int) string { return "mx." + silentDomain(i) }

// silentNames takes the room for questions: connections of many networks, each with names of its own, whose servers do
// not answer. The clients that a list names are to be refused all the same, and the others accepted. The list answers
// about each client: one that does not answer about most of them counts for nothing, and is no attack.
var silentNames = scenario{
	name:   "look-ups: names whose servers are silent",
	long:   true,
	memory: 192,
	log:    12 << 20, // two lines for each connection, each of a network of its own
	world: func(t *trial) {
		t.dns = dnstest.Start(t, t.zone.String())
		for i := range mostSilent {
			for _, name := range []string{reversed(silentClient(i)) + ".in-addr.arpa", silentDomain(i), silentHelo(i)} {
				t.dns.SetFault(name, "*", dnstest.Fault{Flaw: dnstest.Drop})
			}
		}
	},
	attack: func(t *trial) {
		const connections = 1000
		var came atomic.Int64
		t.crowd(connections, func(int) {
			i := int(came.Add(1)) % mostSilent
			cfg := t.from(silentClient(i))
			cfg.Helo = silentHelo(i)
			if s := t.open(cfg); s != nil {
				_, _, _ = s.Envelope(source.Message{
					Reverse: "s@" + silentDomain(i), Forward: []string{"silent@e0.test"},
				})
				s.Abort(true)
			}
		})
		t.stands(func() bool { return came.Load() >= 3*connections })
		t.tell("%d connections", came.Load())
	},
}
