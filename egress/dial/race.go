package dial

import (
	"context"
	"net/http/httptrace"
	"net/netip"
	"time"
)

const (
	// headStart is how long an address is tried alone before one of the other family is tried as well (RFC 8305 section
	// 5 recommends 250 ms for the Connection Attempt Delay).
	headStart = 300 * time.Millisecond
	// maxAddrs bounds the addresses of one host that are tried.
	maxAddrs = 6
)

// alternate returns addresses of both families in turn, IPv6 first, at most maxAddrs of them.
func alternate(addrs []netip.Addr) []netip.Addr {
	var family [2][]netip.Addr
	for _, a := range addrs {
		i := 0
		if a.Is4() {
			i = 1
		}
		family[i] = append(family[i], a)
	}
	out := make([]netip.Addr, 0, len(addrs))
	for i := range addrs {
		for _, f := range family {
			if i < len(f) {
				out = append(out, f[i])
			}
		}
	}
	return out[:min(len(out), maxAddrs)]
}

// An attempt is what became of dialling one address.
type attempt struct {
	addr   netip.Addr
	client *client
	err    error
}

// race dials the first of two addresses, and the second as well if the first has not accepted the connection after
// headStart. The first to accept is kept and the other given up, because a host could count two sessions against us. It
// returns when nothing that it started is running; tried is the number of addresses that were dialled.
func race(ctx context.Context, addrs []netip.Addr,
	dial func(context.Context, netip.Addr) (*client, error)) (won attempt, tried int, failed Failures) {
	results := make(chan attempt, len(addrs))
	connected := make(chan int, 16) // of the first few connections; what does not fit is not missed
	cancels := make([]context.CancelFunc, len(addrs))
	start := func(i int) {
		c, cancel := context.WithCancel(ctx)
		cancels[i] = cancel
		c = httptrace.WithClientTrace(c, &httptrace.ClientTrace{ConnectDone: func(_, _ string, err error) {
			if err == nil {
				select {
				case connected <- i:
				default:
				}
			}
		}})
		go func() { // ends with dial, which cancel and ctx's deadline end early; awaited through results
			opened, err := dial(c, addrs[i])
			results <- attempt{addrs[i], opened, err}
		}()
	}
	start(0)
	defer func() { cancels[0]() }()
	tried = 1
	timer := time.NewTimer(headStart)
	defer timer.Stop()
	for running := 1; running > 0; {
		select {
		case i := <-connected:
			timer.Stop()
			if tried == 2 {
				cancels[1-i]()
			}
		case <-timer.C:
			start(1)
			defer func() { cancels[1]() }()
			tried = 2
			running++
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				failed = append(failed, r.err)
				timer.Stop() // the second address is for the caller to go on with
			case won.client != nil:
				r.client.Close()
			default:
				won = r
				for i := range tried {
					cancels[i]()
				}
			}
		}
	}
	return won, tried, failed
}
