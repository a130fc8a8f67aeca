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
	// lease is how long an entry is an attempt's alone after its node was last heard of. A sender that tries again
	// sooner is put off.
	lease = 30 * time.Second
	// renewal is how often the leases of attempts are renewed that wait for their next hops.
	renewal = lease / 3
	// kept is how long an entry is remembered after the last attempt: longer than most senders try (RFC 5321 section
	// 4.5.4.1).
	kept = 5 * 24 * time.Hour
	// keptBrief is how long it is remembered of a message that another one may look like.
	keptBrief = 15 * time.Minute
	// settling bounds what is written after an answer, whatever became of the client.
	settling = 5 * time.Second
	// maxForgotten bounds the entries that wait to be removed.
	maxForgotten = 1024
)

// A Store keeps the entries of the ledger. *store.Store implements it.
type Store interface {
	// Ledger carries out an event on the entries of an attempt's recipients, all in one step, and returns for each the
	// entry that decided. degraded says that other nodes do not see it.
	Ledger(ctx context.Context, keys []mail.LedgerKeys, v mail.LedgerEvent) (found []mail.LedgerEntry, degraded bool)
}

// Counts are what a Ledger has counted since New.
type Counts struct {
	Repeated  uint64 // recipients that were answered as an earlier attempt
	PutOff    uint64 // attempts that met one that is under way
	Again     uint64 // recipients that were delivered to again though they may have the message
	Unguarded uint64 // attempts of which the store could not be asked or told
	Removed   uint64 // recipients whose entries were removed
	Dropped   uint64 // attempts whose entries were not removed, because too many waited for that
}

// A Ledger asks a Store what an attempt has to do, and tells it what became of it. It is safe for concurrent use. Run
// has to run beside it.
type Ledger struct {
	*Keys
	store  Store
	emit   func(mail.Event)
	now    func() time.Time
	counts counters

	mu      sync.Mutex // guards what follows
	waiting map[*mail.Attempt]struct{}

	forgotten chan fate
}

// counters are those of Counts.
type counters struct{ repeated, putOff, again, unguarded, removed, dropped atomic.Uint64 }

// A fate is an event that is written later.
type fate struct {
	attempt *mail.Attempt
	kind    mail.LedgerEventKind
	keep    time.Duration
	holders []mail.TraceID
}

// New returns a Ledger that knows messages under keys. emit is called with what an operator should see, and must not
// block. now is the clock.
func New(s Store, keys *Keys, emit func(mail.Event), now func() time.Time) *Ledger {
	return &Ledger{
		Keys: keys, store: s, emit: emit, now: now, waiting: make(map[*mail.Attempt]struct{}),
		forgotten: make(chan fate, maxForgotten),
	}
}

// Run renews leases and removes entries until ctx ends.
func (l *Ledger) Run(ctx context.Context) {
	tick := time.NewTicker(renewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.carryOutAll(ctx)
			return
		case f := <-l.forgotten:
			l.carryOut(ctx, &f)
		case <-tick.C:
			for _, a := range l.underWay() {
				l.tell(ctx, a, nil, mail.LedgerEvent{Kind: mail.LedgerRenewed, Lease: lease.Milliseconds()})
			}
		}
	}
}

// carryOutAll writes what waits.
func (l *Ledger) carryOutAll(ctx context.Context) {
	for {
		select {
		case f := <-l.forgotten:
			l.carryOut(ctx, &f)
		default:
			return
		}
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

// ask has the store carry out an event on the entries of the recipients with these indexes, all of them if it is nil.
func (l *Ledger) ask(ctx context.Context, a *mail.Attempt, of []int, v mail.LedgerEvent) ([]mail.LedgerEntry, bool) {
	keys := a.Keys
	if of != nil {
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
	return l.store.Ledger(ctx, keys, v)
}

// tell is ask for what has happened. It does not end with its caller's time.
func (l *Ledger) tell(ctx context.Context, a *mail.Attempt, of []int, v mail.LedgerEvent) (degraded bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settling)
	defer cancel()
	_, degraded = l.ask(ctx, a, of, v)
	return degraded
}

// Claim is asked right before the end of data is released. whole says that the message can begin again for some of its
// recipients. If the answer leaves any open, Settle has to follow.
func (l *Ledger) Claim(ctx context.Context, a *mail.Attempt, whole bool) mail.LedgerAnswer {
	v := mail.LedgerEvent{Kind: mail.LedgerClaimed, Lease: lease.Milliseconds(), Whole: whole}
	found, degraded := l.ask(ctx, a, nil, v)
	if degraded {
		l.unguarded(a)
	}
	v.Now, v.Holder = l.now().UnixMilli(), a.ID
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
// waits for nothing, and Run does the work, unless another message may look the same as that of the attempt: then the
// entries are removed when it returns, because the next message may be that one.
func (l *Ledger) Forget(a *mail.Attempt, entries []mail.TraceID, keep time.Duration) {
	f := fate{attempt: a, kind: mail.LedgerRead, holders: entries}
	if keep > 0 {
		f.kind, f.keep = mail.LedgerFades, keep
	}
	if a.Brief {
		l.carryOut(context.Background(), &f)
		return
	}
	select {
	case l.forgotten <- f:
	default:
		l.counts.dropped.Add(1)
	}
}

// carryOut writes a fate.
func (l *Ledger) carryOut(ctx context.Context, f *fate) {
	done := make([]bool, len(f.holders))
	for i, holder := range f.holders {
		if done[i] || holder.IsZero() {
			continue
		}
		var of []int
		for j := i; j < len(f.holders); j++ {
			if f.holders[j] == holder {
				done[j] = true
				of = append(of, j)
			}
		}
		l.tell(ctx, f.attempt, of, mail.LedgerEvent{Kind: f.kind, Holder: holder, Keep: f.keep.Milliseconds()})
		if f.kind == mail.LedgerRead {
			l.counts.removed.Add(uint64(len(of)))
		}
	}
}
