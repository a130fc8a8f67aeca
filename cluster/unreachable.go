package cluster

import (
	"sync/atomic"
	"time"
)

// unreachable are the nodes that this node could not reach recently. Its zero value is empty.
type unreachable struct {
	until atomic.Pointer[map[string]time.Time] // nil if empty; a published map is never changed
}

// has reports whether a node is unreachable now.
func (u *unreachable) has(node string, now func() time.Time) bool {
	nodes := u.until.Load()
	if nodes == nil {
		return false
	}
	until, ok := (*nodes)[node]
	return ok && now().Before(until)
}

// set sets until when a node is unreachable. A time that is not after now removes it.
func (u *unreachable) set(node string, until, now time.Time) {
	for {
		old := u.until.Load()
		next := make(map[string]time.Time)
		if old != nil {
			for name, t := range *old {
				if now.Before(t) {
					next[name] = t
				}
			}
		}
		delete(next, node)
		if now.Before(until) {
			next[node] = until
		}
		nodes := &next
		if len(next) == 0 {
			nodes = nil
		}
		if u.until.CompareAndSwap(old, nodes) {
			return
		}
	}
}
