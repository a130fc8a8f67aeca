package pool

import "time"

// The first and the longest time that a Site or a host is left alone.
const (
	coolFirst = time.Second
	coolMost  = 60 * time.Second
)

// cooling is why and how long a Site is left alone. The zero value is a warm Site.
type cooling struct {
	mark
	cause   error
	refused bool // the Site refused us, so that reaching it proves nothing
	probing bool // a Slot is out that tries it

	suspended bool  // by Suspend: only a message that is taken ends it
	at        int64 // since when, of Pool.clock
}

// A mark counts failures in a row.
type mark struct {
	until time.Time
	step  int
}

// extend begins the next, longer time, of which at most a quarter is taken off by chance so that nodes do not return as
// one.
func (m *mark) extend(now time.Time, chance float64) {
	d := coolMost
	if m.step < 6 {
		d = min(coolMost, coolFirst<<m.step)
	}
	m.step++
	m.until = now.Add(d - time.Duration(chance*float64(d/4)))
}

// mayOpen says whether a session may be opened at t now, and whether the one who does is the probe of a cooled Site:
// there is one at a time, and the others are refused until it is known what became of it.
func (t *site[C]) mayOpen(now time.Time) (probe bool, err error) {
	c := &t.cooling
	if c.step == 0 {
		return false, nil
	}
	if now.Before(c.until) || c.probing {
		return false, t.cooled()
	}
	c.probing = true
	return true, nil
}

// cooled is the error for whom the cooling turns away.
func (t *site[C]) cooled() error {
	c := &t.cooling
	return &CooledError{Site: t.name, Until: c.until, Suspended: c.suspended, Cause: c.cause}
}

// warm ends the cooling.
func (t *site[C]) warm() {
	if t.cooling.step == 0 {
		return
	}
	t.cooling = cooling{probing: t.cooling.probing}
	t.cool.Store(false)
}

// chill begins the cooling or makes it longer. Failures of those who had set out before it began do not count twice.
func (t *site[C]) chill(now time.Time, chance float64, cause error, refused bool) {
	c := &t.cooling
	if now.Before(c.until) && c.suspended {
		return
	}
	c.cause, c.refused = cause, refused || c.refused
	if now.Before(c.until) {
		return
	}
	c.extend(now, chance)
	t.cool.Store(true)
}

// Unreachable cools the Site because none of its hosts could be reached, or because it said 421 to a new session: none
// is opened for a second, and up to a minute when it goes on. The sessions that it has may be used meanwhile.
func (s *Slot[C]) Unreachable(cause error) {
	p := s.pool
	now, chance := p.now(), p.chance()
	p.mu.Lock()
	s.site.chill(now, chance, cause, false)
	p.mu.Unlock()
}

// Refused cools the Site because it refuses us rather than a message: as Unreachable, and its idle sessions are closed,
// so that Get fails at once. Worked ends it.
func (s *Slot[C]) Refused(cause error) {
	p, t := s.pool, s.site
	now, chance := p.now(), p.chance()
	p.mu.Lock()
	t.chill(now, chance, cause, true)
	doomed := t.popAll()
	for w := t.next(); w != nil; w = t.next() {
		w.grant <- granted[C]{err: t.cooled()}
	}
	p.mu.Unlock()
	closeAll(doomed)
}

// Worked says that the Site takes mail from us, which ends its cooling, but not a suspension: see Delivered.
func (s *Slot[C]) Worked() {
	if !s.site.cool.Load() {
		return
	}
	s.pool.mu.Lock()
	if !s.site.cooling.suspended {
		s.site.warm()
	}
	s.pool.mu.Unlock()
}

// HostDown marks one host of the Site, so that others are tried before it for a while. A mark never keeps a host from
// being tried when all of them have one.
func (s *Slot[C]) HostDown(host string) {
	p, t := s.pool, s.site
	now, chance := p.now(), p.chance()
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.down == nil {
		t.down = make(map[string]mark)
	}
	m := t.down[host]
	if now.Before(m.until) {
		return
	}
	m.extend(now, chance)
	t.down[host] = m
}

// IsHostDown reports whether host has a mark.
func (s *Slot[C]) IsHostDown(host string) bool {
	p, t := s.pool, s.site
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Before(t.down[host].until)
}
