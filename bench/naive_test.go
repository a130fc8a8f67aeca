package bench

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
)

// naive is a relay as go-smtp's two halves make it: a session upstream per message from a pool, the client's octets
// copied from one to the other.
func naive(b *testing.B, sink string) string {
	b.Helper()
	p := &pool{addr: sink}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &naiveSession{pool: p}, nil }))
	s.Domain = "naive.example"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) }) // ends when the server is closed
	b.Cleanup(func() {
		_ = s.Close()
		serving.Wait()
		for _, c := range p.idle {
			_ = c.Close()
		}
	})
	return l.Addr().String()
}

// A pool keeps clients that are between messages.
type pool struct {
	addr string

	mu   sync.Mutex
	idle []*smtp.Client
}

func (p *pool) get() (*smtp.Client, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	return smtp.Dial(p.addr)
}

func (p *pool) put(c *smtp.Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}

type naiveSession struct {
	pool *pool
	from string
	c    *smtp.Client
}

func (s *naiveSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *naiveSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	c, err := s.pool.get()
	if err != nil {
		return err
	}
	s.c = c
	if err := c.Mail(s.from, nil); err != nil {
		return err
	}
	return c.Rcpt(to, nil)
}

func (s *naiveSession) Data(r io.Reader) error {
	w, err := s.c.Data()
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	s.pool.put(s.c)
	s.c = nil
	return nil
}

func (s *naiveSession) Reset() {}

func (s *naiveSession) Logout() error {
	if s.c != nil {
		return s.c.Close()
	}
	return nil
}
