package pool

import "time"

// clock gives the time since the pool was made, in nanoseconds and always above zero.
func (p *Pool[C]) clock() int64 { return p.since(p.now()) }

func (p *Pool[C]) since(now time.Time) int64 { return max(1, 1+int64(now.Sub(p.born))) }

// serve gives to those who wait for t what there is for them, in their order: each must be due by the message rate, and
// gets an idle session, room for a new one if the rate of these allows it, or a parked Slot. If somebody is left
// waiting for a time, the alarm is set for it.
func (p *Pool[C]) serve(t *site[C], now time.Time) {
	clock := p.since(now)
	for t.waiting.Load() > 0 {
		w := t.peek()
		if d := t.untilMessage(&w.Request, clock); d > 0 {
			p.arm(t, clock, d)
			if w = t.peekBegun(); w == nil {
				return
			}
		}
		s, wait, err := p.tryNow(t, &w.Request, now)
		if wait > 0 {
			p.arm(t, clock, wait)
		}
		if s == nil && err == nil {
			if s = p.steal(t, w, clock); s == nil {
				return
			}
		}
		t.leave(w)
		t.queued(w)
		if s != nil {
			t.pay(&w.Request, clock)
		}
		w.grant <- granted[C]{slot: s, err: err}
	}
}

// steal takes a parked Slot away for w, whose turn it is, and lends it, as far as the rules go: from a network above
// its share at once, if w's has less than its own, and from anybody whose Slot is ripe. Else the alarm is set for the
// Slot that is ripe next, if there is one.
func (p *Pool[C]) steal(t *site[C], w *waiter[C], now int64) *Slot[C] {
	for {
		oldest, over := t.parked()
		if oldest.slot == nil {
			return nil // the next Park comes here
		}
		left := p.stealable(t) - time.Duration(now-oldest.since)
		victim := oldest
		if over.slot != nil && t.below(w.Client, w.Favoured) {
			victim = over
		} else if left > 0 {
			p.arm(t, now, left)
			return nil
		}
		if !victim.slot.state.CompareAndSwap(victim.since, taken) {
			continue // its holder was faster
		}
		s := p.reclaim(victim.slot)
		p.lend(s, w.Client, w.Favoured, now)
		return s
	}
}

// stealable is how long a Slot of t must have been parked to be taken for anybody: stealableAfter, and where more wait than
// there are Slots, less by the square of that ratio, but a hundredth of it at least. So a queue of clients that park
// for good passes in two or three times stealableAfter however long it is, and whoever comes behind it does not wait for
// longer.
func (p *Pool[C]) stealable(t *site[C]) time.Duration {
	slots, waiting := time.Duration(t.limits.Sessions), time.Duration(t.waiting.Load())
	if waiting <= slots {
		return stealableAfter
	}
	return max(stealableAfter/100, stealableAfter*slots/waiting*slots/waiting)
}

// A parking is a Slot that was parked when it was looked at, and since when.
type parking[C Conn] struct {
	slot  *Slot[C]
	since int64
}

// parked finds the Slot that has been parked for longest, and the one of those whose network has more than its share.
// Those of favoured clients are never parked.
func (t *site[C]) parked() (oldest, over parking[C]) {
	share := t.share()
	for _, s := range t.lent {
		since := s.state.Load()
		if since <= busy {
			continue
		}
		if oldest.slot == nil || since < oldest.since {
			oldest = parking[C]{s, since}
		}
		if (over.slot == nil || since < over.since) && t.held[s.client] > share {
			over = parking[C]{s, since}
		}
	}
	return oldest, over
}

// reclaim moves the session of a Slot that was marked as taken to a new one, which is not lent yet. The old one stays
// behind for its holder to find out.
func (p *Pool[C]) reclaim(old *Slot[C]) *Slot[C] {
	p.unlend(old)
	return &Slot[C]{pool: p, site: old.site, session: old.session, key: old.key, full: true, dirty: true}
}

// arm has serve called for t in d from now, if that is sooner than the alarm that is set. It goes off in a goroutine of
// its own, which ends after that call; Shutdown waits for it.
func (p *Pool[C]) arm(t *site[C], now int64, d time.Duration) {
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
		now := p.now()
		p.mu.Lock()
		t.armed = false
		p.serve(t, now)
		p.mu.Unlock()
	})
}

// disarm ends the alarm, when nobody waits any more.
func (t *site[C]) disarm() {
	if t.armed && t.alarm.Stop() {
		t.armed = false
		t.pool.done.Done()
	}
}

// Wanted reports whether the Slot's client network holds more than its share of the Site's sessions while one that
// holds less than its own waits. A Slot that is parked would be taken then; of one that is busy with a message this
// tells whether a slow client may go on with it.
func (s *Slot[C]) Wanted() bool {
	p, t := s.pool, s.site
	if s.favoured || t.waiting.Load() == 0 {
		return false
	}
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	w := t.peek()
	return w != nil && t.held[s.client] > t.share() && t.below(w.Client, w.Favoured) &&
		len(t.idle) == 0 && t.slots >= t.limits.Sessions && t.untilMessage(&w.Request, now) == 0
}
