// Package lru is a bounded, sharded map that evicts the least recently used entries.
//
// It owns eviction and nothing else: it refuses to know what a value is or when it expires. A hit allocates nothing.
package lru

import (
	"hash/maphash"
	"sync"
)

// shards is a power of two, large enough that a few dozen cores seldom contend for a lock.
const shards = 16

// A Cache is a bounded map. All methods are safe for concurrent use. The zero Cache is not usable: make one with New.
type Cache[K comparable, V any] struct {
	seed  maphash.Seed
	parts [shards]part[K, V]
}

// A part is one shard: a map and a ring of entries in order of use. root.next is the most recently used one.
type part[K comparable, V any] struct {
	mu      sync.Mutex
	entries map[K]*entry[K, V]
	root    entry[K, V]
	weight  int // of all entries
	most    int // the bound of weight
}

type entry[K comparable, V any] struct {
	key        K
	value      V
	weight     int
	prev, next *entry[K, V]
}

// New returns a Cache that holds values of a total weight of about size. The bound is size/16 in each shard, and at
// least 1.
func New[K comparable, V any](size int) *Cache[K, V] {
	c := &Cache[K, V]{seed: maphash.MakeSeed()}
	for i := range c.parts {
		p := &c.parts[i]
		p.entries = make(map[K]*entry[K, V])
		p.root.prev, p.root.next = &p.root, &p.root
		p.most = max(1, size/shards)
	}
	return c
}

func (c *Cache[K, V]) part(k K) *part[K, V] {
	return &c.parts[maphash.Comparable(c.seed, k)%shards]
}

// Get returns the value of k and whether there is one. It makes k the most recently used key.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	p := c.part(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.entries[k]
	if !ok {
		var zero V
		return zero, false
	}
	if p.root.next != e {
		e.unlink()
		p.link(e)
	}
	return e.value, true
}

// Put sets the value of k and evicts the entries that no longer fit. A weight below 1 counts as 1. A value heavier than
// the bound of a shard is not kept, and the value that it replaces is deleted.
func (c *Cache[K, V]) Put(k K, v V, weight int) {
	weight = max(1, weight)
	p := c.part(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.entries[k]; ok {
		p.drop(old)
	}
	if weight > p.most {
		return
	}
	for p.weight+weight > p.most {
		p.drop(p.root.prev)
	}
	e := &entry[K, V]{key: k, value: v, weight: weight}
	p.entries[k] = e
	p.weight += weight
	p.link(e)
}

// Delete deletes k, if the Cache holds it.
func (c *Cache[K, V]) Delete(k K) {
	p := c.part(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.entries[k]; ok {
		p.drop(e)
	}
}

// Len returns the number of values held, for metrics and tests.
func (c *Cache[K, V]) Len() int {
	n := 0
	for i := range c.parts {
		p := &c.parts[i]
		p.mu.Lock()
		n += len(p.entries)
		p.mu.Unlock()
	}
	return n
}

func (p *part[K, V]) link(e *entry[K, V]) {
	e.prev, e.next = &p.root, p.root.next
	e.prev.next, e.next.prev = e, e
}

func (e *entry[K, V]) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}

func (p *part[K, V]) drop(e *entry[K, V]) {
	e.unlink()
	delete(p.entries, e.key)
	p.weight -= e.weight
}
