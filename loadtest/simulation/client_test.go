package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/source"
)

// A client sends one message until each recipient has its answer.
type client struct {
	*world
	id      int
	reverse string
	open    []string
	is      map[string]int // the class of the final answer, by recipient
	node    int
	lines   int // of the message
	rng     *rand.Rand
}

const line = "a line of sixty-two octets, of which a message has as many as\r\n"

// maxAttempts is more than a client needs that things do not go wrong for for ever.
const maxAttempts = 300

func (w *world) newClient(id int) *client {
	c := &client{
		world: w, id: id, reverse: fmt.Sprintf("m%d@client.test", id), open: []string{"a@x.test"},
		is: make(map[string]int), rng: w.rng("client", id),
	}
	if c.rng.IntN(3) > 0 || w.half {
		c.open = append(c.open, "b@x.test")
	}
	if w.wide {
		c.open = []string{"a@x.test", "b@y.test", "c@z.test", "d@z.test"}
		c.rng.Shuffle(len(c.open), func(i, j int) { c.open[i], c.open[j] = c.open[j], c.open[i] })
		c.open = c.open[:2+c.rng.IntN(3)]
	}
	c.node = c.rng.IntN(w.setting.nodes)
	if c.lines = 1; c.rng.IntN(4) == 0 {
		c.lines = 1500 // it streams
	}
	return c
}

// octets returns the message as it is sent for the nth time.
func (c *client) octets(n int) []byte {
	return fmt.Appendf(nil, "Received: from queue by client.test; attempt %d\r\nDKIM-Signature: v=1; t=%d; b=%d\r\n"+
		"Message-ID: <%d@client.test>\r\nDate: Mon, 30 Nov 2026 23:59:59 +0000\r\nFrom: %s\r\nSubject: x\r\n\r\n"+
		"%s..dot\r\n", n, time.Now().Unix(), n, c.id, c.reverse, strings.Repeat(line, c.lines))
}

// try makes one attempt.
func (c *client) try(n int) {
	patience := []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}[c.rng.IntN(3)]
	if c.half && n == 1 {
		patience = 5 * time.Second
	}
	cfg := source.Config{Addr: netip.AddrPortFrom(nodeAddr(c.node), smtpPort).String(), Timeout: patience}
	from := netip.AddrFrom4([4]byte{198, 51, byte(c.id), 7})
	if c.front {
		cfg.Proxy = source.ProxyV1(netip.AddrPortFrom(from, 1000), netip.MustParseAddrPort("192.0.2.1:25"))
		from = netip.MustParseAddr(frontAddr)
	}
	if cfg.Chunking = c.rng.IntN(3) == 0; cfg.Chunking && n > 1 {
		c.reach(chunks)
	}
	cfg.Pipeline = c.rng.IntN(2) == 0
	there, back := -1, -1
	if c.hurts() && !(c.half && n == 1) {
		switch c.rng.IntN(8) {
		case 0:
			there = c.rng.IntN(650 + len(line)*c.lines)
		case 1:
			back = c.rng.IntN(650 + len(line)*c.lines)
		}
	}
	cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
		return c.net.dial(ctx, from, addr, func(int) (int, int) { return there, back })
	}
	s, err := source.Dial(context.Background(), cfg)
	if err != nil {
		return
	}
	m := source.Message{Reverse: c.reverse, Forward: slices.Clone(c.open), Octets: c.octets(n)}
	r, err := s.Send(m)
	c.say("client %d at n%d: %v: %v %v", c.id, c.node, m.Forward, r, err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.reach(impatient)
	}
	c.take(m.Forward, r)
	if strings.Contains(r.End.Text, "ended differently") {
		c.reach(differs)
	}
	switch {
	case err != nil:
		s.Abort(true)
	case c.rng.IntN(3) == 0:
		s.Abort(false)
	case c.rng.IntN(2) == 0:
		_, _ = s.Command("RSET") // what comes behind it shows that the replies were read
		_, _ = s.Command("NOOP")
		_, _ = s.Command("NOOP")
		_ = s.Quit()
	default:
		_ = s.Quit()
	}
}

// take takes the replies to an attempt.
func (c *client) take(forwards []string, r source.Result) {
	for i, f := range forwards {
		class := 0
		switch {
		case i >= len(r.Rcpt):
		case r.Rcpt[i].Class() == 2:
			class = r.End.Class()
		default:
			class = r.Rcpt[i].Class()
		}
		if class != 2 && class != 5 {
			continue
		}
		c.is[f] = class
		c.open = slices.DeleteFunc(c.open, func(o string) bool { return o == f })
	}
}
