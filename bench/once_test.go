package bench

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
)

// BenchmarkOnce sends messages that differ through a node without the ledger, with it, and with it in Redis.
func BenchmarkOnce(b *testing.B) {
	for _, size := range sizes {
		for _, subject := range []struct {
			name   string
			config func(*testing.B) string
		}{
			{"off", func(*testing.B) string { return "" }},
			{"on", func(*testing.B) string { return "once: true\n" }},
			{"redis", func(b *testing.B) string {
				return fmt.Sprintf("once: true\nredis: {url: \"redis://%s\"}\n", extern.StartRedis(b))
			}},
		} {
			b.Run(fmt.Sprintf("size=%s/once=%s", size.name, subject.name), func(b *testing.B) {
				addr := serve(b, b.TempDir(), "listen: [{addr: \"127.0.0.1:0\"}]\n"+subject.config(b),
					unjudged(sink(b, false)))
				differ(b, addr, size.octets)
			})
		}
	}
}

// serial is where the Message-ID of a message has its number.
const serial = "0000000000000000"

// differ sends b.N messages that differ, in one session.
func differ(b *testing.B, addr string, octets int) {
	b.Helper()
	head := "Message-ID: <" + serial + "@client.example>\r\nDate: Mon, 30 Nov 2026 09:00:00 +0000\r\n"
	s, err := dial(addr, false, append([]byte(head), body(octets-len(head))...))
	if err != nil {
		b.Fatal(err)
	}
	defer s.conn.Close()
	number := s.message[bytes.Index(s.message, []byte(serial)):][:len(serial)]
	sent := 0
	send := func() {
		sent++
		copy(number, fmt.Sprintf("%016x", sent))
		if err := s.send(); err != nil {
			b.Fatal(err)
		}
	}
	for range 20 { // warm: sessions upstream, pools, growing buffers
		send()
	}
	b.SetBytes(int64(octets))
	before := cpu()
	b.ResetTimer()
	for range b.N {
		send()
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}
