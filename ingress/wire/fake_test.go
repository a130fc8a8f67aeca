package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A recorder makes fakeSessions and keeps what they saw.
type recorder struct {
	mu       sync.Mutex
	calls    []string
	messages []message
	events   []mail.Event
	panics   []any
	idle     chan struct{} // gets a value at each Session.Idle
	hold     chan struct{} // Body waits for it to close, if not nil
	full     chan struct{} // gets a value when Body has the whole message; then Body commits as a real Session does
	dot      chan struct{} // Body returns its reply when this gets a value
	reading  chan struct{} // gets a value when Body begins
	keep     bool          // pieces are not recycled before the end
	until    time.Duration // for each Next
	id       mail.TraceID  // of the message, in the reply to it
	news     chan struct{} // closed at the next call
}

type message struct {
	reverse  string
	forwards []string
	params   mail.Params
	form     mail.Form
	octets   string // as they stood on the wire
	plain    string // without transparency
	last     int    // octets in the last piece
	pieces   int
	long     int
}

func (r *recorder) log(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
	close(r.changed())
	r.news = nil
}

// changed returns a channel that the next call closes; r.mu is held.
func (r *recorder) changed() chan struct{} {
	if r.news == nil {
		r.news = make(chan struct{})
	}
	return r.news
}

// got returns all calls so far, one a line.
func (r *recorder) got() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.calls, "\n")
}

func (r *recorder) accepted() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]message(nil), r.messages...)
}

func (r *recorder) emit(e mail.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// A fakeSession answers as the local parts of the envelope say.
type fakeSession struct {
	r      *recorder
	c      *Client
	msg    message
	closed bool
}

func (r *recorder) session(_ context.Context, c *Client) Session {
	r.log("new %s local=%s name=%s helo=%s lowered=%t unknown=%t proxied=%t", c.Addr, c.Local.Addr(), c.Name, c.Helo,
		c.Lowered, c.Unknown, c.Proxied)
	return &fakeSession{r: r, c: c}
}

var listed = mail.Refuse(554, 7, 1, "listed", "listed", nil)

func (s *fakeSession) Greet(context.Context) error {
	switch s.c.Addr.Addr().String() {
	case "192.0.2.66":
		return listed
	case "192.0.2.67":
		return errors.New("broken")
	case "192.0.2.68":
		return mail.Refuse(521, 7, 1, "no mail here", "", nil)
	}
	return nil
}

func (s *fakeSession) Helo(context.Context) {
	s.r.log("helo %s esmtp=%t tls=%s", s.c.Helo, s.c.ESMTP, s.c.TLSVersion())
	if s.c.Helo == "good.example" {
		s.c.Favour()
	}
}

func (s *fakeSession) answer(local string) error {
	switch local {
	case "no":
		return mail.Refuse(550, 1, 1, "no such mailbox", "", nil)
	case "there":
		return &mail.Refusal{Reply: mail.NewReply(450, 2, 0, "later, says the destination"), Host: "mx.y.example"}
	case "alone":
		return mail.Refuse(452, 5, 3, "in a transaction of its own", "", nil)
	case "later":
		return mail.Refuse(451, 3, 0, "later", "", errors.New("secret"))
	case "closing":
		return mail.Refuse(421, 3, 2, "going away", "", nil)
	case "panic":
		panic("told to")
	}
	return nil
}

func (s *fakeSession) Mail(_ context.Context, p mail.Path, params mail.Params) error {
	s.r.log("mail <%s> size=%d body=%d utf8=%t", p, params.Size, params.Body, params.SMTPUTF8)
	s.msg = message{reverse: p.String(), params: params}
	if !s.c.Room() {
		return refusal(noMemory, "")
	}
	return s.answer(p.Local)
}

func (s *fakeSession) Rcpt(ctx context.Context, p mail.Path) error {
	s.r.log("rcpt <%s>", p)
	switch p.Local {
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "deaf":
		<-s.r.hold
	}
	if err := s.answer(p.Local); err != nil {
		return err
	}
	s.msg.forwards = append(s.msg.forwards, p.String())
	return nil
}

func (s *fakeSession) Data(context.Context) error {
	s.r.log("data")
	switch s.msg.reverse {
	case "nodata@x.example":
		return mail.Refuse(451, 4, 1, "no data", "", nil)
	case "panicdata@x.example":
		panic("told to")
	}
	return nil
}

func (s *fakeSession) Body(_ context.Context, b *Body) mail.Reply {
	s.msg.form = b.Form()
	if s.r.reading != nil {
		s.r.reading <- struct{}{}
	}
	if s.r.hold != nil && s.r.full == nil {
		<-s.r.hold
	}
	switch s.msg.reverse {
	case "early@x.example":
		s.r.log("body early")
		return mail.NewReply(550, 7, 1, "refused early")
	case "early421@x.example":
		return mail.NewReply(421, 3, 2, "closing early")
	case "lazy@x.example":
		return mail.NewReply(250, 0, 0, "did not look")
	case "panicbody@x.example":
		_, _, _ = b.Next(time.Time{})
		panic("told to")
	}
	var octets, plain bytes.Buffer
	var kept []mail.Octets
	take := func(o mail.Octets) {
		for _, seg := range o.Segments {
			octets.Write(seg)
		}
		plain.Write(unstuff(o, b.Form()))
	}
	for {
		var until time.Time
		if s.r.until > 0 {
			until = time.Now().Add(s.r.until)
		}
		o, last, err := b.Next(until)
		if errors.Is(err, ErrIdle) {
			s.r.log("next idle")
			continue
		}
		if err != nil {
			s.r.log("body %s", cause(err))
			return mail.ReplyFor(err)
		}
		s.msg.pieces++
		s.msg.last = o.Len()
		if s.r.keep {
			kept = append(kept, o)
		} else {
			take(o)
			b.Recycle()
		}
		if last {
			break
		}
	}
	for _, o := range kept {
		take(o)
	}
	s.msg.octets, s.msg.plain, s.msg.long = octets.String(), plain.String(), b.LongLines()
	if int64(len(s.msg.plain)) != b.Received() {
		s.r.log("received %d, want %d", b.Received(), len(s.msg.plain))
	}
	if s.r.full != nil {
		s.r.full <- struct{}{}
		if s.r.hold != nil {
			<-s.r.hold
		}
		if err := b.Committing(); err != nil {
			s.r.log("committing: %v", err)
			return mail.ReplyFor(err)
		}
		s.r.log("committing")
		<-s.r.dot
	}
	if s.msg.reverse == "refused@x.example" {
		return mail.NewReply(550, 7, 1, "refused")
	}
	s.r.mu.Lock()
	s.r.messages = append(s.r.messages, s.msg)
	s.r.mu.Unlock()
	// Behind the append, because a test that waits for this call looks at the messages next.
	s.r.log("message %s %d octets", b.form(), len(s.msg.octets))
	return mail.NewReply(250, 0, 0, fmt.Sprintf("took %d", len(s.msg.plain))).WithID(s.r.id)
}

func (b *Body) form() string {
	if b.Form() == mail.Plain {
		return "plain"
	}
	return "stuffed"
}

func cause(err error) string {
	if r, ok := errors.AsType[*mail.Refusal](err); ok {
		return r.Reply.String()
	}
	return err.Error()
}

func (s *fakeSession) Reset() { s.r.log("reset") }

func (s *fakeSession) Trace(*mail.Event) mail.TraceID { return s.r.id }

func (s *fakeSession) Idle() {
	s.r.log("idle")
	if s.r.idle != nil {
		s.r.idle <- struct{}{}
	}
}

func (s *fakeSession) Close() {
	if s.closed {
		s.r.log("closed twice")
	}
	s.closed = true
	s.r.log("close")
}

// unstuff returns the octets of a piece without the dots at Dots; in the form Plain it checks that dots open lines
// there.
func unstuff(o mail.Octets, form mail.Form) []byte {
	all := bytes.Join(o.Segments, nil)
	if form == mail.Plain {
		return all
	}
	var out []byte
	from := 0
	for _, d := range o.Dots {
		if all[d] != '.' {
			panic("no dot at its offset")
		}
		out = append(out, all[from:d]...)
		from = int(d) + 1
	}
	return append(out, all[from:]...)
}

// certificate makes a self-signed one for mx.example.
func certificate(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example"}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// A rig is a running server on a real socket with a recorder behind it.
type rig struct {
	*recorder
	t      testing.TB
	srv    *Server
	addr   string
	served chan error
}

// start runs a server; change edits its Config first.
func start(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, l, change)
}

func startOn(t testing.TB, l net.Listener, change func(*Config)) *rig {
	t.Helper()
	r := &rig{recorder: &recorder{}, t: t, addr: l.Addr().String(), served: make(chan error, 1)}
	cfg := Config{
		Hostname: "mx.example", NewSession: r.session, Emit: r.emit, Lend: -1,
		Panicked: func(v any, _ []byte) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.panics = append(r.panics, v)
		},
		Memory: new(Memory),
	}
	if change != nil {
		change(&cfg)
	}
	srv, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.srv = srv
	go func() { r.served <- srv.Serve(l) }() // ends with Shutdown
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if n := cfg.Memory.InUse(); n != 0 {
			t.Errorf("%d octets were not given back", n)
		}
	})
	return r
}

// A testClient sends exactly what the test tells it to.
type testClient struct {
	t testing.TB
	net.Conn
	in []byte
}

func (r *rig) dial() *testClient {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &testClient{t: r.t, Conn: c}
}

func (p *testClient) say(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.Conn, s); err != nil {
		p.t.Fatalf("saying %.60q: %v", s, err)
	}
}

// line reads one reply line without CRLF; "" at the end of the connection.
func (p *testClient) line() string {
	p.t.Helper()
	for {
		if i := bytes.Index(p.in, []byte("\r\n")); i >= 0 {
			s := string(p.in[:i])
			p.in = p.in[i+2:]
			return s
		}
		buf := make([]byte, 4096)
		n, err := p.Read(buf)
		p.in = append(p.in, buf[:n]...)
		if err != nil && n == 0 {
			return ""
		}
	}
}

// reply reads one whole reply and returns its last line.
func (p *testClient) reply() string {
	p.t.Helper()
	for {
		s := p.line()
		if len(s) < 4 || s[3] != '-' {
			return s
		}
	}
}

// want reads one reply and compares the beginning of its last line.
func (p *testClient) want(prefix string) {
	p.t.Helper()
	if got := p.reply(); !strings.HasPrefix(got, prefix) || prefix == "" && got != "" {
		p.t.Fatalf("got %q, want %q", got, prefix)
	}
}

// all reads until the connection ends.
func (p *testClient) all() string {
	p.t.Helper()
	b, _ := io.ReadAll(p.Conn)
	s := string(p.in) + string(b)
	p.in = nil
	return s
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func tlsOf(c *tls.Config) func() *tls.Config { return func() *tls.Config { return c } }
