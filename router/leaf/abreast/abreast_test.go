package abreast

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestDo(t *testing.T) {
	for n := range 4 {
		var calls atomic.Int32
		var all sync.WaitGroup
		all.Add(n)
		Do(n, func(int) {
			calls.Add(1)
			all.Done()
			all.Wait() // each is there before one ends
		})
		if int(calls.Load()) != n {
			t.Errorf("%d calls, want %d", calls.Load(), n)
		}
	}
}

func TestDo_Panics(t *testing.T) {
	for _, n := range []int{1, 3} {
		func() {
			defer func() {
				if got := recover(); got != "first" {
					t.Errorf("got %v", got)
				}
			}()
			Do(n, func(i int) {
				if i == 0 {
					panic("first")
				}
			})
		}()
	}
}
