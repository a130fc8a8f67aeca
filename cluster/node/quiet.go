package node

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// Connections leave garbage behind when they are opened, TLS most of all: as much as they keep. The runtime collects it
// when as much again was allocated, and returns nothing to the system below that mark. A node whose connections idle
// allocates next to nothing, so it would hold twice what it needs for as long as they stay. What would be used again in
// a minute or later is therefore collected and returned at once.

const (
	heapLookEvery = 5 * time.Second
	soonEnough    = time.Minute // until the next collection of the runtime's own
	leastWaste    = 4 << 20     // octets that are worth a collection
)

// A heapLook is what the runtime says of the heap, in octets.
type heapLook struct {
	allocated uint64 // since the process started
	live      uint64 // at the last collection
	used      uint64 // with what is garbage by now
	free      uint64 // held, and not used
	goal      uint64 // at which the next collection begins
}

// lookAtHeap asks the runtime.
func lookAtHeap() heapLook {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/goal:bytes"},
	}
	metrics.Read(s)
	of := func(i int) uint64 { return s[i].Value.Uint64() }
	return heapLook{allocated: of(0), live: of(1), used: of(2), free: of(3), goal: of(4)}
}

// isWorthwhile reports whether there is much to give back, and the runtime's own next collection, at the rate since
// before, heapLookEvery ago, is far away.
func (l heapLook) isWorthwhile(before heapLook) bool {
	if l.used+l.free < l.live+max(leastWaste, l.live/8) || l.goal < l.used {
		return false
	}
	perLook := l.allocated - before.allocated
	return perLook*uint64(soonEnough/heapLookEvery) < l.goal-l.used
}

// startQuiet begins to give memory back to the system while little is allocated. It returns what ends that.
func startQuiet() (end func(context.Context) error) {
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() { // ends with stop
		tick := time.NewTicker(heapLookEvery)
		defer tick.Stop()
		for before := lookAtHeap(); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			now := lookAtHeap()
			if now.isWorthwhile(before) {
				debug.FreeOSMemory()
				now = lookAtHeap()
			}
			before = now
		}
	})
	return func(context.Context) error {
		close(stop)
		looking.Wait()
		return nil
	}
}
