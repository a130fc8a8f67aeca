package message

import (
	"slices"
	"sync"

	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/router/mail"
)

// A headerBuffer holds a header section, without the dots that were added to it, and the fields that are put above it.
type headerBuffer struct{ header, fields []byte }

// maxKept is the most octets of a headerBuffer that are kept for the next message.
const maxKept = 32 << 10

// headerBuffers lends buffers. What they hold counts as the message's.
type headerBuffers struct{ pool sync.Pool }

func (p *headerBuffers) take(body *wire.Body) *headerBuffer {
	if b, ok := p.pool.Get().(*headerBuffer); ok {
		body.Count(b.size())
		return b
	}
	return &headerBuffer{}
}

func (p *headerBuffers) giveBack(b *headerBuffer, body *wire.Body) {
	body.Count(-b.size())
	if b.size() > maxKept {
		return
	}
	b.header, b.fields = b.header[:0], b.fields[:0]
	p.pool.Put(b)
}

func (b *headerBuffer) size() int { return cap(b.header) + cap(b.fields) }

// appendHeader takes the first n octets of o into the header section.
func (b *headerBuffer) appendHeader(o mail.Octets, n int) {
	if n > cap(b.header)-len(b.header) { // doubled, so that what is outgrown is no more than what is kept
		b.header = slices.Grow(b.header, max(n, len(b.header)))
	}
	b.header = o.AppendPlain(b.header, n)
}
