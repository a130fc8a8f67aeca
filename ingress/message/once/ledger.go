package once

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// Lease is how long an entry is an attempt's alone after its node was last heard of. A sender that tries again
	// sooner is put off.
	Lease = 30 * time.Second
	// renewal is how often the leases of attempts are renewed that wait for their next hops.
	renewal = Lease / 3
	// kept is how long an entry is remembered after the last attempt: longer than most senders try (RFC 5321 section
	// 4.5.4.1).
	kept = 5 * 24 * time.Hour
	// keptBrief is how long it is remembered of a message that another one may look like.
	keptBrief = 15 * time.Minute
	// gathering is how long fates wait for more of them, which go to the store with them.
	gathering = 50 * time.Millisecond
	// maxGathered is how many of them go to the store in one call, and renewals of leases.
	maxGathered = 128
	// maxForgotten bounds the fates that wait.
	maxForgotten = 1 << 14
	// maxTries is how often a fate is written while the store does not answer, some ten minutes.
	maxTries = 60
)

// A Store keeps the entries of the ledger. *store.Store implements it.
type Store interface {
	// Ledger carries out an event on the entries of an attempt's recipients, all in one step, and returns for each the
	// entry that decided. degraded says that other nodes do not see it.
	Ledger(ctx context.Context, keys []mail.LedgerKeys, v mail.LedgerEvent) (found []mail.LedgerEntry, degraded bool)
	// Ledgers does that with several messages in one call, each in a step of its own, and returns no entries.
	Ledgers(ctx context.Context, calls []mail.LedgerCall) (degraded bool)
}

// Counts are what a Ledger has counted since New.
type Counts struct {
	Repeated  uint64 // recipients that were answered as an earlier attempt
	PutOff    uint64 // attempts that met one that is under way
	Again     uint64 // recipients that were delivered to again though they may have the message
	Unguarded uint64 // attempts of which the store could not be asked or told
	Removed   uint64 // recipients whose entries were removed
	Dropped   uint64 // attempts whose entries were not removed, because the store could not be told for long
}

// A Ledger asks a Store what an attempt has to do, and tells it what became of it. It is safe for concurrent use. Run
// has to run beside it.
type Ledger struct {
	*Keys
	store  Store
	emit   func(mail.Event)
	now    func() time.Time
	counts counters

	wake chan struct{} // has a value if fates wait that none did before

	mu        sync.Mutex // guards what follows
	waiting   map[*mail.Attempt]struct{}
	fates     map[string][]fate // that wait to be written, by message
	forgotten int               // how many
}

// counters are those of Counts.
type counters struct{ repeated, putOff, again, unguarded, removed, dropped atomic.Uint64 }

// A fate is that a client has read the reply to an attempt, or with keep above 0 that it may have.
type fate struct {
	attempt *mail.Attempt
	keep    time.Duration
	holders []mail.TraceID // of the entries by which the recipients were answered
	tries   uint8          // how often the store did not answer to it
}

// New returns a Ledger that knows messages under keys. emit is called with what an operator should see, and must not
// block. now is the clock.
func New(s Store, keys *Keys, emit func(mail.Event), now func() time.Time) *Ledger {
	return &Ledger{
		Keys: keys, store: s, emit: emit, now: now, wake: make(chan struct{}, 1),
		waiting: make(map[*mail.Attempt]struct{}), fates: make(map[string][]fate),
	}
}

// Run renews leases and writes fates until ctx ends.
func (l *Ledger) Run(ctx context.Context) {
	tick := time.NewTicker(renewal)
	defer tick.Stop()
	gathered := time.NewTimer(gathering)
	defer gathered.Stop()
	for {
		select {
		case <-ctx.Done():
			for more := true; more; {
				more, _ = l.writeFates(ctx)
			}
			return
		case <-l.wake:
			gathered.Reset(gathering)
			continue
		case <-tick.C:
			l.renew(ctx)
		case <-gathered.C:
		}
		if more, degraded := l.writeFates(ctx); more && !degraded {
			gathered.Reset(0)
		}
	}
}

// renew renews the leases of the attempts that wait for their next hops.
func (l *Ledger) renew(ctx context.Context) {
	for some := range slices.Chunk(l.underWay(), maxGathered) {
		calls := make([]mail.LedgerCall, len(some))
		for i, a := range some {
			calls[i] = l.call(a, nil, mail.LedgerEvent{Kind: mail.LedgerRenewed, Lease: Lease.Milliseconds()})
		}
		l.store.Ledgers(context.WithoutCancel(ctx), calls)
	}
}

// underWay returns the attempts that wait for their next hops.
func (l *Ledger) underWay() []*mail.Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*mail.Attempt, 0, len(l.waiting))
	for a := range l.waiting {
		all = append(all, a)
	}
	return all
}

// Counts returns what was counted.
func (l *Ledger) Counts() Counts {
	c := &l.counts
	return Counts{
		Repeated: c.repeated.Load(), PutOff: c.putOff.Load(), Again: c.again.Load(), Unguarded: c.unguarded.Load(),
		Removed: c.removed.Load(), Dropped: c.dropped.Load(),
	}
}

// call returns an event on the entries of the recipients with these indexes, which are different; all of them if it is
// nil.
func (l *Ledger) call(a *mail.Attempt, of []int, v mail.LedgerEvent) mail.LedgerCall {
	keys := a.Keys
	if of != nil && len(of) < len(keys[0].Recipients) {
		keys = slices.Clone(keys)
		for i := range keys {
			all := keys[i].Recipients
			keys[i].Recipients = nil
			for _, n := range of {
				keys[i].Recipients = append(keys[i].Recipients, all[n])
			}
		}
	}
	if v.Keep == 0 {
		v.Keep = kept.Milliseconds()
		if a.Brief {
			v.Keep = keptBrief.Milliseconds()
		}
	}
	if v.Holder.IsZero() {
		v.Holder = a.ID
	}
	v.Now, v.Proved = l.now().UnixMilli(), a.Proved
	return mail.LedgerCall{Keys: keys, Event: v}
}

// tell has the store carry out what has happened. It does not end with its caller's time, but the store's own.
func (l *Ledger) tell(ctx context.Context, a *mail.Attempt, of []int, v mail.LedgerEvent) (degraded bool) {
	c := l.call(a, of, v)
	_, degraded = l.store.Ledger(context.WithoutCancel(ctx), c.Keys, c.Event)
	return degraded
}

// Claim is asked right before the end of data is released. whole says that the message can begin again for some of its
// recipients. If the answer leaves any open, Settle has to follow.
func (l *Ledger) Claim(ctx context.Context, a *mail.Attempt, whole bool) mail.LedgerAnswer {
	c := l.call(a, nil, mail.LedgerEvent{Kind: mail.LedgerClaimed, Lease: Lease.Milliseconds(), Whole: whole})
	found, degraded := l.store.Ledger(ctx, c.Keys, c.Event)
	if degraded {
		l.unguarded(a)
	}
	v := c.Event
	plan := Decide(found, v)
	if plan == WaitForAll {
		l.counts.putOff.Add(1)
	}
	answer := mail.LedgerAnswer{Outcomes: make([]mail.Outcome, len(found))}
	for i, e := range found {
		_, action := Next(e, v)
		switch o := &answer.Outcomes[i]; {
		case plan == WaitForAll:
			*o = mail.Outcome{Reply: inProgress(), Cause: errInProgress}
		case action == Repeat:
			l.counts.repeated.Add(1)
			*o = mail.Outcome{
				Reply: mail.Reply{Code: int(e.Code), Enhanced: e.Enhanced, Text: "Delivered before"}, Entry: e.Holder,
			}
		case plan == Split:
			*o = mail.Outcome{Reply: mail.NewReply(451, 3, 0, "Try again"), Cause: errSplit}
		default:
			if o.Again = action == Again; o.Again {
				l.counts.again.Add(1)
			}
			answer.Open = append(answer.Open, i)
		}
	}
	if len(answer.Open) > 0 {
		l.mu.Lock()
		l.waiting[a] = struct{}{}
		l.mu.Unlock()
	}
	return answer
}

var (
	errInProgress = errors.New("an earlier attempt is under way")
	errSplit      = errors.New("an earlier attempt was delivered to other recipients")
)

func inProgress() mail.Reply {
	return mail.NewReply(451, 3, 0, "A previous attempt is still in progress, try again later")
}

// Settle says what became of the recipients that Claim left open, in their order. Where the next hop took the message
// it sets Entry. What it writes does not depend on the client or on the time that ctx has left.
func (l *Ledger) Settle(ctx context.Context, a *mail.Attempt, open []int, outcomes []mail.Outcome) {
	l.mu.Lock()
	delete(l.waiting, a)
	l.mu.Unlock()
	for len(open) > 0 {
		kind, n := became(&outcomes[0]), 1
		for n < len(open) && became(&outcomes[n]) == kind && outcomes[n].Reply.Code == outcomes[0].Reply.Code {
			n++
		}
		degraded := l.tell(ctx, a, open[:n], mail.LedgerEvent{Kind: kind, Reply: outcomes[0].Reply})
		if degraded && kind != mail.LedgerRefused {
			l.unguarded(a)
		}
		if degraded && kind == mail.LedgerTook && a.Brief { // the node of its client cannot remove it here
			l.tell(ctx, a, open[:n], mail.LedgerEvent{Kind: mail.LedgerRead})
		}
		for i := range n {
			if kind == mail.LedgerTook {
				outcomes[i].Entry = a.ID
			}
		}
		open, outcomes = open[n:], outcomes[n:]
	}
}

// Keep says that a client was put off although some of the recipients of an attempt have the message. It comes again
// for the others, so that what is remembered of those is remembered as long as of any message, also where another one
// may look the same.
func (l *Ledger) Keep(ctx context.Context, a *mail.Attempt, outcomes []mail.Outcome) {
	if !a.Brief || len(outcomes) != len(a.Keys[0].Recipients) {
		return
	}
	for i := range outcomes {
		if o := &outcomes[i]; o.Reply.Class() == 2 && !o.Entry.IsZero() {
			l.tell(ctx, a, []int{i}, mail.LedgerEvent{
				Kind: mail.LedgerTook, Holder: o.Entry, Reply: o.Reply, Keep: kept.Milliseconds(),
			})
		}
	}
}

// unguarded counts and reports an attempt of which other nodes do not know.
func (l *Ledger) unguarded(a *mail.Attempt) {
	l.counts.unguarded.Add(1)
	l.emit(mail.Event{Kind: mail.Anomaly, Time: l.now(), Trace: a.ID, Reason: "only this node remembers the delivery"})
}

// became returns the event that an outcome is.
func became(o *mail.Outcome) mail.LedgerEventKind {
	switch {
	case o.Reply.Class() == 2:
		return mail.LedgerTook
	case o.InDoubt:
		return mail.LedgerLost
	}
	return mail.LedgerRefused
}

// Forget says that a client showed that it has read our 2yz to an attempt, or with keep above 0 that it may have and
// how long its entries are to be remembered. entries are the attempts by whose entries the recipients were answered. It
// waits for nothing, and Run does the work, but for two cases. If another message may look the same as that of the
// attempt, the entries are removed when it returns, because the next message may be that one. So they are if too many
// wait: what the store takes long for holds back the clients that bring it.
func (l *Ledger) Forget(a *mail.Attempt, entries []mail.TraceID, keep time.Duration) {
	f := fate{attempt: a, keep: keep, holders: entries}
	n := 0
	if !a.Brief {
		n = l.await(f)
	}
	switch {
	case n == 1:
		select {
		case l.wake <- struct{}{}:
		default: // Run is about to see to it
		}
	case n == 0 && l.write(context.Background(), []fate{f}):
		l.counts.dropped.Add(1)
	}
}

// await has a fate wait for Run, and returns how many do by then: 0 if there is no room for it.
func (l *Ledger) await(f fate) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgotten >= maxForgotten {
		return 0
	}
	name := f.attempt.Keys[0].Message
	l.fates[name] = append(l.fates[name], f)
	l.forgotten++
	return l.forgotten
}

// Prepare says that an attempt is about to go to its next hop, from the node that its client speaks with. What waits to
// be removed of the same message is removed first: its client has read the answer, and means it once more.
func (l *Ledger) Prepare(ctx context.Context, a *mail.Attempt) {
	name := a.Keys[0].Message
	l.mu.Lock()
	fates := l.fates[name]
	l.forgotten -= len(fates)
	delete(l.fates, name)
	l.mu.Unlock()
	if len(fates) > 0 && l.write(ctx, fates) {
		l.counts.dropped.Add(uint64(len(fates)))
	}
}

// writeFates writes some of the fates that wait, and reports whether more do. Those that the store could not be told
// wait again, and degraded says so.
func (l *Ledger) writeFates(ctx context.Context) (more, degraded bool) {
	var some []fate
	l.mu.Lock()
	for name, fates := range l.fates {
		some = append(some, fates...)
		delete(l.fates, name)
		if len(some) >= maxGathered {
			break
		}
	}
	l.forgotten -= len(some)
	more = l.forgotten > 0
	l.mu.Unlock()
	if len(some) > 0 {
		degraded = l.write(ctx, some)
	}
	for i := range some {
		if f := &some[i]; degraded {
			if f.tries++; ctx.Err() != nil || f.tries >= maxTries || l.await(*f) == 0 {
				l.counts.dropped.Add(1)
			}
		}
	}
	return more, degraded
}

// write writes fates.
func (l *Ledger) write(ctx context.Context, fates []fate) (degraded bool) {
	calls := make([]mail.LedgerCall, 0, len(fates))
	removed := 0
	for i := range fates {
		f := &fates[i]
		v := mail.LedgerEvent{Kind: mail.LedgerRead}
		if f.keep > 0 {
			v.Kind, v.Keep = mail.LedgerFades, f.keep.Milliseconds()
		}
		for of := range f.holders {
			v.Holder = f.holders[of]
			if v.Holder.IsZero() || slices.Contains(f.holders[:of], v.Holder) {
				continue
			}
			var same []int
			for j := of; j < len(f.holders); j++ {
				if f.holders[j] == v.Holder {
					same = append(same, j)
				}
			}
			if v.Kind == mail.LedgerRead {
				removed += len(same)
			}
			if len(same) == len(f.holders) {
				same = nil // all of them
			}
			calls = append(calls, l.call(f.attempt, same, v))
		}
	}
	if len(calls) == 0 {
		return false
	}
	if degraded = l.store.Ledgers(context.WithoutCancel(ctx), calls); !degraded {
		l.counts.removed.Add(uint64(removed))
	}
	return degraded
}
