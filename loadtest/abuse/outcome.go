package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// An outcome is what a trial has found, and what is to be cleaned up behind it. It is a world.TB.
type outcome struct {
	mu       sync.Mutex // over what follows
	harms    []string
	measured []string // figures of the attack
	cleanups []func()
}

// Helper is for world.TB.
func (o *outcome) Helper() {}

// Fatal ends the trial.
func (o *outcome) Fatal(args ...any) {
	o.harmed("%s", fmt.Sprint(args...))
	runtime.Goexit()
}

// Fatalf ends the trial.
func (o *outcome) Fatalf(format string, args ...any) { o.Fatal(fmt.Sprintf(format, args...)) }

// Cleanup has f called when the trial has ended.
func (o *outcome) Cleanup(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cleanups = append(o.cleanups, f)
}

// run calls f, which Fatal may end, and cleans up.
func (o *outcome) run(f func()) {
	done := make(chan struct{})
	go func() { // is awaited
		defer close(done)
		f()
	}()
	<-done
	for _, c := range slices.Backward(o.cleanups) {
		c()
	}
}

// harmed notes what must not be.
func (o *outcome) harmed(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.harms = append(o.harms, fmt.Sprintf(format, args...))
}

// tell adds a figure to the line of the scenario.
func (o *outcome) tell(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.measured = append(o.measured, fmt.Sprintf(format, args...))
}

func (o *outcome) figures() string {
	if len(o.measured) == 0 {
		return ""
	}
	return "; " + strings.Join(o.measured, ", ")
}
