package wire

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/millrace/millrace/router/mail"
)

// A house is a server in virtual time, to which clients of any address connect.
type house struct {
	*recorder
	t   *testing.T
	srv *Server
}

// inHouse runs test in a bubble with a server of its own.
func inHouse(t *testing.T, change func(*Config), test func(t *testing.T, h *house)) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{recorder: &recorder{}, t: t}
		cfg := Config{Hostname: "mx.example", NewSession: h.session, Emit: h.emit, Lend: -1, Memory: new(Memory)}
		if change != nil {
			change(&cfg)
		}
		before := cfg.Memory.InUse()
		var err error
		if h.srv, err = NewServer(cfg); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := h.srv.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			if n := cfg.Memory.InUse() - before; n != 0 {
				t.Errorf("%d octets were not given back", n)
			}
		}()
		test(t, h)
	})
}

// A fromAddr is a connection that comes from an address.
type fromAddr struct {
	net.Conn
	remote net.Addr
}

func (c fromAddr) RemoteAddr() net.Addr { return c.remote }

// A guest is a client in virtual time. What it hears is read at once.
type guest struct {
	net.Conn
	h     *house
	lines chan string // closed when the server closes
}

// arrive connects from addr.
func (h *house) arrive(addr string) *guest {
	client, server := net.Pipe()
	g := &guest{Conn: client, h: h, lines: make(chan string, 1000)}
	go func() { // ends when the server closes
		defer close(g.lines)
		for in := bufio.NewReader(client); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if len(line) < 4 || line[3] != '-' {
				g.lines <- strings.TrimSuffix(line, "\r\n")
			}
		}
	}()
	h.srv.startConn(fromAddr{server, &net.TCPAddr{IP: net.ParseIP(addr), Port: 4711}})
	return g
}

// enter arrives and is greeted.
func (h *house) enter(addr string) *guest {
	g := h.arrive(addr)
	if r := g.hear(); !strings.HasPrefix(r, "220") {
		h.t.Fatalf("%s was turned away: %s", addr, r)
	}
	return g
}

// hear returns the next reply, "" when the connection has ended.
func (g *guest) hear() string { return <-g.lines }

// say says lines and returns the reply to the last of them. It is "" when the connection has ended.
func (g *guest) say(lines ...string) (reply string) {
	for _, l := range lines {
		if _, err := io.WriteString(g, l+"\r\n"); err != nil {
			for last := range g.lines {
				reply = last
			}
			return reply
		}
		if reply = g.hear(); reply == "" {
			return ""
		}
	}
	return reply
}

// want fails unless reply begins with prefix.
func (h *house) want(reply, prefix string) {
	h.t.Helper()
	if !strings.HasPrefix(reply, prefix) || prefix == "" && reply != "" {
		h.t.Errorf("got %q, want %q", reply, prefix)
	}
}

// sendMail sends one message and reports whether it was accepted.
func (g *guest) sendMail() bool {
	return strings.HasPrefix(
		g.say("MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", "hi\r\n."), "250 2.0.0 took")
}

// greeted reports whether the guest was greeted.
func (g *guest) greeted() bool { return strings.HasPrefix(g.hear(), "220") }

// shares are limits as a node has them, in a small house.
var shares = Limits{Total: 1000, Client: 50, Net24: 400, Net56: 200, Net48: 1000}

func small(c *Config) { c.Places = NewPlaces(shares) }

// TestPlaces_OneNetwork shows that a /56 that keeps as many connections as it can with NOOPs keeps no client out, and
// does not keep them for long.
func TestPlaces_OneNetwork(t *testing.T) {
	inHouse(t, small, func(t *testing.T, h *house) {
		var kept []*guest
		for i := range 1500 {
			if g := h.arrive(fmt.Sprintf("2001:db8:0:%x::%x", i%256, i+1)); g.greeted() {
				kept = append(kept, g)
			}
		}
		if len(kept) != shares.Net56 {
			t.Errorf("a /56 has %d connections", len(kept))
		}
		for minute := range 12 {
			for _, g := range kept {
				g.say("NOOP")
			}
			for i := range 20 {
				g := h.arrive(fmt.Sprintf("192.0.%d.%d", minute, i))
				if !g.greeted() || g.say("EHLO c.example") == "" || !g.sendMail() {
					t.Fatalf("minute %d: an honest client was kept out", minute)
				}
				h.want(g.say("QUIT"), "221")
			}
			time.Sleep(time.Minute)
		}
		if n := h.srv.cfg.Places.Open(); n != 0 {
			t.Errorf("%d connections without a message are left after 12 minutes", n)
		}
	})
}

// TestPlaces_ManyNetworks shows that strangers of many networks who fill the house give way to those who come, the
// first of them first, and that those who send mail stay.
func TestPlaces_ManyNetworks(t *testing.T) {
	inHouse(t, small, func(t *testing.T, h *house) {
		sender := h.enter("198.51.100.1")
		sender.say("EHLO c.example")
		var first *guest
		for i := range 3000 {
			g := h.arrive(fmt.Sprintf("2001:db8:%x::%x", i/40, i+1))
			if g.greeted() {
				g.say("EHLO attacker.example")
			}
			if first == nil {
				first = g
			}
			if i%100 == 0 {
				time.Sleep(time.Second)
				if !sender.sendMail() {
					t.Fatalf("a sender lost its place after %d others", i)
				}
			}
		}
		time.Sleep(settledFor)
		for i := range 300 {
			g := h.enter(fmt.Sprintf("192.0.3.%d", i%250))
			h.want(g.say("EHLO c.example"), "250")
			if !g.sendMail() {
				t.Fatalf("honest client %d was kept out", i)
			}
			h.want(g.say("QUIT"), "221")
		}
		h.want(first.hear(), "421 4.3.2 Place needed")
		h.want(first.hear(), "")
		if !sender.sendMail() {
			t.Error("a sender lost its place")
		}
	})
}

// TestPlaces_Noops shows that strangers of many networks who came at once, and say NOOP each second, inside a
// transaction or not, do not keep out those who come.
func TestPlaces_Noops(t *testing.T) {
	for _, tc := range []struct {
		name  string
		begin []string
		after time.Duration // they are let be for so long
	}{
		{"outside a transaction", []string{"EHLO attacker.example"}, settledInAll},
		{"inside a transaction", []string{"EHLO attacker.example", "MAIL FROM:<a@x.example>"}, openInAll},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inHouse(t, small, func(t *testing.T, h *house) {
				var kept []*guest
				for i := range 1500 {
					if g := h.arrive(fmt.Sprintf("2001:db8:%x::%x", i/40, i+1)); g.greeted() {
						g.say(tc.begin...)
						kept = append(kept, g)
					}
				}
				out := 0
				for second := range 60 {
					for i := range 5 {
						g := h.arrive(fmt.Sprintf("192.0.%d.%d", second, i))
						switch {
						case g.greeted() && g.say("EHLO c.example") != "" && g.sendMail():
							h.want(g.say("QUIT"), "221")
						case time.Duration(second)*time.Second > tc.after+time.Second:
							t.Fatalf("second %d: an honest client was kept out", second)
						default:
							out++
						}
					}
					for _, g := range kept {
						g.say("NOOP")
					}
					time.Sleep(time.Second)
				}
				t.Logf("%d of 300 were kept out", out)
			})
		})
	}
}

// TestPlaces_LargeSender shows that a provider that nothing is known of loses nothing: 600 connections from one /48
// that send mail, while strangers elsewhere take what they can.
func TestPlaces_LargeSender(t *testing.T) {
	inHouse(t, small, func(t *testing.T, h *house) {
		var senders []*guest
		for i := range 600 {
			g := h.arrive(fmt.Sprintf("2001:db8:1:%x::%x", i%64<<6, i+1))
			if !g.greeted() {
				t.Fatalf("connection %d was turned away", i)
			}
			g.say("EHLO out.example")
			senders = append(senders, g)
		}
		lost := 0
		for round := range 20 {
			for i := range 100 {
				h.arrive(fmt.Sprintf("203.%d.%d.1", round, i))
			}
			for _, g := range senders {
				if !g.sendMail() {
					lost++
				}
			}
			time.Sleep(time.Minute)
		}
		if lost > 0 {
			t.Errorf("%d of %d messages were lost", lost, 20*len(senders))
		}
	})
}

// TestPlaces_Reserve shows that places are left for trusted, allowed and known-good clients in a house that strangers
// have filled with messages that never end.
func TestPlaces_Reserve(t *testing.T) {
	standing := func(c *Client) Standing {
		switch {
		case netip.MustParsePrefix("10.0.0.0/8").Contains(c.Addr.Addr()):
			return Favoured
		case netip.MustParsePrefix("198.51.100.0/24").Contains(c.Addr.Addr()):
			return Allowed
		}
		return Stranger
	}
	inHouse(t, func(c *Config) { small(c); c.Standing = standing }, func(t *testing.T, h *house) {
		good := h.enter("203.0.113.1")
		good.say("EHLO good.example")
		h.want(good.say("QUIT"), "221")
		taken := 0
		for i := range 2000 {
			g := h.arrive(fmt.Sprintf("192.%d.%d.1", i/200, i%200))
			if g.greeted() {
				taken++
				g.say("EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA")
			}
		}
		if most := shares.Total - shares.Total/reservedPart; taken != most {
			t.Errorf("strangers have %d places, want %d", taken, most)
		}
		h.want(h.arrive("192.0.2.1").hear(), "421 4.7.0")
		for _, addr := range []string{"10.0.0.1", "198.51.100.1", "203.0.113.77"} {
			if g := h.arrive(addr); !g.greeted() {
				t.Errorf("%s was turned away", addr)
			}
		}
		for _, c := range h.srv.all() {
			c.life.raw.Close()
		}
	})
}

// TestPlaces_Shares shows in which shares connections count.
func TestPlaces_Shares(t *testing.T) {
	limits := Limits{Total: 100, Client: 3, Net24: 5, Net56: 4, Net48: 6}
	for _, tc := range []struct {
		name, addr string // %d is the number of the connection
		standing   Standing
		want       int
	}{
		{"one address", "192.0.2.1", Stranger, 3},
		{"one /24", "192.0.2.%d", Stranger, 5},
		{"one /64", "2001:db8::%d", Stranger, 3},
		{"one /56", "2001:db8:0:%d::", Stranger, 4},
		{"one /48", "2001:db8:0:%d00::", Stranger, 6},
		{"the /24 of trusted clients", "192.0.2.%d", Favoured, 20},
		{"one trusted address", "192.0.2.1", Favoured, 3},
		{"one allowed address", "192.0.2.1", Allowed, 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inHouse(t, func(c *Config) {
				c.Places = NewPlaces(limits)
				c.Standing = func(*Client) Standing { return tc.standing }
			}, func(t *testing.T, h *house) {
				for range 2 { // and again when all have gone
					var in []*guest
					for i := range 20 {
						addr := tc.addr
						if strings.Contains(addr, "%d") {
							addr = fmt.Sprintf(addr, i+1)
						}
						if g := h.arrive(addr); g.greeted() {
							in = append(in, g)
						}
					}
					if len(in) != tc.want {
						t.Errorf("%d connections, want %d", len(in), tc.want)
					}
					for _, g := range in {
						h.want(g.say("QUIT"), "221")
					}
					synctest.Wait()
				}
				p := h.srv.cfg.Places
				if len(p.shares) != 0 || p.strangers != 0 || p.queue.head != nil || p.Open() != 0 {
					t.Errorf("left behind: %v, %d strangers, %d open", p.shares, p.strangers, p.Open())
				}
			})
		})
	}
}

// TestPlaces_Proxy shows that what a balancer does not name is counted by the balancer, apart from its clients.
func TestPlaces_Proxy(t *testing.T) {
	balancer := netip.MustParsePrefix("10.0.0.1/32")
	inHouse(t, func(c *Config) {
		c.Places, c.Proxy = NewPlaces(Limits{Total: 100, Client: 2, Net24: 3}), []netip.Prefix{balancer}
	}, func(t *testing.T, h *house) {
		by := func(header string) bool {
			g := h.arrive("10.0.0.1")
			go func() { _, _ = io.WriteString(g, header+"\r\n") }() // ends when the server reads or closes
			return g.greeted()
		}
		for i := range 6 {
			if got, want := by("PROXY UNKNOWN"), i < 3; got != want {
				t.Errorf("unknown client %d: greeted %t", i, got)
			}
		}
		for i := range 4 {
			if got, want := by("PROXY TCP4 192.0.2.1 192.0.2.2 4711 25"), i < 2; got != want {
				t.Errorf("client %d of one address: greeted %t", i, got)
			}
		}
	})
}

// TestAwait_Patience shows how long a client is waited for.
func TestAwait_Patience(t *testing.T) {
	pressed := func(c *Config) {
		c.Memory = &Memory{Budget: 100}
		c.Memory.inUse.Store(60)
	}
	favoured := func(c *Config) { small(c); c.Standing = func(*Client) Standing { return Favoured } }
	for _, tc := range []struct {
		name   string
		change func(*Config)
		said   string
		want   time.Duration
	}{
		{"for the first line", nil, "", lineTimeout},
		{"for the rest of the first line", nil, "EH", lineTimeout},
		{"for the rest of a line", nil, "EHLO c.example\r\nMAIL FR", lineTimeout},
		{"for a line", nil, "EHLO c.example\r\n", commandTimeout},
		{"for the first line under pressure", pressed, "", pressedLine},
		{"for the rest of a line under pressure", pressed, "EHLO c.example\r\nMAIL FR", pressedLine},
		{"for a line under pressure", pressed, "EHLO c.example\r\n", lineTimeout},
		{"of a trusted client under pressure", func(c *Config) {
			favoured(c)
			pressed(c)
		}, "EHLO c.example\r\n", commandTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inHouse(t, tc.change, func(t *testing.T, h *house) {
				g := h.arrive("192.0.2.1")
				h.want(g.hear(), "220")
				if tc.said != "" {
					if _, err := io.WriteString(g, tc.said); err != nil {
						t.Fatal(err)
					}
				}
				begun := time.Now()
				last := ""
				for l := range g.lines {
					last = l
				}
				h.want(last, "421 4.4.2")
				if took := time.Since(begun); took < tc.want || took > tc.want+20*time.Second {
					t.Errorf("waited %v, want %v", took, tc.want)
				}
			})
		})
	}
}

// TestAwait_Barren shows that a stranger that finishes no message is waited for ten minutes in all, and that the time
// in which it waits for us does not count.
func TestAwait_Barren(t *testing.T) {
	keep := func(h *house, addr string) time.Duration {
		g := h.enter(addr)
		begun := time.Now()
		for strings.HasPrefix(g.say("NOOP"), "250") {
			if time.Since(begun) > time.Hour {
				break
			}
			time.Sleep(time.Minute)
		}
		return time.Since(begun).Round(time.Minute)
	}
	t.Run("a stranger", func(t *testing.T) {
		inHouse(t, nil, func(t *testing.T, h *house) {
			if d := keep(h, "192.0.2.1"); d < barrenTimeout || d > barrenTimeout+time.Minute {
				t.Errorf("kept for %v", d)
			}
		})
	})
	t.Run("a trusted client", func(t *testing.T) {
		inHouse(t, func(c *Config) {
			small(c)
			c.Standing = func(*Client) Standing { return Favoured }
		}, func(t *testing.T, h *house) {
			if d := keep(h, "192.0.2.1"); d <= time.Hour {
				t.Errorf("kept for %v", d)
			}
		})
	})
	t.Run("a client that sends a message now and then", func(t *testing.T) {
		inHouse(t, nil, func(t *testing.T, h *house) {
			g := h.enter("192.0.2.1")
			g.say("EHLO c.example")
			for range 20 {
				if !g.sendMail() {
					t.Fatal("lost")
				}
				for range 3 {
					time.Sleep(3 * time.Minute)
					h.want(g.say("NOOP"), "250")
				}
			}
		})
	})
	t.Run("a client whose recipients take long", func(t *testing.T) {
		inHouse(t, func(c *Config) {
			scripted(c, func(_ *Client, s *scriptedSession) {
				s.rcpt = func(context.Context, mail.Path) error { time.Sleep(time.Minute); return nil }
			})
		}, func(t *testing.T, h *house) {
			g := h.enter("192.0.2.1")
			g.say("EHLO c.example", "MAIL FROM:<a@x.example>")
			for range 60 {
				h.want(g.say("RCPT TO:<b@y.example>"), "250")
			}
		})
	})
}

// TestConn_HalfCommand shows that half a command takes no slab, whatever its length, and however much came before it.
func TestConn_HalfCommand(t *testing.T) {
	for _, tc := range []struct{ name, said string }{
		{"a line", "NOOP " + strings.Repeat("x", 515)},
		{"a line as long as it may be", "NOOP " + strings.Repeat("x", 2000)},
		{"a line that is too long", "NOOP " + strings.Repeat("x", 10000)},
		{"a line behind a batch", strings.Repeat("NOOP\r\n", 90) + "NOOP " + strings.Repeat("x", 1000)},
		{"a chunk without a transaction", "EHLO c.example\r\nBDAT 60000\r\n" + strings.Repeat("x", 1000)},
		{"a chunk's command", opened + "BDAT 100" + strings.Repeat("0", 1000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inHouse(t, nil, func(t *testing.T, h *house) {
				for range 20 {
					g := h.arrive("192.0.2.1")
					if _, err := io.WriteString(g, tc.said); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if n := h.srv.cfg.Memory.InUse(); n != 0 {
					t.Errorf("20 connections have %d octets", n)
				}
				time.Sleep(2 * rateGrace)
				synctest.Wait()
				if n := len(h.srv.all()); n != 0 {
					t.Errorf("%d connections are left after two minutes", n)
				}
			})
		})
	}
}

// TestBody_Refused shows that what comes of a refused message takes no slab, and is read for ten minutes at most; then
// the sender hears the refusal.
func TestBody_Refused(t *testing.T) {
	inHouse(t, func(c *Config) { c.MessageSize = 100 << 20 }, func(t *testing.T, h *house) {
		for _, end := range []string{"DATA", "BDAT 90000000 LAST"} {
			g := h.enter("192.0.2.1")
			g.say("EHLO c.example", "MAIL FROM:<early@x.example>", "RCPT TO:<b@y.example>")
			if end == "DATA" {
				h.want(g.say(end), "354")
			} else if _, err := io.WriteString(g, end+"\r\n"); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			for second := 0; ; second++ {
				if _, err := io.WriteString(g, strings.Repeat("octets\r\n", 200)); err != nil {
					break
				}
				if n := h.srv.cfg.Memory.InUse(); n != 0 {
					t.Fatalf("%d octets are taken", n)
				}
				time.Sleep(time.Second)
			}
			if d := time.Since(begun); d < discardTimeout || d > discardTimeout+10*time.Second {
				t.Errorf("read for %v", d)
			}
			h.want(g.hear(), "550 5.7.1 refused early")
			h.want(g.hear(), "")
		}
	})
}

// TestBody_RefusedChunks shows that a stranger whose message was refused cannot stay by sending more chunks of it.
func TestBody_RefusedChunks(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		g := h.enter("192.0.2.1")
		g.say("EHLO c.example", "MAIL FROM:<early@x.example>", "RCPT TO:<b@y.example>")
		begun := time.Now()
		for range 100 {
			if _, err := io.WriteString(g, "BDAT 1000\r\n"+strings.Repeat("x", 500)); err != nil {
				break
			}
			time.Sleep(30 * time.Second)
			if !strings.HasPrefix(g.say(strings.Repeat("x", 498)), "550") {
				break
			}
		}
		if d := time.Since(begun); d < barrenTimeout || d > barrenTimeout+time.Minute {
			t.Errorf("stayed for %v", d)
		}
	})
}

// TestConn_Size shows that a connection stays in its size class.
func TestConn_Size(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 1024 {
		t.Errorf("%d octets", n)
	}
}
