package pool

import "time"

// clock gives the time since the pool was made, in nanoseconds and always above zero.
func (p *Pool[S]) clock() int64 { return max(1, 1+int64(p.cfg.Now().Sub(p.born))) }

// serve takes parked Slots away for whoever waits for t, as far as the rules go: from a network above its share at once, if
// the one whose turn it is has less than its own, and from anybody whose Slot is ripe. If somebody is left waiting, the
// alarm is set for the Slot that is ripe next.
func (p *Pool[S]) serve(t *site[S], now int64) {
	for t.waiting.Load() > 0 {
		oldest, over := t.parked()
		if oldest.slot == nil {
			return // the next Park comes here
		}
		left := p.ripe(t) - time.Duration(now-oldest.since)
		if left > 0 && over.slot == nil {
			p.arm(t, now, left)
			return
		}
		w := t.peek()
		victim := oldest
		if over.slot != nil && t.below(w.Client, w.Favoured) {
			victim = over
		} else if left > 0 {
			p.arm(t, now, left)
			return
		}
		if !victim.slot.state.CompareAndSwap(victim.since, taken) {
			continue // its holder was faster
		}
		t.leave(w)
		p.grant(w, p.reclaim(victim.slot))
	}
}

// ripe is how long a Slot of t must have been parked to be taken for anybody: Config.Ripe, and where more wait than there are
// Slots, less by the square of that ratio, but a hundredth of it at least. So a queue of clients that park for good passes in
// two or three times Config.Ripe however long it is, and whoever comes behind it does not wait for longer.
func (p *Pool[S]) ripe(t *site[S]) time.Duration {
	slots, waiting := time.Duration(t.limits.Sessions), time.Duration(t.waiting.Load())
	if waiting <= slots {
		return p.cfg.Ripe
	}
	return max(p.cfg.Ripe/100, p.cfg.Ripe*slots/waiting*slots/waiting)
}

// A parking is a Slot that was parked when it was looked at, and since when.
type parking[S Session] struct {
	slot  *Slot[S]
	since int64
}

// parked finds the Slot that has been parked for longest, and the one of those whose network has more than its share. Those
// of favoured clients are never parked.
func (t *site[S]) parked() (oldest, over parking[S]) {
	share := t.share()
	for _, s := range t.lent {
		since := s.state.Load()
		if since <= busy {
			continue
		}
		if oldest.slot == nil || since < oldest.since {
			oldest = parking[S]{s, since}
		}
		if (over.slot == nil || since < over.since) && t.held[s.client] > share {
			over = parking[S]{s, since}
		}
	}
	return oldest, over
}

// reclaim moves the session of a Slot that was marked as taken to a new one, which is not lent yet. The old one stays
// behind for its holder to find out.
func (p *Pool[S]) reclaim(old *Slot[S]) *Slot[S] {
	p.unlend(old)
	return &Slot[S]{pool: p, site: old.site, session: old.session, key: old.key, full: true, dirty: true}
}

// grant lends s, which is not lent, to w, which has left its queue. Whether the session fits is for Get to see.
func (p *Pool[S]) grant(w *waiter[S], s *Slot[S]) {
	p.lend(s, w.Client, w.Favoured)
	w.grant <- granted[S]{slot: s}
}

// arm has serve called for t in d from now, if that is sooner than the alarm that is set. It goes off in a goroutine of its
// own, which ends after that call; Shutdown waits for it.
func (p *Pool[S]) arm(t *site[S], now int64, d time.Duration) {
	due := now + int64(d)
	if t.armed && (t.due <= due || !t.alarm.Stop()) {
		return // it comes sooner, or right now
	}
	if !t.armed {
		t.armed = true
		p.done.Add(1)
	}
	t.due = due
	if t.alarm != nil {
		t.alarm.Reset(d)
		return
	}
	t.alarm = time.AfterFunc(d, func() {
		defer p.done.Done()
		p.mu.Lock()
		defer p.mu.Unlock()
		t.armed = false
		p.serve(t, p.clock())
	})
}

// disarm ends the alarm, when nobody waits any more.
func (t *site[S]) disarm() {
	if t.armed && t.alarm.Stop() {
		t.armed = false
		t.pool.done.Done()
	}
}

// Wanted reports whether the Slot's client network holds more than its share of the Site's sessions while one that holds
// less than its own waits. A Slot that is parked would be taken then; of one that is busy with a message this tells whether
// a slow client may go on with it.
func (s *Slot[S]) Wanted() bool {
	p, t := s.pool, s.site
	if s.favoured || t.waiting.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	w := t.peek()
	return w != nil && t.held[s.client] > t.share() && t.below(w.Client, w.Favoured)
}
