package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// oracleBackend makes go-smtp decide as the fakeSession does.
type oracleBackend struct {
	mu       sync.Mutex
	messages []string
}

type oracleSession struct {
	b        *oracleBackend
	from     string
	forwards []string
}

func (b *oracleBackend) NewSession(*smtp.Conn) (smtp.Session, error) {
	return &oracleSession{b: b}, nil
}

func (s *oracleSession) Reset()        { s.from, s.forwards = "", nil }
func (s *oracleSession) Logout() error { return nil }

func (s *oracleSession) answer(a string) error {
	switch local, _, _ := strings.Cut(a, "@"); local {
	case "no":
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
	case "later":
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "later"}
	}
	return nil
}

func (s *oracleSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return s.answer(from)
}

func (s *oracleSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.answer(to); err != nil {
		return err
	}
	s.forwards = append(s.forwards, to)
	return nil
}

func (s *oracleSession) Data(r io.Reader) error {
	p, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.messages = append(s.b.messages, fmt.Sprintf("%s>%s:%q", s.from, strings.Join(s.forwards, ","), p))
	return nil
}

// exchange sends octets to addr, ends its side and returns the codes of all replies but the greeting's.
func exchange(t *testing.T, addr, octets string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	go func() { // ends when all is sent or the server hung up
		_, _ = io.WriteString(c, octets)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	out, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, io.EOF) && len(out) == 0 {
		t.Fatal(err)
	}
	var codes []string
	for l := range strings.Lines(string(out)) {
		if len(l) > 3 && l[3] == ' ' {
			codes = append(codes, l[:3])
		}
	}
	return strings.Join(codes[1:], " ")
}

// TestConn_GoSMTPOracle says the same octets to the engine and to go-smtp's server. Where the two answer differently or
// accept other messages, the row says why ours is right.
func TestConn_GoSMTPOracle(t *testing.T) {
	const (
		hello = "EHLO c.example\r\n"
		open  = hello + "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
		quit  = "QUIT\r\n"
	)
	for _, tc := range []struct {
		name, octets string
		ours         string // what we do other than go-smtp, and why
	}{
		{"a message", open + "DATA\r\nhi\r\n.\r\n" + quit, ""},
		{"an empty message", open + "DATA\r\n.\r\n" + quit, ""},
		{"transparency", open + "DATA\r\n..\r\n...a\r\nb.\r\n.\r\n" + quit, ""},
		{
			"two messages",
			open + "DATA\r\nhi\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@z.example>\r\nDATA\r\nho\r\n.\r\n" + quit, "",
		},
		{
			"chunks", open + "BDAT 3\r\nabcBDAT 4 LAST\r\n\r\n.\r" + "\n" + quit,
			"a chunk that ends in a bare CR makes a bare CR in the message, and the LF behind it is an empty " +
				"command line",
		},
		{"one chunk", open + "BDAT 4 LAST\r\nhi\r\n" + quit, ""},
		{"an empty last chunk", open + "BDAT 4\r\nhi\r\nBDAT 0 LAST\r\n" + quit, ""},
		{
			"HELO", "HELO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\nhi\r\n.\r\n" + quit,
			"",
		},
		{"RSET", open + "RSET\r\nMAIL FROM:<c@x.example>\r\n" + quit, ""},
		{
			"refused recipient",
			hello +
				"MAIL FROM:<a@x.example>\r\nRCPT TO:<no@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\nhi\r\n.\r\n" +
				quit, "",
		},
		{"refused sender", hello + "MAIL FROM:<no@x.example>\r\nMAIL FROM:<a@x.example>\r\n" + quit, ""},
		{
			"no EHLO", "MAIL FROM:<a@x.example>\r\n" + quit,
			"503: a command out of order (RFC 5321 section 4.3.2), where go-smtp has 502",
		},
		{"RCPT without MAIL", hello + "RCPT TO:<a@x.example>\r\n" + quit, "503, as above"},
		{"DATA without RCPT", hello + "MAIL FROM:<a@x.example>\r\nDATA\r\n" + quit, "503, as above"},
		{
			"MAIL twice", hello + "MAIL FROM:<a@x.example>\r\nMAIL FROM:<c@x.example>\r\n" + quit,
			"503: a transaction is open (RFC 5321 section 4.1.4)",
		},
		{
			"Postmaster without domain", hello + "MAIL FROM:<a@x.example>\r\nRCPT TO:<Postmaster>\r\n" + quit,
			"250: RFC 5321 section 4.5.1 demands it",
		},
		{
			"size over 32 bits", hello + "MAIL FROM:<a@x.example> SIZE=5000000000\r\n" + quit,
			"552: it is a size, and it is too big",
		},
		{
			"quoted local part", open + "RCPT TO:<\"quo ted\"@y.example>\r\nDATA\r\nhi\r\n.\r\n" + quit,
			"the quotes stay",
		},
		{
			"octets above 127 without SMTPUTF8", hello + "MAIL FROM:<\xc3\xa4@x.example>\r\n" + quit,
			"553: RFC 6531 demands the parameter",
		},
		{"empty label", hello + "MAIL FROM:<a@b..c>\r\n" + quit, "501: no domain has one"},
		{
			"unknown MAIL parameter", hello + "MAIL FROM:<a@x.example> FOO=BAR\r\n" + quit,
			"555 (RFC 5321 section 4.1.1.11), where go-smtp has 500",
		},
		{
			"unknown RCPT parameter", hello + "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example> FOO=BAR\r\n" + quit,
			"555, as above",
		},
		{"BINARYMIME", hello + "MAIL FROM:<a@x.example> BODY=BINARYMIME\r\n" + quit, ""},
		{"unknown verb", hello + "FOOO\r\n" + quit, ""},
		{"unknown short verb", hello + "FOO\r\n" + quit, "500: a verb is unknown however short it is"},
		{"VRFY", hello + "VRFY a\r\n" + quit, ""},
		{"HELP", hello + "HELP\r\n" + quit, "214: RFC 5321 section 4.1.1.8"},
		{"EXPN", hello + "EXPN list\r\n" + quit, ""},
		{"parameters to DATA", open + "DATA now\r\n" + quit, ""},
		{"parameters to RSET", open + "RSET now\r\n" + quit, "501 (RFC 5321 section 4.1.1), where go-smtp looks away"},
		{
			"bare LF dot", open + "DATA\r\na\n.\nb\r\n.\r\n" + quit,
			"550: a bare LF is refused, go-smtp passes it through",
		},
		{"bare CR dot", open + "DATA\r\na\r.\rb\r\n.\r\n" + quit, "550: a bare CR is refused"},
		{"dot and bare LF", open + "DATA\r\na\r\n.\nb\r\n.\r\n" + quit, "550, as above"},
		{
			"CR CR LF before the dot", open + "DATA\r\nhi\r\r\n.\r\n" + quit,
			"550: that is an end of data, which go-smtp misses",
		},
		{"dot CR and an octet", open + "DATA\r\n.\rZ\r\n.\r\n" + quit, "550: go-smtp drops the dot and the CR"},
		{"command ends in LF", "EHLO c.example\nQUIT\r\n", "500: a line ends in CRLF (RFC 5321 section 2.3.8)"},
		{"BDAT without a transaction", hello + "BDAT 6\r\nNOOP\r\nNOOP\r\n" + quit, "503, where go-smtp has 502"},
		{
			"BDAT that cannot be read", open + "BDAT x\r\nNOOP\r\n" + quit,
			"501 and the connection is closed: what follows may be octets of a message",
		},
		{"DATA between chunks", open + "BDAT 2\r\nabDATA\r\n" + quit, "503, where go-smtp has 502"},
		{"RSET between chunks", open + "BDAT 2\r\nabRSET\r\n" + quit, ""},
		{"STARTTLS without TLS", hello + "STARTTLS\r\n" + quit, ""},
		{"HTTP", "GET / HTTP/1.1\r\nHost: a\r\n" + quit, "554 and the connection is closed at once"},
		{"four unknown verbs", "A\r\nB\r\nC\r\nD\r\n" + quit, "the budget is ten, go-smtp's is three"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t, nil)
			b := &oracleBackend{}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := smtp.NewServer(b)
			srv.Domain, srv.EnableSMTPUTF8 = "mx.example", true
			srv.MaxMessageBytes, srv.ReadTimeout = 50<<20, time.Second
			srv.ErrorLog = discard{}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(l) }() // ends with Close
			theirs := exchange(t, l.Addr().String(), tc.octets)
			srv.Close()
			<-served
			ours := exchange(t, r.addr, tc.octets)
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, m := range b.messages {
				theirs += " " + m
			}
			for _, m := range r.accepted() {
				ours += fmt.Sprintf(" %s>%s:%q", m.reverse, strings.Join(m.forwards, ","), m.plain)
			}
			if (ours == theirs) != (tc.ours == "") {
				t.Errorf("ours:   %s\ntheirs: %s", ours, theirs)
			}
			t.Logf("ours: %s; theirs: %s", ours, theirs)
		})
	}
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}
