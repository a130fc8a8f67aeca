package fleet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
)

// A Sink is a destination that counts. It keeps no octet of a message, and of its envelope the local part of the first
// recipient, which is the id of the message; so that it costs as little as a destination can, and the relay is what is
// measured. A recipient whose local part begins with Unknown is refused. What a message looks like when it arrives, and
// destinations that misbehave, are smtptest's.
type Sink struct {
	listener net.Listener
	sessions sync.WaitGroup // the accept loop too

	mu     sync.Mutex // over what follows
	open   map[net.Conn]bool
	copies map[string]int
	counts SinkCounts
	closed bool
}

// SinkCounts are the sums of a Sink.
type SinkCounts struct {
	Messages    int
	Octets      int64 // of messages, as they came
	Refused     int   // recipients
	Connections int
	Peak        int // connections at once
}

// Unknown begins the local part of a recipient that a Sink refuses.
const Unknown = "unknown"

// ListenSink starts a Sink.
func ListenSink(addr string) (*Sink, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Sink{listener: l, open: make(map[net.Conn]bool), copies: make(map[string]int)}
	s.sessions.Go(s.accept) // ends with Close
	return s, nil
}

// Addr is where it listens.
func (s *Sink) Addr() string { return s.listener.Addr().String() }

// Copies returns how often each message came, by its id.
func (s *Sink) Copies() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.copies)
}

// Counts returns the sums.
func (s *Sink) Counts() SinkCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// ForgetPeak has Peak begin anew with what is connected now.
func (s *Sink) ForgetPeak() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Peak = len(s.open)
}

// Close ends it and its sessions.
func (s *Sink) Close() {
	s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.sessions.Wait()
}

func (s *Sink) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		if !s.enter(c) {
			c.Close()
			return
		}
		s.sessions.Go(func() { // ends with the connection, or Close
			defer s.leave(c)
			t := sinkSession{sink: s, in: bufio.NewReaderSize(c, 64<<10), out: bufio.NewWriter(c)}
			t.say("220 sink.example ESMTP")
			for t.command() == nil {
			}
			t.out.Flush()
		})
	}
}

func (s *Sink) enter(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = true
	s.counts.Connections++
	s.counts.Peak = max(s.counts.Peak, len(s.open))
	return true
}

func (s *Sink) leave(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

func (s *Sink) take(id string, octets int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copies[id]++
	s.counts.Messages++
	s.counts.Octets += octets
}

func (s *Sink) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Refused++
}

// A sinkSession is one connection.
type sinkSession struct {
	sink   *Sink
	in     *bufio.Reader
	out    *bufio.Writer
	id     string // of the open transaction; "": no recipient yet
	octets int64  // of its chunks
}

var errSinkQuit = errors.New("QUIT")

func (t *sinkSession) say(reply string) { fmt.Fprintf(t.out, "%s\r\n", reply) }

// command reads one command and answers it.
func (t *sinkSession) command() error {
	if t.in.Buffered() == 0 {
		if err := t.out.Flush(); err != nil {
			return err
		}
	}
	line, err := t.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	line = bytes.TrimRight(line, "\r\n")
	verb, rest, _ := strings.Cut(string(line), " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		t.say("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n" +
			"250 ENHANCEDSTATUSCODES")
	case "RCPT":
		t.rcpt(rest)
	case "DATA":
		return t.data()
	case "BDAT":
		return t.bdat(rest)
	case "QUIT":
		t.say("221 2.0.0 Bye")
		return errSinkQuit
	case "MAIL", "RSET", "NOOP", "HELO":
		t.id, t.octets = "", 0
		t.say("250 2.0.0 OK")
	default:
		t.say("500 5.5.1 Unknown command")
	}
	return nil
}

func (t *sinkSession) rcpt(path string) {
	_, path, _ = strings.Cut(path, "<")
	local, _, _ := strings.Cut(path, "@")
	if strings.HasPrefix(local, Unknown) {
		t.sink.refuse()
		t.say("550 5.1.1 No such user")
		return
	}
	if t.id == "" {
		t.id = local
	}
	t.say("250 2.1.5 OK")
}

// data reads up to CRLF.CRLF.
func (t *sinkSession) data() error {
	if t.id == "" {
		t.say("554 5.5.1 No valid recipients")
		return nil
	}
	t.say("354 Go ahead")
	if err := t.out.Flush(); err != nil {
		return err
	}
	begun := true // a line begins
	for {
		line, err := t.in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if begun && string(line) == ".\r\n" {
			break
		}
		t.octets += int64(len(line))
		begun = bytes.HasSuffix(line, []byte("\r\n"))
	}
	t.end()
	return nil
}

func (t *sinkSession) bdat(rest string) error {
	size, last, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("BDAT %q", rest)
	}
	if _, err := io.CopyN(io.Discard, t.in, n); err != nil {
		return err
	}
	t.octets += n
	switch {
	case t.id == "":
		t.say("503 5.5.1 No valid recipients")
	case strings.EqualFold(last, "LAST"):
		t.end()
	default:
		t.say("250 2.0.0 OK")
	}
	return nil
}

// end counts the message before its reply is written.
func (t *sinkSession) end() {
	t.sink.take(t.id, t.octets)
	t.id, t.octets = "", 0
	t.say("250 2.0.0 OK")
}
