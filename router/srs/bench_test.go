package srs

import (
	"sync"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

var benchmarks = []struct{ name, sender string }{
	{"SRS0", "bounces+1234567-alice=hosted.example@mail.sender.example"},
	{"SRS1", "SRS0=Ufhb=JL=mail.sender.example=bounces+1234567-alice=hosted.example@first.example"},
	{"quoted", `"a \"quoted\" one"@sender.example`},
}

var sink mail.Path

func BenchmarkForward(b *testing.B) {
	w := rewriter(b, "srs.example", noon, keyA, keyB)
	for _, bb := range benchmarks {
		b.Run(bb.name, func(b *testing.B) {
			p := path(b, bb.sender)
			b.ReportAllocs()
			for b.Loop() {
				sink, _ = w.Forward(p, mail.OpensToBounces, client)
			}
		})
	}
}

// BenchmarkReverse has two keys, as on the days around a rotation.
func BenchmarkReverse(b *testing.B) {
	w := rewriter(b, "srs.example", noon, keyA, keyB)
	for _, bb := range benchmarks {
		b.Run(bb.name, func(b *testing.B) {
			p := forward(b, w, path(b, bb.sender))
			b.ReportAllocs()
			for b.Loop() {
				sink, _, _ = w.Reverse(p)
			}
		})
	}
}

// TestRewriter_Allocations: Forward allocates one string. Every forwarded message passes it.
func TestRewriter_Allocations(t *testing.T) {
	probe := sync.Pool{New: func() any { return nil }}
	for range 100 {
		if probe.Put(t); probe.Get() == nil {
			t.Skip("the race detector empties pools at random")
		}
	}
	w := rewriter(t, "srs.example", noon, keyA, keyB)
	for _, bb := range benchmarks[:2] {
		p := path(t, bb.sender)
		if n := testing.AllocsPerRun(100, func() { sink, _ = w.Forward(p, mail.OpensToBounces, client) }); n > 1 {
			t.Errorf("%s: %v allocations", bb.name, n)
		}
	}
}
