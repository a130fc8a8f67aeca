package nodes_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// kinds are what a next hop does with the first attempt at a message. It takes later ones, but for "refuses", which
// refuses all.
var kinds = []string{"takes", "defers", "refuses", "loses", "cuts", "thinks"}

// A moody destination stands for several next hops. It does what the local part of a recipient begins with.
type moody struct {
	*smtptest.Server
	mu    sync.Mutex
	tried map[string]int // attempts by recipient
}

func startMoody(t *testing.T, lmtp bool) *moody {
	t.Helper()
	d := &moody{tried: make(map[string]int)}
	d.Server = smtptest.Start(t, smtptest.Behaviour{
		On: d.on, Keep: 100000, LMTP: lmtp,
		Extensions: smtptest.Without("CHUNKING"), // where a connection broke off in BDAT, DATA is used from then on
	})
	return d
}

// on answers DATA or the end of data.
func (d *moody) on(s smtptest.Step) (smtptest.Answer, bool) {
	if s.Verb != smtptest.Dot && s.Verb != "DATA" || len(s.Message.Forwards) == 0 {
		return smtptest.Answer{}, false
	}
	to := s.Message.Forwards[0]
	if s.Forward != "" { // of LMTP
		to = s.Forward
	}
	kind, _, _ := strings.Cut(to, "-")
	if (s.Verb == "DATA") != (kind == "cuts") {
		return smtptest.Answer{}, false
	}
	d.mu.Lock()
	d.tried[to]++
	first := d.tried[to] == 1
	d.mu.Unlock()
	switch {
	case kind == "refuses":
		return smtptest.Answer{Reply: "554 5.6.0 Not this one"}, true
	case !first:
	case kind == "defers":
		return smtptest.Answer{Reply: "450 4.2.1 Not now"}, true
	case kind == "loses":
		return smtptest.Answer{Close: true}, true // it has the message
	case kind == "cuts":
		return smtptest.Answer{Reply: "354 Go ahead", Close: true}, true // it has not
	case kind == "thinks":
		return smtptest.Answer{After: slowReply}, true
	}
	return smtptest.Answer{}, false
}

// slowReply is what a slow destination takes to answer.
const slowReply = 50 * 1000 * 1000 // ns

// copies returns how many copies each recipient has.
func (d *moody) copies() map[string]int {
	n := make(map[string]int)
	for _, m := range d.Messages() {
		for _, f := range m.Forwards {
			n[f]++
		}
	}
	return n
}

// toSeveral is a world whose domains x0, x1 and x2.example lead to three Sites, all of them at d.
func toSeveral(t *testing.T, d *smtptest.Server) world.World {
	t.Helper()
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	var routes, zone strings.Builder
	for i := range 3 {
		fmt.Fprintf(&routes, "/(.+)/@x%d.example $1@y%d.example\ndomain x%d.example\n", i, i, i)
		fmt.Fprintf(&zone, "y%d.example. 60 IN MX 10 mx.y%d.example.\nmx.y%d.example. 60 IN A 127.0.0.1\n", i, i, i)
	}
	const mix = "$1.$2.$3" // what the three of one recipient do, of which each has its own in front
	fmt.Fprintf(&routes, "/(.+)[.](.+)[.](.+)/@team.example $1-%s@y0.example, $2-%s@y1.example, $3-%s@y2.example\n"+
		"domain team.example\n", mix, mix, mix)
	return world.World{
		Routes: routes.String(), DNS: dnstest.Start(t, zone.String()),
		Config: "once: true\nadmin: {addr: \"127.0.0.1:0\"}\negress: {port: " + port + ", allow_private: true}\n",
	}
}

// A sender sends one message until each recipient has its final answer.
type sender struct {
	addrs     []string // of the nodes that it uses in turn
	pipelined bool     // the next MAIL is sent behind the end of data, before its reply
	octets    []byte

	open    []string       // recipients without a final answer
	refused map[string]int // the code of those that ended so
}

// newSender returns a sender of a message with an id, which is long if its octets are to take a while.
func newSender(id string, addrs []string, long bool) *sender {
	s := &sender{addrs: addrs, octets: fmt.Appendf(nil, "Message-ID: <%s@client.example>\r\n"+
		"Date: Mon, 30 Nov 2026 12:00:00 +0000\r\nFrom: a@client.example\r\n\r\nhi\r\n", id)}
	if long {
		s.octets = append(s.octets, bytes.Repeat([]byte("a line that makes the message long\r\n"), 6000)...)
	}
	return s
}

// maxRounds bounds the transactions in which a message of three recipients has to be settled.
const maxRounds = 12

// settle sends the message in one transaction after the other.
func (s *sender) settle(t *testing.T) error {
	s.refused = make(map[string]int)
	for round := range maxRounds {
		if len(s.open) == 0 {
			return nil
		}
		if err := s.send(t, s.addrs[round%len(s.addrs)]); err != nil {
			return err
		}
	}
	return fmt.Errorf("%v are open after %d transactions", s.open, maxRounds)
}

// send is one transaction with the recipients that are open.
func (s *sender) send(t *testing.T, addr string) error {
	c := world.Dial(t, source.Config{Addr: addr})
	defer c.Abort(false)
	const mail = "MAIL FROM:<a@client.example>"
	if r, err := c.Command(mail); err != nil || r.Code != 250 {
		return fmt.Errorf("MAIL: %v, %w", r, err)
	}
	var accepted, open []string
	for _, to := range s.open {
		r, err := c.Command("RCPT TO:<" + to + ">")
		if err != nil {
			return err
		}
		switch r.Class() {
		case 2:
			accepted = append(accepted, to)
		case 4:
			open = append(open, to)
		default:
			s.refused[to] = r.Code
		}
	}
	if len(accepted) == 0 {
		s.open = open
		return nil
	}
	if r, err := c.Command("DATA"); err != nil || r.Code != 354 {
		return fmt.Errorf("DATA: %v, %w", r, err)
	}
	end := ".\r\n"
	if s.pipelined {
		end += mail + "\r\n"
	}
	if err := c.Write(append(bytes.Clone(s.octets), end...)); err != nil {
		return err
	}
	r, err := c.Read()
	if err != nil {
		return fmt.Errorf("the end of data: %w", err)
	}
	switch r.Class() {
	case 4:
		open = append(open, accepted...)
	case 5:
		for _, to := range accepted {
			s.refused[to] = r.Code
		}
	}
	s.open = open
	if s.pipelined {
		if r, err := c.Read(); err != nil || r.Code != 250 {
			return fmt.Errorf("the pipelined MAIL: %v, %w", r, err)
		}
	}
	return nil
}

// again counts the copies that the nodes said may be second ones.
func again(t *testing.T, nodes []*world.Relay) (n int) {
	t.Helper()
	for _, r := range nodes {
		n += sum(scrape(t, r.Node.AdminAddr().String()), `millrace_events_total{`, `reason="delivered again, in doubt"`)
	}
	return n
}

// TestFanOut_AllMixes sends a message to three recipients at three next hops, each of which does one of six things with
// the first attempt, in all 216 mixes, until each recipient has its answer: through one node, or two in turn, and with
// the next MAIL pipelined or not. Each recipient ends with one copy or one refusal. The only second copies are those of
// next hops that kept the message and lost the reply, and as many are counted.
func TestFanOut_AllMixes(t *testing.T) {
	for _, tt := range []struct {
		name      string
		nodes     int
		pipelined bool
	}{
		{"one node", 1, false},
		{"one node, pipelined", 1, true},
		{"another node", 2, false},
		{"another node, pipelined", 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := startMoody(t, false)
			w := toSeveral(t, d.Server)
			var nodes []*world.Relay
			if tt.nodes == 1 {
				nodes = []*world.Relay{world.Start(t, w)}
			} else {
				w.Config += fmt.Sprintf("redis: {url: %q, timeout: 5s}\n", world.StartRedis(t).URL())
				nodes = startCluster(t, tt.nodes, w).nodes
			}
			var addrs []string
			for _, r := range nodes {
				addrs = append(addrs, r.Addr)
			}
			inEachMix(func(mix [3]string) {
				if err := sendMix(t, mix, addrs, tt.pipelined); err != nil {
					t.Errorf("%v: %v", mix, err)
				}
			})
			checkMixes(t, d, nodes, "-")
		})
	}
}

// inEachMix calls do with each mix, for four at a time.
func inEachMix(do func(mix [3]string)) {
	mixes := make(chan [3]string)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for mix := range mixes {
				do(mix)
			}
		})
	}
	for i := range 6 * 6 * 6 {
		mixes <- [3]string{kinds[i%6], kinds[i/6%6], kinds[i/36]}
	}
	close(mixes)
	wait.Wait()
}

// sendMix sends the message of one mix and checks with what its recipients end.
func sendMix(t *testing.T, mix [3]string, addrs []string, pipelined bool) error {
	id := strings.Join(mix[:], "-")
	s := newSender(id, addrs, strings.Contains(id, "cuts"))
	s.pipelined = pipelined
	for i, kind := range mix {
		s.open = append(s.open, fmt.Sprintf("%s-%s@x%d.example", kind, id, i))
	}
	want := make(map[string]int)
	for i, kind := range mix {
		if kind == "refuses" {
			want[s.open[i]] = 554
		}
	}
	if err := s.settle(t); err != nil {
		return err
	}
	if fmt.Sprint(s.refused) != fmt.Sprint(want) {
		return fmt.Errorf("refused are %v, want %v", s.refused, want)
	}
	return nil
}

// TestFanOut_OneRecipient: the same for a recipient that a rule sends to the three next hops, through two nodes in
// turn. It ends with 250 where one of them takes the message, since the rule accepts mixed answers.
func TestFanOut_OneRecipient(t *testing.T) {
	d := startMoody(t, false)
	w := toSeveral(t, d.Server)
	w.Config += fmt.Sprintf("redis: {url: %q, timeout: 5s}\n", world.StartRedis(t).URL())
	nodes := startCluster(t, 2, w).nodes
	inEachMix(func(mix [3]string) {
		to := strings.Join(mix[:], ".") + "@team.example"
		s := newSender(to, []string{nodes[0].Addr, nodes[1].Addr}, strings.Contains(to, "cuts"))
		s.open = []string{to}
		err := s.settle(t)
		if refused := to == "refuses.refuses.refuses@team.example"; err != nil || (len(s.refused) > 0) != refused {
			t.Errorf("%s: %v, refused are %v", to, err, s.refused)
		}
	})
	checkMixes(t, d, nodes, ".")
}

// TestFanOut_LMTP: each recipient of a message to a destination that speaks LMTP ends with its own answer.
func TestFanOut_LMTP(t *testing.T) {
	d := startMoody(t, true)
	w := world.World{Config: "once: true\n", Routes: "domain x.example\n@x.example lmtp://" + d.Addr() + "\n"}
	s := newSender("lmtp", []string{world.Start(t, w).Addr}, false)
	s.open = []string{"takes-1@x.example", "defers-1@x.example", "refuses-1@x.example", "takes-2@x.example"}
	if err := s.settle(t); err != nil || fmt.Sprint(s.refused) != "map[refuses-1@x.example:554]" {
		t.Errorf("%v, refused are %v", err, s.refused)
	}
	copies := d.copies()
	if want := "map[defers-1@x.example:1 takes-1@x.example:1 takes-2@x.example:1]"; fmt.Sprint(copies) != want {
		t.Errorf("copies are %v, want %s", copies, want)
	}
}

// checkMixes compares the copies with what is to be, and with what the nodes counted.
func checkMixes(t *testing.T, d *moody, nodes []*world.Relay, between string) {
	t.Helper()
	copies := d.copies()
	second, cut := 0, 0
	for i := range 6 * 6 * 6 {
		mix := [3]string{kinds[i%6], kinds[i/6%6], kinds[i/36]}
		for hop, kind := range mix {
			want := 1
			switch kind {
			case "refuses":
				want = 0
			case "loses":
				want = 2
				second++
			case "cuts":
				cut++
			}
			to := fmt.Sprintf("%s-%s@y%d.example", kind, strings.Join(mix[:], between), hop)
			if copies[to] != want {
				t.Errorf("%s has %d copies, want %d", to, copies[to], want)
			}
		}
	}
	world.Await(t, "what was counted is told", func() bool { return again(t, nodes) >= second })
	// One whose destination was cut off within the octets may have had its end of data on the way when that was seen.
	if n := again(t, nodes); n < second || n > second+cut {
		t.Errorf("%d copies are counted as in doubt, want those %d whose replies were lost, and at most the %d cut off",
			n, second, cut)
	} else {
		t.Logf("%d second copies, %d counted, %d cut off", second, n, cut)
	}
}
