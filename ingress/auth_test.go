package ingress

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

var info = rules{"info": ingresstest.To("far.example", "alice@far.example")}

// A held message is sealed whole.
func TestBody_HoldSeals(t *testing.T) {
	for _, n := range []int{10, 60 << 10, 100 << 10, 200 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
			body := lines(n)
			top := "Authentication-Results: MX.example.net; dkim=pass\r\n"
			text := signed(t, c.sender, from("b.example", forged+"X-Last: y\r\n"), body)
			c.send("a@b.example", top+text, "250", "info@example.com")
			fields := c.below(strings.ReplaceAll(text, forged, ""))
			if got := names(fields); got != arcNames {
				t.Errorf("fields %s", got)
			}
			if ar := string(fields[4]); !strings.Contains(ar, "spf=pass") || !strings.Contains(ar, "dkim=pass") {
				t.Errorf("results %s", ar)
			}
			c.verify(1)
			got := c.relay.Got[0]
			e := c.last(mail.Relayed)
			if got.Writes != 0 || e.Mode != mail.ModeHold || !strings.Contains(e.Auth.String(), "dkim=pass") {
				t.Errorf("%d writes, mode %v, auth %q", got.Writes, e.Mode, e.Auth.String())
			}
		})
	}
}

// A forged message is refused before the next hop sees it.
func TestBody_Forgery(t *testing.T) {
	for _, n := range []int{10, 300 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
			evil := publishKey(t, c.zone, "evil.example", "s", dkim.Ed25519SHA256)
			reply := c.send("a@evil.example", signed(t, evil, from("bank.example", ""), lines(n)), "550 5.7.26",
				"info@example.com")
			e := c.last(mail.Refused)
			if c.relay.Datas != 0 || c.relay.Aborts != 1 || !strings.Contains(reply, " id=") ||
				!strings.Contains(e.Auth.String(), "dmarc=fail") {
				t.Errorf("%d times DATA, %d aborts, %q, auth %q", c.relay.Datas, c.relay.Aborts, reply, e.Auth.String())
			}
			c.send("a@b.example", signed(t, c.sender, from("b.example", ""), lines(n)), "250", "info@example.com")
		})
	}
}

// An author domain that cannot be asked now defers the message.
func TestBody_AuthorUnknown(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
	c.zone["_dmarc.lost.example"] = []string{ingresstest.ServFail}
	c.send("a@evil.example", from("lost.example", "")+"\r\n"+lines(10), "451 4.7.", "info@example.com")
	if c.relay.Datas != 0 || c.last(mail.Deferred).Mode != mail.ModeHold {
		t.Errorf("%d times DATA, mode %v", c.relay.Datas, c.last(mail.Deferred).Mode)
	}
}

// What speaks for a message is recorded; what it says of itself does not speak for it.
func TestBody_Override(t *testing.T) {
	const list = "List-Id: <all.evil.example>\r\nList-Post: <mailto:all@evil.example>\r\n"
	c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
	text := from("bank.example", list) + "\r\n" + lines(10)
	c.send("all-bounces@evil.example", text, "550 5.7.26", "info@example.com")
	c.send("all-bounces@list.example", text, "250", "info@example.com")
	c.below(text)
	if e := c.last(mail.Anomaly); e.Reason != "authentication overridden: list" ||
		!strings.Contains(e.Auth.String(), "dmarc=fail") {
		t.Errorf("event %+v", e)
	}
}

// A policy for a part of the messages counts for all, and is counted.
func TestBody_IgnoredPercent(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
	c.zone["_dmarc.part.example"] = []string{"v=DMARC1; p=quarantine; pct=0"}
	c.send("a@evil.example", from("part.example", "")+"\r\n"+lines(10), "250", "info@example.com")
	if e := c.last(mail.Anomaly); e.Reason != "DMARC pct ignored" {
		t.Errorf("event %+v", e)
	}
}

// The end of data is withheld from a replayed header.
func TestBody_ReplayedHeader(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
	text := signed(t, c.bank, from("bank.example", ""), lines(300<<10))
	c.send("a@evil.example", text+"and more\r\n", "550 5.7.26", "info@example.com")
	if e := c.last(mail.Refused); e.Mode != mail.ModeStream || c.relay.Datas != 1 || len(c.relay.Got) != 0 ||
		c.relay.Aborts != 1 {
		t.Errorf("mode %v, %d times DATA, %d delivered, %d aborts", e.Mode, c.relay.Datas, len(c.relay.Got),
			c.relay.Aborts)
	}
	c.send("a@evil.example", text, "250", "info@example.com")
	if got := names(c.below(text)); got != unsealedNames {
		t.Errorf("fields %s", got)
	}
}

// A large message is sealed over the hash that its signature foretells.
func TestBody_PredictSeals(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
	text := signed(t, c.sender, from("b.example", ""), lines(600<<10))
	c.send("a@b.example", forged+text, "250", "info@example.com")
	if got := names(c.below(text)); got != arcNames {
		t.Errorf("fields %s", got)
	}
	c.verify(1)
	if e := c.last(mail.Relayed); e.Mode != mail.ModePredict || c.relay.Got[0].Writes < 4 {
		t.Errorf("mode %v, %d writes", e.Mode, c.relay.Got[0].Writes)
	}
}

// A large message without a signature streams unsealed.
func TestBody_StreamUnsealed(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
	text := from("b.example", "") + "\r\n" + lines(600<<10)
	c.send("a@b.example", text, "250", "info@example.com")
	fields := c.below(text)
	if got := names(fields); got != unsealedNames {
		t.Errorf("fields %s", got)
	}
	if ar := string(fields[1]); !strings.Contains(ar, "spf=pass") || strings.Contains(ar, "dmarc") ||
		strings.Contains(ar, "dkim") {
		t.Errorf("results %s", ar)
	}
	if e := c.last(mail.Relayed); e.Mode != mail.ModeStream {
		t.Errorf("mode %v", e.Mode)
	}
}

// A message that was predicted wrongly is delivered by the second attempt.
func TestBody_Misprediction(t *testing.T) {
	tests := []struct {
		name     string
		down     bool // the store is, at the first attempt
		then     bool // and at the second
		first    string
		wantMark bool
	}{
		{name: "with the store up", first: "451 4.7.0", wantMark: true},
		{name: "with the store lost between the two", then: true, first: "451 4.7.0", wantMark: true},
		{name: "with the store down it is not foretold at all", down: true, then: true, first: "250"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
			text := signed(t, c.sender, from("b.example", ""), lines(600<<10)) + "a footer\r\n"
			c.store.SetDown(tt.down)
			c.send("a@b.example", text, tt.first, "info@example.com")
			if tt.first != "250" {
				if len(c.relay.Got) != 0 || c.relay.Aborts != 1 {
					t.Fatalf("%d delivered, %d aborts", len(c.relay.Got), c.relay.Aborts)
				}
				if e := c.last(mail.Deferred); e.Mode != mail.ModePredict {
					t.Errorf("mode %v", e.Mode)
				}
				c.last(mail.Anomaly)
				c.store.SetDown(tt.then)
				c.send("a@b.example", text, "250", "info@example.com")
			}
			if got := names(c.below(text)); got != unsealedNames {
				t.Errorf("fields %s", got)
			}
			if e := c.last(mail.Relayed); e.Mode != mail.ModeStream {
				t.Errorf("mode %v", e.Mode)
			}
			if got := len(c.store.Marks()) > 0; got != tt.wantMark {
				t.Errorf("marks %v", c.store.Marks())
			}
			for key := range c.store.Marks() {
				if strings.Contains(key, "example") {
					t.Errorf("a mark tells of the message: %s", key)
				}
			}
		})
	}
}

// The second attempt may come to another node.
func TestBody_MispredictionOtherNode(t *testing.T) {
	var first Config
	c := serveAuth(t, info, &ingresstest.Relay{}, true, func(cfg *Config, _ *wire.Config) { first = *cfg })
	other := serveAuth(t, info, &ingresstest.Relay{}, true, func(cfg *Config, _ *wire.Config) {
		cfg.Message.Auth, cfg.Message.Store = first.Message.Auth, first.Message.Store
		cfg.Message.MarkKeys = [][]byte{[]byte("a key that is newer"), testMarkKey}
	})
	text := signed(t, c.sender, from("b.example", ""), lines(600<<10)) + "a footer\r\n"
	c.send("a@b.example", text, "451 4.7.0", "info@example.com")
	other.send("a@b.example", text, "250", "info@example.com")
	other.below(text)
}

// A signer that foretold wrongly twice is not believed for a day.
func TestBody_MispredictionSigner(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
	mailing := func(n int) string {
		return strings.ReplaceAll(from("b.example", ""), "<1@", fmt.Sprintf("<%d@", n))
	}
	wrong := func(n int) string { return signed(t, c.sender, mailing(n), lines(300<<10)) + "footer\r\n" }
	right := func(n int) string { return signed(t, c.sender, mailing(n), lines(600<<10)) }
	mode := func(want mail.Mode) {
		t.Helper()
		if e := c.last(mail.Relayed); e.Mode != want {
			t.Errorf("mode %v, want %v", e.Mode, want)
		}
	}
	big := "footer\r\n" + lines(300<<10)
	c.send("a@b.example", wrong(1)+big, "451 4.7.0", "info@example.com")
	c.send("a@b.example", right(2), "250", "info@example.com")
	mode(mail.ModePredict)
	c.send("a@b.example", wrong(3)+big, "451 4.7.0", "info@example.com")
	c.send("a@b.example", right(4), "250", "info@example.com")
	mode(mail.ModeStream)
	day := 0
	for _, ttl := range c.store.Marks() {
		if ttl == 24*time.Hour {
			day++
		}
	}
	if day != 2 || len(c.store.Marks()) != 4 {
		t.Errorf("marks %v", c.store.Marks())
	}
	other := publishKey(t, c.zone, "other.example", "s", dkim.Ed25519SHA256)
	c.send("a@b.example", signed(t, other, from("other.example", ""), lines(600<<10)), "250", "info@example.com")
	mode(mail.ModePredict)
}

// The session of a slow client is lent while its message is held.
func TestBody_HoldLends(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, func(cfg *Config, _ *wire.Config) {
		cfg.Message.Lend = 50 * time.Millisecond
	})
	text := signed(t, c.sender, from("b.example", ""), lines(150<<10))
	octets := stuff(text)
	c.open("a@b.example", "info@example.com")
	c.say("DATA", "354")
	const more = 100 << 10 // more than a slab
	if _, err := io.WriteString(c.conn, octets[:more]); err != nil {
		t.Fatal(err)
	}
	for c.relay.Lent() == 0 { // at last it is the test's time that is over
		<-time.After(time.Millisecond)
	}
	c.say(octets[more:]+".", "250")
	c.below(text)
	if e := c.last(mail.Relayed); e.Mode != mail.ModeHold {
		t.Errorf("mode %v", e.Mode)
	}
}

// Without memory to spare the window shrinks.
func TestBody_WindowShrinks(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
	c.say("NOOP", "250")
	text := signed(t, c.sender, from("b.example", ""), lines(200<<10))
	c.send("a@b.example", text, "250", "info@example.com")
	c.below(text)
	if e := c.last(mail.Relayed); e.Mode != mail.ModeHold {
		t.Errorf("without a budget: mode %v", e.Mode)
	}
	w := serveAuth(t, info, &ingresstest.Relay{}, true, func(_ *Config, cfg *wire.Config) {
		cfg.Memory.Budget = 80 << 10 // one slab, once the message has begun
	})
	text = signed(t, w.sender, from("b.example", ""), lines(200<<10))
	w.send("a@b.example", text, "250", "info@example.com")
	if got := names(w.below(text)); got != arcNames {
		t.Errorf("fields %s", got)
	}
	if e := w.last(mail.Relayed); e.Mode != mail.ModePredict {
		t.Errorf("mode %v", e.Mode)
	}
	long := from("b.example", strings.Repeat("X-Filler: "+strings.Repeat("y", 60)+"\r\n", 1500)) + "\r\nbody\r\n"
	w.send("a@b.example", long, "452 4.3.1", "info@example.com")
}
