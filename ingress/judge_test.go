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

var info = book{"info": to("far.example", "alice@far.example")}

func TestAHeldMessageIsSealedWhole(t *testing.T) {
	for _, n := range []int{10, 60 << 10, 100 << 10, 200 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := judge(t, info, &hop{}, true, nil)
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
			got := c.hop.got[0]
			e := c.last(mail.Relayed)
			if got.writes != 0 || e.Mode != mail.ModeHold || !strings.Contains(e.Auth, "dkim=pass") {
				t.Errorf("%d writes, mode %v, auth %q", got.writes, e.Mode, e.Auth)
			}
		})
	}
}

func TestAForgedMessageIsRefusedBeforeTheNextHopSeesIt(t *testing.T) {
	for _, n := range []int{10, 300 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := judge(t, info, &hop{}, false, nil)
			evil := publishKey(t, c.zone, "evil.example", "s", dkim.Ed25519SHA256)
			reply := c.send("a@evil.example", signed(t, evil, from("bank.example", ""), lines(n)), "550 5.7.26",
				"info@example.com")
			e := c.last(mail.Refused)
			if c.hop.datas != 0 || c.hop.aborts != 1 || !strings.Contains(reply, " id=") ||
				!strings.Contains(e.Auth, "dmarc=fail") {
				t.Errorf("%d times DATA, %d aborts, %q, auth %q", c.hop.datas, c.hop.aborts, reply, e.Auth)
			}
			c.send("a@b.example", signed(t, c.sender, from("b.example", ""), lines(n)), "250", "info@example.com")
		})
	}
}

func TestAnAuthorDomainThatCannotBeAskedIsAskedLater(t *testing.T) {
	c := judge(t, info, &hop{}, false, nil)
	c.zone["_dmarc.lost.example"] = []string{ingresstest.ServFail}
	c.send("a@evil.example", from("lost.example", "")+"\r\n"+lines(10), "451 4.7.", "info@example.com")
	if c.hop.datas != 0 || c.last(mail.Deferred).Mode != mail.ModeHold {
		t.Errorf("%d times DATA, mode %v", c.hop.datas, c.last(mail.Deferred).Mode)
	}
}

func TestWhatSpeaksForAClientIsRecorded(t *testing.T) {
	c := judge(t, info, &hop{}, false, nil)
	text := from("bank.example", "List-Id: <all.evil.example>\r\nList-Post: <mailto:all@evil.example>\r\n") + "\r\n" +
		lines(10)
	c.send("all-bounces@evil.example", text, "250", "info@example.com")
	c.below(text)
	if e := c.last(mail.Anomaly); e.Reason != "authentication overridden" || e.Cause == nil ||
		e.Cause.Error() != "list" || !strings.Contains(e.Auth, "dmarc=fail") {
		t.Errorf("event %+v", e)
	}
}

func TestTheEndOfDataIsWithheldFromAReplayedHeader(t *testing.T) {
	c := judge(t, info, &hop{}, false, nil)
	text := signed(t, c.bank, from("bank.example", ""), lines(300<<10))
	c.send("a@evil.example", text+"and more\r\n", "550 5.7.26", "info@example.com")
	if e := c.last(mail.Refused); e.Mode != mail.ModeStream || c.hop.datas != 1 || len(c.hop.got) != 0 ||
		c.hop.aborts != 1 {
		t.Errorf("mode %v, %d times DATA, %d delivered, %d aborts", e.Mode, c.hop.datas, len(c.hop.got), c.hop.aborts)
	}
	c.send("a@evil.example", text, "250", "info@example.com")
	if got := names(c.below(text)); got != unsealedNames {
		t.Errorf("fields %s", got)
	}
}

func TestALargeMessageIsSealedOverTheHashThatItsSignatureForetells(t *testing.T) {
	c := judge(t, info, &hop{}, true, nil)
	text := signed(t, c.sender, from("b.example", ""), lines(600<<10))
	c.send("a@b.example", forged+text, "250", "info@example.com")
	if got := names(c.below(text)); got != arcNames {
		t.Errorf("fields %s", got)
	}
	c.verify(1)
	if e := c.last(mail.Relayed); e.Mode != mail.ModePredict || c.hop.got[0].writes < 4 {
		t.Errorf("mode %v, %d writes", e.Mode, c.hop.got[0].writes)
	}
}

func TestALargeMessageWithoutASignatureStreamsUnsealed(t *testing.T) {
	c := judge(t, info, &hop{}, true, nil)
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

func TestAMessageForetoldWronglyIsDeliveredByTheSecondAttempt(t *testing.T) {
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
			c := judge(t, info, &hop{}, true, nil)
			text := signed(t, c.sender, from("b.example", ""), lines(600<<10)) + "a footer\r\n"
			c.store.SetDown(tt.down)
			c.send("a@b.example", text, tt.first, "info@example.com")
			if tt.first != "250" {
				if len(c.hop.got) != 0 || c.hop.aborts != 1 {
					t.Fatalf("%d delivered, %d aborts", len(c.hop.got), c.hop.aborts)
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

func TestTheSecondAttemptMayComeToAnotherNode(t *testing.T) {
	var first Config
	c := judge(t, info, &hop{}, true, func(cfg *Config, _ *wire.Config) { first = *cfg })
	other := judge(t, info, &hop{}, true, func(cfg *Config, _ *wire.Config) {
		cfg.Message.Auth, cfg.Message.Store = first.Message.Auth, first.Message.Store
		cfg.Message.MarkKeys = [][]byte{[]byte("a key that is newer"), testMarkKey}
	})
	text := signed(t, c.sender, from("b.example", ""), lines(600<<10)) + "a footer\r\n"
	c.send("a@b.example", text, "451 4.7.0", "info@example.com")
	other.send("a@b.example", text, "250", "info@example.com")
	other.below(text)
}

func TestASignerWhoForetoldWronglyTwiceIsNotBelievedForADay(t *testing.T) {
	c := judge(t, info, &hop{}, true, nil)
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

func TestTheSessionOfASlowClientIsLentWhileItsMessageIsHeld(t *testing.T) {
	c := judge(t, info, &hop{}, true, func(cfg *Config, _ *wire.Config) { cfg.Message.Lend = 50 * time.Millisecond })
	text := signed(t, c.sender, from("b.example", ""), lines(150<<10))
	octets := stuff(text)
	c.open("a@b.example", "info@example.com")
	c.say("DATA", "354")
	const more = 100 << 10 // more than a slab
	if _, err := io.WriteString(c.conn, octets[:more]); err != nil {
		t.Fatal(err)
	}
	for due := time.Now().Add(10 * time.Second); c.hop.lent() == 0; <-time.After(time.Millisecond) {
		if time.Now().After(due) {
			t.Fatal("the session was not lent")
		}
	}
	c.say(octets[more:]+".", "250")
	c.below(text)
	if e := c.last(mail.Relayed); e.Mode != mail.ModeHold {
		t.Errorf("mode %v", e.Mode)
	}
}

func TestWithoutMemoryToSpareTheWindowShrinks(t *testing.T) {
	c := judge(t, info, &hop{}, true, func(cfg *Config, _ *wire.Config) {
		cfg.Message.HoldBudget = 80 << 10 // one slab, once the message has begun
	})
	c.say("NOOP", "250")
	text := signed(t, c.sender, from("b.example", ""), lines(200<<10))
	c.send("a@b.example", text, "250", "info@example.com")
	c.below(text)
	if e := c.last(mail.Relayed); e.Mode != mail.ModeHold {
		t.Errorf("without a budget: mode %v", e.Mode)
	}
	var w *court
	w = judge(t, info, &hop{}, true, func(cfg *Config, _ *wire.Config) {
		cfg.Message.HoldBudget = 80 << 10
		cfg.Message.InUse = func() int64 { return int64(w.slabs.Lent()) * (wire.Headroom + wire.SlabOctets) }
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
