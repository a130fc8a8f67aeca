package once

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"syscall"
	"testing"
	"time"
)

// BenchmarkHash compares what could hash a body under a key, on whole buffers and in turns: b.N is the number of
// rounds. cpu-us is the median of the process's CPU for one body.
func BenchmarkHash(b *testing.B) {
	key := make([]byte, keySize)
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for _, size := range []int{1 << 10, 4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			hashes := []struct {
				name string
				hash.Hash
				cpu []float64
			}{
				{name: "BLAKE3", Hash: newHash(key)}, {name: "SHA-256", Hash: hmac.New(sha256.New, key)},
			}
			text, sum := bytes.Repeat([]byte("octets"), size/6), make([]byte, 0, 32)
			times := max(1, 2<<20/size)
			for range b.N {
				for i := range hashes {
					h, before := &hashes[i], used()
					for range times {
						h.Reset()
						h.Write(text)
						h.Sum(sum)
					}
					h.cpu = append(h.cpu, float64(used()-before)/float64(times)/1000)
				}
			}
			for _, h := range hashes {
				slices.Sort(h.cpu)
				b.ReportMetric(h.cpu[len(h.cpu)/2], h.name+"-cpu-us")
			}
		})
	}
}
