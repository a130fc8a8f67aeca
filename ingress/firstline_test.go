package ingress

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// firstLines are messages whose first line is none of a header section, with what is delivered of them.
var firstLines = []struct {
	name    string
	dropped string // lines of a mailbox file
	text    string
	gap     bool // it is a text
}{
	{"a line of a mailbox file", "From a@b.example Sun Nov 29 22:00:00 2026\r\n", "HEADER", false},
	{"an escaped one", ">From a@b.example Sun Nov 29 22:00:00 2026\r\n", "HEADER", false},
	{"one without a time", "From root\r\n", "HEADER", false},
	{"one with a blank alone", "From \r\n", "HEADER", false},
	{"one of MAILER-DAEMON", "From MAILER-DAEMON Fri Jul  8 12:08:34 2011\r\n", "HEADER", false},
	{"several of a chain", "From a Sun Nov 29 22:00:00 2026\r\n>From b remote from c\r\n>From d remote from e\r\n",
		"HEADER", false},
	{"one and no header section", "From a@b.example Sun Nov 29 22:00:00 2026\r\n", "\r\nthe text\r\n", false},
	{"one and a text", "From a@b.example Sun Nov 29 22:00:00 2026\r\n", "the text\r\nFrom b\r\n", true},
	{"one and a folded line", "From a@b.example Sun Nov 29 22:00:00 2026\r\n", " folded\r\nSubject: x\r\n", true},
	{"one alone", "From a@b.example Sun Nov 29 22:00:00 2026\r\n", "", false},
	{"one and dots", "From a@b.example Sun Nov 29 22:00:00 2026\r\n", ".A: b\r\n\r\n.\r\n..\r\n.x\r\n", false},
	{"a folded line", "", " first line of a message without a header\r\nsecond line\r\n", true},
	{"a folded line with a tab", "", "\tfirst\r\nsecond line\r\n", true},
	{"a folded line that would be results", "", " ; dmarc=pass header.from=bank.example\r\n" + forged + "\r\nx\r\n",
		true},
	{"a line of blanks", "", " \t \r\nFrom: <ceo@bank.example>\r\n\r\nbody\r\n", true},
	{"a text", "", "Hello world\r\n\r\nbody\r\n", true},
	{"a text with a colon", "", "Dear Sir: please find\r\nFrom: <ceo@bank.example>\r\n\r\nbody\r\n", true},
	{"a colon first", "", ": x\r\nFrom: <ceo@bank.example>\r\n\r\nbody\r\n", true},
	{"a name that ends on the next line", "", "From\r\n : <ceo@bank.example>\r\n\r\nbody\r\n", true},
	{"one in small letters is no line of a mailbox file", "", "from a Sun Nov 29 22:00:00 2026\r\nX: y\r\n", true},
	{"escaped twice is none", "", ">>From a\r\nX: y\r\n\r\n", true},
	{"a dot first", "", ". folded\r\n..\r\n.\r\n", true},
	{"eight bits", "", "Sch\xf6ne Gr\xfc\xdfe\r\n\r\nbody\r\n", true},
	{"a form of HTTP", "", "a=1&b=2\r\n", true},
	{"no line end", "", "just this", true},
	{"a From field with a blank before its colon", "", "From : <a@b.example>\r\nX-Y: z\r\n\r\nbody\r\n", false},
	{"a field of a name with dots", "", ".x-y.z: a\r\n\r\nbody\r\n", false},
	{"an empty line", "", "\r\nFrom b\r\n", false},
}

// expectBelow returns the text that is to stand below our fields.
func expectBelow(text string, gap bool) string {
	if gap {
		return "\r\n" + text
	}
	return text
}

// What stands before a header section is dropped, and a text without one is parted from our fields, in every mode,
// judged or not, by DATA and by BDAT, trusted or not.
func TestBody_FirstLine(t *testing.T) {
	setups := []struct {
		name    string
		rule    func(*mail.Route)
		trusted bool
		sign    bool
	}{
		{"judged and signed", nil, false, true},
		{"judged", nil, false, false},
		{"not judged", unjudged, false, false},
		{"trusted and signed", nil, true, true},
		{"trusted, not judged", unjudged, true, false},
	}
	for _, setup := range setups {
		for _, size := range []int{0, 300 << 10} {
			for _, bdat := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %d octets, BDAT %t", setup.name, size, bdat), func(t *testing.T) {
					b := info
					if setup.rule != nil {
						b = rules{"info": hosted("far.example", setup.rule)}
					}
					change := func(*Config, *wire.Config) {}
					if setup.trusted {
						change = trusting
					}
					c := serveAuth(t, b, &ingresstest.Relay{}, setup.sign, change)
					for _, tt := range firstLines {
						if size > 0 && (tt.text == "" || tt.name == "no line end") {
							continue
						}
						c.firstLine(t, tt.name, tt.dropped, tt.text, tt.gap, bdat, size)
					}
				})
			}
		}
	}
}

// firstLine sends one message and looks at what is delivered of it.
func (c *authFixture) firstLine(t *testing.T, name, dropped, text string, gap, bdat bool, size int) {
	t.Helper()
	if text == "HEADER" {
		text = from("b.example", "") + "\r\nbody\r\n"
	}
	if size > 0 {
		text += lines(size)
	}
	c.open("a@b.example", "info@example.com")
	c.mu.Lock()
	before := len(c.events)
	c.mu.Unlock()
	if bdat {
		if _, err := fmt.Fprintf(c.conn, "BDAT %d LAST\r\n%s", len(dropped+text), dropped+text); err != nil {
			t.Fatal(err)
		}
		c.want("250")
	} else {
		c.say("DATA", "354")
		end := "."
		if text != "" && !strings.HasSuffix(text, "\r\n") {
			end = "\r\n."
		}
		c.say(stuff(dropped+text)+end, "250")
		if end != "." {
			text += "\r\n"
		}
	}
	fields := c.below(expectBelow(text, gap))
	if got := fields[len(fields)-1]; !strings.HasSuffix(string(got), "\r\n") {
		t.Errorf("%s: our fields end in %q", name, got)
	}
	for _, f := range fields {
		if len(f.Name()) == 0 || strings.Contains(string(f), "bank.example") {
			t.Errorf("%s: a field %q above the message", name, f)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	reasons := ""
	for _, e := range c.events[before:] {
		if e.Kind == mail.Anomaly {
			reasons += e.Reason + ";"
		}
	}
	if strings.Contains(reasons, "mailbox line dropped") != (dropped != "") ||
		strings.Contains(reasons, "first line is no field") != gap {
		t.Errorf("%s: events %q", name, reasons)
	}
}

// A text without a header section is sealed, and not DKIM-signed; one behind a line of a mailbox file as if that had
// not been.
func TestBody_FirstLineSealed(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, nil)
	c.send("a@b.example", " folded\r\nFrom: <ceo@bank.example>\r\n\r\nbody\r\n", "250", "info@example.com")
	if got := names(c.below("\r\n folded\r\nFrom: <ceo@bank.example>\r\n\r\nbody\r\n")); got !=
		"Received ARC-Seal ARC-Message-Signature ARC-Authentication-Results Authentication-Results" {
		t.Errorf("fields %s", got)
	}
	c.verify(0)
	own := signed(t, c.sender, from("b.example", ""), "body\r\n")
	c.send("x@evil.example", "From x Sun Nov 29 22:00:00 2026\r\n"+own, "250", "info@example.com")
	if e := c.last(mail.Relayed); !strings.Contains(e.Auth.String(), "dkim=pass dmarc=") {
		t.Errorf("auth %s", e.Auth.String())
	}
	c.below(own)
	c.verify(1)
	// The author behind such a line is judged.
	c.send("x@evil.example", "From x Sun Nov 29 22:00:00 2026\r\n"+from("bank.example", "")+"\r\nbody\r\n",
		"550 5.7.26", "info@example.com")
	c.send("x@evil.example", ">From x\r\n"+forged+own, "250", "info@example.com")
	c.below(own)
	// A large message is predicted.
	own = signed(t, c.sender, from("b.example", ""), lines(600<<10))
	c.send("a@b.example", "From x Sun Nov 29 22:00:00 2026\r\n"+forged+own, "250", "info@example.com")
	if e := c.last(mail.Relayed); e.Mode != mail.ModePredict {
		t.Errorf("mode %v", e.Mode)
	}
	c.below(own)
	c.verify(1)
}

// A signature covers From: without that field nothing of a trusted client is signed.
func TestBody_FirstLineTrusted(t *testing.T) {
	c := serveAuth(t, info, &ingresstest.Relay{}, true, trusting)
	for text, want := range map[string]string{
		"just a text\r\n":                              "Received",
		"Subject: x\r\n\r\nbody\r\n":                   "Received",
		" folded\r\n" + from("b.example", ""):          "Received",
		from("b.example", "") + "\r\nbody\r\n":         "Received DKIM-Signature DKIM-Signature",
		"\ufeff" + from("b.example", "") + "\r\nx\r\n": "Received DKIM-Signature DKIM-Signature",
	} {
		c.send("a@b.example", text, "250", "info@example.com")
		if got := names(c.below(expectBelow(text, !strings.Contains(text[:10], ":")))); got != want {
			t.Errorf("%q: fields %s", text, got)
		}
	}
}
