package peer

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// TestServer_NextHops: a certificate of the cluster lets a node have mail sent to MX hosts and to the next hops of the
// server's own rules, and nowhere else. The node that asked is told to deliver the rest by itself.
func TestServer_NextHops(t *testing.T) {
	smarthost := mail.NextHop{Transport: mail.Submission, Host: "smart.example", User: "u"}
	lan := mail.NextHop{Transport: mail.LMTP, Host: "127.0.0.1"}
	for _, c := range []struct {
		name  string
		h     mail.NextHop
		taken bool
	}{
		{"the MX hosts of a domain", mail.NextHop{Host: "h.example"}, true},
		{"an address literal", mail.NextHop{Host: "[192.0.2.1]"}, true},
		{"a smarthost of our rules", smarthost, true},
		{"a smarthost of our rules at another port", mail.NextHop{
			Transport: mail.Submission, Host: "smart.example", Port: 2587, User: "u",
		}, false},
		{"a smarthost of our rules as another user", mail.NextHop{
			Transport: mail.Submission, Host: "smart.example", User: "root",
		}, false},
		{"any host and port", mail.NextHop{Transport: mail.SMTP, Host: "10.0.0.9", Port: 6379}, false},
		{"MX hosts at another port", mail.NextHop{Host: "h.example", Port: 6379}, false},
		{"MX hosts with a user", mail.NextHop{Host: "h.example", User: "u"}, false},
		{"loopback, although our rules name it", lan, false},
		{"localhost", mail.NextHop{Transport: mail.SMTP, Host: "LOCALHOST."}, false},
		{"a literal of loopback", mail.NextHop{Host: "[127.0.0.1]"}, false},
		{"a literal of loopback, IPv6", mail.NextHop{Host: "[IPv6:::1]"}, false},
		{"a literal of loopback, IPv4-mapped", mail.NextHop{Host: "[IPv6:::ffff:127.0.0.1]"}, false},
		{"no address", mail.NextHop{Transport: mail.SMTP, Host: "0.0.0.0"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &destination{}
			w := newWorld(t, d, beat, func(s *ServerConfig, _ *ClientConfig) {
				s.HasNextHop = func(h mail.NextHop) bool { return h == smarthost || h == lan }
			})
			for range 2 {
				asked := delivery()
				asked.NextHop = c.h
				tx, err := w.client.Begin(t.Context(), "b", asked)
				if err != nil {
					t.Fatal(err)
				}
				err = tx.Rcpt(t.Context(), to("x"))
				tx.Abort()
				if c.taken {
					if err != nil {
						t.Fatal(err)
					}
					continue
				}
				if e := peerError(t, err); e.Sent() || !e.Declined() || len(d.begun) != 0 {
					t.Errorf("%v, %v", err, d.begun)
				}
			}
			if open, idle := w.client.count("b"); open != 1 || idle != 1 || !w.client.Reachable("b") {
				t.Errorf("%d open, %d idle: the node is not used any more", open, idle)
			}
			if told := w.events.Load(); told > 1 || c.taken != (told == 0) {
				t.Errorf("told %d times", told)
			}
		})
	}
}

// TestServer_Admits: a node that is not admitted gets no further than the greeting, whatever its certificate says.
func TestServer_Admits(t *testing.T) {
	d := &destination{}
	w := newWorld(t, d, beat, func(s *ServerConfig, _ *ClientConfig) {
		s.Admits = func(node string) bool { return node != "a" }
	})
	tx, err := w.client.Begin(t.Context(), "b", delivery())
	if err == nil {
		err = tx.Rcpt(t.Context(), to("x"))
	}
	if peerError(t, err).Sent() || len(d.begun) != 0 {
		t.Errorf("%v, %v", err, d.begun)
	}
}

// TestServer_Places: connections that say nothing do not keep another address from the hop.
func TestServer_Places(t *testing.T) {
	w := newWorld(t, &destination{}, beat, nil)
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	for range 3 * maxPlaces {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	closed := 0
	for _, c := range silent[maxPlaces:] {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
			closed++
		}
	}
	if closed != 2*maxPlaces || len(w.server.all()) > maxPlaces || w.events.Load() != 1 {
		t.Errorf("%d closed, %d open, told %d times", closed, len(w.server.all()), w.events.Load())
	}
	cfg := w.client.cfg.TLS.Clone()
	cfg.ServerName = "b"
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := tls.DialWithDialer(&other, "tcp", w.addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// isTimeout reports whether err is that of a deadline.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestServer_Burst: a node that begins many transactions at once reaches the other with all of them.
func TestServer_Burst(t *testing.T) { synctest.Test(t, testBurst) }

func testBurst(t *testing.T) {
	d := &destination{}
	w := newBubble(t, d, nil)
	var all sync.WaitGroup
	for range 4 * maxPlaces {
		all.Go(func() {
			tx, err := w.client.Begin(t.Context(), "b", delivery())
			if err == nil {
				err = tx.Rcpt(t.Context(), to("x"))
			}
			if err != nil {
				t.Error(err)
				return
			}
			tx.Abort()
		})
	}
	all.Wait()
	if w.unreachable.Load() != 0 || w.events.Load() != 0 {
		t.Errorf("unreachable %d times, told %d times", w.unreachable.Load(), w.events.Load())
	}
}

// TestGuard: the counts of an address return to nothing, and what was not told is counted.
func TestGuard(t *testing.T) {
	var g guard
	from, now := netip.MustParsePrefix("192.0.2.1/32"), time.Unix(1000, 0)
	for i := range maxPlaces + 3 {
		many, ok := g.enter(from)
		if !ok || many != (i >= maxPlaces) {
			t.Fatalf("place %d: %v %v", i, many, ok)
		}
		g.proved(from)
	}
	for range maxPlaces {
		if _, ok := g.enter(from); !ok {
			t.Fatal("no place without a certificate")
		}
	}
	if _, ok := g.enter(from); ok {
		t.Error("more places without a certificate than there are")
	}
	for range maxPlaces {
		g.left(from, false)
	}
	for range maxPlaces + 3 {
		g.left(from, true)
	}
	if v := g.visitors[from]; v.places != 0 || v.unproved != 0 {
		t.Errorf("left with %+v", v)
	}
	told := strings.Builder{}
	for range 5 {
		if n, ok := g.tells(from, now); ok {
			told.WriteByte(byte('0' + n))
		}
		now = now.Add(20 * time.Second)
	}
	if told.String() != "02" {
		t.Errorf("told %q", told.String())
	}
	for i := range 3 * maxVisitors {
		g.tells(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32), now)
	}
	if len(g.visitors) > maxVisitors {
		t.Errorf("%d addresses are remembered", len(g.visitors))
	}
}
