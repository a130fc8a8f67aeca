package dev

import (
	"context"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/mail"
)

// tourHelo ends the name that the client of the tour gives in EHLO, by which its events are told from everybody else's.
const tourHelo = ".tour.example"

// A watch sees every event of the node. Those of the tour wait for it; those of others go to the screen.
type watch struct {
	screen *console

	mu      sync.Mutex
	ended   map[mail.TraceID]mail.Event // how transactions of the tour ended
	waiting map[mail.TraceID]chan struct{}
	live    bool
}

func newWatch(screen *console) *watch {
	return &watch{
		screen: screen, ended: make(map[mail.TraceID]mail.Event), waiting: make(map[mail.TraceID]chan struct{}),
	}
}

// ends reports whether nothing comes after an event of this kind in its transaction, as far as a reader cares.
func ends(k mail.Kind) bool {
	switch k {
	case mail.Refused, mail.Relayed, mail.Dropped, mail.Deferred, mail.Aborted:
		return true
	}
	return false
}

// see takes one event. The lock is not held while the screen is written.
func (w *watch) see(e *mail.Event) {
	if !ends(e.Kind) || e.Kind == mail.Aborted && e.Recipients == 0 { // all were refused, and were told of before
		return
	}
	w.mu.Lock()
	if strings.HasSuffix(e.Helo, tourHelo) {
		if _, known := w.ended[e.Trace]; !known {
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

// await gives the event that a transaction of the tour ended with. It reports false when ctx ended first.
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

// show lets the transactions of others go to the screen from now on.
func (w *watch) show() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live = true
}
