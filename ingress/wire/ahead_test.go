package wire

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestAhead shows that Ahead returns the recipients of the group that the client sent.
func TestAhead(t *testing.T) {
	for _, tc := range []struct {
		name, group string
		max         int
		want        []string // per RCPT that the Session saw
	}{
		{"a group that ends in DATA",
			"RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n", 9,
			[]string{"a@y.example: b@y.example c@y.example", "b@y.example: c@y.example", "c@y.example:"}},
		{"no more than asked for",
			"RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n", 1,
			[]string{"a@y.example: b@y.example", "b@y.example: c@y.example", "c@y.example:"}},
		{
			"a bound of 0", "RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\r\n", 0,
			[]string{"a@y.example:", "b@y.example:"},
		},
		{
			"a negative bound", "RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\r\n", -1,
			[]string{"a@y.example:", "b@y.example:"},
		},
		{"half a line at the end", "RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\r\nRCPT TO:<c@y.exa", 9,
			[]string{"a@y.example: b@y.example", "b@y.example:"}},
		{
			"a line that ends in CR so far", "RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\r", 9,
			[]string{"a@y.example:"},
		},
		{
			"another command between", "RCPT TO:<a@y.example>\r\nNOOP\r\nRCPT TO:<b@y.example>\r\n", 9,
			[]string{"a@y.example:", "b@y.example:"},
		},
		{"a new transaction behind",
			"RCPT TO:<a@y.example>\r\nRSET\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n", 9,
			[]string{"a@y.example:", "b@y.example:"}},
		{
			"a verb that only begins so", "RCPT TO:<a@y.example>\r\nRCPTX TO:<b@y.example>\r\n", 9,
			[]string{"a@y.example:"},
		},
		{"malformed paths are left out",
			"RCPT TO:<a@y.example>\r\nRCPT TO:b@y.example\r\nRCPT TO:<@y>\r\nRCPT\r\nRCPT TO:<>\r\nRCPT " +
				"TO:<c@y.example>\r\n", 9,
			[]string{"a@y.example: c@y.example", "c@y.example:"}},
		{
			"and count", "RCPT TO:<a@y.example>\r\nRCPT TO:b@y.example\r\nRCPT TO:<c@y.example>\r\n", 1,
			[]string{"a@y.example:", "c@y.example:"},
		},
		{
			"parameters that are not offered are left out",
			"RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example> NOTIFY=NEVER\r\n", 9, []string{"a@y.example:"},
		},
		{"controls are left out", "RCPT TO:<a@y.example>\r\nRCPT TO:<\"b\x01\"@y.example>\r\nRCPT TO:<c@y.example>\r\n",
			9,
			[]string{"a@y.example: c@y.example", "c@y.example:"}},
		{"a line without CR ends the group",
			"RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\nRCPT TO:<c@y.example>\r\n", 9,
			[]string{"a@y.example:", "c@y.example:"}},
		{"source routes are dropped", "RCPT TO:<a@y.example>\r\nRCPT TO:<@r.example,@s.example:b@y.example>\r\n", 9,
			[]string{"a@y.example: b@y.example", "b@y.example:"}},
		{
			"verbs in any case, and blanks", "rcpt to:<a@y.example>\r\nrCpT  tO: <b@y.example> \t\r\n", 9,
			[]string{"a@y.example: b@y.example", "b@y.example:"},
		},
		{"quoted blanks and brackets", "RCPT TO:<a@y.example>\r\nRCPT TO:<\"b >c\"@y.example>\r\n", 9,
			[]string{"a@y.example: \"b >c\"@y.example", "\"b >c\"@y.example:"}},
		{
			"Postmaster needs no domain", "RCPT TO:<a@y.example>\r\nRCPT TO:<postMASTER>\r\n", 9,
			[]string{"a@y.example: postMASTER", "postMASTER:"},
		},
		{
			"addresses beyond ASCII without SMTPUTF8", "RCPT TO:<a@y.example>\r\nRCPT TO:<bü@y.example>\r\n", 9,
			[]string{"a@y.example:"},
		},
		{"addresses beyond ASCII with SMTPUTF8",
			"RSET\r\nMAIL FROM:<a@x.example> SMTPUTF8\r\nRCPT TO:<a@y.example>\r\nRCPT TO:<bü@y.example>\r\n", 9,
			[]string{"a@y.example: bü@y.example", "bü@y.example:"}},
		{"octets of a message are not commands",
			"RCPT TO:<a@y.example>\r\nBDAT 23 LAST\r\nRCPT TO:<b@y.example>\r\nMAIL FROM:<a@x.example>\r\nRCPT " +
				"TO:<c@y.example>\r\n", 9,
			[]string{"a@y.example:", "c@y.example:"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var saw []string
			r := start(t, func(cfg *Config) {
				scripted(cfg, func(c *Client, s *scriptedSession) {
					s.rcpt = func(_ context.Context, p mail.Path) error {
						line := p.String() + ":"
						for _, a := range c.Ahead(tc.max) {
							line += " " + a.String()
						}
						saw = append(saw, line)
						return nil
					}
				})
			})
			r.inPieces(t, "EHLO c.example\r\n", "MAIL FROM:<a@x.example>\r\n"+tc.group, "\r\n.\r\nRSET\r\n")
			if got, want := fmt.Sprintf("%q", saw), fmt.Sprintf("%q", tc.want); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// buffered makes a connection without a socket that has read in, with a transaction open.
func buffered(in string, smtputf8 bool) *conn {
	srv := &Server{cfg: Config{}.withDefaults()}
	srv.inputs.New = func() any { return new([batchBuffer]byte) }
	c := newConn(srv, &script{})
	c.life.end(unreachable)
	c.tx.open(smtputf8)
	c.in.buf = make([]byte, max(len(in), smallBuffer))
	c.in.w = int32(copy(c.in.buf, in))
	return c
}

// TestAhead_Allocations shows that Ahead allocates nothing without a group.
func TestAhead_Allocations(t *testing.T) {
	for _, in := range []string{"", "RCPT TO:<b@y.exa", "DATA\r\n", "rset\r\nRCPT TO:<b@y.example>\r\n"} {
		c := buffered(in, false)
		if n := testing.AllocsPerRun(100, func() { c.client.Ahead(100) }); n != 0 {
			t.Errorf("%q: %v allocations", in, n)
		}
	}
	c := buffered(strings.Repeat("RCPT TO:<b@y.example>\r\n", 50), false)
	if n := testing.AllocsPerRun(100, func() { c.client.Ahead(100) }); n > 51 {
		t.Errorf("50 recipients: %v allocations", n)
	}
}

// FuzzAhead compares what Ahead returns with what is read, and holds that nothing is consumed or changed.
func FuzzAhead(f *testing.F) {
	f.Add("RCPT TO:<a@y.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n", 9, false)
	f.Add("rcpt to:<@r.example:a@y.example>\r\nRCPT TO:<\xc3\xbc@y.example> \r\nRCPT TO:<x\r\n", 2, true)
	f.Add("RCPT TO:<a@y.example>\nRCPT TO:<a@y.example>\r\nRCPT\t\x00\r\n", 3, false)
	f.Fuzz(func(t *testing.T, in string, max int, smtputf8 bool) {
		if max > 1000 || len(in) > SlabOctets || startsTLS([]byte(in)) {
			return
		}
		c := buffered(in, smtputf8)
		got := c.client.Ahead(max)
		if string(c.in.buf[:len(in)]) != in || c.in.r != 0 || int(c.in.w) != len(in) {
			t.Fatal("it has left something behind")
		}
		var want []mail.Path
		for n := 0; n < max; n++ {
			line, fault, err := c.nextLine()
			if err != nil || fault != nil {
				break
			}
			verb, arg := splitVerb(line)
			if string(verb) != "RCPT" {
				break
			}
			if hasControls(line) {
				continue
			}
			if p, fault := parseRcpt(arg, smtputf8, mail.Dotted); fault == nil {
				want = append(want, p)
			}
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	})
}
