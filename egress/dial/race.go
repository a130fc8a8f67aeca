package dial

import (
	"context"
	"net"
	"net/netip"
	"time"
)

const (
	// headStart is how long an address is tried before the next one is tried as well (RFC 8305 section 5 recommends 250
	// ms for the Connection Attempt Delay).
	headStart = 300 * time.Millisecond
	// maxAddrs bounds the addresses that are connected to at once.
	maxAddrs = 6
	// mostOfHost bounds the addresses of one host that are looked at. Which of them are tried, the marks decide.
	mostOfHost = 64
)

// alternate returns addresses of both families in turn, IPv6 first unless IPv4 is, at most mostOfHost of them.
func alternate(addrs []netip.Addr, first4 bool) []netip.Addr {
	var family [2][]netip.Addr
	for _, a := range addrs {
		i := 0
		if a.Is4() != first4 {
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
	return out[:min(len(out), mostOfHost)]
}

// race connects to the first of n addresses, and to one more whenever headStart has passed or one has failed, until one
// accepts the connection. The others are given up, because a host could count two sessions against us: a slow greeter
// is never connected to twice. won is -1 if none accepts. errs tells of those that failed; it is nil at the index of
// one that was given up or not tried. It returns when nothing that it started is running.
func race(ctx context.Context, n int,
	connect func(ctx context.Context, i int) (net.Conn, error)) (won int, socket net.Conn, errs []error) {
	errs = make([]error, n)
	if n == 1 {
		if socket, errs[0] = connect(ctx, 0); errs[0] != nil {
			return -1, nil, errs
		}
		return 0, socket, errs
	}
	type result struct {
		i      int
		socket net.Conn
		err    error
	}
	results := make(chan result, n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(headStart)
	defer timer.Stop()
	won = -1
	started, running := 0, 0
	start := func() {
		if started == n {
			return
		}
		i := started
		started++
		running++
		timer.Reset(headStart)
		go func() { // ends with connect, which cancel and ctx's deadline end early; awaited through results
			s, err := connect(ctx, i)
			results <- result{i, s, err}
		}()
	}
	for start(); running > 0; {
		select {
		case <-timer.C:
			if won < 0 {
				start()
			}
		case r := <-results:
			running--
			switch {
			case r.err == nil && won >= 0:
				r.socket.Close()
			case r.err == nil:
				won, socket = r.i, r.socket
				cancel()
			case won < 0:
				errs[r.i] = r.err
				start()
			}
		}
	}
	return won, socket, errs
}
