package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
)

var sizes = []struct {
	name   string
	octets int
}{{"4KiB", 4 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}}

// BenchmarkRelay sends messages over loopback through a subject to a bare destination, in eight sessions at a time.
func BenchmarkRelay(b *testing.B) {
	for _, size := range sizes {
		for _, path := range []struct {
			name    string
			in, out bool // BDAT
		}{
			{"DATA-DATA", false, false}, {"DATA-BDAT", false, true}, {"BDAT-DATA", true, false},
			{"BDAT-BDAT", true, true},
		} {
			for _, subject := range []struct {
				name  string
				start func(*testing.B, string) string
			}{{"none", nothing}, {"millrace", millrace}, {"naive-go", naive}} {
				if subject.name == "naive-go" && path.out || subject.name == "none" && path.in != path.out {
					continue // go-smtp's client has no BDAT; nothing turns one into the other
				}
				b.Run(fmt.Sprintf("size=%s/path=%s/x=%s", size.name, path.name, subject.name), func(b *testing.B) {
					addr := subject.start(b, sink(b, path.out))
					run(b, addr, path.in, body(size.octets))
				})
			}
		}
	}
}

// nothing is no relay at all.
func nothing(_ *testing.B, sink string) string { return sink }

// millrace is a node with nothing but a rule.
func millrace(b *testing.B, sink string) string {
	b.Helper()
	return serve(b, b.TempDir(), "listen: [{addr: \"127.0.0.1:0\"}]\n", unjudged(sink))
}

// unjudged are rules that lead to sink and have no message looked at.
func unjudged(sink string) string {
	return "domain * dmarc=off require_auth=no seal=never\n@bench.example smtp://" + sink + "\n"
}

// serve runs a node on the files of dir until the benchmark ends, and returns its address. Extra is what stands in its
// configuration besides what every node here has.
func serve(b testing.TB, dir, extra, routes string) string {
	b.Helper()
	file := filepath.Join(dir, "millrace.yaml")
	text := "hostname: relay.example\npostmaster: ops@elsewhere.example\nroutes: routes.txt\n" +
		"limits: {connections_per_client: 1000}\n" + extra
	if !strings.Contains(extra, "log:") {
		text += "log: {level: error}\n"
	}
	for name, content := range map[string]string{file: text, filepath.Join(dir, "routes.txt"): routes} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	cfg, err := config.Load(file)
	if err != nil {
		b.Fatal(err)
	}
	n, err := node.New(cfg, node.Options{Stderr: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	if err := n.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := n.Shutdown(ctx); err != nil {
			b.Error(err)
		}
	})
	return n.Addrs()[0].String()
}

// run sends b.N messages.
func run(b *testing.B, addr string, bdat bool, message []byte) {
	b.Helper()
	const sessions = 8
	senders := make(chan *sender, sessions)
	for range sessions {
		s, err := dial(addr, bdat, message)
		if err != nil {
			b.Fatal(err)
		}
		defer s.conn.Close()
		if err := s.send(); err != nil { // warm: sessions upstream, pools, growing buffers
			b.Fatal(err)
		}
		senders <- s
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan error, sessions)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	before := cpu()
	b.ResetTimer()
	for range sessions {
		go func() { // ends when all messages are sent; awaited below
			s := <-senders
			for left.Add(-1) >= 0 {
				if err := s.send(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range sessions {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
}

// cpu is the user and system time that this process has taken.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
