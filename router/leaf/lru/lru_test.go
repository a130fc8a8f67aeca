package lru

import (
	"fmt"
	"sync"
	"testing"
)

// The least recently used entry is evicted first.
func TestCache_Eviction(t *testing.T) {
	c := New[string, int](shards * 3)
	p := c.part("a")
	var keys []string // all in the same shard as "a"
	for i := 0; len(keys) < 4; i++ {
		if k := fmt.Sprint("k", i); c.part(k) == p {
			keys = append(keys, k)
		}
	}
	for i, k := range keys[:3] {
		c.Put(k, i, 1)
	}
	if _, ok := c.Get(keys[0]); !ok {
		t.Fatal("the first value is gone before the cache is full")
	}
	c.Put(keys[3], 3, 1)
	for i, want := range []bool{true, false, true, true} {
		if _, got := c.Get(keys[i]); got != want {
			t.Errorf("%s held: got %v, want %v", keys[i], got, want)
		}
	}
}

// The weight of all values is bounded.
func TestCache_Weight(t *testing.T) {
	c := New[int, int](1600)
	for i := range 10000 {
		c.Put(i, i, i%7)
	}
	for i := range c.parts {
		p := &c.parts[i]
		sum := 0
		for _, e := range p.entries {
			sum += e.weight
		}
		if p.weight > p.most || sum != p.weight {
			t.Errorf("shard %d: weight %d (counted %d), at most %d", i, p.weight, sum, p.most)
		}
	}
	c.Put(1, 1, 1000)
	if _, ok := c.Get(1); ok {
		t.Error("a value heavier than its shard was kept")
	}
}

// A value can be replaced and deleted.
func TestCache_PutDelete(t *testing.T) {
	c := New[string, int](100)
	c.Put("a", 1, 1)
	c.Put("a", 2, 2)
	if got, _ := c.Get("a"); got != 2 || c.Len() != 1 {
		t.Errorf("got %d and %d values, want 2 and 1", got, c.Len())
	}
	c.Delete("a")
	c.Delete("b")
	if _, ok := c.Get("a"); ok || c.Len() != 0 {
		t.Error("a deleted value is still there")
	}
}

// A hit allocates nothing.
func TestCache_Allocations(t *testing.T) {
	c := New[string, int](100)
	c.Put("example.com", 1, 1)
	if n := testing.AllocsPerRun(100, func() { c.Get("example.com") }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

// A Cache may be used concurrently.
func TestCache_Concurrent(t *testing.T) {
	c := New[int, int](64)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 2000 {
				c.Put(i%200, g, 1)
				c.Get((i + g) % 200)
				c.Delete(i % 50)
			}
		})
	}
	all.Wait()
}
