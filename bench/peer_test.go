package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// sink accepts every message and forgets it. It offers CHUNKING if chunked. It returns its address and ends with b.
func sink(b *testing.B, chunked bool) string {
	b.Helper()
	return listen(b, func(c net.Conn) {
		s := bare{conn: c, in: bufio.NewReaderSize(c, 64<<10), chunked: chunked}
		_ = s.serve() // it ends with the connection
	})
}

// listen serves connections until b ends.
func listen(b *testing.B, serve func(net.Conn)) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var (
		mu    sync.Mutex
		conns []net.Conn
		wg    sync.WaitGroup
	)
	wg.Go(func() { // ends when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { // ends when either end closes the connection
				defer c.Close()
				serve(c)
			})
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// bare is the destination's end of a session.
type bare struct {
	conn    net.Conn
	in      *bufio.Reader
	chunked bool
	out     []byte
}

var (
	ok250  = []byte("250 2.0.0 OK\r\n")
	go354  = []byte("354 Go\r\n")
	ending = []byte("\r\n.\r\n")
)

func (s *bare) serve() error {
	s.out = append(s.out, "220 sink.example\r\n"...)
	for {
		if s.in.Buffered() == 0 {
			if _, err := s.conn.Write(s.out); err != nil {
				return err
			}
			s.out = s.out[:0]
		}
		line, err := s.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if err := s.command(line); err != nil {
			return err
		}
	}
}

func (s *bare) command(line []byte) error {
	switch string(line[:4]) {
	case "EHLO":
		s.out = append(s.out, "250-sink.example\r\n"...)
		if s.chunked {
			s.out = append(s.out, "250-CHUNKING\r\n"...)
		}
		s.out = append(s.out, "250-8BITMIME\r\n250 PIPELINING\r\n"...)
	case "DATA":
		if _, err := s.conn.Write(append(s.out, go354...)); err != nil {
			return err
		}
		s.out = s.out[:0]
		if err := s.skipData(); err != nil {
			return err
		}
		s.out = append(s.out, ok250...)
	case "BDAT":
		size, _, _ := bytes.Cut(bytes.TrimSpace(line[5:]), []byte(" "))
		n, err := strconv.Atoi(string(size))
		if err != nil {
			return err
		}
		if s.in.Buffered() < n { // the client may wait for what was said so far
			if _, err := s.conn.Write(s.out); err != nil {
				return err
			}
			s.out = s.out[:0]
		}
		if _, err := s.in.Discard(n); err != nil {
			return err
		}
		s.out = append(s.out, ok250...)
	case "QUIT":
		return io.EOF
	default:
		s.out = append(s.out, ok250...)
	}
	return nil
}

// skipData reads up to CRLF.CRLF.
func (s *bare) skipData() error {
	for {
		if _, err := s.in.Peek(len(ending)); err != nil {
			return err
		}
		p, err := s.in.Peek(s.in.Buffered())
		if err != nil {
			return err
		}
		if i := bytes.Index(p, ending); i >= 0 {
			_, err = s.in.Discard(i + len(ending))
			return err
		}
		if _, err := s.in.Discard(len(p) - len(ending) + 1); err != nil {
			return err
		}
	}
}

// A sender is the client's end of a session, with everything it writes prepared.
type sender struct {
	conn     net.Conn
	in       *bufio.Reader
	envelope []byte // MAIL and RCPT, and DATA
	message  []byte // with its end, or with its BDAT line
	replies  int    // to the envelope
}

// limit bounds a benchmark, so that one that hangs fails.
const limit = 2 * time.Minute

// dial opens a session. Commands are pipelined, and BDAT goes with them, so that the octets' cost stands out.
func dial(addr string, bdat bool, body []byte) (*sender, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	s := &sender{
		conn: c, in: bufio.NewReader(c), replies: 3,
		envelope: []byte("MAIL FROM:<a@client.example>\r\nRCPT TO:<b@bench.example>\r\nDATA\r\n"),
	}
	if bdat {
		s.envelope = append(s.envelope[:len(s.envelope)-len("DATA\r\n")], fmt.Sprintf("BDAT %d LAST\r\n", len(body))...)
		s.replies = 2
		s.message = body
	} else {
		s.message = append(bytes.Clone(body), ".\r\n"...)
	}
	if err := s.reply(); err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte("EHLO client.example\r\n")); err != nil {
		return nil, err
	}
	return s, s.reply()
}

// reply reads a reply of 2yz or 3yz.
func (s *sender) reply() error {
	for {
		line, err := s.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if line[0] != '2' && line[0] != '3' {
			return fmt.Errorf("refused: %q", line)
		}
		if line[3] == ' ' {
			return nil
		}
	}
}

// send sends the message once.
func (s *sender) send() error {
	if _, err := s.conn.Write(s.envelope); err != nil {
		return err
	}
	for range s.replies {
		if err := s.reply(); err != nil {
			return err
		}
	}
	if _, err := s.conn.Write(s.message); err != nil {
		return err
	}
	return s.reply()
}

// body is a message of n octets, in lines of 78, none of which opens with a dot.
func body(n int) []byte {
	const head, line = "Subject: bench\r\n\r\n", 78
	m := append(make([]byte, 0, n), head...)
	for len(m)+2*line < n {
		m = append(append(m, bytes.Repeat([]byte("x"), line-2)...), '\r', '\n')
	}
	return append(append(m, bytes.Repeat([]byte("y"), n-len(m)-2)...), '\r', '\n')
}
