package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// begin opens a transaction and says text behind the 354.
func (g *guest) begin(text string) {
	g.h.t.Helper()
	g.h.want(g.say("EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA"), "354")
	g.write(text)
}

func (g *guest) write(text string) {
	g.h.t.Helper()
	if _, err := io.WriteString(g, text); err != nil {
		g.h.t.Fatal(err)
	}
}

// TestBody_Parked shows that a message arrives whole however often its client was waited for, by DATA and BDAT.
func TestBody_Parked(t *testing.T) {
	for _, n := range []int{
		0, 4, leastBuffer - dripRoom, leastBuffer, 5000, slabSize / 2, 1<<16 - dripRoom, 1 << 16, SlabOctets - 1,
		SlabOctets, SlabOctets + 1, slabSize + SlabOctets - withheld, 300_000,
	} {
		stuffed := text(n)
		plain := strings.ReplaceAll("\n"+stuffed, "\n..", "\n.")[1:]
		k := len(plain) / 3
		both := opened + "DATA\r\n" + stuffed + ".\r\n" + opened +
			fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%sQUIT\r\n", k, plain[:k], len(plain)-k, plain[k:])
		for _, cuts := range [][]byte{nil, {255}, {255, 0, 7}} {
			for _, waits := range [][]byte{{1}, {0, 0, 1}, append(make([]byte, 97), 1)} {
				for _, keep := range []bool{false, true} {
					out, r, held := converseAlone(t, []byte(both), cuts, waits, func(c *Config) {
						next := c.NewSession
						c.NewSession = func(ctx context.Context, cl *Client) Session {
							s := next(ctx, cl).(*fakeSession)
							s.r.keep = keep
							return s
						}
					})
					if held != 0 {
						t.Errorf("%d octets were not given back", held)
					}
					ms := r.accepted()
					if len(ms) != 2 {
						t.Fatalf("%d octets: %d messages:\n%s", n, len(ms), out)
					}
					if ms[0].octets != stuffed || ms[0].plain != plain || ms[1].octets != plain {
						t.Fatalf("%d octets, cuts %v, waits %v: got %d by DATA, %d by BDAT", n, cuts, waits,
							len(ms[0].octets), len(ms[1].octets))
					}
				}
			}
		}
	}
}

// TestBody_PrependParked shows that a message in a small buffer has no headroom, and one that came back to a slab has.
func TestBody_PrependParked(t *testing.T) {
	for _, tc := range []struct {
		n    int
		want bool
	}{{300, false}, {300_000, true}} {
		said := opened + "DATA\r\n" + text(tc.n) + ".\r\nQUIT\r\n"
		tried := false
		converseAlone(t, []byte(said), []byte{100}, []byte{1}, func(c *Config) {
			scripted(c, func(_ *Client, s *scriptedSession) {
				s.body = func(_ context.Context, b *Body) mail.Reply {
					fields := []byte("X: y\r\n")
					for first := true; ; first = false {
						o, last, err := b.Next(time.Time{})
						if err != nil {
							return mail.ReplyFor(err)
						}
						before := string(o.AppendPlain(nil, o.Len()))
						p, ok := b.Prepend(o, fields)
						if first {
							tried = true
							if ok != tc.want || ok && string(p.AppendPlain(nil, p.Len())) != string(fields)+before {
								t.Errorf("%d octets: prepended %t", tc.n, ok)
							}
						}
						if seg := p.Segments[len(p.Segments)-1]; last && string(seg[len(seg):len(seg)+3]) != ".\r\n" {
							t.Error("the dot does not stand behind the last segment")
						}
						if last {
							return mail.NewReply(250, 0, 0, "ok")
						}
						b.Recycle()
					}
				}
			})
		})
		if !tried {
			t.Errorf("%d octets: no message", tc.n)
		}
	}
}

// TestMemory_Counts shows what a message takes while its client is waited for: no slab, but a buffer that fits.
func TestMemory_Counts(t *testing.T) {
	line := strings.Repeat("x", 98) + "\r\n"
	for _, tc := range []struct {
		name string
		said string // behind RCPT
		want int64
	}{
		{"before its first octet", "DATA\r\n", 1 << 10},
		{"with a few hundred octets", "DATA\r\n" + strings.Repeat(line, 3), 1 << 10},
		{"with 40 KiB", "DATA\r\n" + strings.Repeat(line, 400), 64 << 10},
		{"with more than a slab, held", "DATA\r\n" + strings.Repeat(line, 1000), slabSize + 32<<10},
		{"with half a chunk", "BDAT 1000\r\n" + strings.Repeat(line, 5), 1 << 10},
		{"between two chunks", "BDAT 500\r\n" + strings.Repeat(line, 5), 1 << 10},
		{"with lines of a dot", "DATA\r\n" + strings.Repeat("..\r\n", 1000), 8<<10 + 4*1024},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inHouse(t, nil, func(t *testing.T, h *house) {
				h.keep = true
				g := h.enter("192.0.2.1")
				g.say("EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>")
				g.write(tc.said)
				time.Sleep((1 + parkSlack) * parkAfter)
				synctest.Wait()
				if got := h.srv.cfg.Memory.InUse(); got < tc.want || got > tc.want+tc.want/4 {
					t.Errorf("%d octets are taken, want %d", got, tc.want)
				}
				if strings.HasPrefix(tc.said, "DATA") {
					h.want(g.hear(), "354")
					h.want(g.say("x\r\n."), "250 2.0.0 took")
				}
			})
		})
	}
}

// memory is what the tests of shares and giving way have.
const budget = 1 << 20

func inMemory(c *Config) { c.Memory.Budget = budget }

// letters are n octets of lines.
func letters(n int) string { return strings.Repeat(strings.Repeat("x", 62)+"\r\n", n/64) }

// TestMemory_ParksAtOnce shows that a message keeps no slab for a second while memory is short.
func TestMemory_ParksAtOnce(t *testing.T) {
	inHouse(t, inMemory, func(t *testing.T, h *house) {
		for i := range 100 {
			h.enter(fmt.Sprintf("192.0.%d.1", i)).begin(letters(256))
			time.Sleep(2 * parkAfter / hurry)
		}
		synctest.Wait()
		// Six slabs until memory is short, and small buffers.
		if n := h.srv.cfg.Memory.InUse(); n > budget/2+2*slabSize+100<<10 {
			t.Errorf("%d octets are taken", n)
		}
	})
}

// TestMemory_Share shows that once half of the memory is taken the strangers of a network may have a share of it, and
// that other strangers, and clients that are no strangers, are not concerned.
func TestMemory_Share(t *testing.T) {
	inHouse(t, func(c *Config) {
		inMemory(c)
		c.Standing = func(cl *Client) Standing {
			if cl.Addr.Addr().String() == "192.0.2.99" {
				return Favoured
			}
			return Stranger
		}
	}, func(t *testing.T, h *house) {
		for i := range 9 {
			h.enter(fmt.Sprintf("192.0.2.%d", i)).begin(letters(40 << 10))
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		if n := h.srv.cfg.Memory.InUse(); n <= budget/2 {
			t.Fatalf("only %d octets are taken", n)
		}
		for addr, want := range map[string]string{
			"192.0.2.200": "452 4.3.1", "192.0.2.99": "250", "192.0.3.1": "250", "2001:db8::1": "250",
		} {
			g := h.enter(addr)
			h.want(g.say("EHLO c.example", "MAIL FROM:<a@x.example>"), want)
			if want == "250" {
				h.want(g.say("RCPT TO:<b@y.example>", "DATA", "hi\r\n."), "250 2.0.0 took")
			}
		}
		if n := h.srv.cfg.Memory.Refused(); n != 1 {
			t.Errorf("%d refused", n)
		}
	})
}

// TestMemory_GivesWay shows which messages end when the memory is taken: of the network that takes most, the slowest.
// They end with 452 and their connections go on, by DATA, by BDAT and between two chunks; all others are accepted.
func TestMemory_GivesWay(t *testing.T) {
	for _, tc := range []struct{ name, begin, end string }{
		{"DATA", "DATA\r\n", "\r\n."},
		{"half a chunk", "BDAT 60000 LAST\r\n", strings.Repeat("x", 20_000-2)},
		{"between two chunks", "BDAT 40000\r\n", "BDAT 0 LAST"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inHouse(t, inMemory, func(t *testing.T, h *house) {
				arrive := func(addr string) *guest {
					g := h.enter(addr)
					g.say("EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>")
					g.write(tc.begin)
					if tc.begin == "DATA\r\n" {
						h.want(g.hear(), "354")
					}
					g.write(letters(40_000))
					if tc.end == "BDAT 0 LAST" {
						h.want(g.hear(), "250 2.0.0 40000")
					}
					return g
				}
				var heavy, light []*guest
				for i := range 9 { // the first is the slowest: it is waited for longest
					heavy = append(heavy, arrive(fmt.Sprintf("2001:db8:0:%x::1", i)))
					time.Sleep(10 * time.Second)
				}
				for i := range 6 {
					light = append(light, arrive(fmt.Sprintf("192.0.%d.1", i)))
					time.Sleep(time.Second)
				}
				time.Sleep(7 * time.Second)
				if n := h.srv.cfg.Memory.InUse(); n < budget-budget/fullPart {
					t.Fatalf("only %d octets are taken", n)
				}
				g := h.enter("198.51.100.1")
				if g.say("EHLO c.example") == "" || !g.sendMail() {
					t.Error("mail that comes is refused")
				}
				synctest.Wait()
				gave := int(h.srv.cfg.Memory.GaveWay())
				if gave != 3 {
					t.Errorf("%d messages gave way", gave)
				}
				for i, g := range heavy {
					want := "250 2.0.0 took"
					if i < gave {
						want = "452 4.3.1"
					}
					h.want(g.say(tc.end), want)
				}
				for _, g := range heavy {
					h.want(g.say("RSET"), "250 2.0.0")
					if !g.sendMail() {
						t.Error("the next message of its connection is refused")
					}
				}
				for _, g := range light {
					h.want(g.say(tc.end), "250 2.0.0 took")
				}
			})
		})
	}
}

// TestMemory_SlowFirst shows that slow messages of many light networks give way before fast ones of a heavy network,
// and that a message which drips goes before one that comes over a slow line, whatever their networks take.
func TestMemory_SlowFirst(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pause time.Duration // of the honest clients, inside of each message
	}{
		{"as fast as it is read", 0},
		{"over slow lines", 5 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inHouse(t, inMemory, func(t *testing.T, h *house) {
				var dripping, honest []*guest
				for i := range 11 { // each of a network that holds no more than this
					g := h.enter(fmt.Sprintf("2001:db8:%x::1", i))
					g.begin(letters(40_000))
					dripping = append(dripping, g)
					time.Sleep((1 + parkSlack) * parkAfter)
				}
				time.Sleep(40 * time.Second)
				for _, g := range dripping { // at about 600 octets a second
					g.write(letters(1000))
				}
				time.Sleep(10 * time.Second)
				for i := range 5 {
					g := h.enter(fmt.Sprintf("192.0.2.%d", i))
					g.begin(letters(40_000))
					honest = append(honest, g)
					time.Sleep(2 * parkAfter / hurry)
				}
				time.Sleep(tc.pause + time.Second)
				g := h.enter("198.51.100.1")
				if g.say("EHLO c.example") == "" || !g.sendMail() {
					t.Error("mail that comes is refused")
				}
				for _, g := range honest {
					h.want(g.say("."), "250 2.0.0 took")
				}
				gave := int(h.srv.cfg.Memory.GaveWay())
				refused := 0
				for _, g := range dripping {
					if strings.HasPrefix(g.say("."), "452 4.3.1") {
						refused++
					}
				}
				if gave == 0 || refused != gave {
					t.Errorf("%d messages gave way, and %d of those that dripped", gave, refused)
				}
			})
		})
	}
}

// TestMemory_DotsReleased shows that a message whose end of data is released does not give way.
func TestMemory_DotsReleased(t *testing.T) {
	inHouse(t, inMemory, func(t *testing.T, h *house) {
		h.full, h.dot = make(chan struct{}, 100), make(chan struct{})
		var all []*guest
		for i := range 11 {
			g := h.enter(fmt.Sprintf("192.0.%d.1", i))
			g.begin(letters(10000) + ".\r\n")
			<-h.full
			all = append(all, g)
		}
		time.Sleep(10 * time.Second)
		g := h.enter("198.51.100.1")
		g.say("EHLO c.example")
		g.say("MAIL FROM:<a@x.example>")
		time.Sleep(10 * time.Second)
		close(h.dot)
		for _, g := range all {
			h.want(g.hear(), "250 2.0.0 took")
		}
		if n := h.srv.cfg.Memory.GaveWay(); n != 0 {
			t.Errorf("%d gave way", n)
		}
	})
}

// TestMemory_GrowthAsks shows that messages that were let in while they were small do not grow beyond the budget.
func TestMemory_GrowthAsks(t *testing.T) {
	inHouse(t, func(c *Config) { inMemory(c); c.Memory.Budget = 4 * budget }, func(t *testing.T, h *house) {
		h.keep = true
		var all []*guest
		for i := range 400 {
			g := h.enter(fmt.Sprintf("192.0.%d.%d", i/20, i%20))
			g.begin(letters(128))
			time.Sleep(parkAfter / 10)
			all = append(all, g)
		}
		time.Sleep(5 * time.Second)
		most := int64(0)
		for _, g := range all {
			g.write(letters(60 << 10))
			synctest.Wait()
			most = max(most, h.srv.cfg.Memory.InUse())
		}
		if most > 4*budget {
			t.Errorf("%d octets were taken", most)
		}
		refused := 0
		for _, g := range all {
			if strings.HasPrefix(g.say("."), "452 4.3.1") {
				refused++
			}
		}
		if refused == 0 || refused > 380 {
			t.Errorf("%d of 400 were refused", refused)
		}
	})
}

// TestBody_RefusedBetweenChunks shows that a refusal between two chunks, when the client waits for no reply, is said to
// the next one, and to each later one until the transaction ends.
func TestBody_RefusedBetweenChunks(t *testing.T) {
	inHouse(t, func(c *Config) {
		scripted(c, func(_ *Client, s *scriptedSession) {
			s.body = func(_ context.Context, b *Body) mail.Reply {
				if _, _, err := b.Next(time.Now().Add(time.Second)); !errors.Is(err, ErrIdle) {
					t.Errorf("got %v", err)
				}
				return mail.NewReply(451, 4, 5, "gave way")
			}
		})
	}, func(t *testing.T, h *house) {
		g := h.enter("192.0.2.1")
		g.say("EHLO c.example", "MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>")
		h.want(g.say("BDAT 6\r\nabcd"), "250 2.0.0 6")
		time.Sleep(10 * time.Second)
		h.want(g.say("BDAT 6\r\nabcd"), "451 4.4.5")
		h.want(g.say("BDAT 6 LAST\r\nabcd"), "451 4.4.5")
		h.want(g.say("RSET"), "250 2.0.0 OK")
		h.want(g.say("MAIL FROM:<a@x.example>"), "250 2.1.0")
	})
}

// TestBody_AwaitGivesWay shows that messages that wait for a next hop are ended too, the slow ones of all networks
// first.
func TestBody_AwaitGivesWay(t *testing.T) {
	for name, ended := range map[string]func(context.Context) error{
		"its wait ends":                   context.Cause,
		"its wait was done in the moment": func(context.Context) error { return nil },
	} {
		t.Run(name, func(t *testing.T) { awaitGivesWay(t, ended) })
	}
}

// awaitGivesWay has waits that return what ended says once their ctx has ended.
func awaitGivesWay(t *testing.T, ended func(context.Context) error) {
	inHouse(t, func(c *Config) {
		c.Memory.Budget = budget + 16<<10 // so that three are enough
		scripted(c, func(_ *Client, s *scriptedSession) {
			s.body = func(ctx context.Context, b *Body) mail.Reply {
				if _, _, err := b.Next(time.Time{}); err != nil {
					return mail.ReplyFor(err)
				}
				var kept context.Context
				err := b.Await(ctx, func(ctx context.Context) error {
					kept = ctx
					select {
					case <-ctx.Done():
						return ended(ctx)
					case <-time.After(time.Minute):
						return nil
					}
				})
				if err != nil {
					return mail.ReplyFor(err)
				}
				if kept.Err() != nil {
					t.Error("what a transaction may keep has ended with the wait")
				}
				return mail.NewReply(250, 0, 0, "OK")
			}
		})
	}, func(t *testing.T, h *house) {
		send := func(addr string, takes time.Duration) *guest {
			g := h.enter(addr)
			g.begin(letters(60_000))
			time.Sleep(takes)
			g.write(".\r\n")
			synctest.Wait()
			return g
		}
		time.Sleep(time.Second) // the engine's clock is not 0
		var light, heavy []*guest
		for i := range 7 { // most of them begin to wait before memory is short, and are let be
			light = append(light, send(fmt.Sprintf("192.0.3%d.1", i), 0))
		}
		for i := range 4 {
			heavy = append(heavy, send("192.0.2.1", time.Duration(i%2)*3*time.Second))
		}
		slow := send("192.0.40.1", 3*time.Second)
		if n := h.srv.cfg.Memory.InUse(); n < h.srv.cfg.Memory.Budget/fullPart*(fullPart-1) {
			t.Fatalf("only %d octets are taken", n)
		}
		g := h.enter("198.51.100.1")
		h.want(g.say("EHLO c.example", "MAIL FROM:<a@x.example>"), "250")
		for _, g := range light {
			h.want(g.hear(), "250 2.0.0 OK")
		}
		h.want(slow.hear(), "452 4.3.1")
		for i, g := range heavy {
			want := "250 2.0.0 OK"
			if i%2 == 1 {
				want = "452 4.3.1"
			}
			h.want(g.hear(), want)
		}
	})
}
