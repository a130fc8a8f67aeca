package dns

import (
	"container/heap"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The wire has two lanes: ours is for names that we chose and for favoured clients, theirs for names that strangers
// chose. So names with silent servers, however many, leave DNS lists and destinations alone. Within a lane the client
// networks share: the one with the fewest queries under way is next.
const (
	// theirShare is the part of their lane that one client network may have: 1/theirShare.
	theirShare = 32
	// ourShare is the same for our lane, where a network costs us no more than lists and destinations do.
	ourShare = 4
	// jostleTick is half the time after which a query has to make way, while others wait, for one of a network with
	// fewer: as much as most answers take that come at all (Unbound calls it jostle-timeout).
	jostleTick = 100 * time.Millisecond
)

// errGaveWay ends a query that gave way. The recursive server goes on to look for the answer, so that the next query
// finds it in its cache.
var errGaveWay = errors.New("gave way to other queries")

// Lanes are the wire. Their lock may be taken with Resolver.mu held.
type lanes struct {
	mu           sync.Mutex
	ours, theirs lane
	closed       bool
}

// A lane is a part of the wire.
type lane struct {
	most      int  // queries under way
	share     int  // of those, how many of one client network
	mostOpen  int  // flights
	shareOpen int  // of those, how many of one client network
	free      bool // what is asked for no client has no share

	asked   uint64 // queries that went
	refused uint64 // questions for which there was no room in time

	open     int
	under    int // queries under way
	waiting  int
	next     uint64 // numbers the waits
	tick     int    // counts the ticks while queries wait
	timer    *time.Timer
	networks map[netip.Prefix]*sharer
	ready    turns     // those with queries that wait and may go
	busy     []*sharer // those with queries under way, in any order
}

// A sharer is a client network that has flights in a lane.
type sharer struct {
	network netip.Prefix
	open    []*ticket // flights
	under   []*ticket // queries under way, the oldest first
	waiting []*ticket
	ready   int // its place in lane.ready, and one more; 0: it is not there
	busy    int // the same in lane.busy
}

// Turns are a heap: the network whose query goes next is the first one. That is the one with the fewest under way, and
// among equals that which has waited longest. It is looked for with each query, while all others wait for the lock, so
// that it must not take longer the more networks there are.
type turns []*sharer

func (q turns) Len() int { return len(q) }

func (q turns) Less(i, j int) bool {
	a, b := q[i], q[j]
	if len(a.under) != len(b.under) {
		return len(a.under) < len(b.under)
	}
	return a.waiting[0].number < b.waiting[0].number
}

func (q turns) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].ready, q[j].ready = i+1, j+1
}

// Push adds a network for package heap.
func (q *turns) Push(s any) {
	*q = append(*q, s.(*sharer))
	(*q)[len(*q)-1].ready = len(*q)
}

// Pop takes the last network out for package heap.
func (q *turns) Pop() any {
	s := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = nil
	*q = (*q)[:len(*q)-1]
	s.ready = 0
	return s
}

// order puts a network, of whose queries some have changed, where it belongs in ready and busy.
func (l *lane) order(s *sharer) {
	switch may := len(s.waiting) > 0 && l.hasRoom(s); {
	case may && s.ready == 0:
		heap.Push(&l.ready, s)
	case may:
		heap.Fix(&l.ready, s.ready-1)
	case s.ready > 0:
		heap.Remove(&l.ready, s.ready-1)
	}
	switch is := len(s.under) > 0; {
	case is && s.busy == 0:
		l.busy = append(l.busy, s)
		s.busy = len(l.busy)
	case !is && s.busy > 0:
		last := l.busy[len(l.busy)-1]
		l.busy[s.busy-1], last.busy = last, s.busy
		l.busy = l.busy[:len(l.busy)-1]
		s.busy = 0
	}
}

// A queryState is how far the query of a flight is.
type queryState uint8

const (
	queryNone  queryState = iota
	queryMayGo            // its turn came, and it counts as under way
	queryGone             // its goroutine had a processor since
)

// A ticket is a flight's in a lane. What is not constant is guarded by lanes.mu.
type ticket struct {
	lane    *lane
	sharer  *sharer
	asker   *mail.Turn    // of the caller that asked first, which may be nil; the flight's own
	counted bool          // it is among those open
	turn    chan struct{} // closed when the query may go, or the flight is dropped; nil if it does not wait
	number  uint64        // of the wait
	since   int           // the tick at which the query went
	query   queryState
	cancel  context.CancelFunc // ends that query
	gaveWay bool               // that query was ended for others
	dropped bool               // the flight is not to ask any more
}

// isUnder reports whether a query is under way, or may go.
func (t *ticket) isUnder() bool { return t.query != queryNone }

// newLane returns a lane for so many queries at once, of which a network has one part in shares.
func newLane(queries, shares int) lane {
	queries = max(1, queries)
	l := lane{most: queries, share: max(1, queries/shares), networks: make(map[netip.Prefix]*sharer)}
	l.mostOpen, l.shareOpen = queueFactor*l.most, queueFactor*l.share
	return l
}

// init divides the wire: half for each lane.
func (w *lanes) init(concurrency int) {
	w.ours, w.theirs = newLane(concurrency/2, ourShare), newLane(concurrency-concurrency/2, theirShare)
	w.ours.free = true
}

// laneOf returns the lane of a question.
func (w *lanes) laneOf(a *mail.Asking) *lane {
	if a.IsOurs() {
		return &w.ours
	}
	return &w.theirs
}

// open takes a flight into its lane. If there is no room in the lane, the last flight of the network with the most of
// them is dropped for it, unless that is the network that asks.
func (w *lanes) open(t *ticket, a *mail.Asking) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, client := w.laneOf(a), a.Client()
	s := l.networks[client]
	if s != nil && len(s.open) >= l.shareOpen && l.limited(client) || l.open >= l.mostOpen && !l.drop(s) {
		l.refused++
		return ErrBusy
	}
	if a != nil {
		t.asker = a.Turn
	}
	l.enter(t, client)
	return nil
}

// limited reports whether a network has a share.
func (l *lane) limited(client netip.Prefix) bool { return client.IsValid() || !l.free }

// enter counts a flight of a network.
func (l *lane) enter(t *ticket, client netip.Prefix) {
	s := l.networks[client]
	if s == nil {
		s = &sharer{network: client}
		l.networks[client] = s
	}
	t.lane, t.sharer, t.counted = l, s, true
	s.open = append(s.open, t)
	l.open++
}

// exit ends that. A query of the flight may still be under way.
func (l *lane) exit(t *ticket) {
	if !t.counted {
		return
	}
	t.counted = false
	l.open--
	t.sharer.open = without(t.sharer.open, t)
	l.tidy(t.sharer)
}

// tidy forgets a network of which nothing is left.
func (l *lane) tidy(s *sharer) {
	if len(s.open)+len(s.under)+len(s.waiting) == 0 && l.networks[s.network] == s {
		delete(l.networks, s.network)
	}
}

// drop ends a flight without a query under way, of the network that has the most of them open and more than newcomer,
// and reports whether there was one.
func (l *lane) drop(newcomer *sharer) bool {
	least := 1
	if newcomer != nil {
		least += len(newcomer.open)
	}
	var heaviest *sharer
	for _, s := range l.networks {
		if len(s.open) > max(least, len(s.under)) {
			heaviest, least = s, len(s.open)
		}
	}
	if heaviest == nil {
		return false
	}
	last := len(heaviest.open) - 1
	for heaviest.open[last].isUnder() {
		last--
	}
	t := heaviest.open[last]
	if t.turn != nil {
		l.unwait(t)
		close(t.turn)
		t.turn = nil
	}
	t.dropped = true
	l.refused++
	l.exit(t) // its flight ends soon: the room is the newcomer's
	return true
}

// land makes room: the flight of the ticket has ended, or will soon because no caller waits for it.
func (w *lanes) land(t *ticket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.lane.exit(t)
}

// crowded reports whether more than half of the queries of a lane are taken by flights.
func (w *lanes) crowded(t *ticket) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return t.lane.open > t.lane.most/2
}

// share moves a flight to the lane or the network of another caller that waits for it as well, if it gets on sooner
// there: no caller waits longer because a stranger asked first.
func (w *lanes) share(t *ticket, a *mail.Asking) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, client := w.laneOf(a), a.Client()
	s := l.networks[client]
	switch {
	case t.dropped || t.isUnder():
		return // what is under way needs no room; if it is jostled, it waits where it was
	case t.lane == l:
		if s == t.sharer || s != nil && len(s.under)+len(s.waiting) >= len(t.sharer.under)+len(t.sharer.waiting) {
			return
		}
	case l != &w.ours:
		return
	}
	waits := t.turn != nil
	if waits {
		t.lane.unwait(t)
	}
	t.lane.exit(t)
	l.enter(t, client)
	if waits {
		l.wait(t)
		l.serve()
	}
}

// enter waits until a query of the flight may be under way. The query is to end with cancel.
func (w *lanes) enter(ctx context.Context, t *ticket, cancel context.CancelFunc) error {
	w.mu.Lock()
	if t.dropped {
		w.mu.Unlock()
		return ErrBusy
	}
	t.cancel, t.gaveWay = cancel, false
	if t.lane.isFree() && t.lane.hasRoom(t.sharer) {
		t.lane.begin(t)
		t.lane.sends(t)
		w.mu.Unlock()
		return nil
	}
	t.asker.Await()
	turn := make(chan struct{})
	t.turn = turn
	t.lane.wait(t)
	w.arm(t.lane)
	w.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case t.dropped:
		return ErrBusy
	case t.isUnder():
		t.lane.sends(t)
		return nil
	}
	t.lane.unwait(t)
	t.turn = nil
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.lane.refused++
	}
	return errSlots
}

// leave ends the query, and reports whether it was ended for others.
func (w *lanes) leave(t *ticket) (gaveWay bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.isUnder() {
		t.lane.end(t)
		t.lane.serve()
	}
	return t.gaveWay
}

func (l *lane) isFree() bool { return l.under < l.most }

// hasRoom reports whether a network may have one more query under way.
func (l *lane) hasRoom(s *sharer) bool { return len(s.under) < l.share || !l.limited(s.network) }

func (l *lane) begin(t *ticket) {
	l.asked++
	l.under++
	t.query = queryMayGo
	t.sharer.under = append(t.sharer.under, t)
	l.order(t.sharer)
}

// sends says that the query goes now.
func (l *lane) sends(t *ticket) { t.query, t.since = queryGone, l.tick }

// oldest returns the query of a network that went first and takes longer than a moment, nil if there is none. One whose
// goroutine has not had a processor since its turn came has taken no time.
func (l *lane) oldest(s *sharer) *ticket {
	for _, t := range s.under {
		if t.query == queryGone && l.tick-t.since >= 2 {
			return t
		}
	}
	return nil
}

func (l *lane) end(t *ticket) {
	l.under--
	t.query = queryNone
	t.sharer.under = without(t.sharer.under, t)
	l.order(t.sharer)
	l.tidy(t.sharer)
}

func (l *lane) wait(t *ticket) {
	l.waiting++
	l.next++
	t.number = l.next
	t.sharer.waiting = append(t.sharer.waiting, t)
	l.order(t.sharer)
}

func (l *lane) unwait(t *ticket) {
	l.waiting--
	t.sharer.waiting = without(t.sharer.waiting, t)
	l.order(t.sharer)
	l.tidy(t.sharer)
}

func without(tickets []*ticket, t *ticket) []*ticket {
	if i := slices.Index(tickets, t); i >= 0 {
		return slices.Delete(tickets, i, i+1)
	}
	return tickets
}

// first returns the network whose query goes next, nil if none may go.
func (l *lane) first() *sharer {
	if len(l.ready) == 0 {
		return nil
	}
	return l.ready[0]
}

// serve lets queries go that wait, as long as there is room.
func (l *lane) serve() {
	for l.waiting > 0 && l.isFree() {
		s := l.first()
		if s == nil {
			return
		}
		t := s.waiting[0]
		l.unwait(t)
		l.begin(t)
		close(t.turn)
		t.turn = nil
	}
}

// arm lets the lane tick while queries wait.
func (w *lanes) arm(l *lane) {
	switch {
	case w.closed || l.timer != nil:
	default:
		// It ends at once, and close stops it.
		l.timer = time.AfterFunc(jostleTick, func() { w.ticked(l) })
	}
}

// ticked is a tick.
func (w *lanes) ticked(l *lane) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l.timer = nil
	if w.closed || l.waiting == 0 {
		return
	}
	l.tick++
	l.jostle()
	w.arm(l)
}

// jostle ends queries that take long for those that wait: each time the oldest one of the network with the most, for a
// network with fewer.
func (l *lane) jostle() {
	for l.waiting > 0 {
		first := l.first()
		if first == nil {
			return
		}
		var heaviest *sharer
		var t *ticket
		for _, s := range l.busy {
			if len(s.under) > len(first.under) && (heaviest == nil || len(s.under) > len(heaviest.under)) {
				if oldest := l.oldest(s); oldest != nil {
					heaviest, t = s, oldest
				}
			}
		}
		if heaviest == nil {
			return
		}
		t.gaveWay = true
		t.cancel()
		l.end(t)
		l.serve()
	}
}

// A LaneStats tells of a part of the wire: of what is asked about names that we chose, or that strangers chose.
type LaneStats struct {
	Asked   uint64 // queries that were sent, since the start
	Refused uint64 // questions for which there was no room in time, since the start
	Waiting int    // questions that wait for their turn now
}

// Lanes returns what became of questions about names that we chose, or that were asked for favoured clients, and of
// those about names that strangers chose.
func (r *Resolver) Lanes() (ours, theirs LaneStats) {
	w := &r.lanes
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ours.stats(), w.theirs.stats()
}

func (l *lane) stats() LaneStats {
	return LaneStats{Asked: l.asked, Refused: l.refused, Waiting: l.waiting}
}

// close ends the ticks.
func (w *lanes) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, l := range [...]*lane{&w.ours, &w.theirs} {
		if l.timer != nil {
			l.timer.Stop()
		}
	}
}
