package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// The scenarios here have the nodes share one address, to which a router has a route by way of each of them.

// anycastAddr is that address, and with a port what the clients know.
const (
	anycastAddr = "10.77.9.9"
	anycast     = anycastAddr + ":2525"
)

// A router leads from the clients to the nodes, which answer past it.
type router struct {
	trial     *trial
	port      fleet.Port
	resilient bool // a flow stays with its node for as long as both last
}

// newRouter plugs in a router and has the nodes bear the shared address.
func newRouter(t *trial, resilient bool) (*router, error) {
	port, err := t.Plug(t.ctx)
	if err != nil {
		return nil, err
	}
	r := &router{trial: t, port: port, resilient: resilient}
	err = port.Do(func() error {
		return kernel("ip_forward 1", "conf/all/send_redirects 0", "conf/eth0/send_redirects 0",
			"fib_multipath_hash_policy 1") // by addresses and ports
	})
	for _, m := range t.Fleet.Nodes {
		err = errors.Join(err, m.Port.Do(func() error {
			// No node says on the link that the address is its own.
			return errors.Join(kernel("conf/all/arp_ignore 1", "conf/all/arp_announce 2"),
				fleet.IP(t.ctx, "addr add "+anycastAddr+"/32 dev lo"))
		}))
	}
	err = errors.Join(err, r.begin(), fleet.IP(t.ctx, "route add "+anycastAddr+"/32 via "+port.Addr()))
	return r, err
}

// kernel sets parameters of IPv4 in the namespace of the caller's thread.
func kernel(settings ...string) (err error) {
	for _, s := range settings {
		name, value, _ := strings.Cut(s, " ")
		err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644))
	}
	return err
}

// orders carries out lines of ip at the router.
func (r *router) orders(lines ...string) error {
	return r.port.Do(func() error { return fleet.IP(r.trial.ctx, lines...) })
}

// begin makes the route by way of all nodes.
func (r *router) begin() error {
	nodes := r.trial.Fleet.Nodes
	if !r.resilient {
		return r.lead(nodes)
	}
	var lines []string
	for i, m := range nodes {
		lines = append(lines, hopTo(i, m))
	}
	// What has been silent for a second may go to a node that has returned.
	return r.orders(append(lines, "nexthop add id 10 "+group(len(nodes))+" idle_timer 1 unbalanced_timer 0",
		"route add "+anycastAddr+"/32 nhid 10")...)
}

func hopTo(i int, m *fleet.Member) string {
	return fmt.Sprintf("nexthop add id %d via %s dev eth0", 1+i, m.Port.Addr())
}

// group is one of the next hops from 1 on.
func group(n int) string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(1 + i)
	}
	return "group " + strings.Join(ids, "/") + " type resilient buckets 64"
}

// lead makes the route by way of some nodes, with plain multipath.
func (r *router) lead(nodes []*fleet.Member) error {
	line := "route replace " + anycastAddr + "/32"
	for _, m := range nodes {
		line += " nexthop via " + m.Port.Addr()
	}
	return r.orders(line)
}

// withdraw takes a node out of the route.
func (r *router) withdraw(i int) error {
	if r.resilient {
		return r.orders(fmt.Sprintf("nexthop del id %d", 1+i))
	}
	return r.lead(slices.Delete(slices.Clone(r.trial.Fleet.Nodes), i, i+1))
}

// announce takes it in again.
func (r *router) announce(i int) error {
	nodes := r.trial.Fleet.Nodes
	if r.resilient {
		return r.orders(hopTo(i, nodes[i]), "nexthop replace id 10 "+group(len(nodes)))
	}
	return r.lead(nodes)
}

// anycastClients is how many long messages there are at a time.
const anycastClients = 24

// long begins messages of 3 s, one for each client, and returns what waits for them, once each has a connection. A node
// keeps the whole of one before it sends it: one whose client was cut off without a word takes no session.
func (r *router) long() (stop func() []fleet.Sent, err error) {
	t := r.trial
	connections := func() (sum int) {
		for i := range t.Fleet.Nodes {
			sum += r.connections(i)
		}
		return sum
	}
	before := connections()
	stop = t.begin(&fleet.Load{
		Clients: anycastClients, Messages: anycastClients, Octets: 60 << 10, Addrs: fleet.Only(anycast),
		Pace: source.Pace{Octets: 1 << 10, Every: 50 * time.Millisecond},
	})
	err = fleet.Await(t.ctx, 10*time.Second, "each message has a connection", func() bool {
		return connections() >= before+anycastClients
	})
	return stop, err
}

// connections is how many clients a node has.
func (r *router) connections(i int) int {
	n, err := r.trial.Fleet.Metric(r.trial.ctx, r.trial.Fleet.Nodes[i], "millrace_client_connections")
	if err != nil {
		return 0 // it has ended
	}
	return int(n)
}

// cutOff counts the messages that were not taken at their first attempt.
func cutOff(sent []fleet.Sent) (n int) {
	for _, m := range sent {
		if m.Retries > 0 {
			n++
		}
	}
	return n
}

// during has long messages under way while something happens, and tells how many of them were cut off. More than most
// may not be.
func (r *router) during(what string, most func() int, happens func() error) error {
	stop, err := r.long()
	if err != nil {
		return err
	}
	r.trial.rest(r.trial.between(300*time.Millisecond, time.Second))
	limit := most()
	err = happens()
	sent := stop()
	n := cutOff(sent)
	r.trial.tell("%s: %d of %d long messages cut off", what, n, len(sent))
	if n > limit {
		r.trial.harmed("%s: %d of %d long messages cut off, want %d at most", what, n, len(sent), limit)
	}
	return err
}

// anycastBy makes a scenario of nodes that share one address. A node is withdrawn under mail and returns; then one is
// drained before it is withdrawn. A message that is cut off is sent again.
func anycastBy(s scenario, resilient bool) scenario {
	s.config, s.plain = "drain: 6s\nlisten: [{addr: \":2525\"}]\n", slowDot
	s.play = func(t *trial) error {
		if _, _, err := t.warm(); err != nil {
			return err
		}
		r, err := newRouter(t, resilient)
		if err != nil {
			return err
		}
		out := t.rand.IntN(len(t.Fleet.Nodes))
		// Plain multipath spreads all flows anew when a node comes or goes.
		all, none := func() int { return anycastClients }, func() int { return 0 }
		of, back := func() int { return r.connections(out) }, none
		if !resilient {
			of, back = all, all
		}
		short := small()
		short.Addrs, short.Fresh = fleet.Only(anycast), true
		return t.under(short, func() error {
			return errors.Join(
				r.during("a node is withdrawn", of, func() error { return r.withdraw(out) }),
				r.during("it returns", back, func() error { return r.announce(out) }),
				r.during("it is drained, and then withdrawn", back, func() error {
					return errors.Join(t.drained(t.Fleet.Nodes[out]), r.withdraw(out))
				}),
				r.during("it starts anew and returns", back, func() error {
					return errors.Join(t.again(t.Fleet.Nodes[out]), r.announce(out))
				}))
		})
	}
	return s
}

var (
	anycastPlain = anycastBy(scenario{
		name: "anycast", about: "nodes with one address behind a router with multipath routes: withdrawn, and back",
	}, false)
	anycastResilient = anycastBy(scenario{
		name: "anycast-resilient", about: "the same, where the router keeps each flow at its node",
	}, true)
)
