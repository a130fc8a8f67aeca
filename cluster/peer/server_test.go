package peer

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// feed writes octets to a server on a connection without TLS, and waits until the connection ends.
func feed(tb testing.TB, s *Server, b []byte) {
	tb.Helper()
	ours, theirs := net.Pipe()
	s.start(theirs, nil)
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = io.Copy(io.Discard, ours) }) // ends with the connection
	_ = ours.SetWriteDeadline(time.Now().Add(time.Minute))
	_, err := ours.Write(b)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		tb.Error("the server reads no more")
	}
	ours.Close()
	reader.Wait()
	until(tb, "the connection is over", func() bool { return len(s.all()) == 0 })
}

func plainServer(tb testing.TB, d Beginner) *Server {
	ca := newAuthority(tb)
	cert, key := ca.issue(tb, "b")
	cfg, _, _, err := Certificates("b", ca.pem, cert, key)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := NewServer(ServerConfig{TLS: cfg, Name: "b", Beginner: d, Panicked: func(v any, stack []byte) {
		tb.Errorf("%v\n%s", v, stack)
	}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	return s
}

func hi() []byte {
	return frame(nil, hello, func(f fields) fields {
		return f.number(fVersionMin, 1).number(fVersionMax, 1).text(fNode, "a")
	})
}

func opens(b []byte) []byte {
	o := opening{d: delivery(), forward: to("x")}
	return frame(b, open, o.append)
}

// FuzzServer checks that any octets leave no transaction open, commit nothing without COMMIT and cause no panic.
func FuzzServer(f *testing.F) {
	message := sent(f, &piece{octets: octets("Subject: x\r\n\r\n..\r\n")})
	asData := append(header(nil, data, len(message)-frameHeader), message[frameHeader:]...)
	f.Add(append(opens(nil), message...))
	f.Add(append(append(append(opens(nil), asData...), asData...), message...))
	f.Add(header(append(opens(nil), asData...), abort, 0))
	f.Add(opens(opens(nil)))
	f.Add(message)
	f.Add(header(header(header(header(opens(nil), lend, 0), wanted, 0), ping, 0), pong, 0))
	f.Add(frame(opens(nil), renew, func(f fields) fields { return appendBudget(f, time.Hour) }))
	f.Add(frame(opens(nil), rcpt, func(f fields) fields { return appendRecipient(f, to("y"), 0) }))
	f.Add(header(opens(nil), data, maxPiece))
	f.Add(hi())
	d := &destination{lend: true}
	s := plainServer(f, d)
	f.Fuzz(func(t *testing.T, b []byte) {
		before, _, _ := d.count()
		feed(t, s, append(hi(), b...))
		after, _, open := d.count()
		if open != 0 {
			t.Fatalf("%d transactions are left open", open)
		}
		if after-before > strings.Count(string(b), string([]byte{byte(commit), 0})) {
			t.Fatalf("%d messages were committed", after-before)
		}
		d.mu.Lock()
		d.begun, d.delivered = nil, nil
		d.mu.Unlock()
	})
}

// A frame out of turn ends the connection, and nothing is delivered.
func TestWorker_OutOfTurn(t *testing.T) {
	d := &destination{}
	s := plainServer(t, d)
	message := sent(t, &piece{octets: octets("x\r\n")})
	unix := opening{d: delivery(), forward: to("x")}
	unix.d.NextHop = mail.NextHop{Transport: mail.LMTPUnix, Host: "/run/lmtp"}
	smuggled := opening{d: delivery(), forward: mail.Path{Local: "x>\r\nRCPT TO:<y", Domain: "h.example"}}
	const early = "x\r\n.\r\nMAIL FROM:<a@h.example>\r\nRCPT TO:<b@h.example>\r\nDATA\r\n"
	told := octets(early)
	told.Dots = []uint32{uint32(strings.IndexByte(early, '.'))}
	for name, b := range map[string][]byte{
		"COMMIT without OPEN": message,
		"RCPT without OPEN": frame(nil, rcpt, func(f fields) fields {
			return appendRecipient(f, to("y"), 0)
		}),
		"ABORT without OPEN":                   header(nil, abort, 0),
		"OPEN within a transaction":            append(opens(opens(nil)), message...),
		"an answer":                            append(frame(opens(nil), done, noFields), message...),
		"a second HELLO":                       append(append(opens(nil), hi()...), message...),
		"a kind that is not known":             append(header(opens(nil), 77, 0), message...),
		"a unix socket as the next hop":        append(frame(nil, open, unix.append), message...),
		"a path that holds a command":          append(frame(nil, open, smuggled.append), message...),
		"a piece that ends the message early":  append(opens(nil), sent(t, &piece{octets: octets(early)})...),
		"a dot alone that is told as an added": append(opens(nil), sent(t, &piece{octets: told})...),
		"a frame that is too long":             append(header(opens(nil), commit, 1<<30), message...),
		"a frame of fields that is torn":       append(header(nil, open, 2), 1, 2),
	} {
		feed(t, s, append(hi(), b...))
		if delivered, _, open := d.count(); delivered != 0 || open != 0 {
			t.Errorf("%s: %d delivered, %d open", name, delivered, open)
		}
	}
	feed(t, s, message) // before hello
	feed(t, s, append(hi(), append(opens(nil), message...)...))
	if delivered, _, _ := d.count(); delivered != 1 {
		t.Errorf("%d delivered", delivered)
	}
}

// Memory does not grow with the message: 256 MiB pass, and little is allocated.
func TestLink_Memory(t *testing.T) {
	if raced {
		t.Skip("the race detector drops what is pooled")
	}
	w := newWorld(t, discard{}, beat, nil)
	text := octets(strings.Repeat("x", 64<<10))
	send := func(pieces int) {
		tx := w.begin(delivery())
		_ = tx.Data(t.Context(), mail.Plain)
		for range pieces {
			if err := tx.Write(text); err != nil {
				t.Fatal(err)
			}
		}
		if out := tx.Commit(t.Context(), text); out[0].Reply.Code != 250 {
			t.Fatal(out)
		}
	}
	send(64)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send(4096)
	runtime.ReadMemStats(&after)
	if grew := after.TotalAlloc - before.TotalAlloc; grew > 8<<20 {
		t.Errorf("%d octets were allocated", grew)
	}
}

// discard is a Beginner that accepts everything and keeps nothing.
type discard struct{}

func (discard) Begin(context.Context, mail.Delivery) (mail.Transaction, error) {
	return &nowhere{}, nil
}

type nowhere struct{ out [1]mail.Outcome }

func (*nowhere) Rcpt(context.Context, mail.Path) error { return nil }
func (*nowhere) Data(context.Context, mail.Form) error { return nil }
func (*nowhere) Write(mail.Octets) error               { return nil }
func (*nowhere) Abort()                                {}
func (*nowhere) Lend() bool                            { return false }
func (*nowhere) Renew(context.Context) error           { return nil }
func (*nowhere) Stream(context.Context) error          { return nil }
func (*nowhere) Wanted() bool                          { return false }
func (*nowhere) SMTPUTF8() bool                        { return false }
func (n *nowhere) Commit(context.Context, mail.Octets) []mail.Outcome {
	n.out[0] = mail.Outcome{
		Reply: mail.NewReply(250, 0, 0, "queued"), Host: "mx.h.example", TLS: "TLS 1.3", Reused: true,
	}
	return n.out[:]
}
