package dns

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// An answer is what the servers said about a question. It is immutable and shared by the cache and all callers.
type answer struct {
	mx      []MX
	ips     []netip.Addr
	texts   []string // of TXT, the names of PTR, or the data of other types
	meta    Meta
	err     error     // nil, or an *Error
	discard time.Time // from when on it must not even be used stale
	weight  int
}

// A flight is one question on its way. Its goroutine belongs to the Resolver, not to a caller, so that a caller whose
// context ends takes nothing from the others; it ends at the question's own deadline at the latest, and Close awaits
// it.
type flight struct {
	done   chan struct{}
	answer *answer // set before done is closed
	cancel context.CancelFunc
	aboard int // callers that wait; guarded by Resolver.mu
	ticket ticket
}

// A wait is one caller's interest in a question.
type wait struct {
	k      key
	answer *answer // what the cache has, or what came; nil if neither
	stale  *answer // what may be used if nothing comes in time; may be nil
	flight *flight // nil if answer was at hand
}

// begin looks the question up and sends it on its way if it has to be asked. It does not block.
func (r *Resolver) begin(ctx context.Context, name string, qtype uint16) (wait, error) {
	name, ok := canonical(name)
	k := key{name, qtype}
	if !ok {
		return wait{}, &Error{Name: name, Type: k.typeName(), Err: ErrBadName}
	}
	now := r.cfg.Now()
	a, cached := r.cache.Get(k)
	if cached && now.Before(a.meta.Expires) {
		r.stats.hits.Add(1)
		return wait{k: k, answer: a}, nil
	}
	r.stats.misses.Add(1)
	w := wait{k: k}
	if cached && a.err == nil && now.Before(a.discard) {
		w.stale = a
	}
	return r.board(ctx, w, now)
}

// board joins the flight of a question, or starts it.
func (r *Resolver) board(ctx context.Context, w wait, now time.Time) (wait, error) {
	asking := mail.AskingOf(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, ok := r.flights[w.k]; ok {
		w.flight = f
		f.aboard++
		r.lanes.share(&f.ticket, asking)
		return w, nil
	}
	// A flight that landed since the cache was asked has left its answer there.
	if a, ok := r.cache.Get(w.k); ok && now.Before(a.meta.Expires) {
		w.answer = a
		return w, nil
	}
	f := &flight{}
	refusal := error(ErrClosed)
	switch {
	case r.closed:
	case !asking.Draw():
		refusal = ErrEnough
	default:
		refusal = r.lanes.open(&f.ticket, asking)
	}
	if refusal != nil {
		if w.stale != nil {
			w.answer = r.staleCopy(w.stale, now)
			return w, nil
		}
		return w, &Error{Name: w.k.name, Type: w.k.typeName(), Err: refusal}
	}
	flying, cancel := context.WithTimeout(r.ctx, time.Duration(r.cfg.tune.attempts)*r.cfg.tune.timeout)
	f.done, f.cancel, f.aboard = make(chan struct{}), cancel, 1
	w.flight = f
	r.flights[w.k] = f
	r.flying.Add(1)
	go r.fly(flying, w.k, f, w.stale) // ends at its own deadline or at Close
	return w, nil
}

// fly asks the servers, leaves the answer in the cache and then wakes all callers that wait.
func (r *Resolver) fly(ctx context.Context, k key, f *flight, stale *answer) {
	defer r.flying.Done()
	defer f.cancel()
	a := r.resolve(ctx, k, &f.ticket)
	now := r.cfg.Now()
	if Temporary(a.err) && stale != nil && now.Before(stale.discard) {
		a = r.staleCopy(stale, now)
	}
	f.answer = a
	r.mu.Lock()
	switch {
	case r.flights[k] != f: // given up, and what it brings now says nothing of the servers
	case now.Before(a.meta.Expires) && !r.closed:
		r.cache.Put(k, a, a.weight)
	default:
		r.cache.Delete(k)
	}
	if r.flights[k] == f {
		delete(r.flights, k)
	}
	r.mu.Unlock()
	r.lanes.land(&f.ticket)
	close(f.done)
}

// staleCopy returns an expired answer with a short new life (RFC 8767 section 4), which ends before it has to be
// discarded.
func (r *Resolver) staleCopy(old *answer, now time.Time) *answer {
	r.stats.stale.Add(1)
	a := *old
	a.meta.Stale = true
	a.meta.TTL = min(staleTTL, old.discard.Sub(now))
	a.meta.Expires = now.Add(a.meta.TTL)
	return &a
}

// await waits for the answer, or takes the stale one when that takes too long. It returns the answer's error, or that
// of a caller whose context ended.
func (r *Resolver) await(ctx context.Context, w *wait) error {
	if w.answer != nil {
		return w.answer.err
	}
	var late <-chan time.Time
	if w.stale != nil {
		t := time.NewTimer(staleAfter)
		defer t.Stop()
		late = t.C
	}
	defer r.leave(w)
	select {
	case <-w.flight.done:
		w.answer = w.flight.answer
		return w.answer.err
	case <-late:
	case <-ctx.Done():
	}
	return r.settle(ctx, w)
}

// leave ends a caller's interest in a flight. A flight that no caller waits for any more goes on, so that its answer
// serves the next, unless more than half of its lane is in use. Then it is cancelled: a client that makes us ask for
// names whose servers are silent, and does not wait, could else take up all queries.
func (r *Resolver) leave(w *wait) {
	f := w.flight
	if f == nil { // the answer was at hand
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.aboard--; f.aboard > 0 || r.flights[w.k] != f || !r.lanes.crowded(&f.ticket) {
		return
	}
	delete(r.flights, w.k)
	f.cancel()
	r.lanes.land(&f.ticket)
}

// settle ends a wait whose time is over.
func (r *Resolver) settle(ctx context.Context, w *wait) error {
	if w.answer != nil {
		return w.answer.err
	}
	select {
	case <-w.flight.done: // it came just now
		w.answer = w.flight.answer
		return w.answer.err
	default:
	}
	now := r.cfg.Now()
	if w.stale != nil && now.Before(w.stale.discard) {
		w.answer = r.staleCopy(w.stale, now)
		r.spread(w)
		return nil
	}
	return w.k.gaveUp(ctx)
}

// spread lets the callers behind this one have the stale answer at once. Where the flight has landed meanwhile, its
// answer is newer and stays.
func (r *Resolver) spread(w *wait) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flights[w.k] == w.flight {
		r.cache.Put(w.k, w.answer, w.answer.weight)
	}
}

// lookup is the whole of a question with one type.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (*answer, error) {
	w, err := r.begin(ctx, name, qtype)
	if err != nil {
		return &answer{}, err
	}
	err = r.await(ctx, &w)
	if w.answer == nil {
		return &answer{}, err
	}
	return w.answer, err
}

// resolve asks the servers and follows what CNAMEs they leave to us.
func (r *Resolver) resolve(ctx context.Context, k key, t *ticket) *answer {
	name, cnames, ttl, ad := k.name, 0, maxTTL, true
	for {
		got, at, err := r.exchange(ctx, t, name, k.qtype)
		cnames += got.cnames
		if err == nil && cnames > maxChain {
			err = &failure{kind: ErrBadReply, cause: errChain}
		}
		if err != nil {
			return r.failed(k, at, err)
		}
		ad = ad && got.ad
		ttl = min(ttl, got.ttl)
		if got.next == "" {
			return r.answered(k, at, got, ttl, ad)
		}
		name = got.next
	}
}

// answered makes the answer out of the last reply.
func (r *Resolver) answered(k key, at string, got reply, ttl time.Duration, ad bool) *answer {
	a := &answer{mx: got.mx, ips: got.ips, texts: got.texts}
	if got.kind != nil {
		ttl = min(ttl, negativeMaxTTL)
		a.err = &Error{Name: k.name, Type: k.typeName(), Server: at, Err: got.kind}
	}
	a.meta = Meta{Name: got.name, TTL: ttl, Expires: r.cfg.Now().Add(ttl), AD: ad && r.cfg.TrustAD}
	a.discard = a.meta.Expires.Add(max(0, r.cfg.tune.staleFor))
	a.weight = 1 + (len(k.name)+got.size)/512
	return a
}

// failed makes the answer out of a failure of all servers, which is remembered for a moment. Want of room says nothing
// of the servers, and is not remembered.
func (r *Resolver) failed(k key, at string, err error) *answer {
	e := &Error{Name: k.name, Type: k.typeName(), Server: at, Err: ErrTimeout, Cause: err}
	ttl := failureTTL
	var f *failure
	switch {
	case r.ctx.Err() != nil:
		e.Err, e.Cause = ErrClosed, nil
	case isOurs(err):
		e.Err, e.Cause, ttl = ErrBusy, nil, 0
	case errors.As(err, &f):
		e.Err, e.Rcode, e.Cause = f.kind, f.rcode, f.cause
	}
	return &answer{err: e, weight: 1, meta: Meta{TTL: ttl, Expires: r.cfg.Now().Add(ttl)}}
}
