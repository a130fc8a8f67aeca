package message

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/router/mail"
)

// A headerBuffer holds a header section, without the dots that were added to it, and the fields that are put above it.
type headerBuffer struct{ header, fields []byte }

// maxKept is the most octets of a headerBuffer that are kept for the next message.
const maxKept = 32 << 10

// headerBuffers lends buffers and counts what they hold.
type headerBuffers struct {
	pool sync.Pool
	lent atomic.Int64 // octets
}

func (p *headerBuffers) take() *headerBuffer {
	if b, ok := p.pool.Get().(*headerBuffer); ok {
		p.lent.Add(b.size())
		return b
	}
	return &headerBuffer{}
}

// grown counts what a buffer has grown by since it had size octets.
func (p *headerBuffers) grown(b *headerBuffer, size int64) { p.lent.Add(b.size() - size) }

func (p *headerBuffers) giveBack(b *headerBuffer) {
	p.lent.Add(-b.size())
	if b.size() > maxKept {
		return
	}
	b.header, b.fields = b.header[:0], b.fields[:0]
	p.pool.Put(b)
}

func (b *headerBuffer) size() int64 { return int64(cap(b.header) + cap(b.fields)) }

// appendHeader takes the first n octets of o into the header section.
func (p *headerBuffers) appendHeader(b *headerBuffer, o mail.Octets, n int) {
	size := b.size()
	if n > cap(b.header)-len(b.header) { // doubled, so that what is outgrown is no more than what is kept
		b.header = slices.Grow(b.header, max(n, len(b.header)))
	}
	b.header = o.AppendPlain(b.header, n)
	p.grown(b, size)
}
