package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A sink takes all mail and keeps none of it. smtp-source numbers the recipients of a run, each of which has one
// message, and by these numbers the sink knows each message: it says which came never, and which twice. It offers what
// smtp-sink offers: PIPELINING and 8BITMIME.
type sink struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex // over what follows
	open    map[net.Conn]bool
	times   map[int]int // how often each number of the run came
	foreign int         // messages to another recipient
	last    time.Time   // when the last one came
	arrived chan struct{}
	reverse string // of the first message of the run
	head    []byte // its header section
}

// firstOctets is how much of the first message of a run is kept at most.
const firstOctets = 16 << 10

func newSink(addr string) (*sink, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &sink{listener: l, open: make(map[net.Conn]bool), arrived: make(chan struct{}, 1)}
	s.expect()
	s.serving.Go(s.accept) // ends with the listener
	return s, nil
}

func (s *sink) addr() string { return s.listener.Addr().String() }

// close ends all connections.
func (s *sink) close() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

func (s *sink) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.open[c] = true
		s.mu.Unlock()
		s.serving.Go(func() { // ends with the connection
			s.serve(c)
			c.Close()
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
		})
	}
}

// expect begins a run.
func (s *sink) expect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times, s.foreign, s.reverse, s.head = make(map[int]int), 0, "", nil
}

// await returns when n messages have come, with the time of the last, or with ctx.
func (s *sink) await(ctx context.Context, n int) time.Time {
	for {
		s.mu.Lock()
		got, last := s.count(), s.last
		s.mu.Unlock()
		if got >= n {
			return last
		}
		select {
		case <-s.arrived:
		case <-ctx.Done():
			return last
		}
	}
}

func (s *sink) count() int {
	n := s.foreign
	for _, times := range s.times {
		n += times
	}
	return n
}

// account says what was wrong with a run of n messages, or "".
func (s *sink) account(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	never, more := 0, 0
	for i := 1; i <= n; i++ {
		switch times := s.times[i]; {
		case times == 0:
			never++
		case times > 1:
			more++
		}
	}
	foreign := s.foreign
	for i, times := range s.times {
		if i < 1 || i > n {
			foreign += times
		}
	}
	if never+more+foreign == 0 {
		return ""
	}
	return fmt.Sprintf("of %d messages %d never came, %d came more than once, and %d came that were not sent", n, never,
		more, foreign)
}

// first returns the reverse-path and the header section of the first message of the run.
func (s *sink) first() (reverse, head string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reverse, string(s.head)
}

func (s *sink) note(reverse, forward string, head []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head == nil {
		s.reverse, s.head = reverse, bytes.Clone(head)
	}
	if n := number(forward); n > 0 {
		s.times[n]++
	} else {
		s.foreign++
	}
	s.last = time.Now()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// number is what smtp-source -N puts before the recipient.
func number(forward string) int {
	digits, _, ok := strings.Cut(forward, recipient)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return 0
	}
	return n
}

// serve speaks SMTP until the client leaves.
func (s *sink) serve(c net.Conn) {
	in, out := bufio.NewReaderSize(c, 64<<10), bufio.NewWriter(c)
	fmt.Fprint(out, "220 sink.example ESMTP\r\n")
	var reverse, forward string
	for {
		if in.Buffered() == 0 && out.Flush() != nil {
			return
		}
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		verb := strings.ToUpper(string(line[:min(4, len(line))]))
		switch verb {
		case "EHLO":
			fmt.Fprint(out, "250-sink.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
		case "MAIL":
			reverse = path(line)
			fmt.Fprint(out, "250 2.1.0 Ok\r\n")
		case "RCPT":
			forward = path(line)
			fmt.Fprint(out, "250 2.1.5 Ok\r\n")
		case "DATA":
			fmt.Fprint(out, "354 Go ahead\r\n")
			if out.Flush() != nil {
				return
			}
			head, err := readMessage(in)
			if err != nil {
				return
			}
			s.note(reverse, forward, head)
			fmt.Fprint(out, "250 2.0.0 Ok\r\n")
			reverse, forward = "", ""
		case "QUIT":
			fmt.Fprint(out, "221 2.0.0 Bye\r\n")
			_ = out.Flush() // the client is leaving
			return
		case "HELO", "RSET", "NOOP":
			fmt.Fprint(out, "250 2.0.0 Ok\r\n")
		default:
			fmt.Fprint(out, "502 5.5.1 Not here\r\n")
		}
	}
}

// readMessage reads up to the dot and returns the header section, or as much of it as is kept.
func readMessage(in *bufio.Reader) (head []byte, err error) {
	inHead := true
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(line) == 3 && line[0] == '.' && line[1] == '\r' {
			return head, nil
		}
		if inHead = inHead && len(line) > 2 && len(head) < firstOctets; inHead {
			head = append(head, line...)
		}
	}
}

// path is what stands in the angle brackets of MAIL or RCPT.
func path(line []byte) string {
	_, rest, _ := bytes.Cut(line, []byte("<"))
	p, _, _ := bytes.Cut(rest, []byte(">"))
	return string(p)
}
