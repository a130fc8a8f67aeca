package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
)

// earlyHost is where a destination is that answers a message when its first octets are there, and reads no more of it.
const earlyHost = "10.77.0.60"

// farWire is worse than most of what mail meets.
var farWire = fleet.Wire{Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.01}

// far has one node whose network delays, reorders and loses, and counts what becomes of the verdict on replies that
// come too soon: no true reply may be taken for one, and each that comes before the message has to be.
func far(ctx context.Context, binary string) (figures string, err error) {
	s, err := fleet.NewStage(ctx, fleet.StagePlan{
		Binary: binary, Nodes: 1, Wire: farWire, Plain: smtptest.Behaviour{Keep: keep},
		Zone:  "early.example. 300 IN MX 10 mx.early.example.\nmx.early.example. 300 IN A " + earlyHost + "\n",
		Rules: "domain early.test\n/(.+)/@early.test $1@early.example\n",
	})
	if err != nil {
		return "", err
	}
	defer s.Close()
	var wrong error
	for _, kind := range []struct{ octets, messages int }{{0, 900}, {16 << 10, 450}, {256 << 10, 150}} {
		begun, before := time.Now(), s.Plain.Counts()
		_, tooSoon, other := count(ctx, s, "ok@plain.test", kind.octets, kind.messages, 40)
		now := s.Plain.Counts()
		figures += fmt.Sprintf("%d true replies to messages of %d KiB: %d taken for early ones, %d other 4yz, %d "+
			"delivered, %d connections, %.0f s\n", kind.messages, kind.octets>>10, tooSoon, other,
			now.Messages-before.Messages, now.Connections-before.Connections, time.Since(begun).Seconds())
		if tooSoon > 0 || now.Messages-before.Messages != kind.messages {
			wrong = errors.New("a true reply was not believed, or a message was doubled")
		}
	}
	// So small that the destination's TCP never takes a whole message which is not read.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_rmem", []byte("4096 8192 8192"), 0o644); err != nil {
		return figures, err
	}
	early, err := s.Serve(ctx, earlyHost, smtptest.Behaviour{
		Keep: keep, Extensions: smtptest.Without("CHUNKING"), // where the first 250 is a reply to the first chunk
		Body: &smtptest.Fault{After: 100, Answer: smtptest.Answer{Reply: "250 2.0.0 queued"}, Stall: true},
	})
	if err != nil {
		return figures, err
	}
	for _, kind := range []struct{ octets, messages int }{{64 << 10, 200}, {256 << 10, 100}} {
		believed, tooSoon, other := count(ctx, s, "ok@early.test", kind.octets, kind.messages, 20)
		figures += fmt.Sprintf("%d early replies to messages of %d KiB: %d believed, %d taken for early ones, %d "+
			"other 4yz\n", kind.messages, kind.octets>>10, believed, tooSoon, other)
		if believed > 0 || tooSoon+other != kind.messages {
			wrong = errors.New("an early reply was believed")
		}
	}
	if n := early.Counts().Messages; n > 0 {
		wrong = errors.New("the early destination has messages")
	}
	return strings.TrimSpace(figures), wrong
}

// count sends messages, each once, and returns how many were accepted, how many replies were taken for early ones, and
// how many other 4yz there were.
func count(ctx context.Context, s *fleet.Stage, to string, octets, messages, clients int) (
	accepted, tooSoon, other int) {
	var mu sync.Mutex
	l := &fleet.Load{
		Name: fmt.Sprintf("%s-%d", strings.TrimPrefix(to, "ok@"), octets), Addrs: fleet.AnyOf(s.Fleet.Nodes),
		Forward: fleet.Always(to), Octets: octets, Clients: clients, Messages: messages,
		Patience: time.Millisecond, Timeout: time.Minute,
		Watch: func(r source.Result) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case r.End.Class() == 2:
				accepted++
			case strings.HasPrefix(r.End.Text, "4.5.0"):
				tooSoon++
			default:
				other++
			}
		},
	}
	l.Run(ctx)
	return accepted, tooSoon, other
}
