package wire

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/millrace/millrace/router/mail"
)

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
