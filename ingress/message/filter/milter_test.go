package filter

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/d--j/go-milter"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// A listener is a milter of the tests, served by go-milter: it writes down what it is told, and says what its fields
// say.
type listener struct {
	milter.NoOpMilter
	mu     *sync.Mutex
	heard  *[]string
	at     map[string]*milter.Response   // its answers, by step
	ending func(m milter.Modifier) error // what it asks for at the end
}

func (l listener) hear(step, what string) (*milter.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.heard = append(*l.heard, step+" "+what)
	if r := l.at[step+" "+what]; r != nil {
		return r, nil
	}
	if r := l.at[step]; r != nil {
		return r, nil
	}
	return milter.RespContinue, nil
}

func (l listener) Connect(host, family string, _ uint16, addr string, _ milter.Modifier) (*milter.Response, error) {
	return l.hear("connect", host+" "+family+" "+addr)
}

func (l listener) Helo(name string, _ milter.Modifier) (*milter.Response, error) {
	return l.hear("helo", name)
}

func (l listener) MailFrom(from, _ string, m milter.Modifier) (*milter.Response, error) {
	return l.hear("mail", from+" "+m.Get(milter.MacroAuthAuthen))
}

func (l listener) RcptTo(to, _ string, _ milter.Modifier) (*milter.Response, error) {
	return l.hear("rcpt", to)
}

func (l listener) Data(m milter.Modifier) (*milter.Response, error) { return l.hear("data", "") }

func (l listener) Header(name, value string, _ milter.Modifier) (*milter.Response, error) {
	return l.hear("header", name+"|"+value)
}

func (l listener) Headers(milter.Modifier) (*milter.Response, error) { return l.hear("eoh", "") }

func (l listener) BodyChunk(chunk []byte, _ milter.Modifier) (*milter.Response, error) {
	return l.hear("body", string(chunk))
}

func (l listener) EndOfMessage(m milter.Modifier) (*milter.Response, error) {
	if l.ending != nil {
		if err := l.ending(m); err != nil {
			return nil, err
		}
	}
	return l.hear("end", "")
}

// startMilter starts a milter and returns its address and what it has heard.
func startMilter(t *testing.T, l listener, options ...milter.Option) (addr string, heard func() []string) {
	t.Helper()
	l.mu, l.heard = new(sync.Mutex), new([]string)
	server := milter.NewServer(append([]milter.Option{
		milter.WithMilter(func() milter.Milter { return l }), milter.WithActions(milter.AllClientSupportedActionMasks &^
			milter.OptSetMacros),
	}, options...)...)
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { // ends when the server is closed
		defer close(served)
		_ = server.Serve(socket)
	}()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return socket.Addr().String(), func() []string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Clone(*l.heard)
	}
}

// milterAt returns the Set of one milter.
func milterAt(t *testing.T, addr string) *Set {
	t.Helper()
	s, err := New([]Config{{Name: "m", Milter: addr, Late: LateTempfail}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var someEnvelope = Envelope{
	Hostname: "mx1.example.net", AuthservID: "mx1.example.net", Client: netip.MustParseAddrPort("192.0.2.1:4711"),
	Helo: "b.example", Reverse: mail.Path{Local: "a", Domain: "b.example"}, User: "u",
}

func path(text string) mail.Path {
	local, domain, _ := strings.Cut(text, "@")
	return mail.Path{Local: local, Domain: domain}
}

// TestMilter_Steps: a milter hears of the client, the envelope, each field and the body, in whatever pieces they come.
func TestMilter_Steps(t *testing.T) {
	want := []string{
		"connect [192.0.2.1] tcp4 192.0.2.1", "helo b.example", "mail a@b.example u", "rcpt c@d.example",
		"rcpt e@f.example", "data ", "header Subject|x\n\ty", "header X-Empty|", "header X-Two| blanks", "eoh ",
	}
	const message = "Subject: x\r\n\ty\r\nX-Empty:\r\nX-Two:  blanks\r\n\r\n.body\r\nmore\r\n"
	for _, size := range []int{1, 7, 1000} {
		addr, heard := startMilter(t, listener{})
		p := milterAt(t, addr).Begin(someEnvelope)
		for _, to := range []string{"c@d.example", "e@f.example"} {
			if d := p.Rcpt(t.Context(), path(to), false); d.Action != Accept {
				t.Fatalf("got %+v", d)
			}
		}
		for rest := message; rest != ""; {
			n := min(size, len(rest))
			p.Write(t.Context(), octets(rest[:n]))
			rest = rest[n:]
		}
		d := p.End(t.Context())
		p.Close()
		if d.Action != Accept || d.Filtered[0].Result != "accept" {
			t.Fatalf("got %+v", d)
		}
		got, body := heard(), ""
		for _, step := range got[min(len(got), len(want)):] {
			text, _ := strings.CutPrefix(step, "body ")
			body += strings.TrimPrefix(text, "end ")
		}
		if !slices.Equal(got[:min(len(got), len(want))], want) || body != ".body\r\nmore\r\n" {
			t.Errorf("in pieces of %d: heard %q", size, got)
		}
	}
}

// TestMilter_Negotiated: a milter hears of no step that it leaves out, and is not waited for where it says nothing.
func TestMilter_Negotiated(t *testing.T) {
	for _, tt := range []struct {
		name string
		opt  milter.OptProtocol
		want string
	}{
		{"all steps", 0, "connect helo mail rcpt data header eoh body end"},
		{"no answers", milter.OptNoReplies, "connect helo mail rcpt data header eoh body end"},
		{"the end alone", milter.OptNoConnect | milter.OptNoHelo | milter.OptNoMailFrom | milter.OptNoRcptTo |
			milter.OptNoData | milter.OptNoHeaders | milter.OptNoEOH | milter.OptNoBody, "end"},
		{"the body alone", milter.OptNoConnect | milter.OptNoHelo | milter.OptNoMailFrom | milter.OptNoRcptTo |
			milter.OptNoData | milter.OptNoHeaders | milter.OptNoEOH, "body end"},
	} {
		addr, heard := startMilter(t, listener{}, milter.WithProtocols(tt.opt))
		p := milterAt(t, addr).Begin(someEnvelope)
		p.Rcpt(t.Context(), path("c@d.example"), false)
		p.Write(t.Context(), octets("Subject: x\r\n\r\nbody\r\n"))
		d := p.End(t.Context())
		p.Close()
		var steps []string
		for _, s := range heard() {
			step, _, _ := strings.Cut(s, " ")
			steps = append(steps, step)
		}
		if got := strings.Join(steps, " "); got != tt.want || d.Action != Accept {
			t.Errorf("%s: heard %q, %+v", tt.name, got, d)
		}
	}
}

// TestMilter_Answers: what a milter says at a step is done there: about one recipient, about all, or about the message.
func TestMilter_Answers(t *testing.T) {
	words, err := milter.RejectWithCodeAndReason(554, "5.7.9 Not here")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		at   map[string]*milter.Response
		rcpt string // to a recipient, and to a spared one
		dot  Action
	}{
		{"accept the client", map[string]*milter.Response{"connect": milter.RespAccept}, "", Accept},
		{"refuse the client", map[string]*milter.Response{"connect": milter.RespReject},
			"550 5.7.1 A content filter refuses this message", Accept},
		{"refuse the name", map[string]*milter.Response{"helo": words}, "554 5.7.9 Not here", Accept},
		{"put off the sender", map[string]*milter.Response{"mail": milter.RespTempFail},
			"451 4.7.1 A content filter puts this message off, try again later", Accept},
		{"refuse a recipient", map[string]*milter.Response{"rcpt c@d.example": words}, "554 5.7.9 Not here", Accept},
		{"discard", map[string]*milter.Response{"rcpt": milter.RespDiscard}, "", Discard},
		{"refuse at DATA", map[string]*milter.Response{"data": words}, "", Reject},
		{"refuse a field", map[string]*milter.Response{"header": words}, "", Reject},
		{"refuse the section", map[string]*milter.Response{"eoh": words}, "", Reject},
		{"refuse the body", map[string]*milter.Response{"body": words}, "", Reject},
		{"refuse at the end", map[string]*milter.Response{"end": words}, "", Reject},
		{"needs no more fields", map[string]*milter.Response{"header": milter.RespSkip}, "", Accept},
		{"needs no more of the body", map[string]*milter.Response{"body": milter.RespSkip}, "", Accept},
		{"put off at the end", map[string]*milter.Response{"end": milter.RespTempFail}, "", Tempfail},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, heard := startMilter(t, listener{at: tt.at})
			s := milterAt(t, addr)
			p := s.Begin(someEnvelope)
			defer p.Close()
			d := p.Rcpt(t.Context(), path("c@d.example"), false)
			got := ""
			if d.Refusal != nil {
				got = d.Refusal.Reply.String()
			}
			if got != tt.rcpt {
				t.Fatalf("RCPT: got %q, want %q", got, tt.rcpt)
			}
			if spared := p.Rcpt(t.Context(), path("postmaster@d.example"), true); spared.Action != Accept {
				t.Errorf("a spared recipient: %+v", spared)
			}
			if tt.rcpt != "" && len(p.envelope.Forwards) != 1 {
				t.Errorf("recipients: %v", p.envelope.Forwards)
			}
			p.Message(p.envelope)
			p.Write(t.Context(), octets("Subject: x\r\n\r\nbody\r\n"))
			d = p.End(t.Context())
			if d.Action != tt.dot {
				t.Errorf("at the dot: %+v, heard %q", d, heard())
			}
			if tt.dot == Reject && d.Refusal.Reply.String() != "554 5.7.9 Not here" {
				t.Errorf("at the dot: %v", d.Refusal)
			}
		})
	}
}

// TestMilter_Changes: a milter that asks for every change has its fields added, and nothing else is done; each is
// named.
func TestMilter_Changes(t *testing.T) {
	addr, _ := startMilter(t, listener{ending: func(m milter.Modifier) error {
		for _, err := range []error{
			m.AddHeader("X-Scanned", "yes\n\tfolded"), m.InsertHeader(0, "X-First", "1"),
			m.AddHeader("Subject", "other"),
			m.InsertHeader(1, "Authentication-Results", "mx1.example.net; dkim=pass"),
			m.ChangeHeader(1, "Subject", "other"), m.ChangeHeader(1, "To", ""),
			m.ReplaceBody(bytes.NewReader(make([]byte, 200<<10))), m.AddRecipient("x@y.example", ""),
			m.AddRecipient("x@y.example", "NOTIFY=NEVER"), m.DeleteRecipient("c@d.example"),
			m.ChangeFrom("x@y.example", ""),
			m.Quarantine("looks bad"), m.Progress(),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	}})
	e := someEnvelope
	e.Size = 30
	p := milterAt(t, addr).Begin(e)
	defer p.Close()
	p.Rcpt(t.Context(), path("c@d.example"), false)
	p.Write(t.Context(), octets("Subject: x\r\n\r\nbody\r\n"))
	d := p.End(t.Context())
	if got := string(d.Fields); got != "X-Scanned: yes\r\n\tfolded\r\nX-First: 1\r\nX-Quarantine: m: looks bad\r\n" {
		t.Errorf("added %q", got)
	}
	if got := strings.Join(d.Filtered[0].Changes, "; "); got != "field subject; field authentication-results; "+
		"field subject changed; field to removed; body; recipient added; recipient added; recipient removed; "+
		"reverse-path" {
		t.Errorf("refused %q", got)
	}
	if d.Action != Accept || d.Filtered[0].Result != "quarantine" {
		t.Errorf("got %+v", d)
	}
}

// TestMilter_Again: what is taken back, or lent, is told anew, with the recipients that there are then.
func TestMilter_Again(t *testing.T) {
	addr, heard := startMilter(t, listener{})
	p := milterAt(t, addr).Begin(someEnvelope)
	defer p.Close()
	p.Rcpt(t.Context(), path("c@d.example"), false)
	p.Rcpt(t.Context(), path("gone@d.example"), false)
	p.Forget(path("gone@d.example"))
	p.Lend()
	p.Rcpt(t.Context(), path("e@f.example"), false)
	p.Write(t.Context(), octets("A: b\r\n\r\n"))
	p.End(t.Context())
	all := heard()
	last := len(all) - 1
	for last >= 0 && !strings.HasPrefix(all[last], "connect") {
		last--
	}
	if got := strings.Join(all[last:], "; "); !strings.Contains(got, "; rcpt c@d.example; rcpt e@f.example; data ;") {
		t.Errorf("heard %q", got)
	}
}

// A fickle milter refuses at a step what it took on connections before.
type fickle struct {
	milter.NoOpMilter
	at string
}

func (f fickle) refuse(step string) (*milter.Response, error) {
	if step == f.at {
		return milter.RejectWithCodeAndReason(451, "4.7.1 Too often")
	}
	return milter.RespContinue, nil
}

func (f fickle) MailFrom(string, string, milter.Modifier) (*milter.Response, error) {
	return f.refuse("mail")
}
func (f fickle) RcptTo(string, string, milter.Modifier) (*milter.Response, error) {
	return f.refuse("rcpt")
}

// TestMilter_ChangesItsMind: what a milter puts off when it is told anew is not delivered without it, whether or not
// another recipient was refused meanwhile.
func TestMilter_ChangesItsMind(t *testing.T) {
	for _, step := range []string{"mail", "rcpt"} {
		for _, another := range []bool{false, true} {
			var connections atomic.Int32
			addr, _ := startMilter(t, listener{}, milter.WithMilter(func() milter.Milter {
				if connections.Add(1) > 1 {
					return fickle{at: step}
				}
				return fickle{}
			}))
			p := milterAt(t, addr).Begin(someEnvelope)
			if d := p.Rcpt(t.Context(), path("c@d.example"), false); d.Action != Accept {
				t.Fatalf("got %+v", d)
			}
			p.Lend()
			if another {
				if d := p.Rcpt(t.Context(), path("e@f.example"), false); d.Action != Tempfail {
					t.Errorf("%s: the other recipient: %+v", step, d)
				}
			}
			e := someEnvelope
			e.Forwards = []mail.Path{path("c@d.example")}
			p.Message(e)
			p.Write(t.Context(), octets("A: b\r\n\r\n"))
			if d := p.End(t.Context()); d.Action != Tempfail || d.Refusal.Reply.Text != "Too often" {
				t.Errorf("%s, another recipient %v: %+v", step, another, d)
			}
			p.Close()
		}
	}
}

// packet returns a packet of the protocol.
func packet(letter byte, data string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(1+len(data)))) + string(letter) + data
}

// agreed is the answer to the negotiation of a milter that wants nothing but the end, and no answer elsewhere.
func agreed(steps uint32) string {
	return packet('O', string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(
		binary.BigEndian.AppendUint32(nil, 6), 0), steps)))
}

const endAlone = noConnect | noHelo | noMail | noRcpt | noData | noHeader | noEOH | noBody

// saysPackets returns a program that sends packets and reads whatever comes.
func saysPackets(packets ...string) program {
	return func(conn net.Conn) {
		go func() { // ends when either end closes
			_, _ = io.Copy(io.Discard, conn)
		}()
		for _, p := range packets {
			if _, err := io.WriteString(conn, p); err != nil {
				return
			}
		}
		<-time.After(time.Minute)
	}
}

// TestMilter_Faults: whatever a program says that is no milter, the message waits for the deadline at most.
func TestMilter_Faults(t *testing.T) {
	huge := string(binary.BigEndian.AppendUint32(nil, 1<<31)) + "c"
	for _, tt := range []struct {
		name    string
		packets []string
		why     string
	}{
		{"an empty packet", []string{"\x00\x00\x00\x00\x00"}, "it does not speak the milter protocol"},
		{"a huge packet", []string{huge}, "it does not speak the milter protocol"},
		{"another protocol", []string{"220 mail.example ESMTP\r\n"}, "it does not speak the milter protocol"},
		{"an old version", []string{packet('O', strings.Repeat("\x00", 12))}, "it does not speak the milter protocol"},
		{"half a negotiation", []string{packet('O', "\x00\x00\x00\x06")}, "it does not speak the milter protocol"},
		{"steps that are not offered", []string{agreed(1 << 11)}, "it does not speak the milter protocol"},
		{"a letter that is none", []string{agreed(endAlone), packet('!', "")}, "it does not speak the milter protocol"},
		{"a reply that accepts", []string{agreed(endAlone), packet('y', "250 2.0.0 fine\x00")},
			"it does not speak the milter protocol"},
		{"a field without an end", []string{agreed(endAlone), packet('h', "X-A")},
			"it does not speak the milter protocol"},
		{"a field without a place", []string{agreed(endAlone), packet('i', "X")},
			"it does not speak the milter protocol"},
		{"a change before the end", []string{agreed(endAlone &^ noRcpt), packet('h', "X-A\x00b\x00")},
			"it does not speak the milter protocol"},
		{"silence", []string{agreed(endAlone)}, "it did not answer in time: context deadline exceeded"},
		{"progress without end",
			slices.Concat([]string{agreed(endAlone)}, slices.Repeat([]string{packet('p', "")}, 50)),
			"it did not answer in time: context deadline exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New([]Config{{
					Name: "m", Milter: "h:1", Deadline: 3 * time.Second, Late: LateTempfail,
					Dial: saysPackets(tt.packets...).dial,
				}})
				if err != nil {
					t.Fatal(err)
				}
				p := s.Begin(someEnvelope)
				began := time.Now()
				d := p.Rcpt(t.Context(), path("c@d.example"), false)
				if d.Action == Accept && !p.Write(t.Context(), octets("Subject: x\r\n\r\nbody\r\n")) {
					d = p.End(t.Context())
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("took %v", took)
				}
				if d.Action != Tempfail || d.Filtered[0].Cause == nil || d.Filtered[0].Cause.Error() != tt.why {
					t.Errorf("got %+v", d)
				}
				p.Close()
				if n := s.filters[0].slots.taken; n != 0 {
					t.Errorf("%d slots are still taken", n)
				}
				<-time.After(time.Hour) // the program's
			})
		})
	}
}

// FuzzMilter: whatever a program answers, the message ends, and what it comes to is what answers have to keep to.
func FuzzMilter(f *testing.F) {
	f.Add([]byte(agreed(endAlone)+packet('c', "")), true)
	f.Add([]byte(agreed(endAlone)+packet('h', "X-A\x001\x00")+packet('q', "bad\x00")+packet('y', "550 no\x00")), true)
	f.Add([]byte(agreed(0)+strings.Repeat(packet('c', ""), 20)), false)
	f.Add([]byte(agreed(endAlone)+packet('m', "\x00\x00\x00\x01To\x00x\x00")+packet('b', "x")+packet('a', "")), false)
	f.Fuzz(func(t *testing.T, answers []byte, held bool) {
		conn := &tape{in: bytes.NewReader(answers)}
		set, err := New([]Config{{
			Name: "m", Milter: "h:1", Late: LateTempfail,
			Dial: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		}})
		if err != nil {
			t.Fatal(err)
		}
		e := someEnvelope
		if held {
			e.Size = 20
		}
		p := set.Begin(e)
		p.Rcpt(t.Context(), path("c@d.example"), false)
		p.Write(t.Context(), octets("Subject: x\r\n\r\nbody\r\n"))
		p.End(t.Context())
		a := p.asked[0].settled(&e)
		checkAnswer(t, &a, &e)
		p.Close()
		if !conn.closed {
			t.Error("the connection is open")
		}
	})
}

// A tape is a connection whose other end has said all that it will say.
type tape struct {
	net.Conn
	in     *bytes.Reader
	closed bool
}

func (c *tape) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *tape) Write(p []byte) (int, error) { return len(p), nil }
func (c *tape) SetDeadline(time.Time) error { return nil }
func (c *tape) Close() error                { c.closed = true; return nil }
func (c *tape) String() string              { return fmt.Sprint(c.in.Len()) }

// shown shows a message of pieces of 64 KiB to a milter, and returns what it comes to.
func shown(t *testing.T, s *Set, message string, held bool) Decision {
	t.Helper()
	e := someEnvelope
	if held {
		e.Size = int64(len(message))
	}
	p := s.Begin(e)
	defer p.Close()
	p.Rcpt(t.Context(), path("c@d.example"), false)
	for message != "" {
		n := min(len(message), 64<<10)
		if p.Write(t.Context(), octets(message[:n])) {
			return p.Decide()
		}
		message = message[n:]
	}
	return p.End(t.Context())
}

const someHead = "From: <a@b.example>\r\nTo: <c@d.example>\r\nSubject: x\r\nDate: Mon, 30 Nov 2026 20:00:00 +0000\r\n" +
	"Message-ID: <1@b.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: text/plain\r\n\r\n"

// TestMilter_Clamav: clamav-milter itself refuses EICAR in its words, in a small message and at the end of a large one.
func TestMilter_Clamav(t *testing.T) {
	s := milterAt(t, extern.StartClamav(t))
	const part = "--b\r\nContent-Type: application/octet-stream\r\n\r\n"
	fill := func(n int) string { return strings.Repeat("0123456789abcdef\r\n", n/18) }
	for _, tt := range []struct{ name, body, want string }{
		{"an honest message", "hello\r\n", "accept"},
		{"a virus", part + extern.EICAR() + "\r\n", "reject"},
		{"400 KiB with a virus", fill(400<<10) + part + extern.EICAR() + "\r\n", "reject"},
		{"20 MiB of an honest message", fill(20 << 20), "accept"},
	} {
		for _, held := range []bool{true, false} {
			if held && len(tt.body) > 1<<20 {
				continue // it would stream
			}
			d := shown(t, s, someHead+tt.body+"--b--\r\n", held)
			if d.Filtered[0].Result != tt.want {
				t.Errorf("%s: got %+v", tt.name, d)
			}
			if tt.want == "reject" && !strings.Contains(d.Refusal.Reply.String(), "Virus found: Own.Eicar") {
				t.Errorf("%s: got %v", tt.name, d.Refusal)
			}
		}
	}
}

// TestMilter_Opendkim: opendkim itself has its signature added above a message that fits into the window.
func TestMilter_Opendkim(t *testing.T) {
	s := milterAt(t, extern.StartOpendkim(t, "b.example"))
	message := someHead + "hello\r\n--b--\r\n"
	d := shown(t, s, message, true)
	if d.Action != Accept || !strings.HasPrefix(string(d.Fields), "DKIM-Signature: v=1; a=rsa-sha256;") {
		t.Errorf("got %+v, fields %q", d, d.Fields)
	}
	d = shown(t, s, message, false)
	if got := d.Filtered[0].Changes; d.Action != Accept || len(got) != 1 ||
		got[0] != "field dkim-signature, the message streams" {
		t.Errorf("streamed: got %+v", d)
	}
}
