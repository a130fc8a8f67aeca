package smtpclient

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// Replies are read as a person would, wherever they stand: no readable 2yz or 5yz leaves a message in doubt, and none
// is turned into another class.
func TestClient_CarelessReplies(t *testing.T) {
	for _, tc := range smtptest.Forms() {
		t.Run(tc.Verb+" "+tc.Name, func(t *testing.T) {
			t.Parallel()
			s := smtptest.StartCareless(t, tc)
			got, reusable := sendCareless(t, s.Addr())
			if got != tc.Want || reusable != tc.Reusable {
				t.Errorf("got %s, reusable %v", got, reusable)
			}
			s.Close()
			if n := s.Messages(); got == "250" && n != 1 {
				t.Errorf("250 for %d messages", n)
			}
		})
	}
}

// sendCareless sends one message, says how it ended, and whether the Client was fit for another one.
func sendCareless(t *testing.T, addr string) (outcome string, reusable bool) {
	t.Helper()
	c, err := Dial(t.Context(), Config{tune: tuning{half: 100 * time.Millisecond}},
		Target{Network: "tcp", Addr: addr, Host: "mx.dest.test", Helo: "relay.test"})
	if err != nil {
		return "gone", false
	}
	defer c.Close()
	c.Begin(mail.Delivery{Reverse: path("from@client.test")})
	if err = c.Rcpt(t.Context(), path("to@dest.test")); err == nil {
		err = c.Data(t.Context(), mail.Stuffed)
	}
	if err != nil {
		return fmt.Sprint(mail.ReplyFor(err).Code), c.Reusable()
	}
	o := c.Commit(t.Context(), octets("a: b\r\n\r\nc\r\n", 0, true))[0]
	if o.InDoubt {
		return "doubt", c.Reusable()
	}
	return fmt.Sprint(o.Reply.Code), c.Reusable()
}

// Extensions that stand behind the end of the reply count.
func TestClient_ExtensionsBehind(t *testing.T) {
	for _, reply := range []string{
		"250 dest\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n",
		"250-dest\r\n250 PIPELINING\r\nSIZE 1000\r\n250 8BITMIME\r\n",
		"250-dest\r\n250 PIPELINING\r\n250-SI|ZE 1000\r\n250 8BITMIME\r\n",
	} {
		s := smtptest.StartCareless(t, smtptest.Form{Verb: "EHLO", Reply: reply})
		c := dial(t, Target{Network: "tcp", Addr: s.Addr(), Host: "mx.dest.test"})
		want := Extensions{Keywords: ESMTP | Pipelining | Size | EightBitMIME, Size: 1000}
		if got := *c.Extensions(); got != want {
			t.Errorf("%q: got %+v", reply, got)
		}
	}
}

// What stands in clear behind the reply to STARTTLS is an attack, however it reads.
func TestClient_BehindSTARTTLS(t *testing.T) {
	for _, reply := range []string{"220 go\r\n250 SIZE 1000\r\n", "220 go\r\n220 go\r\n", "220 go\r\n250-x"} {
		s := smtptest.StartCareless(t, smtptest.Form{Verb: "EHLO", Reply: "250-dest\r\n250 STARTTLS\r\n"},
			smtptest.Form{Verb: "STARTTLS", Reply: reply})
		_, err := Dial(t.Context(), Config{tune: tuning{half: 100 * time.Millisecond}}, Target{
			Network: "tcp", Addr: s.Addr(), Host: "mx.dest.test", TLS: Opportunistic,
		})
		if err == nil || !strings.Contains(err.Error(), errUnasked.Error()) {
			t.Errorf("%q: got %v", reply, err)
		}
	}
}

// A reply whose end never comes is read inside TLS as well, and the connection goes on with its transaction.
func TestClient_NoEndInTLS(t *testing.T) {
	ca := smtptest.NewCA()
	d := smtptest.Start(t, smtptest.Behaviour{
		TLS: ca.Server("mx.dest.test"), Extensions: smtptest.Without("PIPELINING", "CHUNKING"),
		Answers: map[string]smtptest.Answer{"MAIL": {Reply: "2.1.0 ok"}, "RCPT": {Reply: "2.1.5 ok"}},
	})
	tg := target(d)
	tg.TLS, tg.TLSConfig = Required, ca.Client()
	s := dial(t, tg)
	if out := send(t, s, mail.Stuffed, octets("x\r\n", 0, true)); out[0].Reply.Code != 250 || s.Reusable() {
		t.Errorf("got %+v", out)
	}
	clean(t, d)
}

// A greeting or a reply without its line end is not waited for longer because the reply before it was a refusal.
func TestClient_EndlessBehindRefusal(t *testing.T) {
	s := smtptest.StartCareless(t, smtptest.Form{Verb: "EHLO", Reply: "502 what\r\n"},
		smtptest.Form{Verb: "HELO", Reply: "250 dest"}, smtptest.Form{Verb: "DOT", Reply: "250 2.0.0 queued"})
	if got, _ := sendCareless(t, s.Addr()); got != "250" {
		t.Errorf("got %s", got)
	}
}
