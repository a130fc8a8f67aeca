package dialogues_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/world"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/srs"
)

// A dialogue is a file of testdata/dialogues: first what the world is, then, below a line of hyphens, who says what.
// Lines are taken in turn, so a reply is waited for where it stands.
//
//	rule: LINE         a line of the rules file
//	config: LINE       a line of the node's configuration
//	listen: MEMBERS    members of the listener
//	zone: RECORD       a DNS record; no other name exists
//	fault: NAME TYPE RCODE    the answer to a question
//
//	C: LINE            the client sends a line;  C= "GO STRING" sends octets as they are
//	S: PATTERN         the client reads a line, where * is anything and {id} a trace id
//	M: PATTERN         the MX host reads a line; M= "GO STRING" reads exactly these octets
//	m: LINE            the MX host sends a line; m= "GO STRING" sends octets as they are
//
//	client: connects | connects another | greets | starttls | closes | resets | sees close | repeats N LINE
//	mx: connects | greets [EXTENSION...] | accepts [EXTENSION...] | reads our field | reads no end |
//	    starttls | starttls fails | closes | resets | sees close | sees nothing
//
// $MX stands for the MX host's address and port, $PORT for the port alone; {srs PATH} for PATH as a node whose
// srs.domain is srs.example rewrites it today, {srs PATH 3} for what it wrote three days ago; {srs-none PATH} and
// {srs-reports PATH} for addresses that open to less, for a client at 127.0.0.1. The client is connected
// and greeted when it first speaks; "client: greets" says EHLO and reads what is offered. "mx: greets" takes a
// connection, sends a greeting, reads EHLO and offers PIPELINING and the extensions named (SIZE=1000 for "SIZE 1000");
// "mx: accepts" does that and then accepts MAIL and one RCPT.
type dialogue struct {
	world  world.World
	zone   string
	faults [][3]string
	steps  []step
}

type step struct {
	line int
	kind string
	text string
}

// linePattern is a line of a dialogue.
var linePattern = regexp.MustCompile(`^([a-zA-Z]+)([:=]) ?(.*)$`)

// srsPattern is an address to be rewritten.
var srsPattern = regexp.MustCompile(`\{srs(-none|-reports)? ([^ }]+)(?: (\d+))?\}`)

func rewriteSRS(t testing.TB, text string) string {
	t.Helper()
	return srsPattern.ReplaceAllStringFunc(text, func(s string) string {
		m := srsPattern.FindStringSubmatch(s)
		days, _ := strconv.Atoi(m[3]) // "" is today
		made := time.Now().AddDate(0, 0, -days)
		w, err := srs.New(srs.Config{Domain: "srs.example", Keys: [][]byte{[]byte(world.SRSKey)},
			Now: func() time.Time {
				return made
			}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := mail.ParsePath(m[2], true)
		if err != nil {
			t.Fatal(err)
		}
		opens := mail.OpensToBounces
		switch m[1] {
		case "-none":
			opens = mail.OpensToNone
		case "-reports":
			opens = mail.OpensToReports
		}
		if p, err = w.Forward(p, opens, netip.MustParsePrefix("127.0.0.0/24")); err != nil {
			t.Fatal(err)
		}
		return p.String()
	})
}

func readDialogue(t *testing.T, name, mx string) dialogue {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(mx)
	if err != nil {
		t.Fatal(err)
	}
	text := rewriteSRS(t, strings.NewReplacer("$MX", mx, "$PORT", port).Replace(string(content)))
	var d dialogue
	said := false
	for i, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(l, "---") {
			said = true
			continue
		}
		if l == "" || l[0] == '#' {
			continue
		}
		m := linePattern.FindStringSubmatch(l)
		if m == nil {
			t.Fatalf("%s:%d: no line of a dialogue: %q", name, i+1, l)
		}
		if said {
			d.steps = append(d.steps, step{i + 1, m[1] + m[2], m[3]})
			continue
		}
		switch m[1] {
		case "rule":
			d.world.Routes += m[3] + "\n"
		case "config":
			d.world.Config += m[3] + "\n"
		case "listen":
			d.world.Listen = m[3]
		case "zone":
			d.zone += m[3] + "\n"
		case "fault":
			f := strings.Fields(m[3])
			d.faults = append(d.faults, [3]string{f[0], f[1], f[2]})
		default:
			t.Fatalf("%s:%d: no such heading: %s", name, i+1, m[1])
		}
	}
	return d
}

func TestDialogues(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "dialogues", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal("no dialogues", err)
	}
	certificate := smtptest.NewCA().Server("mx.x.example", "127.0.0.1")
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			d := readDialogue(t, f, l.Addr().String())
			d.world.DNS = dnstest.Start(t, d.zone)
			for _, f := range d.faults {
				d.world.DNS.SetFault(f[0], f[1], dnstest.Fault{Rcode: f[2]})
			}
			n := world.Start(t, d.world)
			r := &run{name: f, listener: l.(*net.TCPListener), certificate: certificate, node: n.Addr}
			defer r.close()
			for _, s := range d.steps {
				if err := r.step(s); err != nil {
					t.Fatalf("%s:%d: %s %s: %v", f, s.line, s.kind, s.text, err)
				}
			}
		})
	}
}

// A run is a dialogue under way.
type run struct {
	name        string
	listener    *net.TCPListener
	certificate *tls.Config
	node        string
	client, mx  *end
}

// An end is the client's or the MX host's connection.
type end struct {
	raw, conn net.Conn
	in        *bufio.Reader
}

func newEnd(c net.Conn) *end { return &end{c, c, bufio.NewReader(c)} }

// turn bounds each step.
const turn = time.Minute

func (r *run) close() {
	for _, e := range []*end{r.client, r.mx} {
		if e != nil {
			_ = e.raw.Close() // the dialogue is over
		}
	}
}

func (r *run) step(s step) error {
	if r.client == nil &&
		(s.kind == "C:" || s.kind == "C=" || s.kind == "S:" || s.kind == "client:" && s.text != "connects") {
		if err := r.connect(); err != nil {
			return err
		}
	}
	switch s.kind {
	case "C:":
		return r.client.write(s.text + "\r\n")
	case "C=":
		return r.client.writeQuoted(s.text)
	case "S:":
		return r.client.expect(s.text)
	case "client:":
		return r.clientDoes(s.text)
	case "mx:":
		return r.mxDoes(s.text)
	}
	if r.mx == nil {
		return errors.New("the MX host has no connection")
	}
	switch s.kind {
	case "M:":
		return r.mx.expect(s.text)
	case "M=":
		return r.mx.expectOctets(s.text)
	case "m:":
		return r.mx.write(s.text + "\r\n")
	case "m=":
		return r.mx.writeQuoted(s.text)
	}
	return errors.New("no such line")
}

// connect connects the client and reads the greeting.
func (r *run) connect() error {
	c, err := net.DialTimeout("tcp", r.node, turn)
	if err != nil {
		return err
	}
	r.client = newEnd(c)
	return r.client.expect("220 relay.example ESMTP*")
}

func (r *run) clientDoes(what string) error {
	if verb, another, _ := strings.Cut(what, " "); verb == "connects" { // without a greeting
		if r.client != nil && another == "" {
			_ = r.client.raw.Close()
		}
		c, err := net.DialTimeout("tcp", r.node, turn)
		if err == nil {
			r.client = newEnd(c)
		}
		return err
	}
	if rest, ok := strings.CutPrefix(what, "repeats "); ok {
		times, line, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(times)
		if err != nil {
			return err
		}
		return r.client.write(strings.Repeat(line+"\r\n", n))
	}
	if what == "starttls" {
		c := tls.Client(r.client.raw, world.AnyCertificate())
		if err := c.SetDeadline(time.Now().Add(turn)); err != nil {
			return err
		}
		r.client.conn, r.client.in = c, bufio.NewReader(c)
		return c.Handshake()
	}
	if what == "greets" {
		return r.client.greet()
	}
	return r.client.does(what)
}

func (r *run) mxDoes(what string) error {
	verb, rest, _ := strings.Cut(what, " ")
	switch {
	case verb == "connects", verb == "greets", verb == "accepts":
		if err := r.listener.SetDeadline(time.Now().Add(turn)); err != nil {
			return err
		}
		c, err := r.listener.Accept()
		if err != nil {
			return err
		}
		if r.mx != nil {
			_ = r.mx.raw.Close() // a dialogue has one MX host at a time
		}
		r.mx = newEnd(c)
		if verb == "connects" {
			return nil
		}
		if err := r.greet(strings.Fields(rest)); err != nil || verb == "greets" {
			return err
		}
		return errors.Join(r.mx.expect("MAIL FROM:*"), r.mx.expect("RCPT TO:*"),
			r.mx.write("250 2.1.0 OK\r\n250 2.1.5 OK\r\n"))
	case r.mx == nil:
		return errors.New("the MX host has no connection")
	case verb == "starttls":
		c := tls.Server(r.mx.raw, r.certificate)
		if err := c.SetDeadline(time.Now().Add(turn)); err != nil {
			return err
		}
		r.mx.conn, r.mx.in = c, bufio.NewReader(c)
		if rest == "fails" { // the client says so in the handshake, or by what it sends behind it
			if c.Handshake() == nil {
				return r.mx.does("sees close")
			}
			return nil
		}
		return c.Handshake()
	case what == "reads no end":
		return r.mx.readNoEnd()
	case what == "reads our field":
		return r.mx.readField()
	case what == "sees nothing":
		if err := r.mx.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		if b, err := r.mx.in.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("got %q, %v", b, err)
		}
		return nil
	}
	return r.mx.does(what)
}

// greet is what every MX host begins with.
func (r *run) greet(extensions []string) error {
	if err := r.mx.write("220 mx.x.example ESMTP\r\n"); err != nil {
		return err
	}
	if err := r.mx.expect("EHLO relay.example"); err != nil {
		return err
	}
	reply := "250-mx.x.example\r\n"
	for _, e := range extensions {
		reply += "250-" + strings.ReplaceAll(e, "=", " ") + "\r\n"
	}
	return r.mx.write(reply + "250 PIPELINING\r\n")
}

// greet says EHLO and reads the reply.
func (e *end) greet() error {
	if err := errors.Join(e.write("EHLO client.example\r\n"),
		e.conn.SetReadDeadline(time.Now().Add(turn))); err != nil {
		return err
	}
	for {
		line, err := e.in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "250") {
			return fmt.Errorf("got %q, %w", line, err)
		}
		if line[3] == ' ' {
			return nil
		}
	}
}

// readNoEnd reads until the connection ends, and finds no end of data.
func (e *end) readNoEnd() error {
	if err := e.conn.SetReadDeadline(time.Now().Add(turn)); err != nil {
		return err
	}
	got, err := io.ReadAll(e.in)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("still open")
	}
	if strings.Contains(string(got), "\r\n.\r\n") {
		return errors.New("an end of data was sent")
	}
	return nil
}

// readField reads our Received field.
func (e *end) readField() error {
	if err := e.expect("Received: from *"); err != nil {
		return err
	}
	for {
		next, err := e.in.Peek(1)
		if err != nil || next[0] != '\t' {
			return err
		}
		if err := e.expect("\t*"); err != nil {
			return err
		}
	}
}

func (e *end) does(what string) error {
	switch what {
	case "closes":
		return e.raw.Close()
	case "resets":
		if err := e.raw.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		return e.raw.Close()
	case "sees close":
		if err := e.conn.SetReadDeadline(time.Now().Add(turn)); err != nil {
			return err
		}
		b, err := e.in.ReadByte()
		if err == nil {
			rest, _ := e.in.Peek(e.in.Buffered())
			return fmt.Errorf("got %q", string(b)+string(rest))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("still open")
		}
		return nil
	}
	return errors.New("no such act")
}

func (e *end) write(s string) error {
	if err := e.conn.SetWriteDeadline(time.Now().Add(turn)); err != nil {
		return err
	}
	_, err := e.conn.Write([]byte(s))
	return err
}

func (e *end) writeQuoted(s string) error {
	octets, err := unquote(s)
	if err != nil {
		return err
	}
	return e.write(octets)
}

// unquote reads a Go string, which may be followed by "* N" to repeat it.
func unquote(s string) (string, error) {
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", err
	}
	octets, err := strconv.Unquote(quoted)
	if err != nil {
		return "", err
	}
	times := 1
	if rest := strings.TrimSpace(s[len(quoted):]); rest != "" {
		if times, err = strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(rest, "*"))); err != nil {
			return "", err
		}
	}
	return strings.Repeat(octets, times), nil
}

func (e *end) expect(pattern string) error {
	if err := e.conn.SetReadDeadline(time.Now().Add(turn)); err != nil {
		return err
	}
	line, err := e.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("got %q, %w", line, err)
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		return fmt.Errorf("got a line without CRLF: %q", line)
	}
	p := regexp.QuoteMeta(pattern)
	p = strings.ReplaceAll(p, `\*`, ".*")
	p = strings.ReplaceAll(p, `\{id\}`, "id=[0-9a-f]{32}")
	if !regexp.MustCompile("^" + p + "$").MatchString(line) {
		rest, _ := e.in.Peek(e.in.Buffered())
		return fmt.Errorf("got %q, and then %q", line, rest)
	}
	return nil
}

func (e *end) expectOctets(quoted string) error {
	want, err := unquote(quoted)
	if err != nil {
		return err
	}
	if err := e.conn.SetReadDeadline(time.Now().Add(turn)); err != nil {
		return err
	}
	got := make([]byte, len(want))
	n, err := io.ReadFull(e.in, got)
	if string(got[:n]) != want {
		return fmt.Errorf("%s (%v)", world.Differ(got[:n], []byte(want)), err)
	}
	return nil
}
