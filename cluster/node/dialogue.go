package node

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"regexp"
	"strings"
	"sync"

	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// placeholder is said in EHLO for a client of which it is not known what it says.
const placeholder = "name.invalid"

// A dialogue is what a client says that brings one message, and what it is answered. It is held with the engine that
// all clients speak with, over a connection within the process.
type dialogue struct {
	text    *textproto.Conn
	stuffed []byte    // the message as DATA has it; nil: it is made of the question's
	answer  wireReply // the last one
	brought bool      // the message was sent
}

// A wireReply is a reply as it came. It is zero before the first one.
type wireReply struct {
	code int
	text string
}

// refuses reports whether a reply is negative.
func (r wireReply) refuses() bool { return r.code >= 400 }

// hold holds the dialogue about q with a server of cfg, which the client connects to at local.
func hold(ctx context.Context, cfg wire.Config, q *Question, local netip.AddrPort) (*dialogue, error) {
	server, err := wire.NewServer(cfg)
	if err != nil {
		return nil, err
	}
	here, there := net.Pipe()
	l := &oneConn{
		closed: make(chan struct{}),
		conn:   &pipeEnd{there, net.TCPAddrFromAddrPort(local), net.TCPAddrFromAddrPort(netip.AddrPortFrom(q.IP, 0))},
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // ends with Shutdown
	if at, ok := ctx.Deadline(); ok {
		_ = here.SetDeadline(at) // a pipe has deadlines
	}
	stop := context.AfterFunc(ctx, func() { here.Close() })
	d := &dialogue{text: textproto.NewConn(here)}
	if err = d.speak(q); err == nil {
		last := d.answer
		_ = d.say("QUIT") // so that nothing else ends the session; it may have ended
		d.answer = last
	}
	stop()
	d.text.Close()
	ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayShutdown)
	defer cancel()
	if wrong := server.Shutdown(ended); err == nil {
		err = wrong
	}
	serving.Wait()
	if err != nil {
		return nil, fmt.Errorf("the question was not answered to its end: %w", err)
	}
	return d, nil
}

// speak says what a client says, until it is refused.
func (d *dialogue) speak(q *Question) error {
	if err := d.read(); err != nil || d.answer.refuses() {
		return err
	}
	helo, reverse := placeholder, mail.Path{}
	if q.Helo != nil {
		helo = *q.Helo
	}
	if q.From != nil {
		reverse = *q.From
	}
	lines := []string{"EHLO " + helo, "MAIL FROM:<" + reverse.String() + ">" + parameters(q)}
	if q.To != nil {
		lines = append(lines, "RCPT TO:<"+q.To.String()+">")
	}
	if q.Message != nil {
		lines = append(lines, "DATA")
	}
	for _, line := range lines {
		if err := d.say(line); err != nil || d.answer.refuses() {
			return err
		}
	}
	if q.Message == nil {
		return nil
	}
	d.brought = true
	octets := d.stuffed
	if octets == nil {
		octets = stuffed(q.Message)
	}
	var sending sync.WaitGroup
	sending.Go(func() { // ends with the connection, whose errors are for read to find
		_, _ = d.text.W.Write(octets)
		_ = d.text.W.Flush()
	})
	err := d.read()
	if err != nil { // which ends the sending
		d.text.Close()
	}
	sending.Wait()
	return err
}

// parameters returns those of MAIL.
func parameters(q *Question) (list string) {
	if q.Message != nil {
		list = fmt.Sprintf(" SIZE=%d", len(q.Message))
		if bytes.ContainsFunc(q.Message, func(r rune) bool { return r >= 0x80 }) {
			list += " BODY=8BITMIME"
		}
	}
	if q.From != nil && !q.From.IsASCII() || q.To != nil && !q.To.IsASCII() {
		list += " SMTPUTF8"
	}
	return list
}

// say says a line and reads the reply.
func (d *dialogue) say(line string) error {
	if err := d.text.PrintfLine("%s", line); err != nil {
		return err
	}
	return d.read()
}

// read reads a reply.
func (d *dialogue) read() error {
	code, text, err := d.text.ReadResponse(0)
	if err == nil {
		d.answer = wireReply{code, text}
	}
	return err
}

// idAtEnd is the id at the end of a reply, with what leads to it.
var idAtEnd = regexp.MustCompile(`[ ?]id=[0-9a-f]{32}$`)

// String returns a reply as mail.Reply.String does, without the id at its end, which is that of no transaction.
func (r wireReply) String() string {
	text := idAtEnd.ReplaceAllString(strings.ReplaceAll(r.text, "\n", " / "), "")
	return fmt.Sprintf("%d %s", r.code, text)
}

// stuffed returns a message as DATA has it, with the dots of transparency (RFC 5321 section 4.5.2) and its end.
func stuffed(message []byte) []byte {
	out := make([]byte, 0, len(message)+len(message)/64+8)
	for i, c := range message {
		if c == '.' && (i == 0 || i > 1 && message[i-1] == '\n' && message[i-2] == '\r') {
			out = append(out, '.')
		}
		out = append(out, c)
	}
	if len(message) > 0 && !bytes.HasSuffix(message, []byte("\r\n")) {
		out = append(out, "\r\n"...)
	}
	return append(out, ".\r\n"...)
}

// A pipeEnd is one end of a connection within the process, with the addresses that it stands for.
type pipeEnd struct {
	net.Conn
	local, remote net.Addr
}

// LocalAddr returns the address of the server.
func (c *pipeEnd) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the client.
func (c *pipeEnd) RemoteAddr() net.Addr { return c.remote }

// A oneConn is a listener that one connection comes to. Its methods are called by one goroutine, but for Close.
type oneConn struct {
	conn   *pipeEnd // nil once it has come
	once   sync.Once
	closed chan struct{}
}

// Accept returns the connection, and then waits until the listener is closed.
func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

// Close ends the wait of Accept.
func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns an address of no meaning.
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
