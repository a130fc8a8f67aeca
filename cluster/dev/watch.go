package dev

import (
	"context"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

// tourHelo is the end of the name that the client of the tour says in EHLO. It tells the events of the tour from those
// of other clients.
const tourHelo = ".tour.example"

// A watch receives every event of the node. It keeps those of the tour, and shows those of other clients on the
// console.
type watch struct {
	screen *console

	mu      sync.Mutex
	ended   map[mail.TraceID]mail.Event // how transactions of the tour ended
	waiting map[mail.TraceID]chan struct{}
	live    bool // events of other clients are shown
}

func newWatch(screen *console) *watch {
	return &watch{
		screen: screen, ended: make(map[mail.TraceID]mail.Event), waiting: make(map[mail.TraceID]chan struct{}),
	}
}

// ends reports whether an event of this kind is the last of its transaction that a reader wants to see.
func ends(k mail.Kind) bool {
	switch k {
	case mail.Refused, mail.Relayed, mail.Dropped, mail.Deferred, mail.Aborted:
		return true
	}
	return false
}

// see receives one event. The lock is not held while the console writes.
func (w *watch) see(e *mail.Event) {
	if !ends(e.Kind) {
		return
	}
	if e.Kind == mail.Aborted && e.Recipients == 0 {
		return // every recipient was refused, and has an event of its own
	}
	w.mu.Lock()
	if strings.HasSuffix(e.Helo, tourHelo) {
		if _, twice := w.ended[e.Trace]; !twice {
			w.ended[e.Trace] = *e
			if ch, ok := w.waiting[e.Trace]; ok {
				close(ch)
				delete(w.waiting, e.Trace)
			}
		}
		w.mu.Unlock()
		return
	}
	live := w.live
	w.mu.Unlock()
	if live {
		w.screen.others(e)
	}
}

// await returns the event that a transaction of the tour ended with. It reports false if ctx ended first.
func (w *watch) await(ctx context.Context, id mail.TraceID) (mail.Event, bool) {
	w.mu.Lock()
	e, ok := w.ended[id]
	ch, waits := w.waiting[id]
	if !ok && !waits {
		ch = make(chan struct{})
		w.waiting[id] = ch
	}
	w.mu.Unlock()
	if ok {
		return e, true
	}
	select {
	case <-ch:
	case <-ctx.Done():
		return mail.Event{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended[id], true
}

// show makes the watch show the transactions of other clients from now on.
func (w *watch) show() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live = true
}
