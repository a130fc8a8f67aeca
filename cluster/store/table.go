package store

import (
	"hash/maphash"
	"sync"
)

// shards is a power of two, large enough that a few dozen cores seldom contend for a lock.
const shards = 16

// A table is a bounded map in shards. A full shard evicts its least recently used entry. A table knows no expiry: its
// reader checks that, and expired entries stay until they are evicted. In contrast to lru.Cache its values are updated
// in place under the lock of their shard. Make one with newTable.
type table[K comparable, V any] struct {
	seed  maphash.Seed
	own   func(K) K // returns a copy of a key that keeps no other memory alive; nil if keys need no copy
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

// newTable returns a table of about size entries.
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

// get returns the value of k, or the zero value if the table does not hold k.
func (t *table[K, V]) get(k K) V {
	p := t.part(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[k]
	if e == nil {
		var zero V
		return zero
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

// hold returns a pointer to k's value, which is the zero value if k is new, and its locked part. The caller unlocks the
// part soon and does not use the pointer after that.
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
	} else { // reuse the evicted entry
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

// remove removes k.
func (t *table[K, V]) remove(k K) {
	p := t.part(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(k)
}

// drop removes k from its locked part.
func (p *part[K, V]) drop(k K) {
	if e := p.entries[k]; e != nil {
		e.unlink()
		delete(p.entries, k)
	}
}

// size returns the number of entries and the number of evictions so far.
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

// touch makes e the most recently used entry.
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
