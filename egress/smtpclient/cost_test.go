package smtpclient

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A message costs few system calls on a reused connection.
func TestClient_Calls(t *testing.T) {
	ca := smtptest.NewCA()
	text := strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64)
	for _, tc := range []struct {
		name          string
		ext           []string
		tls           TLSPolicy
		form          mail.Form
		writes, reads int
	}{
		{"by DATA", smtptest.Without("CHUNKING"), None, mail.Stuffed, 3, 3},
		{"by DATA in TLS", smtptest.Without("CHUNKING"), Required, mail.Stuffed, 3, 3},
		{"by BDAT", nil, None, mail.Plain, 2, 2},
		{"by BDAT from DATA", nil, None, mail.Stuffed, 2, 2},
		{"by BDAT in TLS", nil, Required, mail.Plain, 2, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{Extensions: tc.ext, TLS: ca.Server("mx.dest.test")})
			tg := target(d)
			tg.TLS, tg.TLSConfig = tc.tls, ca.Client()
			s := dial(t, tg)
			piece := octets(text, 0, tc.form == mail.Stuffed)
			send(t, s, tc.form, piece)
			const n = 20
			s.wire.writes, s.wire.reads = 0, 0
			for range n {
				if out := send(t, s, tc.form, piece); out[0].Reply.Code != 250 {
					t.Fatalf("got %+v", out)
				}
			}
			if s.wire.writes != n*tc.writes {
				t.Errorf("got %d writes for %d messages, want %d each", s.wire.writes, n, tc.writes)
			}
			// Two replies to one write may come apart now and then.
			if got, most := s.wire.reads, n*(tc.reads+1); got < n*tc.reads || got > most {
				t.Errorf("got %d reads for %d messages, want %d each, at most %d", got, n, tc.reads, most)
			}
		})
	}
}

// sink answers as a destination that allocates nothing, so that what is counted is the client's.
func sink(t testing.TB, ehlo string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() { // ends when the client closes its one connection, or the listener is closed
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 256<<10)
		conn.Write([]byte("220 sink\r\n"))
		hello, two, one, goOn := []byte(ehlo), []byte("250 2.1.0 ok\r\n250 2.1.5 "+
			"ok\r\n"), []byte("250 2.0.0 queued as 17\r\n"), []byte("354 go\r\n")
		want := 0 // octets of a chunk that are still to come
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			b := buf[:n]
			switch {
			case want > 0:
				if want -= n; want == 0 {
					conn.Write(one)
				}
			case bytes.HasPrefix(b, []byte("EHLO")):
				conn.Write(hello)
			case bytes.HasPrefix(b, []byte("MAIL")):
				conn.Write(two)
			case bytes.Equal(b, []byte("DATA\r\n")):
				conn.Write(goOn)
			case bytes.HasPrefix(b, []byte("BDAT ")):
				line := bytes.IndexByte(b, '\n') + 1
				for _, c := range b[5:line] {
					if ascii.IsDigit(c) {
						want = want*10 + int(c-'0')
					}
				}
				if want -= n - line; want == 0 {
					conn.Write(one)
				}
			case bytes.HasSuffix(b, []byte("\r\n.\r\n")):
				conn.Write(one)
			}
		}
	}()
	return l.Addr().String()
}

func message(t testing.TB, s *Client, d *mail.Delivery, to mail.Path, o mail.Octets) {
	ctx := context.Background()
	s.Begin(*d)
	if err := s.Rcpt(ctx, to); err != nil {
		t.Fatal(err)
	}
	if err := s.Data(ctx, mail.Stuffed); err != nil {
		t.Fatal(err)
	}
	if out := s.Commit(ctx, o); out[0].Reply.Code != 250 {
		t.Fatalf("got %+v", out)
	}
}

// A message allocates little, whatever its size.
func TestClient_Allocations(t *testing.T) {
	for _, ehlo := range []string{"250-sink\r\n250 PIPELINING\r\n", "250-sink\r\n250-CHUNKING\r\n250 PIPELINING\r\n"} {
		s := dial(t, Target{Network: "tcp", Addr: sink(t, ehlo), Host: "sink"})
		d, to := &mail.Delivery{Reverse: path("a@b.test")}, path("c@d.test")
		for _, size := range []int{4 << 10, 64 << 10} {
			o := octets(strings.Repeat(strings.Repeat("x", 62)+"\r\n", size/64), 0, true)
			got := testing.AllocsPerRun(200, func() { message(t, s, d, to, o) })
			if got > 3 {
				t.Errorf("%d octets: got %v allocations", size, got)
			}
		}
		s.Close()
	}
}

func BenchmarkMessage(b *testing.B) {
	for _, bc := range []struct{ name, ehlo string }{
		{"DATA", "250-sink\r\n250 PIPELINING\r\n"}, {"BDAT", "250-sink\r\n250-CHUNKING\r\n250 PIPELINING\r\n"},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s := dial(b, Target{Network: "tcp", Addr: sink(b, bc.ehlo), Host: "sink"})
			d, to := &mail.Delivery{Reverse: path("a@b.test")}, path("c@d.test")
			o := octets(strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64), 0, true)
			b.ReportAllocs()
			for b.Loop() {
				message(b, s, d, to, o)
			}
			s.Close()
		})
	}
}
