package policy_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// zen is a list with the test entries that every list has, and the sender's domain that everybody here writes from.
const zen = zenItself + senders

const (
	zenItself = "2.0.0.127.zen.example. 300 IN A 127.0.0.2\n"
	senders   = "client.example. 300 IN MX 10 mx.client.example.\n" +
		"client.example. 300 IN TXT \"v=spf1 ip4:203.0.0.0/16 -all\"\n" +
		"elsewhere.example. 60 IN A 127.0.0.1\n"
)

// clientAt returns one of 50,000 addresses, no two of the first 250 of which are in one network.
func clientAt(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{203, 0, byte(i % 250), byte(i/250 + 1)})
}

// nameOf is how a mail server calls itself.
func nameOf(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("mx%d.good.example", int(b[3]-1)*250+int(b[2]))
}

// reversed is an address as it stands in names.
func reversed(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("%d.%d.%d.%d", b[3], b[2], b[1], b[0])
}

// mailServer returns the records of a mail server with proper names.
func mailServer(a netip.Addr) string {
	return fmt.Sprintf("%s.in-addr.arpa. 300 IN PTR %s.\n%s. 300 IN A %s\n", reversed(a), nameOf(a), nameOf(a), a)
}

// listed returns the record of an address that zen.example lists.
func listed(a netip.Addr) string {
	return reversed(a) + ".zen.example. 300 IN A 127.0.0.2\n"
}

// population returns the records of n mail servers.
func population(n int) string {
	var zone strings.Builder
	zone.WriteString(zen)
	for i := range n {
		zone.WriteString(mailServer(clientAt(i)))
	}
	return zone.String()
}

// A scored is the world of a node that scores the clients which a proxy brings.
type scored struct {
	zone  string
	score string // members of the section
	redis string // URL; "": none
	frail bool   // its Redis fails: a node waits for it as briefly as it is used to. Else it is busy at most
	more  string // lines of the configuration
	dest  *smtptest.Server
	rules string // besides that for @x.example
}

// world returns the parts of the configuration.
func (s *scored) world(t testing.TB) world.World {
	t.Helper()
	if s.dest == nil {
		s.dest = smtptest.Start(t, smtptest.Behaviour{Keep: 100})
	}
	config := "limits: {connections_per_client: 10000}\nscore:\n"
	if s.score == "" {
		s.score = "deadline: 1s"
	}
	for line := range strings.Lines(s.score) {
		config += "  " + line
	}
	_, port, err := net.SplitHostPort(s.dest.Addr())
	if err != nil {
		t.Fatal(err)
	}
	config += "\negress: {port: " + port + ", allow_private: true}\n" + s.more
	if s.redis != "" {
		config += "\nredis: {url: \"" + s.redis + "\""
		if !s.frail {
			config += ", timeout: 5s"
		}
		config += "}\n"
	}
	return world.World{
		Routes: s.rules + "@x.example smtp://" + s.dest.Addr() + "\n",
		Listen: `proxy_protocol: ["127.0.0.1/32"]`,
		Config: config,
		DNS:    dnstest.Start(t, s.zone),
	}
}

// comes is a client of a node, brought by the proxy. It says EHLO by the name that belongs to its address.
func comes(t testing.TB, n *world.Relay, client netip.Addr) *source.Session {
	t.Helper()
	return world.Dial(t, proxied(n.Addr, client))
}

func proxied(addr string, client netip.Addr) source.Config {
	return source.Config{
		Addr: addr, Helo: nameOf(client), Timeout: world.Patience,
		Proxy: source.ProxyV1(netip.AddrPortFrom(client, 40000), netip.MustParseAddrPort("192.0.2.1:25")),
	}
}

// says sends a command and wants a reply that begins so; the id is "id=?".
func says(t testing.TB, s *source.Session, line, want string) string {
	t.Helper()
	r, err := s.Command(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	got := world.ReplyID.ReplaceAllString(r.String(), "id=?")
	if !strings.HasPrefix(got, want) {
		t.Fatalf("%s: got %q, want %q", line, got, want)
	}
	return got
}

// letterOf is a message of a client to a mailbox at x.example.
func letterOf(to string) source.Message {
	return source.Message{
		Reverse: "a@client.example", Forward: []string{to}, Octets: []byte("Subject: hello\r\n\r\nhello\r\n"),
	}
}

// A wave is messages that clients send, one a session, a few sessions at a time.
type wave struct {
	addr     string
	clients  int // of clientAt, taken in turn
	messages int
	begun    func(i int) // before the i-th message; nil: nothing
}

// A tide is what became of a wave.
type tide struct {
	accepted int
	wrong    []string // answers other than 2yz, and errors
	took     []time.Duration
}

// at returns what q of the messages took at most, in percent, from the connection to the last answer.
func (r *tide) at(q float64) time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	slices.Sort(r.took)
	return r.took[min(len(r.took)-1, int(float64(len(r.took))*q/100))]
}

func (w wave) run(ctx context.Context) *tide {
	var mu sync.Mutex
	out := &tide{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	world.Parallel(w.messages, func(i int) {
		if ctx.Err() != nil {
			return
		}
		if w.begun != nil {
			w.begun(i)
		}
		began := time.Now()
		answer := deliver(ctx, proxied(w.addr, clientAt(i%w.clients)))
		took := time.Since(began)
		mu.Lock()
		defer mu.Unlock()
		out.took = append(out.took, took)
		if strings.HasPrefix(answer, "250") {
			out.accepted++
			return
		}
		if out.wrong = append(out.wrong, answer); len(out.wrong) == 10 {
			cancel() // that is enough to know
		}
	})
	return out
}

// deliver sends a message in a session of its own and returns the last answer, or the error.
func deliver(ctx context.Context, cfg source.Config) string {
	s, err := source.Dial(ctx, cfg)
	if err != nil {
		return err.Error()
	}
	defer s.Abort(false)
	r, err := s.Send(letterOf("b@x.example"))
	if err != nil {
		return err.Error()
	}
	return r.End.String()
}

// whole wants all messages of a wave taken.
func (r *tide) whole(t testing.TB, w wave) {
	t.Helper()
	if r.accepted != w.messages || len(r.wrong) > 0 {
		t.Errorf("%d of %d accepted; the others: %q", r.accepted, w.messages, r.wrong[:min(3, len(r.wrong))])
	}
}
