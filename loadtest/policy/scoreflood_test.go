package policy_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// The flood: so many connections from so many addresses, every tenth of which is a mail server.
const (
	floodConnections = 10000
	floodAddresses   = 500
	// floodGrowth is how much a node may grow from its first 2,000 connections to its last one. Its tables of clients
	// fill with them, and what is garbage at the moment counts too.
	floodGrowth = 6 << 20
)

// An abuse is one way to be unwelcome. It returns the last reply that it read.
type abuse func(ctx context.Context, addr string, client netip.Addr) (answer string, err error)

// abuses are what the addresses of a flood do, by number modulo 10; 0 is honest.
var abuses = [10]abuse{
	1: writesAnyway, 2: writesAnyway, 3: writesAnyway, // these are listed
	4: talksEarly, 5: talksEarly,
	6: guesses, 7: guesses,
	8: saysItIsUs, 9: saysItIsUs,
}

// floodZone has names for all, but those which say they are us have none.
func floodZone() string {
	var zone strings.Builder
	zone.WriteString(zen)
	for i := range floodAddresses {
		if kind := i % 10; kind < 8 {
			zone.WriteString(mailServer(clientAt(i)))
			if 1 <= kind && kind <= 3 {
				zone.WriteString(listed(clientAt(i)))
			}
		}
	}
	return zone.String()
}

// floodHeader is a PROXY header of either version.
func floodHeader(client netip.Addr, i int) []byte {
	from, to := netip.AddrPortFrom(client, uint16(1024+i%60000)), netip.MustParseAddrPort("192.0.2.1:25")
	if i%2 == 0 {
		return source.ProxyV1(from, to)
	}
	return source.ProxyV2(from, to)
}

// writesAnyway tries to send a message.
func writesAnyway(ctx context.Context, addr string, client netip.Addr) (string, error) {
	return attempt(ctx, source.Config{Addr: addr, Helo: nameOf(client), Proxy: floodHeader(client, 0), Pipeline: true},
		"b@x.example", "c@x.example")
}

// talksEarly does not wait for the greeting.
func talksEarly(ctx context.Context, addr string, client netip.Addr) (string, error) {
	s, err := source.Connect(ctx,
		source.Config{Addr: addr, Proxy: append(floodHeader(client, 1), "EHLO "+nameOf(client)+"\r\n"...)})
	if err != nil {
		return "", err
	}
	defer s.Abort(true)
	for range 2 { // the greeting and the reply to EHLO
		if r, err := s.Read(); err != nil {
			return r.String(), err
		}
	}
	if r, err := s.Command("MAIL FROM:<a@client.example>"); err != nil {
		return r.String(), err
	}
	r, err := s.Command("RCPT TO:<b@x.example>")
	return r.String(), err
}

// guesses tries addresses.
func guesses(ctx context.Context, addr string, client netip.Addr) (string, error) {
	to := make([]string, 10)
	for i := range to {
		to[i] = fmt.Sprintf("guess%d@x.example", i)
	}
	return attempt(ctx, source.Config{Addr: addr, Helo: nameOf(client), Proxy: floodHeader(client, 0), Pipeline: true},
		to...)
}

// saysItIsUs has our name.
func saysItIsUs(ctx context.Context, addr string, client netip.Addr) (string, error) {
	return attempt(ctx, source.Config{Addr: addr, Helo: "relay.example", Proxy: floodHeader(client, 1)}, "b@x.example")
}

// attempt sends a message in a session of its own and returns what became of it.
func attempt(ctx context.Context, cfg source.Config, to ...string) (string, error) {
	s, err := source.Dial(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer s.Abort(false)
	m := letterOf("")
	m.Forward = to
	r, err := s.Send(m)
	return r.End.String(), err
}

// A flood counts what its clients were told.
type flood struct {
	addr    string
	mu      sync.Mutex
	replies [10]map[string]int
}

// rise lets connections from number from to to happen, some at a time.
func (f *flood) rise(ctx context.Context, from, to int) {
	world.Parallel(to-from, func(i int) {
		i += from
		n := i % floodAddresses
		kind, client := n%10, clientAt(n)
		var answer string
		var err error
		if act := abuses[kind]; act != nil {
			answer, err = act(ctx, f.addr, client)
		} else {
			answer, err = attempt(ctx,
				source.Config{
					Addr: f.addr, Helo: nameOf(client), Proxy: floodHeader(client, i/floodAddresses),
				}, "b@x.example")
		}
		code, _, _ := strings.Cut(answer, " ")
		if err != nil {
			code = err.Error()
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.replies[kind] == nil {
			f.replies[kind] = make(map[string]int)
		}
		f.replies[kind][code]++
	})
}

// TestScore_Flood: a flood drowns no mail server and takes no memory.
func TestScore_Flood(t *testing.T) {
	s := scored{
		zone: floodZone(), redis: world.StartRedis(t).URL(),
		// What is asked is waited for: a list that answers late on a busy machine would let the listed in.
		score: listScore + "deadline: 20s\ngreet: 5ms\nreject: 8\ndefer: 4\n" +
			"rates: {client: 1000/1m, network: 10000/1m, messages: 1000/1m, recipients: 1000/1m, refused: 15/1h, " +
			"sender: 100000/1m, recipient: 100000/1m, domain: 100000/1m}\n",
	}
	s.dest = smtptest.Start(t, smtptest.Behaviour{Keep: 10, On: func(at smtptest.Step) (smtptest.Answer, bool) {
		return smtptest.Answer{Reply: "550 5.1.1 Nobody"}, at.Verb == "RCPT" && strings.HasPrefix(at.Forward, "guess")
	}})
	w := s.world(t)
	front := world.FreeAddr(t)
	listen := w.Listen
	w.Listen = ""
	dir := t.TempDir()
	p := &authProcess{world.StartProcess(t, func(addr string) *exec.Cmd {
		name := w.Write(t, dir, addr)
		config, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		world.Save(t, name,
			strings.Replace(string(config), "listen:\n", fmt.Sprintf("listen:\n  - {addr: %q, %s}\n", front, listen),
				1))
		return exec.Command(world.Binary(t), "serve", "-c", name)
	}), s.dest}

	f := &flood{addr: front}
	f.rise(t.Context(), 0, floodConnections/5)
	before := p.status(t, "VmRSS")
	f.rise(t.Context(), floodConnections/5, floodConnections)
	after, peak := p.status(t, "VmRSS"), p.status(t, "VmHWM")
	t.Logf("%d KiB after 2,000 connections, %d KiB after %d, %d KiB at most", before>>10, after>>10, floodConnections,
		peak>>10)
	if grew := after - before; grew > floodGrowth {
		t.Errorf("grew by %d KiB", grew>>10)
	}
	for kind, told := range f.replies {
		t.Logf("kind %d: %v", kind, told)
		switch {
		case kind == 0:
			if told["250"] != floodConnections/10 || len(told) != 1 {
				t.Errorf("mail servers were told %v", told)
			}
		case told["250"] != 0:
			t.Errorf("abuse of kind %d got through: %v", kind, told)
		case kind <= 3 && (told["554"] != floodConnections/10 || len(told) != 1):
			t.Errorf("listed clients were told %v", told)
		}
	}
	if n := s.dest.Counts().Messages; n != floodConnections/10 {
		t.Errorf("%d messages arrived", n)
	}
}
