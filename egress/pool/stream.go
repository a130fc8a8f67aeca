package pool

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/pool/pace"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// patience is how long a client waits before a stream is to give way to it.
	patience = 2 * time.Second
	// lookAgain is how soon another stream is looked for while a client still waits.
	lookAgain = time.Second
	// remembered is how long a message that gave way is known as one that is to get through.
	remembered = time.Hour
	// mostRemembered bounds the messages that are remembered.
	mostRemembered = 16384
	// DefaultStreamFloor is the rate below which a stream may have to give way, in octets per second.
	DefaultStreamFloor = 64 << 10
)

// A Stream is a message that goes out to a Site while it comes in, and the place that it holds there. The zero Stream
// holds none. It is used by one goroutine, which ends the holding with Leave, and it must not be copied.
type Stream[C Conn] struct {
	site    *site[C]   // nil if it holds no place
	client  netip.Addr // as StreamRequest has it
	message uint64     // likewise

	supply pace.Supply
	since  pace.Instant // since when the client is waited for, 0 before the first octets went out

	rate  atomic.Uint64 // that of supply, as the bits of a float64
	state atomic.Int32  // a streamState
	over  bool          // it was kept, and its client did not keep its part
}

// A streamState says whether a Stream may have to give way. Only the site sets waiting and leaving, under its lock;
// its holder moves it from kept to going when the client does not keep its part.
type streamState = int32

const (
	opening streamState = iota // nothing of it went out yet
	going
	kept    // it had to give way before, and does not again
	leaving // it is to give way
)

// A StreamRequest says what a place is asked for.
type StreamRequest struct {
	Site   mail.Site
	Limits Limits
	Client netip.Addr // zero if it is not known
	// Message is the same for each attempt to send a message, and for no other one of that client's network.
	Message uint64
}

// An identity is what the next attempt at a message is known by.
type identity struct {
	network netip.Prefix
	message uint64
}

// streams are the Streams of a Site, and those that wait for a place.
type streams[C Conn] struct {
	site   *site[C]
	held   []*Stream[C]
	count  map[netip.Prefix]int // those held, by each network that they are of
	line   []*streamWaiter[C]   // first come first
	marked pace.Instant         // when a Stream was last told to give way; 0 if there is none that did not yet
}

// A streamWaiter is a Stream that waits for a place.
type streamWaiter[C Conn] struct {
	stream *Stream[C]
	since  pace.Instant
	again  bool // it gave way before
	grant  chan error
}

// places is how many Streams a Site may have: half of its sessions, at least one.
func (st *streams[C]) places() int { return max(1, st.site.allowed()/2) }

// keeps is how many of these may be kept from giving way: a quarter, at least one, but never all.
func (st *streams[C]) keeps() int { return min(max(1, st.places()/4), st.places()-1) }

// Stream has s hold a place at r.Site. If there is none it waits until ctx ends: those that had to give way before and
// are now kept from it go first, then those whose networks hold least. The error wraps ErrBusy and the context's. Once
// Shutdown was called no place is needed.
func (p *Pool[C]) Stream(ctx context.Context, r StreamRequest, s *Stream[C]) error {
	s.client, s.message, s.over = r.Client, r.Message, false
	now := p.now()
	until, again := p.gaveWay.Get(s.identity())
	again = again && p.instant(now) < until
	t, err := p.enter(r.Site)
	if err != nil { // what is under way may end
		return nil
	}
	w := t.streams.ask(r.Limits, s, again, now)
	t.mu.Unlock()
	if w != nil {
		if err := t.streams.await(ctx, w); err != nil {
			return err
		}
	}
	if again && s.state.Load() == kept {
		p.gaveWay.Delete(s.identity())
	}
	return nil
}

// identity returns what the next attempt at the message is known by.
func (s *Stream[C]) identity() identity { return identity{s.networks()[0], s.message} }

// networks returns those of the client, from the widest to the smallest, zero where there are fewer. They are not kept:
// each transaction has room for a Stream, and few use it.
func (s *Stream[C]) networks() (networks [3]netip.Prefix) {
	n := 0
	for _, p := range network.Nested(s.client) {
		networks[n] = p
		n++
	}
	slices.Reverse(networks[:n])
	return networks
}

// ask gets s a place, or a place in the line for one.
func (st *streams[C]) ask(l Limits, s *Stream[C], again bool, now time.Time) *streamWaiter[C] {
	st.site.limits, st.site.used = l.orGeneric(), now
	if len(st.line) == 0 && len(st.held) < st.places() {
		st.seat(s, again)
		return nil
	}
	w := &streamWaiter[C]{stream: s, since: st.site.pool.instant(now), again: again, grant: make(chan error, 1)}
	st.line = append(st.line, w)
	st.seatWaiting()
	st.urge(st.site.pool.instant(now))
	return w
}

// await waits until w is granted a place or ctx ends.
func (st *streams[C]) await(ctx context.Context, w *streamWaiter[C]) error {
	if at, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, at)
		defer cancel()
	}
	select {
	case err := <-w.grant:
		return err
	case <-ctx.Done():
	}
	st.site.mu.Lock()
	defer st.site.mu.Unlock()
	i := slices.Index(st.line, w)
	if i < 0 {
		return <-w.grant // in the same moment
	}
	st.unlist(i)
	return fmt.Errorf("%s: %d streams: %w: %w", st.site.name, st.places(), ErrBusy, context.Cause(ctx))
}

func (st *streams[C]) unlist(i int) {
	st.line = slices.Delete(st.line, i, i+1)
	st.calm()
}

// calm stops the alarm if no client waits.
func (st *streams[C]) calm() {
	if st.site.line.waiting.Load() == 0 && len(st.line) == 0 {
		st.site.alarm.stop()
	}
}

// seat has s hold a place. One that gave way before is kept from that, if none of its network is and not too many are.
func (st *streams[C]) seat(s *Stream[C], again bool) {
	s.site = st.site
	s.state.Store(opening)
	if again && st.mayKeep(s) {
		s.state.Store(kept)
	}
	st.held = append(st.held, s)
	for i, n := range s.networks() {
		if i == 0 || n.IsValid() {
			st.count[n]++
		}
	}
}

// mayKeep reports whether another Stream of s's network may be kept from giving way.
func (st *streams[C]) mayKeep(s *Stream[C]) bool {
	all := 0
	for _, o := range st.held {
		if o.state.Load() != kept {
			continue
		}
		if all++; o.networks()[0] == s.networks()[0] {
			return false
		}
	}
	return all < st.keeps()
}

// seatWaiting has those that wait hold the places that are free: first those that would be kept, then those whose
// network holds least, then those that came first.
func (st *streams[C]) seatWaiting() {
	for len(st.line) > 0 && len(st.held) < st.places() {
		next := 0
		for i, w := range st.line[1:] {
			if st.precedes(w, st.line[next]) {
				next = i + 1
			}
		}
		w := st.line[next]
		st.unlist(next)
		st.seat(w.stream, w.again)
		w.grant <- nil
	}
}

// precedes reports whether w, which came later than v, is to have a place before it.
func (st *streams[C]) precedes(w, v *streamWaiter[C]) bool {
	if keep := w.again && st.mayKeep(w.stream); keep != (v.again && st.mayKeep(v.stream)) {
		return keep
	}
	return st.compareCrowds(w.stream, v.stream) < 0
}

// compareCrowds compares how many places the networks of two Streams hold, the widest first.
func (st *streams[C]) compareCrowds(a, b *Stream[C]) int {
	ofA, ofB := a.networks(), b.networks()
	for i := range ofA {
		if i > 0 && !(ofA[i].IsValid() && ofB[i].IsValid()) {
			break // an IPv4 client is of fewer
		}
		if c := cmp.Compare(st.count[ofA[i]], st.count[ofB[i]]); c != 0 {
			return c
		}
	}
	return 0
}

// Brought notes that the client has brought so many octets, 0 for none in the meantime, and reports whether the Stream
// is to give way. Its message is then to be refused, and the next attempt at it is remembered.
func (s *Stream[C]) Brought(octets int) (givesWay bool) {
	if s.site == nil {
		return false
	}
	p := s.site.pool
	waited := time.Duration(0)
	if s.since > 0 {
		now := p.instant(p.now())
		waited = time.Duration(now - s.since)
		s.since = now
	}
	s.supply.Add(octets, waited)
	s.rate.Store(math.Float64bits(s.supply.Rate()))
	if s.supply.IsShort() && s.state.CompareAndSwap(kept, going) {
		s.over = true
	}
	if s.state.Load() != leaving {
		return false
	}
	if !s.over {
		p.gaveWay.Put(s.identity(), p.instant(p.now())+pace.Instant(remembered), 1)
	}
	return true
}

// Awaits notes that the client is waited for from now on.
func (s *Stream[C]) Awaits() {
	if s.site == nil {
		return
	}
	s.since = s.site.pool.instant(s.site.pool.now())
	s.state.CompareAndSwap(opening, going)
}

// Leave ends the holding of a place, if one is held.
func (s *Stream[C]) Leave() {
	t := s.site
	if t == nil {
		return
	}
	s.site = nil
	now := t.pool.instant(t.pool.now())
	t.mu.Lock()
	defer t.mu.Unlock()
	st := &t.streams
	i := slices.Index(st.held, s)
	st.held = slices.Delete(st.held, i, i+1)
	for i, n := range s.networks() {
		if i > 0 && !n.IsValid() {
			continue
		}
		if st.count[n]--; st.count[n] == 0 {
			delete(st.count, n)
		}
	}
	if s.state.Load() == leaving {
		st.marked = 0
	}
	st.seatWaiting()
	st.urge(now)
}

// urge has a Stream give way if a client has waited for longer than patience, for a session while none is free, or for
// a place. There is one at a time: the next is told when that has left, or took too long. While a client waits the
// alarm is set.
func (st *streams[C]) urge(now pace.Instant) {
	if len(st.held) == 0 {
		return
	}
	first, waits := st.waitsSince(now)
	if !waits {
		return
	}
	if st.marked > 0 {
		first = max(first, st.marked)
	}
	if left := time.Duration(first-now) + patience; left > 0 {
		st.site.alarm.set(now, left)
		return
	}
	if s := st.heaviest(); s != nil && s.state.CompareAndSwap(going, leaving) {
		st.marked = now
	}
	st.site.alarm.set(now, lookAgain)
}

// waitsSince returns since when the client has waited that waits longest, and false if no client waits for what a
// Stream holds.
func (st *streams[C]) waitsSince(now pace.Instant) (first pace.Instant, ok bool) {
	if len(st.line) > 0 {
		first, ok = st.line[0].since, true
	}
	t := st.site
	if t.line.waiting.Load() == 0 || len(t.idle) > 0 || t.closing > 0 || t.slots < t.allowed() {
		return first, ok
	}
	if w := t.peek(); t.untilMessage(&w.Request, now) > 0 {
		return first, ok
	}
	for _, q := range st.site.line.queues {
		if w := q.Front().Value.(*waiter[C]); !ok || w.since < first {
			first, ok = w.since, true
		}
	}
	return first, ok
}

// heaviest returns the Stream that is to give way: of the network that holds most, nested ones after the widest, the
// slowest. It is nil if none is to: a network that holds a quarter of the places or less, or one place alone, keeps
// what is no slower than the floor.
func (st *streams[C]) heaviest() (victim *Stream[C]) {
	var slowest float64
	for _, s := range st.held {
		if s.state.Load() != going {
			continue
		}
		rate := math.Float64frombits(s.rate.Load())
		if n := st.count[s.networks()[0]]; rate >= st.site.pool.floor && (n == 1 || 4*n <= st.places()) {
			continue
		}
		c := 1
		if victim != nil {
			c = st.compareCrowds(s, victim)
		}
		if c > 0 || c == 0 && rate < slowest {
			victim, slowest = s, rate
		}
	}
	return victim
}
