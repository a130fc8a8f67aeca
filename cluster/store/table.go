package store

import (
	"hash/maphash"
	"sync"
)

// shards is a power of two, enough that a few dozen cores seldom meet.
const shards = 16

// A table is a bounded map in shards. When a shard is full, what was not used for longest is forgotten. What has
// expired is the business of whoever reads it: it goes when its turn comes. Make one with newTable.
type table[K comparable, V any] struct {
	seed  maphash.Seed
	own   func(K) K // makes a key that keeps no foreign memory alive; nil: any key is such
	parts [shards]part[K, V]
}

// A part is one shard: a map and a ring of entries in order of use. root.next is the most recently used one.
type part[K comparable, V any] struct {
	mu      sync.Mutex
	entries map[K]*entry[K, V]
	root    entry[K, V]
	most    int
	evicted uint64
}

type entry[K comparable, V any] struct {
	key        K
	value      V
	prev, next *entry[K, V]
}

// newTable makes a table of about size entries.
func newTable[K comparable, V any](size int, own func(K) K) *table[K, V] {
	t := &table[K, V]{seed: maphash.MakeSeed(), own: own}
	for i := range t.parts {
		p := &t.parts[i]
		p.entries = make(map[K]*entry[K, V])
		p.root.prev, p.root.next = &p.root, &p.root
		p.most = max(1, size/shards)
	}
	return t
}

func (t *table[K, V]) part(k K) *part[K, V] {
	return &t.parts[maphash.Comparable(t.seed, k)%shards]
}

// get gives the value of k, the zero value if there is none.
func (t *table[K, V]) get(k K) V {
	p := t.part(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[k]
	if e == nil {
		var none V
		return none
	}
	p.touch(e)
	return e.value
}

// put sets the value of k.
func (t *table[K, V]) put(k K, v V) {
	value, p := t.hold(k)
	*value = v
	p.mu.Unlock()
}

// hold gives the place of k's value, which is the zero value if k is new. The caller unlocks the part soon, and the
// place is his only until then.
func (t *table[K, V]) hold(k K) (*V, *part[K, V]) {
	p := t.part(k)
	p.mu.Lock()
	e := p.entries[k]
	if e != nil {
		p.touch(e)
		return &e.value, p
	}
	if len(p.entries) < p.most {
		e = new(entry[K, V])
	} else { // the one to be forgotten makes room
		e = p.root.prev
		e.unlink()
		delete(p.entries, e.key)
		*e = entry[K, V]{}
		p.evicted++
	}
	if t.own != nil {
		k = t.own(k)
	}
	e.key = k
	p.entries[k] = e
	p.link(e)
	return &e.value, p
}

// remove forgets k.
func (t *table[K, V]) remove(k K) {
	p := t.part(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[k]; e != nil {
		e.unlink()
		delete(p.entries, k)
	}
}

// size gives the number of entries now and of those forgotten for want of room.
func (t *table[K, V]) size() (held int, evicted uint64) {
	for i := range t.parts {
		p := &t.parts[i]
		p.mu.Lock()
		held += len(p.entries)
		evicted += p.evicted
		p.mu.Unlock()
	}
	return held, evicted
}

func (p *part[K, V]) touch(e *entry[K, V]) {
	if p.root.next != e {
		e.unlink()
		p.link(e)
	}
}

func (p *part[K, V]) link(e *entry[K, V]) {
	e.prev, e.next = &p.root, p.root.next
	e.prev.next, e.next.prev = e, e
}

func (e *entry[K, V]) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}
