package model

import "strings"

// A result is what a search has found.
type result struct {
	worlds int
	edges  int
	broken string   // the first invariant that is broken, "" if none is
	trace  []string // what led there
	rare   [rarities]int
}

// search visits every world that can be reached, the nearest first, until an invariant is broken. Then it looks for a
// world from which its clients never get their answers, though nothing goes wrong any more.
func search(m model) result {
	first := m.first()
	index := map[world]int32{first: 0}
	worlds := []world{first}
	from := []int32{-1}
	back := make([]int32, 0, 1<<16) // pairs of worlds, joined by what is no fault: from, to
	var out []edge
	r := result{}
	for i := 0; i < len(worlds); i++ {
		w := worlds[i]
		out = m.edges(&w, out[:0])
		for n := range out {
			e := &out[n]
			j, ok := index[e.to]
			if !ok {
				j = int32(len(worlds))
				index[e.to] = j
				worlds = append(worlds, e.to)
				from = append(from, int32(i))
			}
			if !e.chance {
				back = append(back, int32(i), j)
			}
		}
		r.edges += len(out)
		if m.broken != "" {
			r.broken, r.trace = m.broken, m.trace(worlds, from, int32(i))
			break
		}
	}
	r.worlds, r.rare = len(worlds), m.rare
	if r.broken == "" {
		if at := stuck(worlds, back); at >= 0 {
			r.broken, r.trace = "a client never gets its answer", m.trace(worlds, from, at)
		}
	}
	return r
}

// trace returns what led to a world, and what may happen there.
func (m *model) trace(worlds []world, from []int32, at int32) []string {
	var steps []string
	for here := at; from[here] >= 0; here = from[here] {
		scratch := *m
		for _, e := range scratch.edges(&worlds[from[here]], nil) {
			if e.to == worlds[here] {
				steps = append([]string{e.String()}, steps...)
				break
			}
		}
	}
	var last []string
	for _, e := range m.edges(&worlds[at], nil) {
		last = append(last, e.String())
	}
	return append(steps, "one of: "+strings.Join(last, "; "))
}

// stuck returns a world from which no end can be reached without a fault, -1 if there is none. back are pairs of
// worlds: from, to.
func stuck(worlds []world, back []int32) int32 {
	head := make([]int32, len(worlds))
	for i := range head {
		head[i] = -1
	}
	next := make([]int32, len(back)/2) // the pairs that lead to one world are a list
	for n := range next {
		to := back[2*n+1]
		next[n], head[to] = head[to], int32(n)
	}
	ends := make([]bool, len(worlds))
	var queue []int32
	for i := range worlds {
		if worlds[i].ended() {
			ends[i] = true
			queue = append(queue, int32(i))
		}
	}
	for len(queue) > 0 {
		at := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for n := head[at]; n >= 0; n = next[n] {
			if i := back[2*n]; !ends[i] {
				ends[i] = true
				queue = append(queue, i)
			}
		}
	}
	for i, ended := range ends {
		if !ended {
			return int32(i)
		}
	}
	return -1
}
