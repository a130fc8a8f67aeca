package wire

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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

// TestPlaces_Files shows how clients and what is opened for them share the descriptors: neither can take all of them,
// what the reserve has room for is left, and strangers that idle make room.
func TestPlaces_Files(t *testing.T) {
	limits := Limits{Total: 100, Files: 120}
	crowd := func(h *house, n int) (in int) {
		for i := range n {
			if g := h.arrive(fmt.Sprintf("192.0.%d.%d", i/200, i%200)); g.greeted() {
				g.say("EHLO c.example")
				in++
			}
		}
		return in
	}
	take := func(p *Places, most int) (n int) {
		for n < most && p.TakeFile() {
			n++
		}
		return n
	}
	full := func(c *Config) { c.Places = NewPlaces(limits) }
	t.Run("idle strangers leave what is not theirs", func(t *testing.T) {
		inHouse(t, full, func(t *testing.T, h *house) {
			p := h.srv.cfg.Places
			if in := crowd(h, 200); in != 95 {
				t.Errorf("%d strangers are in, want 95", in)
			}
			if n := take(p, 200); n != 20 {
				t.Errorf("%d descriptors besides theirs, want 20: five are for partners", n)
			}
			time.Sleep(settledFor)
			if p.TakeFile() {
				t.Error("one more, before a stranger that idles has gone")
			}
			synctest.Wait()
			if !p.TakeFile() {
				t.Error("none, though a stranger that idles has gone")
			}
		})
	})
	t.Run("what is opened leaves the reserve", func(t *testing.T) {
		inHouse(t, full, func(t *testing.T, h *house) {
			p := h.srv.cfg.Places
			if n := take(p, 200); n != 115 {
				t.Errorf("%d descriptors without a client, want 115", n)
			}
			if in := crowd(h, 20); in != 5 {
				t.Errorf("%d clients are in, want the 5 for which there are descriptors", in)
			}
			p.GiveFile()
			h.enter("198.51.100.1")
			if p.TakeFile() {
				t.Error("the descriptor of a client was taken")
			}
		})
	})
	t.Run("without a limit there is always one", func(t *testing.T) {
		p := NewPlaces(Limits{Total: 1})
		if n := take(p, 200); n != 200 || p.Pressed() {
			t.Errorf("%d, pressed %t", n, p.Pressed())
		}
	})
}
