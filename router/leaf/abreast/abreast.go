// Package abreast does several things at a time and waits for all of them.
//
// It owns the goroutines and what becomes of a panic in one. It refuses to know what is done: deadlines and results are
// its callers'.
package abreast

import "sync"

// Do calls do with each number below n, for all at a time, and awaits them. The last one runs on the caller's
// goroutine. A panic is that of the caller.
func Do(n int, do func(i int)) {
	if n == 1 {
		do(0)
		return
	}
	var wait sync.WaitGroup
	panics := make([]any, n)
	run := func(i int) {
		defer func() { panics[i] = recover() }()
		do(i)
	}
	for i := range n - 1 {
		wait.Go(func() { run(i) })
	}
	if n > 0 {
		run(n - 1)
	}
	wait.Wait()
	for _, p := range panics {
		if p != nil {
			panic(p)
		}
	}
}
