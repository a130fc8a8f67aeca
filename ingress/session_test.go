package ingress

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// The next hop's answer is ours.
func TestSession_UpstreamReplies(t *testing.T) {
	full := &mail.Refusal{Reply: mail.NewReply(452, 2, 2, "Mailbox full\nlater"), Host: "mx.far.example"}
	relay := &ingresstest.Relay{Refuse: map[string]error{"full@far.example": full}}
	w := serve(t, rules{
		"full": ingresstest.To("far.example", "full@far.example"), "info": ingresstest.To("far.example"),
	}, relay, nil)
	w.say("MAIL FROM:<>", "250")
	got := w.say("RCPT TO:<full@example.com>", "452 4.2.2 Mailbox full id=")
	if e := w.last(mail.Deferred); !strings.Contains(got, e.Trace.String()) || e.Host != "mx.far.example" ||
		e.Verb != "RCPT" {
		t.Errorf("event %+v", e)
	}
	w.say("RCPT TO:<nobody@example.com>", "550 5.1.1 No such user here id=")
	w.say("DATA", "451")
	relay.Outcomes = []mail.Outcome{{Reply: mail.NewReply(554, 7, 1, "Spam"), Host: "mx.far.example"}}
	w.say("RSET", "250")
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "554 5.7.1 Spam id=")
	if e := w.last(mail.Refused); e.Verb != "DATA" || e.Reply.Code != 554 {
		t.Errorf("event %+v", e)
	}
	relay.Outcomes = []mail.Outcome{{Reply: mail.NewReply(252, 0, 0, "whatever")}}
	w.say("MAIL FROM:<>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250 2.0.0 whatever id=")
	if relay.Begins != 3 {
		t.Errorf("%d transactions begun, want 3", relay.Begins)
	}
}

// A silent client's session is lent.
func TestSession_Idle(t *testing.T) {
	relay := &ingresstest.Relay{Refuse: map[string]error{}}
	routes := rules{"info": ingresstest.To("far.example"), "two": ingresstest.To("far.example")}
	w := serve(t, routes, relay, func(c *Config, wc *wire.Config) {
		c.Message.Lend = 30 * time.Millisecond
		wc.Lend = 30 * time.Millisecond
	})
	lends := func(n int) {
		t.Helper()
		for relay.Lent() < n { // at last it is the test's time that is over
			<-time.After(time.Millisecond)
		}
	}
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	lends(1)
	w.say("DATA", "354")
	if _, err := io.WriteString(w.conn, "Subject: slow\r\n"); err != nil {
		t.Fatal(err)
	}
	lends(2)
	w.say("\r\nbody\r\n.", "250")
	if len(relay.Got) != 1 || !strings.HasSuffix(relay.Got[0].Octets, "Subject: slow\r\n\r\nbody\r\n") {
		t.Fatalf("delivered %+v", relay.Got)
	}
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	lends(3)
	relay.Mu.Lock()
	relay.Refuse["info@example.com"] = mail.Refuse(550, 1, 1, "gone meanwhile", "upstream", nil)
	relay.Mu.Unlock()
	w.say("DATA", "550 5.1.1 gone meanwhile id=")
	if len(relay.Got) != 1 {
		t.Error("a message without a recipient was delivered")
	}
}

// Mail is refused for now when the budget is used up, by a message that cannot give way.
func TestSession_OutOfBudget(t *testing.T) {
	relay := &ingresstest.Relay{Reached: make(chan struct{}), Release: make(chan struct{})}
	w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, func(_ *Config, c *wire.Config) {
		c.Memory.Budget = 1
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	conn, in := w.conn, w.in
	w.connect(conn.RemoteAddr().String())
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	if _, err := io.WriteString(w.conn, text+".\r\n"); err != nil {
		t.Fatal(err)
	}
	<-relay.Reached
	conn, w.conn, in, w.in = w.conn, conn, w.in, in
	w.say("DATA", "452 4.3.1 ")
	w.say("MAIL FROM:<a@b.example>", "452 4.3.1 ")
	close(relay.Release)
	first := w.in
	w.in = in
	w.want("250")
	w.in = first
	w.say("MAIL FROM:<a@b.example>", "250")
	conn.Close()
}

// Trust is lowered and never raised.
func TestNewSession_Trust(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	at := netip.MustParseAddrPort("10.1.2.3:25")
	s, err := New(Config{
		Router: rules{}, Relay: &ingresstest.Relay{},
		Message: message.Config{Hostname: "h", LoopTagKeys: [][]byte{make([]byte, 16)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		client wire.Client
		want   bool
	}{
		{"in the network", wire.Client{Addr: at}, true},
		{"in the network, mapped", wire.Client{Addr: netip.MustParseAddrPort("[::ffff:10.1.2.3]:25")}, true},
		{"elsewhere", wire.Client{Addr: netip.MustParseAddrPort("192.0.2.1:25")}, false},
		{"said by XCLIENT", wire.Client{Addr: at, Lowered: true}, false},
		{"unknown behind a proxy", wire.Client{Addr: at, Unknown: true}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.NewSession(&tt.client, &Trust{Networks: trusted}).(*session).trusted; got != tt.want {
				t.Errorf("trusted = %v", got)
			}
		})
	}
}
