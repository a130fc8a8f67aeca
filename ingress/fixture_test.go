package ingress

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// rules are where mail goes, by local part.
type rules = ingresstest.Rules

// A fixture is a served session with a client's end of it.
type fixture struct {
	t      *testing.T
	conn   net.Conn
	in     *bufio.Reader
	mu     sync.Mutex
	events []mail.Event
	memory wire.Memory
	srv    *wire.Server
}

func serve(t *testing.T, router Router, relay Relay, change func(*Config, *wire.Config)) *fixture {
	t.Helper()
	w := &fixture{t: t}
	cfg := Config{
		Router: router, Relay: relay, Emit: w.emit,
		Message: message.Config{Hostname: "mx1.example.net", LoopTagKeys: [][]byte{[]byte("sixteen octets..")}},
	}
	var s *Server
	wc := wire.Config{Hostname: cfg.Message.Hostname, Memory: &w.memory,
		NewSession: func(_ context.Context, c *wire.Client) wire.Session { return s.NewSession(c, nil) }}
	if change != nil {
		change(&cfg, &wc)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := wire.NewServer(wc)
	if err != nil {
		t.Fatal(err)
	}
	w.srv = srv
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when the listener is closed by Shutdown
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = srv.Shutdown(ctx)
		<-done
		if n := w.memory.InUse(); n != 0 {
			t.Errorf("%d octets are still taken", n)
		}
	})
	w.connect(l.Addr().String())
	return w
}

// connect opens a connection and says EHLO.
func (w *fixture) connect(addr string) {
	w.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	w.conn, w.in = conn, bufio.NewReader(conn)
	w.want("220 ")
	w.say("EHLO client.example", "250")
}

func (w *fixture) emit(e mail.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

// say sends a line and wants a reply that begins so. It returns the reply.
func (w *fixture) say(line, want string) string {
	w.t.Helper()
	if _, err := io.WriteString(w.conn, line+"\r\n"); err != nil {
		w.t.Fatal(err)
	}
	return w.want(want)
}

func (w *fixture) want(want string) string {
	w.t.Helper()
	var all strings.Builder
	for {
		line, err := w.in.ReadString('\n')
		if err != nil {
			w.t.Fatalf("waiting for %q after %q: %v", want, all.String(), err)
		}
		all.WriteString(line)
		if len(line) > 3 && line[3] == ' ' {
			break
		}
	}
	if !strings.HasPrefix(all.String(), want) {
		w.t.Fatalf("got %q, want %q", all.String(), want)
	}
	return all.String()
}

// last returns the last event of a kind.
func (w *fixture) last(k mail.Kind) mail.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.events) - 1; i >= 0; i-- {
		if w.events[i].Kind == k {
			return w.events[i]
		}
	}
	w.t.Errorf("no event %v", k)
	return mail.Event{}
}

const text = "Subject: hi\r\n\r\n..stuffed\r\nbye\r\n"
