package wire

import (
	"context"
	"net/netip"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// A listening is a fakeSession that watches for proof that its client has read the reply, and tells in the end what is
// known of that.
type listening struct {
	*fakeSession
	client *Client
	heard  chan<- Heard
}

func (l listening) Body(ctx context.Context, b *Body) mail.Reply {
	r := l.fakeSession.Body(ctx, b)
	l.client.Watch()
	return r
}

func (l listening) Close() {
	l.heard <- l.client.Heard()
	l.fakeSession.Close()
}

// listen starts a server whose sessions tell what their clients heard.
func listen(t *testing.T, proxy ...netip.Prefix) (*rig, <-chan Heard) {
	heard := make(chan Heard, 1)
	r := start(t, func(c *Config) {
		c.Proxy = proxy
		session := c.NewSession
		c.NewSession = func(ctx context.Context, client *Client) Session {
			return listening{session(ctx, client).(*fakeSession), client, heard}
		}
	})
	return r, heard
}

// sends sends a message, with octets right behind it, and reads the replies to the message.
func (p *testClient) sends(behind string) {
	p.want("220")
	p.say("HELO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n")
	for _, want := range []string{"250", "250", "250", "354"} {
		p.want(want)
	}
	p.say("hi\r\n.\r\n" + behind)
	p.want("250 2.0.0 took 4")
}

const fromFront = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n"

// TestHeard_TheNodeDrains: a client that is idle is told 421. Its TCP has the reply to its message by then, and the
// connection was neither reset nor timed out.
func TestHeard_TheNodeDrains(t *testing.T) {
	for name, tt := range map[string]struct {
		proxy []netip.Prefix
		want  Heard
	}{"directly": {nil, HeardWritten}, "behind a front end": {loopback, HeardBehind}} {
		t.Run(name, func(t *testing.T) {
			r, heard := listen(t, tt.proxy...)
			p := r.dial()
			if tt.proxy != nil {
				p.say(fromFront)
			}
			p.sends("")
			waitFor(t, func() bool { // its TCP has acknowledged the reply
				for _, c := range r.srv.all() {
					_, acknowledged, ok := roundTrip(c.life.raw)
					return ok && acknowledged && !c.life.isReplyOwed()
				}
				return false
			})
			done, end := r.drained()
			defer end()
			p.want("421 4.3.2")
			p.Close()
			if got := <-heard; got != tt.want {
				t.Errorf("heard is %d, want %d", got, tt.want)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHeard_BehindAFrontEnd: there only what a client sends after a reply that it waited for, to what it sent after the
// reply to its message, shows that it has read that.
func TestHeard_BehindAFrontEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		behind string   // right behind the message
		then   []string // each after the reply to what came before it
		want   Heard
	}{
		{"it says nothing more", "", nil, HeardBehind},
		{"RSET, and no more", "", []string{"RSET"}, HeardBehind},
		{"QUIT", "", []string{"QUIT"}, HeardBehind},
		{"RSET, and it goes on", "", []string{"RSET", "NOOP"}, HeardSurely},
		{"RSET that came with the message, and it goes on", "RSET\r\n", []string{"NOOP", "NOOP"}, HeardBehind},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, heard := listen(t, loopback...)
			p := r.dial()
			p.say(fromFront)
			p.sends(tt.behind)
			if tt.behind != "" {
				p.want("250")
			}
			for _, verb := range tt.then {
				p.say(verb + "\r\n")
				p.want("2")
			}
			p.Close()
			if got := <-heard; got != tt.want {
				t.Errorf("heard is %d, want %d", got, tt.want)
			}
		})
	}
}
