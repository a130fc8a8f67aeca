package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A message is passed on below our Received field.
func TestBody_Relays(t *testing.T) {
	relay := &ingresstest.Relay{}
	w := serve(t, rules{"info": ingresstest.To("far.example", "alice@far.example")}, relay, nil)
	w.say("MAIL FROM:<a@b.example> BODY=8BITMIME SIZE=100", "250 2.1.0")
	w.say("RCPT TO:<info@example.com>", "250 2.1.5")
	w.say("DATA", "354")
	reply := w.say(text+".", "250 2.0.0 Ok: queued as id=")
	got := relay.Got[0]
	fields, rest, _ := strings.Cut(got.Octets, "Subject: ")
	if len(fields) > got.Delivery.Extra {
		t.Errorf("our fields take %d octets, upstream was told of %d", len(fields), got.Delivery.Extra)
	}
	if "Subject: "+rest != text {
		t.Errorf("below the fields: %q", rest)
	}
	id := strings.TrimSpace(reply[strings.Index(reply, " id=")+4:])
	for _, part := range []string{"Received: from client.example ([127.0.0.1])\r\n\tby mx1.example.net with ESMTP id " +
		id, "\tfor <info@example.com>;", " (hop="} {
		if !strings.Contains(fields, part) {
			t.Errorf("Received lacks %q: %q", part, fields)
		}
	}
	if got.Form != mail.Stuffed || got.Writes != 0 || fmt.Sprint(got.Forwards) != "[alice@far.example]" ||
		got.Delivery.Params.Body != mail.Body8BitMIME {
		t.Errorf("delivered %+v", got)
	}
	e := w.last(mail.Relayed)
	if e.Mode != mail.ModeHold || e.Host != "mx.far.example" || e.Trace.String() != id ||
		e.Octets != int64(len(text))-1 && e.Octets != int64(len(text)) || e.Recipients != 1 {
		t.Errorf("event %+v", e)
	}
}

// A large message streams.
func TestBody_Streams(t *testing.T) {
	relay := &ingresstest.Relay{}
	w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	large := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n..dot\r\n", 20000)
	w.say(large+".", "250")
	got := relay.Got[0]
	if _, rest, _ := strings.Cut(got.Octets, "Subject: "); "Subject: "+rest != large {
		t.Error("the octets changed")
	}
	if got.Writes < 2 || w.last(mail.Relayed).Mode != mail.ModeStream {
		t.Errorf("%d writes, %v", got.Writes, w.last(mail.Relayed).Mode)
	}
}

// A message that ends badly is not delivered.
func TestBody_EndsBadly(t *testing.T) {
	early := mail.Refuse(552, 3, 4, "Too big for us", "upstream", nil)
	large := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n", 20000)
	looped := strings.Repeat("Received: x\r\n", 51) + "\r\n"
	tests := []struct {
		name, octets, want string
		change             func(*ingresstest.Relay)
	}{
		{"the next hop refuses DATA", text, "451 4.3.2 busy", func(relay *ingresstest.Relay) {
			relay.DataErr = mail.Refuse(451, 3, 2, "busy", "upstream", nil)
		}},
		{"the next hop refuses within the body", large, "552 5.3.4 Too big for us", func(relay *ingresstest.Relay) {
			relay.WriteErr = early
		}},
		{"the next hop is lost within the body", large, "451 4.3.0", func(relay *ingresstest.Relay) {
			relay.WriteErr = errors.New("broken pipe")
		}},
		{"it has passed too many hosts", looped, "554 5.4.6", nil},
		{"a bare LF", "Subject: x\n\r\n", "550 5.6.11", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{}
			if tt.change != nil {
				tt.change(relay)
			}
			w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, nil)
			w.say("MAIL FROM:<a@b.example>", "250")
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			if got := w.say(tt.octets+".", tt.want); !strings.Contains(got, " id=") {
				t.Errorf("no id in %q", got)
			}
			w.say("NOOP", "250")
			if len(relay.Got) != 0 || relay.Aborts != 1 {
				t.Errorf("%d delivered, %d aborted", len(relay.Got), relay.Aborts)
			}
		})
	}
}

// A loop through this cluster is refused.
func TestBody_Loop(t *testing.T) {
	relay := &ingresstest.Relay{}
	w := serve(t, rules{"info": ingresstest.To("far.example"), "other": ingresstest.To("far.example")}, relay, nil)
	send := func(rcpt, octets, want string) string {
		t.Helper()
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<"+rcpt+"@example.com>", "250")
		w.say("DATA", "354")
		w.say(octets+".", want)
		return relay.Got[len(relay.Got)-1].Octets
	}
	once := send("info", text, "250")
	send("info", once, "554 5.4.6 This message passed here before for the same recipient id=")
	twice := send("other", once, "250")
	send("info", twice, "554 5.4.6")
	passed := strings.Repeat("Received: x (hop=0011223344556677)\r\n", 5)
	send("info", passed+text, "250")
	send("info", "Received: y (hop=0011223344556677)\r\n"+passed+text,
		"554 5.4.6 This message passed here too often id=")
}

// A loop is seen for each of many recipients.
func TestBody_LoopManyRecipients(t *testing.T) {
	relay := &ingresstest.Relay{}
	routes := rules{}
	for i := range 100 {
		routes[fmt.Sprintf("u%d", i)] = ingresstest.To("far.example")
	}
	w := serve(t, routes, relay, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	for i := range 100 {
		w.say(fmt.Sprintf("RCPT TO:<u%d@example.com>", i), "250")
	}
	w.say("DATA", "354")
	w.say(text+".", "250")
	back := relay.Got[0].Octets
	for _, i := range []int{0, 5, 50, 99} {
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say(fmt.Sprintf("RCPT TO:<u%d@example.com>", i), "250")
		w.say("DATA", "354")
		w.say(back+".", "554 5.4.6")
	}
}

// The dot's deadline counts from the client's last octet.
func TestBody_CommitDeadline(t *testing.T) {
	relay := &ingresstest.Relay{DataTime: 50 * time.Millisecond}
	w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, func(c *Config, _ *wire.Config) {
		c.Message.Commit = time.Minute
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if relay.Patience > time.Minute || relay.Patience < 50*time.Second {
		t.Errorf("Commit may end %v after Data began, want a minute after the message ended", relay.Patience)
	}
}

// The Received field is ASCII.
func TestBody_ReceivedASCII(t *testing.T) {
	relay := &ingresstest.Relay{UTF8: true}
	w := serve(t, rules{"ü": ingresstest.To("far.example", "u@far.example")}, relay, nil)
	w.say("MAIL FROM:<a@b.example> SMTPUTF8", "250")
	w.say("RCPT TO:<ü@example.com>", "250")
	w.say("DATA", "354")
	w.say(text+".", "250")
	if got := relay.Got[0].Octets; strings.Contains(got, "for <") || !strings.Contains(got, "with UTF8SMTP id") {
		t.Errorf("got %q", got)
	}
}

// A refusal at DATA names no destination.
func TestData_RefusalRedacted(t *testing.T) {
	relay := &ingresstest.Relay{Refuse: map[string]error{}}
	routes := rules{"info": ingresstest.To("far.example", "secretalice@far.example")}
	w := serve(t, routes, relay, func(_ *Config, wc *wire.Config) {
		wc.Lend = 20 * time.Millisecond
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	for relay.Lent() == 0 {
		<-time.After(time.Millisecond)
	}
	relay.Mu.Lock()
	relay.Refuse["secretalice@far.example"] = mail.Refuse(550, 1, 1, "<secretalice@far.example> refused now",
		"upstream",
		nil)
	relay.Mu.Unlock()
	w.say("DATA", "550 5.1.1 <info@example.com> refused now id=")
}

// A message that streams asks for a place before its octets go out, and one that is held does not.
func TestBody_StreamPlace(t *testing.T) {
	large := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n", 10000)
	tests := []struct {
		name, octets string
		refusal      error
		want         string
		streams      int
		datas        int
	}{
		{"held", "Subject: x\r\n\r\nbody\r\n", nil, "250", 0, 1},
		{"streamed", large, nil, "250", 1, 1},
		{"no place", large, mail.Refuse(451, 4, 5, "Destination is busy", "no place", nil), "451 4.4.5", 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{StreamErr: tt.refusal}
			w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, nil)
			w.say("MAIL FROM:<a@b.example>", "250")
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			w.say(tt.octets+".", tt.want)
			relay.Mu.Lock()
			defer relay.Mu.Unlock()
			if relay.Streams != tt.streams || relay.Datas != tt.datas {
				t.Errorf("%d streams and %d DATA, want %d and %d", relay.Streams, relay.Datas, tt.streams, tt.datas)
			}
		})
	}
}

// A slow stream yields when other clients wait.
func TestBody_SlowStream(t *testing.T) {
	relay := &ingresstest.Relay{}
	w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, func(c *Config, _ *wire.Config) {
		c.Message.Lend = 10 * time.Millisecond
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	large := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n", 10000)
	if _, err := io.WriteString(w.conn, large); err != nil {
		t.Fatal(err)
	}
	<-time.After(50 * time.Millisecond) // no other client waits: this one may take its time
	relay.Mu.Lock()
	relay.Wanted = true
	aborts := relay.Aborts
	relay.Mu.Unlock()
	if aborts != 0 {
		t.Fatal("a slow client lost its session although no other waited")
	}
	for aborts == 0 {
		<-time.After(time.Millisecond)
		relay.Mu.Lock()
		aborts = relay.Aborts
		relay.Mu.Unlock()
	}
	w.say(".", "451 4.4.5 Others wait for this destination, try again id=")
}

// SMTPUTF8 is decided at the end of the header section.
func TestBody_SMTPUTF8(t *testing.T) {
	tests := []struct {
		name, octets, want string
		utf8               bool
	}{
		{"nothing above 127, not offered there", "Subject: x\r\n\r\n\xc3\xa9\r\n", "250", false},
		{"above 127, not offered there", "Subject: \xc3\xa9\r\n\r\n", "550 5.6.7", false},
		{"above 127, offered there", "Subject: \xc3\xa9\r\n\r\n", "250", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			relay := &ingresstest.Relay{UTF8: tt.utf8}
			w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, nil)
			w.say("MAIL FROM:<a@b.example> SMTPUTF8", "250")
			w.say("RCPT TO:<info@example.com>", "250")
			w.say("DATA", "354")
			w.say(tt.octets+".", tt.want)
		})
	}
}

// A refused message that still comes in takes nothing of the budget.
func TestBody_RefusedTakesNoBudget(t *testing.T) {
	w := serve(t, rules{"info": ingresstest.To("far.example")}, &ingresstest.Relay{}, func(_ *Config, c *wire.Config) {
		c.Memory.Budget = 1
	})
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	if _, err := io.WriteString(w.conn, "a bare\nLF\r\n"+strings.Repeat("more\r\n", 20000)); err != nil {
		t.Fatal(err)
	}
	for refused := false; !refused; { // the session has given its verdict, and the rest is still to come
		<-time.After(time.Millisecond)
		w.mu.Lock()
		for _, e := range w.events {
			refused = refused || e.Kind == mail.Refused
		}
		w.mu.Unlock()
	}
	dripping, in := w.conn, w.in
	w.connect(dripping.RemoteAddr().String())
	w.say("MAIL FROM:<a@b.example>", "250")
	w.conn, w.in = dripping, in
	w.say(".", "550 5.6.11")
}

// A drain whose time is up lets a released dot be answered.
func TestBody_Drain(t *testing.T) {
	relay := &ingresstest.Relay{Reached: make(chan struct{}), Release: make(chan struct{})}
	w := serve(t, rules{"info": ingresstest.To("far.example")}, relay, nil)
	w.say("MAIL FROM:<a@b.example>", "250")
	w.say("RCPT TO:<info@example.com>", "250")
	w.say("DATA", "354")
	if _, err := io.WriteString(w.conn, text+".\r\n"); err != nil {
		t.Fatal(err)
	}
	<-relay.Reached
	over, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan struct{})
	go func() { // ends with Shutdown, which waits for the dot
		defer close(ended)
		_ = w.srv.Shutdown(over)
	}()
	<-time.After(50 * time.Millisecond) // in which a connection that is owed nothing is cut
	close(relay.Release)
	w.want("250 2.0.0 Ok: queued as 4711 id=")
	<-ended
}

// Outcomes that are not one for each recipient are a fault of ours: the client hears of no success, and the event has
// the cause.
func TestData_WrongNumberOfOutcomes(t *testing.T) {
	took := mail.Outcome{Reply: mail.NewReply(250, 0, 0, "Ok"), Host: "mx.far.example"}
	for _, outcomes := range [][]mail.Outcome{{}, {took}, {took, took, took}} {
		w := serve(t, rules{
			"one": ingresstest.To("far.example", "one@far.example"),
			"two": ingresstest.To("far.example", "two@far.example"),
		}, &ingresstest.Relay{Outcomes: outcomes}, nil)
		w.say("MAIL FROM:<a@b.example>", "250")
		w.say("RCPT TO:<one@example.com>", "250")
		w.say("RCPT TO:<two@example.com>", "250")
		w.say("DATA", "354")
		w.say(text+".", "451 4.3.0")
		e := w.last(mail.Deferred)
		if want := fmt.Sprint(len(outcomes), " outcomes for 2 recipients"); !e.InDoubt || fmt.Sprint(e.Cause) != want {
			t.Errorf("%d: in doubt %t, cause %v", len(outcomes), e.InDoubt, e.Cause)
		}
	}
}
