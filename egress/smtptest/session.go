package smtptest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
)

// maxLine bounds a command line; RFC 4954 section 4 asks for 12288 octets where AUTH is spoken.
const maxLine = 12288

// errEnd ends a session as its script says.
var errEnd = errors.New("session ended by script")

// A phase is how far the transaction has come.
type phase uint8

const (
	noMail      phase = iota
	mailOpen          // MAIL was accepted
	inBody            // octets of the message have come
	chunkFailed       // a BDAT chunk was refused: all later ones are, until RSET
)

// A session is one connection; its fields belong to its goroutine, except what is under mu.
type session struct {
	server  *Server
	number  int64
	surplus bool     // over MaxSessions
	raw     net.Conn // under TLS
	conn    net.Conn
	in      *bufio.Reader

	mu  sync.Mutex // over writes to conn, which Unasked shares; held across a write, which Close interrupts
	out *bufio.Writer

	tls        *tls.ConnectionState
	helo       string
	esmtp      bool
	user       string
	introduced string // the last XCLIENT
	carried    int

	phase phase
	tx    Message
	bytes body
}

func (c *session) serve() {
	b := c.script()
	if b.Implicit && !c.handshake(b) {
		return
	}
	c.in = bufio.NewReaderSize(c.conn, 32<<10)
	c.mu.Lock()
	c.out = bufio.NewWriter(c.conn)
	c.mu.Unlock()
	defer c.conn.Close()  // under TLS it says so
	defer c.server.end(c) // before the client can see the end: it may connect again at once and must not count twice
	greeting := "220 " + b.hostname() + " ESMTP smtptest"
	if c.surplus {
		greeting = "421 4.7.0 " + b.hostname() + " too many connections"
	}
	reply, err := c.answer(Step{Verb: Greeting}, greeting)
	if err != nil || c.flush() != nil || reply[0] != '2' {
		return
	}
	for err == nil {
		err = c.command()
	}
	c.flush()
	if c.phase >= inBody {
		c.server.note(func(n *Counts) { n.Halves++ })
	}
}

func (c *session) script() *Behaviour { return c.server.script() }

// command reads one command and answers it.
func (c *session) command() error {
	b := c.script()
	if c.in.Buffered() == 0 || !b.offers("PIPELINING") {
		if err := c.flush(); err != nil {
			return err
		}
	}
	line, err := c.readLine(b)
	if err != nil {
		return err
	}
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	c.server.command(c, verb, line)
	if c.in.Buffered() > 0 && verb != "BDAT" && !b.offers("PIPELINING") {
		c.violation("octets behind " + verb + " although PIPELINING was not offered")
	}
	step := Step{Verb: verb, Line: line}
	switch verb {
	case "EHLO", "HELO", "LHLO":
		return c.hello(b, step, arg)
	case "STARTTLS":
		return c.startTLS(b, step)
	case "AUTH":
		return c.auth(b, step, arg)
	case "XFORWARD":
		if b.offers(verb) {
			return c.xforward(step)
		}
	case "XCLIENT":
		if b.offers(verb) {
			return c.xclient(b, step)
		}
	case "MAIL":
		return c.mail(b, step, arg)
	case "RCPT":
		return c.rcpt(b, step, arg)
	case "DATA":
		return c.data(b, step)
	case "BDAT":
		return c.bdat(b, step, arg)
	case "RSET":
		c.clear()
		return c.say(step, "250 2.0.0 OK")
	case "NOOP":
		return c.say(step, "250 2.0.0 OK")
	case "VRFY":
		return c.say(step, "252 2.5.0 Send it and see")
	case "QUIT":
		c.clear()
		if err := c.say(step, "221 2.0.0 Bye"); err != nil {
			return err
		}
		return errEnd
	}
	c.violation("unknown command " + strconv.Quote(line))
	return c.say(step, "500 5.5.1 Unknown command")
}

// readLine reads a command line, without CRLF.
func (c *session) readLine(b *Behaviour) (string, error) {
	if b.Idle > 0 && c.in.Buffered() == 0 {
		c.raw.SetReadDeadline(time.Now().Add(b.Idle))
		_, err := c.in.Peek(1)
		c.raw.SetReadDeadline(time.Time{})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.unasked("421 4.4.2 Idle for too long", true)
			return "", errEnd
		}
	}
	var line []byte
	for {
		o, err := c.in.ReadByte()
		if err != nil {
			return "", err
		}
		line = append(line, o)
		if o == '\n' {
			break
		}
		if len(line) > maxLine {
			c.violation("command line too long")
			c.write("500 5.5.2 Line too long")
			return "", errEnd
		}
	}
	s, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok || strings.ContainsAny(s, "\r\n\x00") {
		c.violation("bare CR, LF or a NUL in " + strconv.Quote(string(line)))
	}
	return strings.TrimRight(s, "\r\n"), nil
}

func (c *session) hello(b *Behaviour, step Step, arg string) error {
	if arg == "" {
		return c.say(step, "501 5.5.4 Name needed")
	}
	if (step.Verb == "LHLO") != b.LMTP {
		c.violation(step.Verb + " where it is not spoken")
		return c.say(step, "500 5.5.1 Not spoken here")
	}
	lines := []string{b.hostname()}
	if step.Verb != "HELO" {
		lines = append(lines, b.extensions()...)
		if b.Size != 0 {
			lines = append(lines, strings.TrimSpace("SIZE "+strconv.FormatInt(max(b.Size, 0), 10)))
		}
		if b.TLS != nil && !b.Implicit && c.tls == nil {
			lines = append(lines, "STARTTLS")
		}
		if len(b.Users) > 0 && c.tls != nil {
			lines = append(lines, "AUTH PLAIN LOGIN")
		}
	}
	var reply strings.Builder
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		reply.WriteString("250" + sep + l + "\n")
	}
	got, err := c.answer(step, strings.TrimSuffix(reply.String(), "\n"))
	if err == nil && got[0] == '2' {
		c.clear()
		c.helo, c.esmtp = arg, step.Verb != "HELO"
	}
	return err
}

// xforward takes what a client says of where the next message comes from.
func (c *session) xforward(step Step) error {
	if c.phase >= mailOpen || c.helo == "" {
		c.violation("XFORWARD out of order")
		return c.say(step, "503 5.5.1 Out of order")
	}
	got, err := c.answer(step, "250 2.0.0 OK")
	if err == nil && got[0] == '2' {
		c.tx.Introduced = step.Line
	}
	return err
}

// xclient takes what a client says of who it stands for. The session begins anew.
func (c *session) xclient(b *Behaviour, step Step) error {
	if c.phase >= mailOpen || c.helo == "" || c.in.Buffered() > 0 {
		c.violation("XCLIENT out of order")
		return c.say(step, "503 5.5.1 Out of order")
	}
	got, err := c.answer(step, "220 "+b.hostname()+" ESMTP smtptest")
	if err == nil && got[0] == '2' {
		c.clear()
		c.helo, c.esmtp, c.introduced = "", false, step.Line
	}
	return err
}

func (c *session) startTLS(b *Behaviour, step Step) error {
	if b.TLS == nil || c.tls != nil {
		return c.say(step, "502 5.5.1 No TLS here")
	}
	if c.in.Buffered() > 0 {
		c.violation("octets behind STARTTLS")
		return errEnd
	}
	got, err := c.answer(step, "220 2.0.0 Go ahead")
	if err != nil || got[0] != '2' {
		return err
	}
	if err := c.flush(); err != nil {
		return err
	}
	if !c.handshake(b) {
		return errEnd
	}
	c.clear()
	c.helo, c.esmtp = "", false
	c.in.Reset(c.conn)
	c.mu.Lock()
	c.out.Reset(c.conn)
	c.mu.Unlock()
	return nil
}

func (c *session) handshake(b *Behaviour) bool {
	conn := tls.Server(c.raw, b.TLS)
	if err := conn.Handshake(); err != nil {
		return false
	}
	state := conn.ConnectionState()
	c.mu.Lock()
	c.conn, c.tls = conn, &state
	c.mu.Unlock()
	c.server.note(func(n *Counts) {
		n.Handshakes++
		if state.DidResume {
			n.Resumed++
		}
	})
	return true
}

func (c *session) mail(b *Behaviour, step Step, arg string) error {
	switch {
	case c.helo == "":
		c.violation("MAIL before EHLO")
		return c.say(step, "503 5.5.1 EHLO first")
	case c.phase >= mailOpen:
		c.violation("MAIL inside a transaction")
		return c.say(step, "503 5.5.1 Nested MAIL")
	case b.MaxMessages > 0 && c.carried >= b.MaxMessages:
		c.write("421 4.7.0 Enough messages in this session")
		return errEnd
	}
	path, params, ok := parsePath(arg, "FROM:")
	if !ok {
		c.violation("malformed " + strconv.Quote(step.Line))
		return c.say(step, "501 5.5.2 Malformed MAIL")
	}
	reply := c.mailReply(b, path, params)
	if reply[0] != '2' {
		c.violation(reply + ": " + step.Line)
	}
	got, err := c.answer(step, reply)
	if err == nil && got[0] == '2' {
		c.phase = mailOpen
		c.tx.Mail, c.tx.Reverse = step.Line, path
	}
	return err
}

// mailReply checks the parameters of MAIL against what was offered.
func (c *session) mailReply(b *Behaviour, path, params string) string {
	utf8 := false
	for p := range strings.FieldsSeq(params) {
		key, value, _ := strings.Cut(p, "=")
		switch strings.ToUpper(key) {
		case "SIZE":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 || b.Size == 0 || !c.esmtp {
				return "555 5.5.4 SIZE not understood"
			}
			if b.Size > 0 && n > b.Size {
				return "552 5.3.4 Message too big"
			}
		case "BODY":
			if !b.offers("8BITMIME") || !c.esmtp || value != "7BIT" && value != "8BITMIME" {
				return "555 5.5.4 BODY not understood"
			}
		case "SMTPUTF8":
			if !b.offers("SMTPUTF8") || !c.esmtp {
				return "555 5.5.4 SMTPUTF8 not understood"
			}
			utf8 = true
		case "REQUIRETLS":
			if !b.offers("REQUIRETLS") || !c.esmtp || c.tls == nil && !b.LMTP {
				return "555 5.5.4 REQUIRETLS not understood"
			}
		default:
			return "555 5.5.4 Parameter not understood"
		}
	}
	if !utf8 && !ascii.Is(path) {
		return "553 5.6.7 SMTPUTF8 needed"
	}
	return "250 2.1.0 OK"
}

func (c *session) rcpt(b *Behaviour, step Step, arg string) error {
	if c.phase == noMail {
		return c.say(step, "503 5.5.1 MAIL first")
	}
	path, params, ok := parsePath(arg, "TO:")
	if !ok || path == "" || strings.TrimSpace(params) != "" {
		c.violation("malformed " + strconv.Quote(step.Line))
		return c.say(step, "501 5.5.2 Malformed RCPT")
	}
	step.Forward = path
	got, err := c.answer(step, "250 2.1.5 OK")
	if err == nil && got[0] == '2' {
		c.tx.Rcpt = append(c.tx.Rcpt, step.Line)
		c.tx.Forwards = append(c.tx.Forwards, path)
	}
	return err
}

// clear ends the transaction, if one is open.
func (c *session) clear() {
	if c.phase >= inBody {
		c.server.note(func(n *Counts) { n.Halves++ })
	}
	c.phase = noMail
	c.tx = Message{}
	c.bytes = body{}
}

// transaction returns the transaction with the fields of the session filled in.
func (c *session) transaction() Message {
	m := c.tx
	m.Session, m.Client, m.Helo, m.User = c.number, c.raw.RemoteAddr().String(), c.helo, c.user
	if m.Introduced == "" {
		m.Introduced = c.introduced
	}
	if c.tls != nil {
		m.TLS, m.Resumed, m.SNI = c.tls.Version, c.tls.DidResume, c.tls.ServerName
	}
	return m
}

// say answers a step whose outcome changes nothing.
func (c *session) say(step Step, reply string) error {
	_, err := c.answer(step, reply)
	return err
}

// answer asks the script about step, does what it says and returns the first line of the reply that was written. reply
// is what the server answers by itself. The error tells that the session has ended.
func (c *session) answer(step Step, reply string) (string, error) {
	a := c.ask(&step)
	if a.Greylist && c.server.firstTime(hostOf(c.raw), c.tx.Reverse, step.Forward) {
		a.Reply = "451 4.7.1 Greylisted, try again"
	}
	return c.perform(a, reply)
}

// ask finds the script's Answer for step.
func (c *session) ask(step *Step) Answer {
	b := c.script()
	step.Session = c.number
	if b.On != nil {
		if step.Verb != Dot {
			step.Message = c.transaction()
		}
		if a, ok := b.On(*step); ok {
			return a
		}
	}
	local := localPart(step.Forward)
	if a, ok := b.Recipients[local]; ok && step.Verb == "RCPT" {
		return a
	}
	if step.Verb == Dot {
		for _, f := range c.tx.Forwards {
			if a, ok := b.Dots[localPart(f)]; ok && (!b.LMTP || f == step.Forward) {
				return a
			}
		}
	}
	return b.Answers[step.Verb]
}

// perform does what a says.
func (c *session) perform(a Answer, reply string) (string, error) {
	if a.After > 0 {
		if err := c.flush(); err != nil {
			return "", err
		}
		t := time.NewTimer(a.After)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.server.done:
			return "", errEnd
		}
	}
	if a.Reply != "" {
		reply = a.Reply
	}
	if a.Reply != "" || !a.Close && !a.Reset {
		c.write(reply)
	}
	if !a.Close && !a.Reset {
		return reply, nil
	}
	c.flush()
	if tcp, ok := c.raw.(*net.TCPConn); ok && a.Reset {
		tcp.SetLinger(0)
		tcp.Close()
	}
	return reply, errEnd
}

func (c *session) write(reply string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range strings.SplitSeq(reply, "\n") {
		fmt.Fprintf(c.out, "%s\r\n", l)
	}
}

func (c *session) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Flush()
}

// unasked writes line, and closes the connection if end is set. Other goroutines may call it.
func (c *session) unasked(line string, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil { // no greeting yet
		return
	}
	fmt.Fprintf(c.out, "%s\r\n", line)
	c.out.Flush()
	if end {
		c.raw.Close()
	}
}

func (c *session) violation(what string) { c.server.violation(c, what) }

// parsePath reads KEYWORD<path> and returns what is between the brackets, quoted strings respected, and what follows.
func parsePath(arg, keyword string) (path, params string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", "", false
	}
	arg = arg[len(keyword):]
	if arg == "" || arg[0] != '<' {
		return "", "", false
	}
	quoted := false
	for i := 1; i < len(arg); i++ {
		switch {
		case quoted && arg[i] == '\\':
			i++
		case arg[i] == '"':
			quoted = !quoted
		case !quoted && (arg[i] == ' ' || arg[i] == '<'):
			return "", "", false
		case !quoted && arg[i] == '>':
			path, params = arg[1:i], arg[i+1:]
			return path, params, params == "" || params[0] == ' '
		}
	}
	return "", "", false
}

// localPart returns the local part of a path in lower case, quotes kept.
func localPart(path string) string {
	at := strings.LastIndexByte(path, '@')
	if at < 0 {
		at = len(path)
	}
	return strings.ToLower(path[:at])
}

func hostOf(conn net.Conn) string {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	return host
}
