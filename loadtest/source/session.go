// Package source makes mail for tests and for load: SMTP clients that behave well, or as badly as they are told to.
//
// It owns its connections and what it measured on them. It refuses to know the relay and shares no code with it: a
// mistake that both ends made would be seen by neither. A Session is one connection; a Load is many of them, bounded in
// number, in messages and by its context.
package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Config says how a Session connects and speaks. Addr is required.
type Config struct {
	Addr     string      // host:port or a path
	Local    netip.Addr  // the address to dial from; zero: any
	Proxy    []byte      // a PROXY header to begin with, see ProxyV1 and ProxyV2
	Helo     string      // "client.example" when empty
	TLS      *tls.Config // STARTTLS is required when set
	Implicit bool        // TLS from the first octet, with TLS
	Pipeline bool        // commands in one write as far as RFC 2920 allows, if PIPELINING is offered
	Chunking bool        // BDAT instead of DATA, if CHUNKING is offered
	Chunk    int         // octets of a chunk; 0: one chunk for the whole message
	Pace     Pace        // how fast the octets of a message are sent
	Cut      Cut         // where the connection ends
	Timeout  time.Duration
	// Dial connects in place of the system; nil: the system does.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// A Pace slows down the octets of a message: so many at a time, with a pause behind each. The zero Pace does not.
type Pace struct {
	Octets int
	Every  time.Duration
}

// A Cut ends the connection once After octets were written to it, in the middle of a write if it falls there: by FIN,
// or by RST with Reset. After 0 is no cut.
type Cut struct {
	After int64
	Reset bool
}

// ErrCut is the error of a Session that reached its Cut.
var ErrCut = errors.New("source: cut as told")

const defaultTimeout = 30 * time.Second

// A Reply is a reply as it was read.
type Reply struct {
	Code int
	Text string // lines without their code, separated by "\n"
}

// String returns the reply on one line.
func (r Reply) String() string {
	return strconv.Itoa(r.Code) + " " + strings.ReplaceAll(r.Text, "\n", " / ")
}

// Class is the first digit of the code.
func (r Reply) Class() int { return r.Code / 100 }

// A Message is what Send sends.
type Message struct {
	Reverse string   // without angle brackets
	Forward []string // without angle brackets
	Mail    string   // parameters of MAIL, such as "SIZE=5 BODY=8BITMIME"
	Octets  []byte   // without dot-stuffing; by DATA it gains a CRLF if it has none at its end
}

// A Result holds the replies to one message. Those that were not asked for are zero.
type Result struct {
	Mail Reply
	Rcpt []Reply
	Data Reply // to DATA
	End  Reply // to the dot or to BDAT LAST, or the first refusal that ended the message
}

// A Session is one connection. It is not safe for concurrent use.
type Session struct {
	cfg        Config
	raw        net.Conn
	conn       net.Conn
	in         *bufio.Reader
	extensions map[string]string
}

// Dial connects and says EHLO, twice around STARTTLS. The error is a *RefusedError where the server spoke.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	s, err := Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.greet(ctx); err != nil {
		s.Abort(false)
		return nil, err
	}
	return s, nil
}

// Connect connects, writes the PROXY header and does the handshake of implicit TLS; nothing is read.
func Connect(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Helo == "" {
		cfg.Helo = "client.example"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	d := net.Dialer{Timeout: cfg.Timeout}
	if cfg.Local.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: cfg.Local.AsSlice()}
	}
	dial := cfg.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	raw, err := dial(ctx, cfg.Addr)
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, raw: raw, conn: raw}
	if cfg.Cut.After > 0 {
		s.conn = &cutConn{Conn: raw, cut: cfg.Cut}
	}
	s.in = bufio.NewReader(s.conn)
	if len(cfg.Proxy) > 0 {
		if err := s.Write(cfg.Proxy); err != nil {
			s.Abort(false)
			return nil, err
		}
	}
	if cfg.Implicit {
		if err := s.StartTLS(ctx); err != nil {
			s.Abort(false)
			return nil, err
		}
	}
	return s, nil
}

// A RefusedError is a reply that ended what was asked for.
type RefusedError struct {
	Verb  string
	Reply Reply
}

// Error returns verb and reply.
func (e *RefusedError) Error() string { return e.Verb + ": " + e.Reply.String() }

func (s *Session) greet(ctx context.Context) error {
	if err := s.want("greeting", 220); err != nil {
		return err
	}
	if err := s.Ehlo(); err != nil {
		return err
	}
	if s.cfg.TLS == nil || s.cfg.Implicit {
		return nil
	}
	if err := s.Write([]byte("STARTTLS\r\n")); err != nil {
		return err
	}
	if err := s.want("STARTTLS", 220); err != nil {
		return err
	}
	if err := s.StartTLS(ctx); err != nil {
		return err
	}
	return s.Ehlo()
}

func (s *Session) want(verb string, code int) error {
	r, err := s.Read()
	if err == nil && r.Code != code {
		err = &RefusedError{verb, r}
	}
	return err
}

// Ehlo says EHLO and keeps what is offered.
func (s *Session) Ehlo() error {
	r, err := s.Command("EHLO " + s.cfg.Helo)
	if err != nil {
		return err
	}
	if r.Code != 250 {
		return &RefusedError{"EHLO", r}
	}
	s.extensions = make(map[string]string)
	for _, l := range strings.Split(r.Text, "\n")[1:] {
		keyword, rest, _ := strings.Cut(l, " ")
		s.extensions[strings.ToUpper(keyword)] = rest
	}
	return nil
}

// Offers reports whether the server offered an extension, by its keyword in upper case.
func (s *Session) Offers(keyword string) bool {
	_, ok := s.extensions[keyword]
	return ok
}

// StartTLS does the handshake, whatever was said before.
func (s *Session) StartTLS(ctx context.Context) error {
	c := tls.Client(s.conn, s.cfg.TLS)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	s.conn = c
	s.in = bufio.NewReader(c)
	return nil
}

// Addr is where the session was opened.
func (s *Session) Addr() string { return s.cfg.Addr }

// Write sends octets as they are.
func (s *Session) Write(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.cfg.Timeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

// maxReply bounds what a server may make us read as one reply.
const maxReply = 64 << 10

// Control calls f with the socket's descriptor.
func (s *Session) Control(f func(fd uintptr) error) error {
	socket, ok := s.raw.(syscall.Conn)
	if !ok {
		return errors.New("source: no socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	return errors.Join(raw.Control(func(fd uintptr) { failed = f(fd) }), failed)
}

// Read reads one reply.
func (s *Session) Read() (Reply, error) { return s.ReadWithin(s.cfg.Timeout) }

// ReadWithin reads one reply that comes within d.
func (s *Session) ReadWithin(d time.Duration) (Reply, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return Reply{}, err
	}
	var r Reply
	for total := 0; ; {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return r, err
		}
		if total += len(line); total > maxReply {
			return r, errors.New("source: reply without end")
		}
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		code, err := strconv.Atoi(line[:min(3, len(line))])
		if err != nil || len(line) < 3 || code < 200 || code > 599 || r.Code != 0 && code != r.Code {
			return r, fmt.Errorf("source: no reply: %q", line)
		}
		if r.Code != 0 {
			r.Text += "\n"
		}
		r.Code = code
		r.Text += line[min(4, len(line)):]
		if len(line) == 3 || line[3] != '-' {
			return r, nil
		}
	}
}

// Await waits until an octet can be read, which it leaves there.
func (s *Session) Await(d time.Duration) error {
	if err := s.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	_, err := s.in.Peek(1)
	return err
}

// Command sends one line and reads one reply.
func (s *Session) Command(line string) (Reply, error) {
	if err := s.Write([]byte(line + "\r\n")); err != nil {
		return Reply{}, err
	}
	return s.Read()
}

// TLSState returns the state of TLS, nil in clear.
func (s *Session) TLSState() *tls.ConnectionState {
	c, ok := s.conn.(*tls.Conn)
	if !ok {
		return nil
	}
	state := c.ConnectionState()
	return &state
}

// Quit says QUIT, waits for the answer and closes.
func (s *Session) Quit() error {
	_, err := s.Command("QUIT")
	return errors.Join(err, s.raw.Close())
}

// Abort closes the connection without a word, by RST if reset is set.
func (s *Session) Abort(reset bool) {
	if t, ok := s.raw.(*net.TCPConn); ok && reset {
		_ = t.SetLinger(0) // without it the close is a FIN
	}
	_ = s.raw.Close() // nothing is expected of it any more
}

// Stuff returns a message as DATA sends it, with the final dot.
func Stuff(octets []byte) []byte {
	out := make([]byte, 0, len(octets)+len(octets)/32+8)
	if bytes.HasPrefix(octets, []byte(".")) {
		out = append(out, '.')
	}
	for {
		i := bytes.Index(octets, []byte("\n."))
		if i < 0 {
			break
		}
		out = append(append(out, octets[:i+2]...), '.')
		octets = octets[i+2:]
	}
	out = append(out, octets...)
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\r\n")) {
		out = append(out, '\r', '\n')
	}
	return append(out, ".\r\n"...)
}

// cutConn closes a connection in the middle of a write.
type cutConn struct {
	net.Conn
	cut     Cut
	written int64
}

// Write writes up to the cut.
func (c *cutConn) Write(b []byte) (int, error) {
	left := c.cut.After - c.written
	if int64(len(b)) < left {
		n, err := c.Conn.Write(b)
		c.written += int64(n)
		return n, err
	}
	n, err := c.Conn.Write(b[:left])
	c.written += int64(n)
	if err != nil {
		return n, err
	}
	if t, ok := c.Conn.(*net.TCPConn); ok && c.cut.Reset {
		_ = t.SetLinger(0) // without it the close is a FIN
	}
	_ = c.Conn.Close() // the cut is the point
	return n, ErrCut
}
