package peer

import "sync"

// frameBuffers are the buffers that frames are read into, in two sizes: a small message fits into a small one, and
// every frame except those of fields into a large one.
type frameBuffers struct {
	small, large sync.Pool
}

// The sizes of the buffers in octets.
const (
	smallBuffer = 8 << 10
	largeBuffer = pieceHead + maxPiece + len(endOfData)
)

// get returns a buffer for n octets. A buffer for more than a piece is allocated and not pooled.
func (f *frameBuffers) get(n int) *[]byte {
	pool, size := &f.small, smallBuffer
	switch {
	case n > largeBuffer:
		pool, size = nil, n
	case n > smallBuffer:
		pool, size = &f.large, largeBuffer
	}
	if pool != nil {
		if b, ok := pool.Get().(*[]byte); ok {
			return b
		}
	}
	b := make([]byte, size)
	return &b
}

// put takes back a buffer that get returned.
func (f *frameBuffers) put(b *[]byte) {
	switch len(*b) {
	case smallBuffer:
		f.small.Put(b)
	case largeBuffer:
		f.large.Put(b)
	}
}
