package wire

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// ends reads what is left, and reports how the connection ended: by the server's orderly close, or by a reset, with
// which a reply may be lost that the client has not read.
func (p *testClient) ends(t *testing.T) string {
	t.Helper()
	b, err := io.ReadAll(p.Conn)
	if err != nil {
		t.Errorf("the replies end with %v", err)
	}
	said := string(p.in) + string(b)
	p.in = nil
	return said
}

// ahead is more than a server reads of commands at once.
var ahead = strings.Repeat("NOOP\r\n", 50_000)

// sendAhead sends commands without reading a reply, and then no more.
func (p *testClient) sendAhead(t *testing.T, commands string) {
	t.Helper()
	p.say(commands)
	if err := p.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
}

// TestShutdown_SentAhead shows that a drain does not lose the reply to a message to a client that sent commands behind
// it, which are not read any more.
func TestShutdown_SentAhead(t *testing.T) {
	for _, tc := range []struct{ name, first, behind string }{
		{"in one segment with the message", "", ahead},
		{"later", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t, nil)
			r.full, r.dot = make(chan struct{}, 1), make(chan struct{}, 1)
			p := r.opened()
			p.say("DATA\r\nhi\r\n.\r\n" + tc.behind)
			<-r.full
			if tc.behind == "" {
				p.say(ahead)
			}
			p.sendAhead(t, "")
			done, end := r.drained()
			defer end()
			<-r.srv.drain
			r.dot <- struct{}{}
			if said := p.ends(t); !strings.Contains(said, "\r\n250 2.0.0 took 4\r\n421 4.3.2 ") {
				t.Errorf("got %q", said)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// An unread is a socket in which octets of the client wait. It notes the deadlines that it gets.
type unread struct {
	net.Conn
	octets    int
	reading   func() // called by each Read
	deadlines []time.Time
}

func (u *unread) Read(b []byte) (int, error) {
	u.reading()
	n := min(u.octets, len(b))
	if u.octets -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (u *unread) SetReadDeadline(t time.Time) error {
	u.deadlines = append(u.deadlines, t)
	return nil
}

func (*unread) CloseWrite() error { return nil }

// TestLife_LingerInDrain shows that a connection which ends while its client still sends is not closed earlier because
// the server drains: what is not read would take the last reply with it.
func TestLife_LingerInDrain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before bool // the drain begins before it lingers, not meanwhile
	}{{"that began before", true}, {"that begins meanwhile", false}} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t, nil)
			u := &unread{octets: 5000}
			l := &life{srv: r.srv, raw: u, rw: u, ending: lingering}
			drain := func() {
				if err := r.srv.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				l.wake() // as Shutdown does with each connection that the server has
			}
			u.reading = func() {
				if !tc.before && u.octets == 5000 {
					drain()
				}
			}
			if tc.before {
				drain()
			}
			l.linger(make([]byte, 100))
			if u.octets > 0 || len(u.deadlines) != 1 || time.Until(u.deadlines[0]) < lingerTimeout/2 {
				t.Errorf("%d octets are left, the deadlines were %v", u.octets, u.deadlines)
			}
		})
	}
}

// TestShutdown_PromisedTLS shows that a client that was told to begin TLS can, and is told under TLS that the server
// ends: one whose handshake is broken off may think that TLS is what is broken here, and come back in clear.
func TestShutdown_PromisedTLS(t *testing.T) {
	secure := certificate(t)
	var r *rig
	drained := make(chan error, 1)
	r = start(t, func(c *Config) {
		c.TLS = func() *tls.Config { // asked for behind the 220
			go func() { drained <- r.srv.Shutdown(t.Context()) }()
			<-r.srv.drain
			return secure
		}
	})
	p := r.dial()
	p.want("220")
	p.say("EHLO c.example\r\nSTARTTLS\r\n")
	p.want("250 ")
	p.want("220 2.0.0")
	under := tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	p.Conn = under
	if err := under.Handshake(); err != nil {
		t.Fatal(err)
	}
	p.say("EHLO c.example\r\n")
	if said := p.ends(t); !strings.HasPrefix(said, "421 4.3.2 ") {
		t.Errorf("got %q", said)
	}
	p.Conn.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}
