package wire

import (
	"sync"
	"sync/atomic"
)

// The parts of a slab in octets. The first piece of a message leaves the headroom free for fields that are written
// before it; other pieces use all of the slab.
const (
	Headroom   = 16 << 10
	SlabOctets = 72 << 10 // what the first piece of a message may hold: 64 KiB and a header section
	slabSize   = Headroom + SlabOctets
)

// withheld is how many octets of a full slab is kept for the next piece. It is far more than the three octets of
// ".CRLF", so that the last piece of a message is never empty.
const withheld = 512

type slab [slabSize]byte

// Slabs is a pool of slabs. The zero value is ready; it is safe for concurrent use and is meant to be shared by all
// listeners of a node.
type Slabs struct {
	pool sync.Pool
	lent atomic.Int64
}

// Lent returns the number of slabs that are in use now.
func (s *Slabs) Lent() int { return int(s.lent.Load()) }

func (s *Slabs) take() *slab {
	s.lent.Add(1)
	if b, ok := s.pool.Get().(*slab); ok {
		return b
	}
	return new(slab)
}

func (s *Slabs) release(b *slab) {
	s.lent.Add(-1)
	s.pool.Put(b)
}
