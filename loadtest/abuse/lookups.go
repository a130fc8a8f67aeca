package main

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/source"
)

// mostSilent bounds the clients whose names have silent servers.
const mostSilent = 20_000

// silentClient is such a client of so many networks.
func silentClient(i, networks int) netip.Addr {
	n := i % networks
	return netip.AddrFrom4([4]byte{46, byte(n >> 8), byte(n), byte(1 + i/networks)})
}

func silentDomain(i int) string { return fmt.Sprintf("s%d.silent.example", i) }

func silentHelo(i int) string { return "mx." + silentDomain(i) }

// silentNames takes the room for questions: connections of many networks, each with names of its own, whose servers do
// not answer. The clients that a list names are to be refused all the same, and the others accepted, with what is asked
// about their mail answered. The list answers about each client: one that does not answer about most of them counts for
// nothing, and is no attack.
func silentNames(networks int) scenario {
	return scenario{
		name:   fmt.Sprintf("look-ups: names whose servers are silent, %d networks", networks),
		long:   true,
		judged: true,
		memory: [2]int{192, 512},
		log:    12 << 20, // two lines for each connection, each of a network of its own
		world: func(t *trial) {
			t.dns = dnstest.Start(t, t.zone.String())
			for i := range mostSilent {
				for _, name := range []string{
					reversed(silentClient(i, networks)) + ".in-addr.arpa", silentDomain(i), silentHelo(i),
				} {
					t.dns.SetFault(name, "*", dnstest.Fault{Flaw: dnstest.Drop})
				}
			}
		},
		attack: func(t *trial) {
			const connections = 3000 // over a second and a half, and each again three seconds after its answer
			var came atomic.Int64
			again := make([]bool, connections)
			t.crowd(connections, func(n int) {
				wait := time.Duration(n) * time.Millisecond / 2
				if again[n] {
					wait = 3 * time.Second
				}
				again[n] = true
				t.rest(wait)
				i := int(came.Add(1)) % mostSilent
				cfg := t.from(silentClient(i, networks))
				cfg.Helo = silentHelo(i)
				if s := t.open(cfg); s != nil {
					_, _, _ = s.Envelope(source.Message{
						Reverse: "s@" + silentDomain(i), Forward: []string{"silent@e0.test"},
					})
					s.Abort(true)
				}
			})
			t.stands(func() bool { return came.Load() >= connections })
			t.tell("%d connections", came.Load())
		},
		harm: func(t *trial) {
			answered, all := t.arrived("spf=pass"), 2*t.messages()
			t.tell("SPF of %d of %d honest messages answered", answered, all)
			if answered < all*9/10 {
				t.harmed("SPF of %d of %d honest messages was answered", answered, all)
			}
		},
	}
}
