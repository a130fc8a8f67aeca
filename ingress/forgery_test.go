package ingress

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// unjudged is a domain for which nothing is looked at.
func unjudged(r *mail.Route) {
	r.Policy.DMARC, r.Policy.RequireAuth, r.Policy.Seal = mail.DMARCOff, mail.RequireAuthNo, mail.SealNever
}

// refusedMessage sends a message and wants it refused, and nothing delivered.
func refusedMessage(t *testing.T, c *authFixture, text, want string) {
	t.Helper()
	c.open("a@evil.example", "info@example.com")
	c.say("DATA", "354")
	c.say(stuff(text)+".", want)
	if n := len(c.relay.Got); n > 0 && c.relay.Got[n-1].Octets != "" {
		t.Errorf("delivered %.300q", c.relay.Got[n-1].Octets)
	}
}

// A field whose name readers disagree on is refused.
// Readers in use take each of these for From or for Authentication-Results, and by the RFC it is neither.
func TestBody_DisguisedField(t *testing.T) {
	for _, field := range []string{"From", "Authentication-Results"} {
		for _, name := range []string{field + "\r\n ", field + "\x0b", field + "\x0c", "\x0b" + field, "\x0c" + field,
			field + "\x00", field + "\xc2\xa0", "\xef\xbb\xbf" + field,
			field[:2] + "\x01" + field[2:], field[:2] + "\r\n " + field[2:]} {
			text := name + ": mx.example.net; dmarc=pass <ceo@bank.example>\r\n" + from("evil.example", "") +
				"\r\nbody\r\n"
			if strings.Contains(name, "\r\n") { // as a first line it is a text: see TestBody_FirstLine
				text = "To: info@example.com\r\n" + text
			}
			t.Run(fmt.Sprintf("%q", name), func(t *testing.T) {
				want := "550 5.6.0"
				if name == "\ufeffFrom" {
					want = "550 5.7.26" // scripts write this; it is judged like From
				}
				refusedMessage(t, serveAuth(t, info, &ingresstest.Relay{}, true, nil), text, want)
				if field != "From" { // where no policy asks, authors are not looked at, and results are
					c := serveAuth(t, rules{"info": hosted("far.example", unjudged)}, &ingresstest.Relay{}, false, nil)
					refusedMessage(t, c, text,
						"550 5.6.0")
				}
			})
		}
	}
	for _, name := range []string{"From ", "From\t", "X-From", "From-X", "Authentication-Results "} {
		c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
		c.open("a@b.example", "info@example.com")
		c.say("DATA", "354")
		text := name + ": <x@b.example>\r\nSubject: x\r\n\r\nbody\r\n"
		c.say(stuff(text)+".", "250")
	}
}

// A dot hides nothing in the header section.
// In DATA the octets on the wire are not those of the message: a dot that opens a line is none of it.
func TestBody_HiddenByDot(t *testing.T) {
	tag := ""
	{ // what this relay puts on a message for the same recipient
		c := serveAuth(t, info, &ingresstest.Relay{}, false, nil)
		c.open("a@b.example", "info@example.com")
		c.say("DATA", "354")
		c.say(from("b.example", "")+"\r\nbody\r\n.", "250")
		tag = c.relay.Got[0].Octets
		tag = tag[:strings.Index(tag, "From:")]
		tag = tag[strings.Index(tag, "Received:"):]
		if i := strings.Index(tag, "\r\nA"); i > 0 {
			tag = tag[:i+2]
		}
	}
	for name, tt := range map[string]struct {
		rule func(*mail.Route)
		text string
		want string
	}{
		"a tag for the same recipient": {nil, "." + tag, "554 5.4.6"},
		"too many Received fields":     {nil, strings.Repeat(".Received: x\r\n", 51), "554 5.4.6"},
		"results with a hidden name": {nil, ".Authentication\x01-Results: mx.example.net; dmarc=pass\r\n",
			"550 5.6.0"},
		"results that are hidden, no policy asks": {unjudged,
			".Authentication-Resu\x01lts: mx.example.net; dmarc=pass\r\n", "550 5.6.0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := info
			if tt.rule != nil {
				b = rules{"info": hosted("far.example", tt.rule)}
			}
			c := serveAuth(t, b, &ingresstest.Relay{}, false, nil)
			c.open("a@evil.example", "info@example.com")
			c.say("DATA", "354")
			c.say(tt.text+from("evil.example", "")+"\r\nbody\r\n.", tt.want)
		})
	}
	c := serveAuth(t, rules{"info": hosted("far.example", unjudged)}, &ingresstest.Relay{}, false, nil)
	c.open("a@evil.example", "info@example.com")
	c.say("DATA", "354")
	c.say("."+forged+from("evil.example", "")+"\r\nbody\r\n.", "250")
	if got := c.relay.Got[0].Octets; strings.Contains(got, "bank.example") || strings.Contains(got, ".Authentication") {
		t.Errorf("forged results behind a dot are delivered: %q", got)
	}
}

// Forged results do not survive behind a long header section.
func TestBody_ForgedBehindLongHeader(t *testing.T) {
	c := serveAuth(t, rules{"info": hosted("far.example", unjudged)}, &ingresstest.Relay{}, false, nil)
	filler := strings.Repeat("X-Filler: "+strings.Repeat("y", 900)+"\r\n", 400)
	refusedMessage(t, c, forged+from("bank.example", filler)+"\r\nbody\r\n", "554 5.6.0")
}

// A countingStore counts what is drawn of each rate.
type countingStore struct {
	ingresstest.Store
	times map[string]int
}

func (d *countingStore) Rcpt(_ context.Context, q mail.RcptQuery) (mail.RcptFacts, error) {
	f := mail.RcptFacts{Rates: make([]mail.RateResult, len(q.Rates))}
	for i, r := range q.Rates {
		f.Rates[i].Allowed = true
		if !r.Peek {
			d.times[fmt.Sprint(r.Group, " ", r.Client, " ", r.Name)]++
		}
	}
	return f, nil
}

// Recipients that are put off draw nothing.
// One message to ten people at ten next hops comes in ten transactions, each of which names all who are left.
func TestRcpt_PutOffDrawsNothing(t *testing.T) {
	routes := rules{}
	var left []string
	for _, x := range "abcdefghij" {
		routes[string(x)] = ingresstest.To(string(x)+".example", string(x)+"@"+string(x)+".example")
		left = append(left, string(x)+"@example.com")
	}
	often := rate.Limit{Count: 1000, Per: time.Hour}
	limits, err := rate.New(rate.Config{Key: testMarkKey, ClientRecipients: often, RecipientMessages: often})
	if err != nil {
		t.Fatal(err)
	}
	counts := &countingStore{times: map[string]int{}}
	c := serve(t, routes, &ingresstest.Relay{}, func(cfg *Config, _ *wire.Config) {
		cfg.Client.Store, cfg.Client.Limits = counts, limits
	})
	for len(left) > 0 {
		c.say("MAIL FROM:<a@b.example>", "250")
		group := "RCPT TO:<" + strings.Join(left, ">\r\nRCPT TO:<") + ">"
		c.say(group, "250")
		for range left[1:] {
			c.want("452")
		}
		c.say("DATA", "354")
		c.say("Subject: x\r\n\r\nbody\r\n.", "250")
		left = left[1:]
	}
	recipients := 0
	for name, n := range counts.times {
		if strings.HasSuffix(name, " recipients") {
			recipients = n
		} else if n != 1 {
			t.Errorf("%q was drawn %d times", name, n)
		}
	}
	if recipients != 10 {
		t.Errorf("the client's recipients were drawn %d times for 10", recipients)
	}
}
