package smtptest

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
)

// A Form is a reply as real servers send it and RFC 5321 does not know it, and how a person would read it.
type Form struct {
	Name  string
	Verb  string // GREETING, DOT, or a verb of RFC 5321
	Reply string // a "|" separates what is written apart; "CLOSE" in the end ends the connection
	// Want is the code that the sender's message ends with; "doubt" where the reply says nothing of a message that was
	// sent, "gone" where there is no session.
	Want     string
	Reusable bool // the session serves another message
}

// Forms returns replies of all kinds.
func Forms() []Form {
	long := strings.Repeat("x", 2500)
	lines := func(code string, n int, text string) string {
		return strings.Repeat(code+"-"+text+"\r\n", n) + code + " end\r\n"
	}
	return []Form{
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
	}
}

// A Careless is a destination that answers each verb with the octets of its script, whatever they are. It serves one
// connection after another, and all of them at once.
type Careless struct {
	listener net.Listener
	script   map[string]string
	running  sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]bool
	messages int
}

// The replies of a server that is not careless.
var careful = map[string]string{
	"GREETING": "220 dest ESMTP\r\n", "EHLO": "250-dest\r\n250-PIPELINING\r\n250 SIZE 1000\r\n",
	"HELO": "250 dest\r\n",
	"MAIL": "250 2.1.0 ok\r\n", "RCPT": "250 2.1.5 ok\r\n", "DATA": "354 go\r\n", "DOT": "250 2.0.0 queued\r\n",
	"RSET": "250 2.0.0 ok\r\n", "QUIT": "221 2.0.0 bye\r\nCLOSE",
}

// StartCareless starts a destination on loopback that answers as the forms say, and by the rules elsewhere. It ends
// with the test.
func StartCareless(t testing.TB, forms ...Form) *Careless {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Careless{listener: l, script: make(map[string]string), conns: make(map[net.Conn]bool)}
	for _, f := range forms {
		s.script[f.Verb] = f.Reply
	}
	s.running.Go(func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[conn] = true
			s.mu.Unlock()
			s.running.Go(func() { s.serve(conn) }) // ends with its connection
		}
	})
	t.Cleanup(s.Close)
	return s
}

// Addr returns where it listens.
func (s *Careless) Addr() string { return s.listener.Addr().String() }

// Messages returns how many messages came whole.
func (s *Careless) Messages() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages
}

// Close ends all connections, and waits for that.
func (s *Careless) Close() {
	s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Careless) serve(conn net.Conn) {
	defer conn.Close()
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
			return
		}
		inData = inData || verb == "DATA" && strings.HasPrefix(reply, "3")
		for verb = ""; verb == ""; {
			line, err := in.ReadString('\n')
			switch {
			case err != nil:
				return
			case !inData:
				verb, _, _ = strings.Cut(strings.TrimSpace(line), " ")
			case line == ".\r\n":
				verb, inData = "DOT", false
				s.mu.Lock()
				s.messages++
				s.mu.Unlock()
			}
		}
	}
}
