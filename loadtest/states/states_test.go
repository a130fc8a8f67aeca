package states_test

import (
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/peer"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
)

var update = flag.Bool("update", false, "write the table of the document anew")

// A state is one that a stranger can bring a connection to.
type state struct {
	name  string
	enter func(h *house, i int) *source.Session
	// how long it can stay: {folder constant} stands for a constant of the code, {key} for the default of a key
	stay    string
	few     int  // connections to weigh, where fewer than usual can be in the state; 0: the usual number
	message bool // octets of a message have come
}

const usual = 200

// Longer than a connection on which nothing happens, and a message of which nothing comes, keep what they need while
// something does.
const (
	connRests    = 2500 * time.Millisecond
	messageRests = 6500 * time.Millisecond
)

var (
	half   = strings.Repeat("a", 515)
	fields = "From: <a@client.example>\r\nSubject: x\r\nX: " + strings.Repeat("y", 480)
	waits  = "{ingress/wire commandTimeout} for each command, {ingress/wire barrenTimeout} in all without a message; " +
		"while places or memory are short {ingress/wire lineTimeout}, and then it may give way"
	brings = "{ingress/wire rateGrace}, and a second more for each {ingress/wire minRate} octets that came; " +
		"{ingress/wire commandTimeout} without any"
)

var states = []state{
	{"connected through a balancer, no PROXY header yet", func(h *house, _ int) *source.Session {
		return h.connect(source.Config{Addr: h.proxied})
	}, "{ingress/wire headerTimeout}", 0, false},
	{"greeted and silent", func(h *house, i int) *source.Session { return h.greeted(i) },
		"{ingress/wire lineTimeout}, {ingress/wire pressedLine} while places or memory are short", 0, false},
	{"half a command line, 520 octets", func(h *house, i int) *source.Session {
		return h.write(h.greeted(i), "EHLO "+half)
	}, "{ingress/wire lineTimeout} from its first octet, {ingress/wire pressedLine} while places or memory are short",
		0, false},
	{"STARTTLS, no handshake", func(h *house, i int) *source.Session { return h.say(h.hello(i), "STARTTLS") },
		"{ingress/wire handshakeTimeout}", 0, false},
	{"idle", func(h *house, i int) *source.Session { return h.hello(i) }, waits, 0, false},
	{"idle under TLS", func(h *house, i int) *source.Session {
		return h.dial(source.Config{Addr: h.proxied, Proxy: proxyOf(i), TLS: world.AnyCertificate()})
	}, "the same", 0, false},
	{"MAIL accepted", func(h *house, i int) *source.Session {
		return h.say(h.hello(i), "MAIL FROM:<a@client.example>")
	}, "the same", 0, false},
	{"RCPT waits for a look-up", func(h *house, i int) *source.Session {
		return h.write(h.say(h.hello(i), "MAIL FROM:<a@client.example>"), "RCPT TO:<b@slow.example>\r\n")
	}, "{deadlines.rcpt}", 0, false},
	{"a recipient accepted, a session at the destination taken", func(h *house, i int) *source.Session {
		return h.recipient(i)
	}, "{deadlines.lend}, then as the next", 0, false},
	{"a recipient accepted, the session lent", func(h *house, i int) *source.Session {
		s := h.recipient(i)
		if i == usual {
			h.lent(usual)
		}
		return s
	}, "as idle", 0, false},
	{"half a header section, 520 octets", func(h *house, i int) *source.Session { return h.write(h.data(i), fields) },
		brings, 0, true},
	{"a held message, 40 KiB so far", func(h *house, i int) *source.Session {
		return h.write(h.data(i), string(source.Body(40<<10)))
	}, "the same", 0, true},
	{"a streaming message, 100 KiB so far", func(h *house, i int) *source.Session {
		return h.write(h.data(i), string(source.Body(100<<10)))
	}, "the same; while others wait for the destination it gives way", 0, true},
	{"a refused message, the rest is read and forgotten", func(h *house, i int) *source.Session {
		return h.write(h.data(i), fields+"\n"+fields)
	}, "{ingress/wire discardTimeout}, a tenth of it while places or memory are short", 0, false},
	{"half a chunk of BDAT, 520 octets", func(h *house, i int) *source.Session {
		return h.write(h.recipient(i), "BDAT 60000\r\n"+fields)
	}, "as a header section", 0, true},
	{"half a chunk of BDAT without a transaction, 520 octets", func(h *house, i int) *source.Session {
		return h.write(h.hello(i), "BDAT 60000\r\n"+fields)
	}, "as a refused message", 0, false},
	{"the hop, before its handshake", func(h *house, _ int) *source.Session {
		return h.connect(source.Config{Addr: h.hop})
	}, "{cluster/peer maxMissedBeats} times {cluster/peer beat}", 60, false},
	{"the hop, a node behind its handshake", func(h *house, _ int) *source.Session { return h.hopped() },
		"{cluster/peer idleTimeout}, as the node that asks has it; only nodes get so far", 0, false},
	{"the admin listener, no request yet", func(h *house, _ int) *source.Session {
		return h.connect(source.Config{Addr: h.admin})
	}, "{cluster/admin readHeaderTimeout}", 0, false},
}

// A house is a node with connections.
type house struct {
	t                   *testing.T
	dir                 string
	process             *world.Process
	destination         *smtptest.Server
	other               *peer.Client // another node of its cluster
	proxied, hop, admin string
}

// TestStates: what each state costs and how long it can last stands in the document. Goroutines
// and the part of the hold budget are counted exactly, memory with room for what scatters in a process.
func TestStates(t *testing.T) {
	document := filepath.Join("..", "..", "docs", "design", "states.md")
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rows, after := cutTable(t, string(text))
	var mu sync.Mutex // over made
	made := make(map[string]row)
	t.Run("of", func(t *testing.T) {
		for _, s := range states {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				got := weigh(t, &s)
				mu.Lock()
				made[s.name] = got
				mu.Unlock()
				if !*update {
					got.compare(t, s.number(), rows[s.name])
				}
			})
		}
	})
	if len(rows) != len(states) && !*update {
		t.Errorf("the document has %d states, want %d", len(rows), len(states))
	}
	if *update && !t.Failed() {
		var table strings.Builder
		for _, s := range states {
			table.WriteString(made[s.name].line(s.name))
		}
		world.Save(t, document, before+table.String()+after)
	}
}

// number is how many connections are weighed.
func (s *state) number() int {
	if s.few > 0 {
		return s.few
	}
	return usual
}

// weigh brings connections to a state and returns what each costs.
func weigh(t *testing.T, s *state) row {
	h := newHouse(t)
	n := s.number()
	h.bring(s, 0) // what the first costs is not what each costs
	quiet := connRests
	if s.message {
		quiet = messageRests
	}
	before := h.settled(quiet)
	for i := range n {
		h.bring(s, i+1)
	}
	after := h.settled(quiet)
	each := func(a, b float64) int { return int(math.Round((b - a) / float64(n))) }
	return row{
		memory:     max(0, each(before.memory, after.memory)+512) >> 10,
		budget:     each(before.budget, after.budget),
		goroutines: each(before.goroutines, after.goroutines),
		stay:       expand(t, s.stay),
	}
}

// bring brings connection i to a state, until the test ends.
func (h *house) bring(s *state, i int) {
	if c := s.enter(h, i); c != nil {
		h.t.Cleanup(func() { c.Abort(true) })
	}
}

// A reading is what the node shows at /metrics, and its memory.
type reading struct{ memory, budget, goroutines float64 }

// settled waits until the counts have hardly changed for some time.
func (h *house) settled(quiet time.Duration) reading {
	h.t.Helper()
	const restless = 4 // goroutines that come and go by themselves
	var last reading
	const pause = time.Second // to look makes goroutines and garbage, too
	tick := time.NewTicker(pause)
	defer tick.Stop()
	same := 0
	world.Await(h.t, "the node has settled", func() bool {
		<-tick.C
		now := h.read()
		if math.Abs(now.goroutines-last.goroutines) > restless || now.budget != last.budget {
			last, same = now, 0
		}
		same++
		return time.Duration(same)*pause > quiet
	})
	last.memory = h.anonymous()
	return last
}

func (h *house) read() (r reading) {
	resp, err := http.Get("http://" + h.admin + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, _ := strconv.ParseFloat(value, 64) // comments have none
		switch name {
		case "go_goroutines":
			r.goroutines = number
		case "millrace_hold_in_use_bytes":
			r.budget = number
		}
	}
	return r
}

// anonymous is what the process has in memory that is in no file, in octets.
func (h *house) anonymous() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", h.process.Cmd.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), " kB")), 64)
			if err != nil {
				h.t.Fatal(err)
			}
			return n * 1024
		}
	}
	h.t.Fatal("no Anonymous")
	return 0
}

// newHouse starts a node that is a cluster of its own, with room for all connections at one destination.
func newHouse(t *testing.T) *house {
	h := &house{t: t, dir: t.TempDir(), destination: smtptest.Start(t, smtptest.Behaviour{})}
	held := make(chan struct{})
	t.Cleanup(func() { close(held) })
	dns := dnstest.Start(t, "")
	dns.SetFault("silent.example", "MX", dnstest.Fault{Until: held})
	keys := filepath.Join(h.dir, "keys")
	if out, err := exec.Command(world.Binary(t), "cluster", "init", keys, "a", "b").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	world.Save(t, filepath.Join(h.dir, "sites.txt"), "limits * connections=2000\n")
	h.process = world.StartProcess(t, func(addr string) *exec.Cmd { // again where another took an address first
		h.proxied, h.hop, h.admin = world.FreeAddr(t), world.FreeAddr(t), world.FreeAddr(t)
		w := world.World{
			Routes: "@x.example smtp://" + h.destination.Addr() + "\ndomain slow.example\n" +
				"/(.+)/@slow.example $1@silent.example\n",
			Proxied: h.proxied, DNS: dns,
			Config: fmt.Sprintf("egress: {sites_file: sites.txt}\nadmin: {addr: %q}\ncluster: {name: a, bind: %q, "+
				"peer: %q, join: [], key_file: keys/gossip.key, "+
				"tls: {ca: keys/ca.pem, cert: keys/a.pem, key: keys/a.key}}\n", h.admin, world.FreeAddr(t), h.hop),
		}
		return exec.Command(world.Binary(t), "serve", "-c", w.Write(t, h.dir, addr))
	})
	h.other = h.node()
	return h
}

// node is another node of the cluster.
func (h *house) node() *peer.Client {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(h.dir, "keys", name))
		if err != nil {
			h.t.Fatal(err)
		}
		return b
	}
	_, client, _, err := peer.Certificates("b", read("ca.pem"), read("b.pem"), read("b.key"))
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := peer.NewClient(peer.ClientConfig{
		TLS: client, Name: "b", Addr: func(string) (string, bool) { return h.hop, true },
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

// proxyOf is the header that brings client i, from a network of its own.
func proxyOf(i int) []byte {
	client := netip.AddrFrom4([4]byte{45, byte(10 + i>>8), byte(i), 1})
	return source.ProxyV2(netip.AddrPortFrom(client, 4000), netip.MustParseAddrPort("192.0.2.1:25"))
}

func (h *house) connect(c source.Config) *source.Session {
	c.Timeout = world.Patience
	s, err := source.Connect(h.t.Context(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *house) dial(c source.Config) *source.Session {
	c.Timeout = world.Patience
	s, err := source.Dial(h.t.Context(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *house) greeted(i int) *source.Session {
	s := h.connect(source.Config{Addr: h.proxied, Proxy: proxyOf(i)})
	if r, err := s.Read(); err != nil || r.Code != 220 {
		h.t.Fatal(r, err)
	}
	return s
}

func (h *house) hello(i int) *source.Session {
	return h.dial(source.Config{Addr: h.proxied, Proxy: proxyOf(i)})
}

// say sends a line and wants its answer to be no refusal.
func (h *house) say(s *source.Session, line string) *source.Session {
	if r, err := s.Command(line); err != nil || r.Code >= 400 {
		h.t.Fatal(line, r, err)
	}
	return s
}

func (h *house) write(s *source.Session, octets string) *source.Session {
	if err := s.Write([]byte(octets)); err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *house) recipient(i int) *source.Session {
	return h.say(h.say(h.hello(i), "MAIL FROM:<a@client.example>"), "RCPT TO:<b@x.example>")
}

func (h *house) data(i int) *source.Session { return h.say(h.recipient(i), "DATA") }

// lent waits until n transactions have been ended at the destination because their sessions were lent.
func (h *house) lent(n int) {
	err := h.destination.WaitFor(h.t.Context(), func(c smtptest.Counts) bool { return c.Commands["RSET"] >= n })
	if err != nil {
		h.t.Fatal(err)
	}
}

// hopped has another node open a connection of its own to the hop, which ends with the test.
func (h *house) hopped() *source.Session {
	tx, err := h.other.Begin(h.t.Context(), "a", mail.Delivery{NextHop: mail.NextHop{Host: "x.example"}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(tx.Abort)
	return nil
}
