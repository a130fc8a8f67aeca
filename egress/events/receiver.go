package events

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/hook"
)

const (
	// parallel is how many posts to one receiver are under way at once.
	parallel = 8
	// attempts bounds the posts of one event, and maxAge how old an event is that is still posted.
	attempts = 8
	maxAge   = time.Hour
	// firstRest is how long a receiver rests after a failure, and an event before its next post; each failure more
	// makes it restFactor times as long, up to maxRest.
	firstRest  = time.Second
	restFactor = 4
	maxRest    = 10 * time.Minute
	// lastFailures is how many posts in a row may fail while the node drains, until the rest is dropped.
	lastFailures = 3
	// answerSize bounds the body of an answer, which says nothing to us.
	answerSize = 64 << 10
)

// An item is an event in the queue of a receiver.
type item struct {
	Event
	failed int       // posts
	due    time.Time // of the next post, if one has failed
}

// A receiver is one receiver with its queue: the events that were never posted in their order, and those whose post
// failed by the time of the next one. After a failure one post at a time asks whether the receiver is well again.
type receiver struct {
	Receiver
	sender *Sender
	wake   chan struct{} // holds one token when the queue has changed

	mu       sync.Mutex
	secrets  []hook.Secret
	fresh    []*item
	again    byDue
	octets   int64
	under    int       // posts under way
	failures int       // posts in a row that have failed
	rest     time.Time // no post before it
	wave     int       // how often a rest began: posts of one wave fail together
	closing  bool      // what waits is posted now or never
}

// byDue is a heap of items by the time of their next post.
type byDue []*item

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(a, b int) bool { return h[a].due.Before(h[b].due) }
func (h byDue) Swap(a, b int)      { h[a], h[b] = h[b], h[a] }
func (h *byDue) Push(x any)        { *h = append(*h, x.(*item)) }

// Pop removes the last element.
func (h *byDue) Pop() any {
	last := (*h)[len(*h)-1]
	(*h)[len(*h)-1] = nil
	*h = (*h)[:len(*h)-1]
	return last
}

// wants reports whether the receiver is told of an event, whose recipient is at a domain.
func (r *receiver) wants(e *Event, domain string) bool {
	return slices.Contains(r.Types, e.Type) && (len(r.Domains)+len(r.Rules) == 0 ||
		slices.Contains(r.Domains, domain) || slices.Contains(r.Rules, e.Data.Rule))
}

// asTold returns an event as the receiver is told of it: a report of abuse names no address at a domain that is not the
// receiver's.
func (r *receiver) asTold(e *Event) Event {
	told := *e
	c := e.Data.Complaint
	if c != nil && len(r.Domains)+len(r.Rules) > 0 && !slices.Contains(r.Domains, c.Domain) {
		told.Data.Complaint = &Complaint{Feedback: c.Feedback, Arrived: c.Arrived}
	}
	return told
}

// add takes an event into the queue, and reports false if it has no room. It never waits. What strangers can cause for
// nothing has half of the room, so that it takes none from events of messages that were delivered.
func (r *receiver) add(e *Event) bool {
	room, weight := int64(1), e.weight()
	if !e.isEarned() {
		room = 2
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing || int64(len(r.fresh)+len(r.again)) >= int64(r.sender.cfg.Queue)/room ||
		r.octets+weight > r.sender.cfg.Octets/room {
		return false
	}
	r.octets += weight
	r.fresh = append(r.fresh, &item{Event: r.asTold(e)})
	r.stir()
	return true
}

// stir tells run that the queue has changed.
func (r *receiver) stir() {
	select {
	case r.wake <- struct{}{}:
	default: // a token is there already
	}
}

// run posts what the queue holds until the receiver closes and the queue is empty, or ctx ends. It returns when no post
// is under way.
func (r *receiver) run(ctx context.Context) {
	var posts sync.WaitGroup
	defer posts.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		i, wave, wait := r.next()
		switch {
		case i != nil:
			posts.Go(func() { r.post(ctx, i, wave) })
			continue
		case wait == 0:
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-r.wake:
		case <-ctx.Done():
			return
		}
	}
}

// forever is longer than it takes until run is woken.
const forever = 24 * time.Hour

// next takes the event out of the queue that is to be posted now. If there is none it returns how long to wait for it,
// 0 if no event will come.
func (r *receiver) next() (i *item, wave int, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.sender.cfg.Now()
	r.expire(now)
	waiting := len(r.fresh) + len(r.again)
	switch {
	case waiting == 0 && r.closing && r.under == 0:
		return nil, 0, 0
	case waiting == 0, r.under == parallel, r.failures > 0 && r.under > 0:
		return nil, 0, forever
	case !r.closing && now.Before(r.rest):
		return nil, 0, r.rest.Sub(now)
	}
	switch {
	case len(r.again) > 0 && (r.closing || !now.Before(r.again[0].due)):
		i = heap.Pop(&r.again).(*item)
	case len(r.fresh) > 0:
		i = r.shift()
	default:
		return nil, 0, r.again[0].due.Sub(now)
	}
	r.under++
	return i, r.wave, 0
}

// shift takes the first of the fresh events. The caller holds mu.
func (r *receiver) shift() *item {
	i := r.fresh[0]
	r.fresh[0] = nil
	r.fresh = r.fresh[1:]
	return i
}

// expire drops what has become too old. The caller holds mu.
func (r *receiver) expire(now time.Time) {
	for len(r.fresh) > 0 && now.Sub(r.fresh[0].Time) > maxAge {
		r.drop(r.shift())
	}
	for len(r.again) > 0 && now.Sub(r.again[0].Time) > maxAge {
		r.drop(heap.Pop(&r.again).(*item))
	}
}

// drop counts an event that left the queue and will not be posted. The caller holds mu.
func (r *receiver) drop(i *item) {
	r.octets -= i.weight()
	r.sender.cfg.Count(r.Name, Dropped)
}

// post posts an event and takes in what came of it.
func (r *receiver) post(ctx context.Context, i *item, wave int) {
	status, pause, err := r.ask(ctx, &i.Event)
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.stir()
	r.under--
	if err == nil && status/100 == 2 {
		r.octets -= i.weight()
		r.failures, r.rest = 0, time.Time{}
		r.sender.cfg.Count(r.Name, Sent)
		return
	}
	now := r.sender.cfg.Now()
	if wave == r.wave { // else another post of this wave has failed before, and the receiver rests
		r.wave++
		r.failures++
		r.rest = now.Add(max(restAfter(r.failures), pause))
		r.sender.cfg.Trouble(r.Name, status, err)
	}
	i.failed++
	if r.closing && r.failures >= lastFailures {
		r.clear()
	}
	if r.closing || i.failed == attempts || status == http.StatusGone {
		r.drop(i)
		return
	}
	i.due = now.Add(max(restAfter(i.failed), pause))
	heap.Push(&r.again, i)
	r.sender.cfg.Count(r.Name, Repeated)
}

// ask makes one post and returns the status of the answer, and how long the receiver asks us to pause.
func (r *receiver) ask(ctx context.Context, e *Event) (status int, pause time.Duration, err error) {
	body, err := e.body()
	if err != nil {
		return 0, 0, err
	}
	r.mu.Lock()
	secrets := r.secrets
	r.mu.Unlock()
	h := http.Header{"Content-Type": {"application/json"}}
	hook.Sign(h, e.ID, r.sender.cfg.Now(), body, secrets)
	answer, err := r.sender.cfg.Post(ctx, hook.Request{
		Method: http.MethodPost, URL: r.URL, Header: h, Body: body, Limit: answerSize,
	})
	if seconds, wrong := strconv.Atoi(answer.Header.Get("Retry-After")); wrong == nil && seconds > 0 {
		pause = time.Duration(min(seconds, int(maxRest/time.Second))) * time.Second
	}
	return answer.Status, pause, err
}

// restAfter returns how long to wait after a number of failures: a quarter more or less, so that nodes that failed
// together do not come again together.
func restAfter(failures int) time.Duration {
	rest := firstRest
	for n := 1; n < failures && rest < maxRest; n++ {
		rest *= restFactor
	}
	rest = min(rest, maxRest)
	return rest*3/4 + rand.N(rest/2)
}

// close has run post what waits and end. Nothing is taken in any more.
func (r *receiver) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	r.stir()
}

// clear drops what waits. The caller holds mu.
func (r *receiver) clear() {
	for len(r.fresh) > 0 {
		r.drop(r.shift())
	}
	for len(r.again) > 0 {
		r.drop(heap.Pop(&r.again).(*item))
	}
}
