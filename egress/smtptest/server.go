package smtptest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Message is what one transaction left. Its slices are not to be changed.
type Message struct {
	Session    int64    // the number of the session that carried it, from 1
	Client     string   // the address of the client
	Helo       string   // the argument of EHLO, HELO or LHLO
	User       string   // as which the client authenticated, or ""
	Introduced string   // XFORWARD for the message, or the last XCLIENT, as it came, or ""
	TLS        uint16   // the TLS version as in crypto/tls, 0 in clear
	Resumed    bool     // the TLS session was resumed
	SNI        string   // the server name that the client asked for
	Mail       string   // the MAIL command as it came, without CRLF
	Rcpt       []string // the accepted RCPT commands as they came, without CRLF
	Reverse    string   // the reverse-path without its angle brackets
	Forwards   []string // the forward-paths without their angle brackets; in LMTP, those that got 2yz at the end
	Raw        []byte   // the octets as received: stuffed and without the dot line if by DATA
	Octets     []byte   // the message, unstuffed
	Chunks     []int    // the sizes of the BDAT chunks; nil if by DATA
	Reply      string   // the reply to the end of data, lines separated by "\n"; of several, the last
	Time       time.Time
}

// Counts are the sums that a Server keeps.
type Counts struct {
	Connections int            // accepted, those over MaxSessions included
	Current     int            // open now
	Peak        int            // open at once at most
	Handshakes  int            // TLS handshakes completed
	Resumed     int            // of these, by resumption
	Messages    int            // accepted whole
	Octets      int64          // in them, as received
	Halves      int            // transactions that ended inside the octets of a message
	Quits       int            // sessions that said QUIT
	Commands    map[string]int // by verb
}

// A Server is a running destination. Its methods may be called at any time from any goroutine.
type Server struct {
	listener net.Listener
	done     chan struct{}  // closed by Close: ends every wait inside a session
	running  sync.WaitGroup // the accept loop and the sessions

	mu         sync.Mutex // over everything below; not held across I/O
	behaviour  *Behaviour
	sessions   map[int64]*session
	counts     Counts
	messages   []Message
	commands   []string
	violations []string
	greylisted map[string]bool
	changed    chan struct{} // closed and replaced whenever something above changes
	closed     bool
}

// Listen starts a Server on addr: host:port (port 0 for any free one), or the path of a unix socket, which begins with
// a slash.
func Listen(addr string, b Behaviour) (*Server, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("smtptest: %w", err)
	}
	return Serve(l, b), nil
}

// Serve is Listen on a listener of the caller.
func Serve(l net.Listener, b Behaviour) *Server {
	s := &Server{
		listener:   l,
		done:       make(chan struct{}),
		behaviour:  &b,
		sessions:   make(map[int64]*session),
		greylisted: make(map[string]bool),
		changed:    make(chan struct{}),
	}
	s.counts.Commands = make(map[string]int)
	s.running.Add(1)
	go s.accept() // ends when Close closes the listener
	return s
}

// TB is what Start needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Start is Listen on a free port of 127.0.0.1; the Server is closed when the test ends.
func Start(t TB, b Behaviour) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", b)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Addr returns the address that the Server listens on: host:port or a path.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Network returns "tcp" or "unix".
func (s *Server) Network() string { return s.listener.Addr().Network() }

// Close stops the Server, closes its sessions and waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.done)
	open := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	s.listener.Close()
	for _, c := range open {
		c.raw.Close()
	}
	s.running.Wait()
}

// Set replaces the Behaviour, from the next step of each session on.
func (s *Server) Set(b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behaviour = &b
}

// Unasked writes line, such as "421 4.3.2 Shutting down", to every open session although nothing was asked, and closes
// them if end is set. It waits for a session that is writing a reply of its own.
func (s *Server) Unasked(line string, end bool) {
	s.mu.Lock()
	open := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	for _, c := range open {
		c.unasked(line, end)
	}
}

// Messages returns the messages accepted so far, in the order of their ends.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// WaitMessages waits until n messages were accepted in all and returns those that are kept. The error is ctx's.
func (s *Server) WaitMessages(ctx context.Context, n int) ([]Message, error) {
	err := s.WaitFor(ctx, func(c Counts) bool { return c.Messages >= n })
	return s.Messages(), err
}

// WaitFor waits until cond holds for the Counts. The error is ctx's, and tells the Counts.
func (s *Server) WaitFor(ctx context.Context, cond func(Counts) bool) error {
	for {
		s.mu.Lock()
		changed, counts := s.changed, s.snapshot()
		s.mu.Unlock()
		if cond(counts) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("smtptest: waiting with %+v: %w", counts, ctx.Err())
		}
	}
}

// Counts returns the sums so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

// snapshot needs the lock.
func (s *Server) snapshot() Counts {
	c := s.counts
	c.Commands = maps.Clone(c.Commands)
	return c
}

// Commands returns the command lines so far, each with the number of its session and a blank before it.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Violations returns what clients did that the RFCs forbid, such as pipelining that was not offered.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

func (s *Server) accept() {
	defer s.running.Done()
	for number := int64(1); ; number++ {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		c := &session{server: s, number: number, conn: conn, raw: conn}
		if !s.open(c) {
			conn.Close()
			return
		}
		go func() { // ends when the client or Close ends the connection
			defer s.running.Done()
			defer s.end(c)
			defer conn.Close()
			c.serve()
		}()
	}
}

// open adds a session. It reports false if the Server is closed.
func (s *Server) open(c *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	s.sessions[c.number] = c
	s.counts.Connections++
	s.counts.Current++
	s.counts.Peak = max(s.counts.Peak, s.counts.Current)
	c.surplus = s.behaviour.MaxSessions > 0 && s.counts.Current > s.behaviour.MaxSessions
	s.wake()
	return true
}

// end removes a session, once.
func (s *Server) end(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[c.number] == nil {
		return
	}
	delete(s.sessions, c.number)
	s.counts.Current--
	s.wake()
}

// wake needs the lock.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// note changes the sums under the lock.
func (s *Server) note(f func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.counts)
	s.wake()
}

func (s *Server) command(c *session, verb, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Commands[verb]++
	if verb == "QUIT" {
		s.counts.Quits++
	}
	s.commands = keepLast(append(s.commands, fmt.Sprintf("%d %s", c.number, line)), s.behaviour.keep())
	s.wake()
}

func (s *Server) violation(c *session, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = keepLast(append(s.violations, fmt.Sprintf("%d %s", c.number, what)), s.behaviour.keep())
	s.wake()
}

func (s *Server) record(m Message) {
	m.Rcpt, m.Forwards = slices.Clone(m.Rcpt), slices.Clone(m.Forwards)
	m.Raw, m.Octets = bytes.Clone(m.Raw), bytes.Clone(m.Octets)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Messages++
	s.counts.Octets += int64(len(m.Raw))
	s.messages = keepLast(append(s.messages, m), s.behaviour.keep())
	s.wake()
}

// firstTime reports whether this triplet was never seen before.
func (s *Server) firstTime(client, reverse, forward string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := client + " " + reverse + " " + forward
	seen := s.greylisted[key]
	s.greylisted[key] = true
	return !seen
}

func (s *Server) script() *Behaviour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behaviour
}

func keepLast[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }
