package smtpclient

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// A careless server answers each verb with the octets of its script, whatever they are. "CLOSE" behind them ends the
// connection.
type careless struct {
	listener net.Listener
	script   map[string]string
	mails    chan int // the messages that each connection brought whole
}

// The replies of a server that is not careless.
var careful = map[string]string{
	"GREETING": "220 dest ESMTP\r\n", "EHLO": "250-dest\r\n250-PIPELINING\r\n250 SIZE 1000\r\n", "HELO": "250 dest\r\n",
	"MAIL": "250 2.1.0 ok\r\n", "RCPT": "250 2.1.5 ok\r\n", "DATA": "354 go\r\n", "DOT": "250 2.0.0 queued\r\n",
	"RSET": "250 2.0.0 ok\r\n", "QUIT": "221 2.0.0 bye\r\nCLOSE",
}

func startCareless(t *testing.T, script map[string]string) *careless {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &careless{listener: l, script: script, mails: make(chan int, 1)}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with its one connection, or with the listener
		n := 0
		defer func() { s.mails <- n }()
		if conn, err := l.Accept(); err == nil {
			defer conn.Close()
			n = s.serve(conn)
		}
	}()
	return s
}

// serve speaks with one client and returns the number of messages that came whole.
func (s *careless) serve(conn net.Conn) (messages int) {
	in, inData := bufio.NewReader(conn), false
	for verb := "GREETING"; ; {
		reply, ok := s.script[verb]
		if !ok {
			reply = careful[verb]
		}
		reply, end := strings.CutSuffix(reply, "CLOSE")
		for piece := range strings.SplitSeq(reply, "|") {
			conn.Write([]byte(piece))
		}
		if end {
			return messages
		}
		inData = inData || verb == "DATA" && strings.HasPrefix(reply, "3")
		for verb = ""; verb == ""; {
			line, err := in.ReadString('\n')
			switch {
			case err != nil:
				return messages
			case !inData:
				verb, _, _ = strings.Cut(strings.TrimSpace(line), " ")
			case line == ".\r\n":
				verb, inData = "DOT", false
				messages++
			}
		}
	}
}

// Replies are read as a person would, wherever they stand: no readable 2yz or 5yz leaves a message in doubt, and none
// is turned into another class.
func TestClient_CarelessReplies(t *testing.T) {
	long := strings.Repeat("x", 2500)
	lines := func(code string, n int, text string) string {
		return strings.Repeat(code+"-"+text+"\r\n", n) + code + " end\r\n"
	}
	for _, tc := range []struct {
		name, verb, reply string
		want              string // the code that the sender's message ends with, "doubt" or "gone"
		reusable          bool
	}{
		{"521 behind 220-", "GREETING", "220-dest ESMTP\r\n521 5.7.1 blocked\r\n", "gone", false},
		{"two whole lines", "GREETING", "220 dest\r\n220 ready\r\n", "250", true},
		{"two lines, one with another code", "GREETING", "220 dest\r\n250 hello\r\n", "250", true},
		{"a bare code", "GREETING", "220\r\n", "250", true},
		{"a blank line first", "GREETING", "\r\n220 dest\r\n", "250", true},
		{"a warning without a code first", "GREETING", "no spam please\r\n220 dest\r\n", "250", true},
		{"no line end", "GREETING", "220 dest", "250", true},
		{"of 3000 octets", "GREETING", "220 " + long + "\r\n", "250", true},
		{"a line without a code", "EHLO", "250-dest\r\n hello there\r\n250 SIZE 1000000\r\n", "250", true},
		{"a blank in place of a hyphen", "EHLO", "250 dest\r\n250-SIZE 100000\r\n250 HELP\r\n", "250", true},
		{"half of the rest later", "EHLO", "250 dest\r\n250-SI|ZE 100000\r\n250 HELP\r\n", "250", true},
		{
			"a parameter on a line of its own", "EHLO", "250-dest\r\n250-SIZE\r\n250-50000\r\n250 8BITMIME\r\n",
			"250", true,
		},
		{"550 and HELO", "EHLO", "550 5.7.1 no EHLO here\r\n", "250", true},
		{"554 and HELO", "EHLO", "554 5.7.1 no EHLO here\r\n", "250", true},
		{"421", "EHLO", "421 4.3.2 later\r\n", "gone", false},
		{"450 and HELO", "EHLO", "450 4.3.2 what\r\n", "250", true},
		{"a tab", "MAIL", "250\tok\r\n", "250", true},
		{"251 behind 250-", "MAIL", "250-ok\r\n251 ok\r\n", "250", true},
		{
			"a line without a code", "RCPT", "550-5.1.1 no such user\r\nask the postmaster\r\n550 5.1.1 bye\r\n",
			"550", true,
		},
		{"2500 octets in a line", "RCPT", "550 5.7.1 " + long + "\r\n", "550", true},
		{"250 of 2500 octets in a line", "RCPT", "250 2.1.5 " + long + "\r\n", "250", true},
		{"120 lines", "RCPT", lines("550", 120, "5.7.1 policy"), "550", true},
		{"a tab", "RCPT", "550\t5.1.1 no such user\r\n", "550", true},
		{"in Latin-1", "RCPT", "550 5.1.1 Empf\xe4nger unbekannt\r\n", "550", true},
		{"a number sign", "RCPT", "550 #5.1.0 Address rejected.\r\n", "550", true},
		{"a colon", "RCPT", "550 5.1.1: no such user\r\n", "550", true},
		{"classes differ", "RCPT", "550 4.2.2 mailbox full\r\n", "550", true},
		{"200", "RCPT", "200 ok\r\n", "250", true},
		{"twice", "RCPT", "250 2.1.5 ok\r\n250 2.1.5 ok\r\n", "250", false},
		{"550 twice", "RCPT", "550 5.1.1 no\r\n550 5.1.1 no\r\n", "550", false},
		{"350", "DATA", "350 go\r\n", "250", true},
		{"354 without a text", "DATA", "354\r\n", "250", true},
		{"354 twice", "DATA", "354 go\r\n354 go\r\n", "250", false},
		{"354 again at the dot", "DOT", "354 go\r\n250 2.0.0 ok\r\n", "250", false},
		{"550 behind 250-", "DOT", "250-scanned\r\n550 5.7.1 spam\r\n", "550", true},
		{"a line without a code", "DOT", "250-2.0.0 ok\r\nqueued as 4711\r\n250 bye\r\n", "250", true},
		{"250 of 2500 octets", "DOT", "250 2.0.0 " + long + "\r\n", "250", true},
		{"550 of 2500 octets", "DOT", "550 5.7.1 " + long + "\r\n", "550", true},
		{"250 of 200 KB", "DOT", lines("250", 200, strings.Repeat("y", 1000)), "250", true},
		{"550 of 200 KB", "DOT", lines("550", 200, "5.7.1 "+strings.Repeat("y", 1000)), "550", true},
		{"a tab", "DOT", "250\t2.0.0 ok\r\n", "250", true},
		{"a letter behind the code", "DOT", "250ok\r\n", "250", true},
		{"bare LF", "DOT", "250-ok\n250 queued\n", "250", true},
		{"a blank line first", "DOT", "\r\n250 2.0.0 ok\r\n", "250", true},
		{"a remark first", "DOT", "scanning\r\n250 2.0.0 ok\r\n", "250", true},
		{"150 first", "DOT", "150 scanning\r\n250 2.0.0 ok\r\n", "250", true},
		{"twice", "DOT", "250 2.0.0 ok\r\n250 2.0.0 ok\r\n", "250", false},
		{"a remark behind", "DOT", "550 5.7.1 no\r\nsee our pages\r\n", "550", false},
		{"in pieces", "DOT", "2|50 2.0.|0 ok\r|\n", "250", true},
		{"250 and the end", "DOT", "250 2.0.0 ok\r\nCLOSE", "250", true}, // which the pool sees
		{"250 without a line end, and the end", "DOT", "250 2.0.0 okCLOSE", "250", false},
		{"550 without a line end", "DOT", "550 5.7.1 spam", "550", false},
		{"250 and 421 and the end", "DOT", "250 2.0.0 ok\r\n421 4.4.2 bye\r\nCLOSE", "250", false},
		{"an enhanced code alone", "DOT", "2.0.0 ok\r\n", "250", false},
		{"another", "DOT", "5.7.1 spam\r\n", "550", false},
		{"octets above 127", "DOT", "250 2.0.0 angenommen f\xfcr Empf\xe4nger\r\n", "250", true},
		{"no digit", "DOT", "OK\r\nCLOSE", "doubt", false},
		{"a date, and no code", "DOT", "2026-11-30 06:00 the scanner is slow\r\nCLOSE", "doubt", false},
		{"a date, and later a refusal", "DOT", "2026-11-30 the scanner is slow\r\n|554 5.7.1 virus\r\n", "554", true},
		{"an address in a refusal", "DOT", "550-5.7.1 Blocked:\r\n203.0.113.5 is listed\r\n550 bye\r\n", "550", true},
		{"half a line", "DOT", "250-2.0.0 ok\r\nCLOSE", "doubt", false},
		{"two digits", "DOT", "25CLOSE", "doubt", false},
		{"nothing", "DOT", "CLOSE", "doubt", false},
	} {
		t.Run(tc.verb+" "+tc.name, func(t *testing.T) {
			t.Parallel()
			s := startCareless(t, map[string]string{tc.verb: tc.reply})
			got, reusable := sendCareless(t, s.listener.Addr().String())
			if got != tc.want || reusable != tc.reusable {
				t.Errorf("got %s, reusable %v", got, reusable)
			}
			s.listener.Close()
			if n := <-s.mails; got == "250" && n != 1 {
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
		s := startCareless(t, map[string]string{"EHLO": reply})
		c := dial(t, Target{Network: "tcp", Addr: s.listener.Addr().String(), Host: "mx.dest.test"})
		want := Extensions{Keywords: ESMTP | Pipelining | Size | EightBitMIME, Size: 1000}
		if got := *c.Extensions(); got != want {
			t.Errorf("%q: got %+v", reply, got)
		}
	}
}

// What stands in clear behind the reply to STARTTLS is an attack, however it reads.
func TestClient_BehindSTARTTLS(t *testing.T) {
	for _, reply := range []string{"220 go\r\n250 SIZE 1000\r\n", "220 go\r\n220 go\r\n", "220 go\r\n250-x"} {
		s := startCareless(t, map[string]string{
			"EHLO": "250-dest\r\n250 STARTTLS\r\n", "STARTTLS": reply,
		})
		_, err := Dial(t.Context(), Config{tune: tuning{half: 100 * time.Millisecond}}, Target{
			Network: "tcp", Addr: s.listener.Addr().String(), Host: "mx.dest.test", TLS: Opportunistic,
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
