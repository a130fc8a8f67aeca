package octets_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A cutting is one run of these tests: two messages sent again and again in one session, each time over a link that is
// cut elsewhere. Case i sends the messages 2i and 2i+1.
type cutting struct {
	chunked bool // BDAT on both sides, else DATA
	size    int  // of the message: inside the hold window, or beyond it
	d       *smtptest.Server
	cuts    []cut

	mu    sync.Mutex // over acked
	acked map[int]bool
}

// offsets are where a way of n octets is cut: everywhere if it is short, else everywhere near its ends and near the end
// of the hold window, and every stride in between.
func offsets(n int64) []int64 {
	const (
		short  = 4000
		stride = 997
		window = wire.SlabOctets
		slack  = 1200 // what stands before the message, at most
	)
	var all []int64
	for i := int64(0); i < n; i++ {
		switch {
		case n <= short, i < 16, i > n-48, i%stride == 0, i > window-64 && i < window+slack && i%11 == 0:
			all = append(all, i)
		}
	}
	return all
}

// everyCut returns each offset of both ways, by FIN and by RST.
func everyCut(up, down int64) []cut {
	var cuts []cut
	for _, reset := range []bool{false, true} {
		for _, i := range offsets(up) {
			cuts = append(cuts, cut{up: i, down: -1, reset: reset})
		}
		for _, i := range offsets(down) {
			cuts = append(cuts, cut{up: -1, down: i, reset: reset})
		}
	}
	return cuts
}

// destination starts the destination of a cutting. It says little, so that there is less to cut.
func (c *cutting) destination(t *testing.T) {
	t.Helper()
	extensions := []string{"PIPELINING"}
	if c.chunked {
		extensions = append(extensions, "CHUNKING")
	}
	c.d = smtptest.Start(t, smtptest.Behaviour{Hostname: "d.example", Extensions: extensions, Keep: 100000})
	c.acked = make(map[int]bool)
}

// octets is message i.
func (c *cutting) octets(i int) []byte {
	m := fmt.Appendf(nil, "Subject: %06d\r\n\r\n.one\r\n..two\r\n", i)
	m = append(m, bytes.Repeat([]byte(".this line opens with a dot\r\n"), max(0, c.size-len(m))/29)...)
	return append(m, "end.\r\n"...)
}

// send sends the messages of a case to addr and notes which were acknowledged.
func (c *cutting) send(i int, addr, domain string) {
	ctx, cancel := context.WithTimeout(context.Background(), world.Patience)
	defer cancel()
	s, err := source.Dial(ctx, source.Config{Addr: addr, Chunking: c.chunked, Pipeline: c.chunked, Chunk: 30 << 10})
	if err != nil {
		return
	}
	defer s.Abort(false)
	for _, n := range []int{2 * i, 2*i + 1} {
		r, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{fmt.Sprintf("c%06d@%s", n, domain)}, Octets: c.octets(n),
		})
		if err != nil {
			return
		}
		if r.End.Class() == 2 {
			c.acknowledge(n)
		} else if s.Reset() != nil {
			return
		}
	}
}

func (c *cutting) acknowledge(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[n] = true
}

// judge holds what was acknowledged against what the destination accepted whole. The node is gone, so nothing is under
// way.
func (c *cutting) judge(t *testing.T) {
	t.Helper()
	arrived := make(map[int]int)
	for _, m := range c.d.Messages() {
		var i int
		if _, err := fmt.Sscanf(m.Forwards[0], "c%06d@", &i); err != nil {
			t.Fatalf("forward-path %q: %v", m.Forwards, err)
		}
		arrived[i]++
		rest, err := world.Below(m.Octets)
		if err != nil {
			t.Errorf("%s: %v", c.describe(i), err)
			continue
		}
		if d := world.Differ(rest, c.octets(i)); d != "" {
			t.Errorf("%s: the destination accepted half a message: %s", c.describe(i), d)
		}
	}
	for i := range 2 * len(c.cuts) {
		if c.acked[i] && arrived[i] == 0 {
			t.Errorf("%s: acknowledged and lost", c.describe(i))
		}
		if arrived[i] > 1 {
			t.Errorf("%s: delivered %d times", c.describe(i), arrived[i])
		}
	}
	world.Violations(t, c.d)
	counts := c.d.Counts()
	t.Logf("%d cuts: %d acknowledged, %d arrived, %d begun and not ended at the destination", len(c.cuts), len(c.acked),
		len(arrived), counts.Halves)
	if len(c.acked) == 2*len(c.cuts) || len(c.acked) == 0 {
		t.Error("the cuts cut nothing, or everything")
	}
}

func (c *cutting) describe(i int) string {
	x := c.cuts[i/2]
	return fmt.Sprintf("message %d of 2 (up %d, down %d, reset %t)", i%2+1, x.up, x.down, x.reset)
}

// measure tells how many octets go up and down on an uncut link.
func (c *cutting) measure(t *testing.T, l *link, send func()) (up, down int64) {
	t.Helper()
	l.serve(uncut)
	send()
	l.close()
	if !c.acked[0] || !c.acked[1] {
		t.Fatal("refused on a whole link")
	}
	c.acked = make(map[int]bool)
	return l.octets()
}

func cuttings() map[string]*cutting {
	return map[string]*cutting{
		"hold by DATA":   {},
		"hold by BDAT":   {chunked: true},
		"stream by DATA": {size: wire.SlabOctets + 3<<10},
		"stream by BDAT": {size: wire.SlabOctets + 3<<10, chunked: true},
	}
}

// TestCut_ClientsLink: nothing is lost when the clients link is cut.
func TestCut_ClientsLink(t *testing.T) {
	for name, c := range cuttings() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.destination(t)
			w := world.World{
				Routes: "@x.example smtp://" + c.d.Addr() + "\n", Config: "limits: {connections_per_client: 10000}",
			}
			n := world.Start(t, w)
			l := newLink(t, n.Addr)
			up, down := c.measure(t, l, func() { c.send(0, l.Addr(), "x.example") })
			n.Stop(t)

			c.destination(t)
			w.Routes = "@x.example smtp://" + c.d.Addr() + "\n"
			n = world.Start(t, w)
			c.cuts = everyCut(up, down)
			world.Parallel(len(c.cuts), func(i int) {
				l := newLink(t, n.Addr)
				l.serve(c.cuts[i])
				c.send(i, l.Addr(), "x.example")
				l.close()
			})
			n.Stop(t)
			c.judge(t)
		})
	}
}

// TestCut_DestinationsLink: nothing is lost when the destinations link is cut.
func TestCut_DestinationsLink(t *testing.T) {
	for name, c := range cuttings() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.destination(t)
			l := newLink(t, c.d.Addr())
			n := world.Start(t, world.World{Routes: "@d000000.example smtp://" + l.Addr() + "\n"})
			up, down := c.measure(t, l, func() { c.send(0, n.Addr, "d000000.example") })
			n.Stop(t)

			c.destination(t)
			c.cuts = everyCut(up, down)
			// A next hop of its own for each case: none begins with the sessions, or with the bad name, that another
			// one left.
			var routes strings.Builder
			links := make([]*link, len(c.cuts))
			for i := range links {
				links[i] = newLink(t, c.d.Addr())
				fmt.Fprintf(&routes, "@d%06d.example smtp://%s\n", i, links[i].Addr())
			}
			n = world.Start(t, world.World{Routes: routes.String(), Config: "limits: {connections_per_client: 10000}"})
			world.Parallel(len(c.cuts), func(i int) {
				links[i].serve(c.cuts[i])
				c.send(i, n.Addr, fmt.Sprintf("d%06d.example", i))
				links[i].close()
			})
			n.Stop(t)
			c.judge(t)
		})
	}
}
