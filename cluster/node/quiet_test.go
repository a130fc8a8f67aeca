package node

import "testing"

// TestHeapLook: memory is given back where much of it is garbage and the runtime's own collection is far away.
func TestHeapLook(t *testing.T) {
	look := func(allocated, live, used, free, goal uint64) heapLook {
		const mib = 1 << 20
		return heapLook{allocated * mib, live * mib, used * mib, free * mib, goal * mib}
	}
	before := look(1000, 0, 0, 0, 0)
	for name, c := range map[string]struct {
		now  heapLook
		want bool
	}{
		"many connections were opened and idle":  {look(1000, 100, 150, 0, 200), true},
		"collected, and all of it held":          {look(1000, 100, 101, 90, 200), true},
		"a little mail runs beside them":         {look(1002, 100, 150, 0, 200), true},
		"the runtime collects within the minute": {look(1005, 100, 150, 0, 200), false},
		"it is beyond the goal already":          {look(1000, 100, 201, 0, 200), false},
		"little waste":                           {look(1000, 100, 108, 4, 200), false},
		"a small heap":                           {look(1000, 2, 4, 1, 8), false},
		"just collected":                         {look(1000, 100, 100, 0, 200), false},
	} {
		if got := c.now.isWorthwhile(before); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if l := lookAtHeap(); l.allocated == 0 || l.used == 0 || l.goal == 0 {
		t.Errorf("the runtime says %+v", l)
	}
}
