package smtpclient

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// startTeller starts a destination that answers each verb with these writes, one after another. nagle has its TCP wait
// for the acknowledgement of one small segment before it sends the next.
func startTeller(t testing.TB, nagle bool, replies map[string][]string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() { // ends when the client closes its one connection, or with the listener
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetNoDelay(!nagle)
		}
		in, inData := bufio.NewReader(conn), false
		for verb := "GREETING"; ; {
			for _, piece := range replies[verb] {
				io.WriteString(conn, piece)
			}
			for verb = ""; verb == ""; {
				line, err := in.ReadString('\n')
				switch {
				case err != nil:
					return
				case line == ".\r\n":
					verb, inData = "DOT", false
				case !inData:
					verb, _, _ = strings.Cut(strings.TrimSpace(line), " ")
					inData = verb == "DATA"
				}
			}
		}
	}()
	return l.Addr().String()
}

// apart answers each command in a write of its own; together answers MAIL with the RCPT that came behind it.
func apart() map[string][]string {
	return map[string][]string{
		"GREETING": {"220 mx\r\n"}, "EHLO": {"250-mx\r\n250 PIPELINING\r\n"}, "MAIL": {"250 2.1.0 ok\r\n"},
		"RCPT": {"250 2.1.5 ok\r\n"}, "DATA": {"354 go\r\n"}, "DOT": {"250 2.0.0 ok\r\n"},
	}
}

func together() map[string][]string {
	m := apart()
	m["MAIL"], m["RCPT"] = nil, []string{"250 2.1.0 ok\r\n250 2.1.5 ok\r\n"}
	return m
}

// Where the rest of a flight of replies came late once, what has come is acknowledged before the rest is waited for.
// Answers that come together cost nothing.
func TestClient_LateRest(t *testing.T) {
	lines := together()
	lines["DOT"] = []string{"250-2.0.0 scanned\r\n", "250 2.0.0 ok\r\n"}
	const messages = 20
	for _, tc := range []struct {
		name    string
		nagle   bool
		replies map[string][]string
		least   time.Duration // what is late
		want    int           // acknowledgements
	}{
		{"each reply in a segment of its own", true, apart(), 1, messages - 1},
		{"the lines of one reply", true, lines, 1, messages - 1},
		{"both replies in one segment", true, together(), 1, 0},
		{"both in one, without Nagle's algorithm", false, together(), 1, 0},
		{"apart, and never late", false, apart(), time.Hour, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			addr := startTeller(t, tc.nagle, tc.replies)
			c, err := Dial(t.Context(), Config{tune: tuning{rest: tc.least}},
				Target{Network: "tcp", Addr: addr, Host: "mx.dest.test", Helo: "relay.test"})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for i := range messages {
				out := send(t, c, mail.Stuffed, octets("a: b\r\n\r\nc\r\n", 0, true))
				if out[0].Reply.Code != 250 {
					t.Fatalf("message %d: got %+v", i, out)
				}
			}
			if got := c.wire.flight.acks; got != tc.want {
				t.Errorf("got %d acknowledgements for %d messages, want %d", got, messages, tc.want)
			}
		})
	}
}

// An acknowledgement that the kernel holds back goes out before the rest of a flight is read.
func TestWire_Acknowledges(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w, server := newWire(ours, time.Minute), newWire(conn, time.Minute)
	w.flight.least, w.flight.late = time.Hour, true
	b := make([]byte, 512)
	held := 0
	for i := range 30 {
		if _, err := w.Write([]byte("MAIL and RCPT")); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(b); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Write([]byte("250 for MAIL")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Read(b); err != nil {
			t.Fatal(err)
		}
		if server.fd.unacked() > 0 {
			held++
		}
		w.SetReadDeadline(time.Unix(1, 0))
		if _, err := w.Read(b); err == nil {
			t.Fatal("there is nothing to read")
		}
		w.SetReadDeadline(time.Time{})
		if n := server.fd.unacked(); n > 0 {
			t.Errorf("flight %d: %d octets are not acknowledged", i, n)
		}
	}
	if held == 0 || w.flight.acks != 30 {
		t.Errorf("%d acknowledgements were held back, %d were asked for", held, w.flight.acks)
	}
}

// What a message costs where each reply comes in a segment of its own, and where both come in one.
func BenchmarkFlight(b *testing.B) {
	for _, bc := range []struct {
		name    string
		nagle   bool
		replies map[string][]string
		least   time.Duration
	}{
		{"apart", true, apart(), lateRest},
		{"apart, held back", true, apart(), time.Hour},
		{"apart, without Nagle", false, apart(), lateRest},
		{"together", true, together(), lateRest},
	} {
		b.Run(bc.name, func(b *testing.B) {
			c, err := Dial(b.Context(), Config{tune: tuning{rest: bc.least}},
				Target{Network: "tcp", Addr: startTeller(b, bc.nagle, bc.replies), Host: "mx", Helo: "relay.test"})
			if err != nil {
				b.Fatal(err)
			}
			d, to := &mail.Delivery{Reverse: path("a@b.test")}, path("c@d.test")
			o := octets("a: b\r\n\r\nc\r\n", 0, true)
			for b.Loop() {
				message(b, c, d, to, o)
			}
			b.ReportMetric(float64(c.wire.flight.acks)/float64(b.N), "acks/op")
			c.Close()
		})
	}
}
