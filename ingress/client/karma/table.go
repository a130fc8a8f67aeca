package karma

// A table holds at most 2n entries in two generations. When the young one is full, the old one is forgotten and the
// young one becomes the old one. An entry that is put again moves to the young one, so that what is in use stays. It is
// not safe for concurrent use.
type table[K comparable, V any] struct {
	young, old map[K]V
	n          int
}

func newTable[K comparable, V any](n int) *table[K, V] {
	return &table[K, V]{young: make(map[K]V), n: n}
}

// get returns the entry of k, the zero value if k has no entry.
func (t *table[K, V]) get(k K) V {
	if v, ok := t.young[k]; ok {
		return v
	}
	return t.old[k]
}

// put keeps the entry of k.
func (t *table[K, V]) put(k K, v V) {
	if _, held := t.young[k]; !held && len(t.young) >= t.n {
		t.old, t.young = t.young, make(map[K]V)
	}
	t.young[k] = v
}

// has reports whether k has an entry.
func (t *table[K, V]) has(k K) bool {
	if _, ok := t.young[k]; ok {
		return true
	}
	_, ok := t.old[k]
	return ok
}

// size returns how many entries are held, those of both generations counted twice.
func (t *table[K, V]) size() int { return len(t.young) + len(t.old) }
