package smtptest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// talk plays script against s: lines that begin with "> " are sent, others are prefixes of the lines expected.
func talk(t *testing.T, s *Server, script string) {
	t.Helper()
	conn, err := net.Dial(s.Network(), s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	for line := range strings.SplitSeq(strings.TrimSpace(script), "\n") {
		line = strings.TrimSpace(line)
		if sent, ok := strings.CutPrefix(line, "> "); ok {
			if sent == "STARTTLS!" {
				secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				if err := secure.Handshake(); err != nil {
					t.Fatal(err)
				}
				conn, in = secure, bufio.NewReader(secure)
				continue
			}
			sent = strings.ReplaceAll(sent, `\r\n`, "\r\n") + "\r\n"
			fmt.Fprint(conn, strings.TrimSuffix(sent, "\\\r\n")) // a backslash at the end keeps CRLF away
			continue
		}
		got, err := in.ReadString('\n')
		if line == "EOF" {
			if err == nil {
				t.Fatalf("got %q, want the end", got)
			}
			continue
		}
		if err != nil || !strings.HasPrefix(got, line) {
			t.Fatalf("got %q (%v), want %q", got, err, line)
		}
	}
}

// A Server records what it accepted octet for octet.
func TestServer_Records(t *testing.T) {
	s := Start(t, Behaviour{})
	talk(t, s, `220
		> EHLO c.test
		250-destination.test
		250-PIPELINING
		250-8BITMIME
		250-SMTPUTF8
		250-CHUNKING
		250 ENHANCEDSTATUSCODES
		> MAIL FROM:<a@x.test> BODY=8BITMIME\r\nRCPT TO:<b@y.test>\r\nDATA
		250
		250
		354
		> Subject: x\r\n\r\n..dot\r\n..\r\n.
		250 2.0.0 OK
		> MAIL FROM:<>\r\nRCPT TO:<"x> y"@y.test>\r\nBDAT 3\r\n.\r\nBDAT 2 LAST\r\nab\
		250
		250
		250
		> QUIT
		250
		221
		EOF`)
	got := s.Messages()
	if len(got) != 2 {
		t.Fatalf("got %d messages", len(got))
	}
	if got[0].Mail != "MAIL FROM:<a@x.test> BODY=8BITMIME" || got[0].Forwards[0] != "b@y.test" ||
		got[0].Helo != "c.test" {
		t.Errorf("got %+v", got[0])
	}
	if want := "Subject: x\r\n\r\n..dot\r\n..\r\n"; string(got[0].Raw) != want {
		t.Errorf("got raw %q, want %q", got[0].Raw, want)
	}
	if want := "Subject: x\r\n\r\n.dot\r\n.\r\n"; string(got[0].Octets) != want {
		t.Errorf("got octets %q, want %q", got[0].Octets, want)
	}
	if string(got[1].Raw) != ".\r\nab" || len(got[1].Chunks) != 2 || got[1].Forwards[0] != `"x> y"@y.test` {
		t.Errorf("got %+v", got[1])
	}
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("got violations %q", v)
	}
	if n := s.Counts(); n.Messages != 2 || n.Connections != 1 || n.Commands["MAIL"] != 2 || n.Quits != 1 ||
		n.Halves != 0 {
		t.Errorf("got %+v", n)
	}
}

// A Server never records half a message.
func TestServer_Halves(t *testing.T) {
	const open = "EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n"
	for _, whole := range []string{
		open + "DATA\r\nA: b\r\n\r\nc\r\n.\r\n",
		open + "BDAT 5\r\nabcdeBDAT 4 LAST\r\nfghi",
	} {
		s := Start(t, Behaviour{})
		for end := range len(whole) {
			conn, err := net.Dial("tcp", s.Addr())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, whole[:end])
			conn.(*net.TCPConn).CloseWrite()
			bufio.NewReader(conn).WriteTo(new(strings.Builder))
			conn.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.WaitFor(ctx, func(n Counts) bool {
			return n.Connections == len(whole) && n.Current == 0
		}); err != nil {
			t.Fatal(err)
		}
		if n := s.Counts(); n.Messages != 0 || n.Halves == 0 {
			t.Errorf("got %+v", n)
		}
	}
}

// Answers follow the script.
func TestServer_Script(t *testing.T) {
	ca := NewCA()
	for _, tc := range []struct {
		name   string
		b      Behaviour
		script string
	}{
		{
			"a greeting of 554 ends the session", Behaviour{Answers: map[string]Answer{Greeting: {Reply: "554 no"}}},
			"554 no\nEOF",
		},
		{"a verb may be refused with several lines",
			Behaviour{Answers: map[string]Answer{"MAIL": {Reply: "550-one\n550 two"}}},
			"220\n> HELO c\n250 dest\n> MAIL FROM:<>\n550-one\n550 two"},
		{"recipients are answered by local part", Behaviour{Recipients: ByLocalPart()},
			"220\n> HELO c\n250\n> MAIL FROM:<>\n250\n> RCPT TO:<550@x>\n550\n> RCPT TO:<greylist@x>\n451\n> RCPT " +
				"TO:<greylist@x>\n250\n> RCPT TO:<drop@x>\nEOF"},
		{"the dot is answered by recipient in LMTP",
			Behaviour{LMTP: true, Dots: map[string]Answer{"b": {Reply: "452 full"}}},
			"220\n> LHLO c\n250-\n250-\n250-\n250-\n250-\n250\n> MAIL FROM:<>\n250\n> RCPT TO:<a@x>\n250\n> RCPT " +
				"TO:<b@x>\n250\n> DATA\n354\n> .\n250\n452"},
		{"an early refusal comes inside the octets",
			Behaviour{Body: &Fault{After: 4, Answer: Answer{Reply: "552 early"}}},
			"220\n> HELO c\n250\n> MAIL FROM:<>\n250\n> RCPT TO:<a@x>\n250\n> DATA\n354\n> abcd\n552 early\n> " +
				"more\n> .\n> RSET\n250"},
		{"a session over the limit gets 421", Behaviour{MaxMessages: 1},
			"220\n> HELO c\n250\n> MAIL FROM:<>\n250\n> RCPT TO:<a@x>\n250\n> DATA\n354\n> .\n250\n> MAIL " +
				"FROM:<>\n421\nEOF"},
		{"an idle client is closed unasked", Behaviour{Idle: 20 * time.Millisecond}, "220\n421 4.4.2\nEOF"},
		{"STARTTLS is offered and spoken",
			Behaviour{TLS: ca.Server("d.test"), Extensions: []string{}, Users: map[string]string{"u": "p"}},
			"220\n> EHLO c\n250-dest\n250 STARTTLS\n> STARTTLS\n220\n> STARTTLS!\n> EHLO c\n250-dest\n250 AUTH\n> " +
				"AUTH PLAIN AHUAcA==\n235\n> AUTH PLAIN AHUAcQ==\n535"},
	} {
		t.Run(tc.name, func(t *testing.T) { talk(t, Start(t, tc.b), tc.script) })
	}
}

// A Server listens on a unix socket too.
func TestServer_Unix(t *testing.T) {
	s, err := Listen(filepath.Join(t.TempDir(), "lmtp"), Behaviour{LMTP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	talk(t, s, "220\n> EHLO c\n500\n> QUIT\n221\nEOF")
}

// FuzzPath holds that what is read as a path and what is left make up the argument again, and that the end of a path is
// never inside quotes.
func FuzzPath(f *testing.F) {
	f.Add("FROM:<a@b> SIZE=1")
	f.Add(`FROM:<"a> b"@c>`)
	f.Add("FROM:<>x")
	f.Fuzz(func(t *testing.T, arg string) {
		path, params, ok := parsePath(arg, "FROM:")
		if !ok {
			return
		}
		if arg[len("FROM:"):] != "<"+path+">"+params || params != "" && params[0] != ' ' {
			t.Fatalf("got %q and %q from %q", path, params, arg)
		}
		if !strings.Contains(path, `"`) && strings.ContainsAny(path, "<> ") {
			t.Fatalf("got %q", path)
		}
	})
}

// FuzzUnstuff holds that what was stuffed comes out again.
func FuzzUnstuff(f *testing.F) {
	f.Add([]byte(".a\r\n.\r\n..b\n.c"))
	f.Fuzz(func(t *testing.T, message []byte) {
		var raw []byte
		for i, o := range message {
			if o == '.' && (i == 0 || i >= 2 && message[i-1] == '\n' && message[i-2] == '\r') {
				raw = append(raw, '.')
			}
			raw = append(raw, o)
		}
		if got := unstuff(raw); string(got) != string(message) {
			t.Fatalf("got %q, want %q", got, message)
		}
	})
}
