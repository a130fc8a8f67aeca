package cluster

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// rejoin joins the missing nodes of Config.Join regularly, because memberlist does not find nodes again after a long
// partition. It ends with stop.
func (c *Cluster) rejoin() {
	c.join()
	for {
		wait := time.NewTimer(c.cfg.tune.rejoin + rand.N(c.cfg.tune.rejoin/4+1))
		select {
		case <-c.stop:
			wait.Stop()
			return
		case <-wait.C:
		}
		c.roster.forget()
		c.suspensions.forget()
		c.waivers.forget()
		c.join()
	}
}

// join contacts each node of Config.Join that is no member. It contacts all concurrently, because those behind a
// partition do not answer, and the others need not wait for that.
func (c *Cluster) join() {
	ctx, cancel := context.WithTimeout(context.Background(), tcpTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for _, seed := range c.cfg.Join {
		asked.Go(func() { // ends within tcpTimeout twice
			for _, a := range c.resolve(ctx, seed) {
				if c.roster.hasAddr(a) {
					continue
				}
				if _, err := c.list.Join([]string{a.String()}); err != nil {
					c.cfg.Log.Debug("gossip", "join", a.String(), "cause", err.Error())
				}
			}
		})
	}
	asked.Wait()
}

// resolve returns the addresses of a seed, "host:port". It is empty after an error.
func (c *Cluster) resolve(ctx context.Context, seed string) []netip.AddrPort {
	if a, err := netip.ParseAddrPort(seed); err == nil {
		return []netip.AddrPort{a}
	}
	host, service, err := net.SplitHostPort(seed)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil
	}
	addrs, err := c.cfg.Lookup(ctx, host)
	if err != nil {
		c.cfg.Log.Debug("gossip", "join", seed, "cause", err.Error())
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	return out
}
