package peer

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// BenchmarkHop sends one message over the hop, with client and server in this process. cpu-us/op is the CPU time of
// both.
func BenchmarkHop(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := newWorld(b, discard{}, beat, nil)
			w.client.cfg.Addr = func(string) (string, bool) { return w.addr, true }
			d := delivery()
			last := octets(strings.Repeat("x", min(size, 64<<10)))
			pieces := size/(64<<10) - 1
			ctx := mail.Until(context.Background(), time.Now().Add(time.Hour))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			before := cpu(b)
			b.ResetTimer()
			for range b.N {
				tx, err := w.client.Begin(ctx, "b", d)
				if err == nil {
					err = tx.Rcpt(ctx, to("x"))
				}
				if err == nil {
					err = tx.Data(ctx, mail.Stuffed)
				}
				for range pieces {
					if err == nil {
						err = tx.Write(last)
					}
				}
				if err != nil {
					b.Fatal(err)
				}
				if out := tx.Commit(ctx, last); out[0].Reply.Code != 250 {
					b.Fatal(out)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu(b)-before)/float64(time.Microsecond)/float64(b.N), "cpu-us/op")
		})
	}
}

// cpu returns the CPU time of this process.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
