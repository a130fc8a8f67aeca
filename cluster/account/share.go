package account

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// pollInterval is the mean time between two looks at the lists that nodes share, which varies by a fifth.
const pollInterval = 500 * time.Millisecond

// polling is what follows the lists that nodes share.
type polling struct {
	stop    context.CancelFunc
	ended   chan struct{}
	trouble string // the problem of the last look, "" for none
	judged  judged // by the last look
}

// judged is rules and the destinations by which they were found to wait for what they have to.
type judged struct {
	rules *readRules
	lists *kept
}

// Start begins to follow the lists that nodes share, if they share some. Close ends it.
func (a *Account) Start(ctx context.Context) {
	if !a.cfg.Store.HasRedis() {
		return
	}
	follower{a}.look(ctx)
	run, stop := context.WithCancel(context.Background())
	a.polling.stop, a.polling.ended = stop, make(chan struct{})
	go follower{a}.follow(run) // ends with Close, which waits for it
}

// Close ends what Start began.
func (a *Account) Close() {
	if a.polling.stop != nil {
		a.polling.stop()
		<-a.polling.ended
	}
}

// A follower follows the lists that nodes share.
type follower struct{ *Account }

func (a follower) follow(ctx context.Context) {
	defer close(a.polling.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		a.look(ctx)
		timer.Reset(time.Duration(float64(pollInterval) * (0.8 + 0.4*rand.Float64())))
	}
}

// look adopts the lists in Redis if they are newer, and publishes those of this node if Redis lost them. A problem is
// logged when it begins and when it ends.
func (a follower) look(ctx context.Context) {
	select {
	case a.writing <- struct{}{}:
	default:
		return // a change asks Redis by itself
	}
	defer func() { <-a.writing }()
	rules := a.rules.latest() // before the lists: older lists would say nothing of newer rules
	err := a.lists.compare(ctx)
	if err == nil {
		err = a.judge(ctx, judged{rules, a.lists.current.Load()})
	}
	if ctx.Err() != nil {
		return
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem == a.polling.trouble {
		return
	}
	if a.polling.trouble = problem; err != nil {
		a.cfg.Log.Warn("what the API made may differ from that of other nodes", "cause", err)
		return
	}
	a.cfg.Log.Info("what the API made is that of the other nodes")
}

// judge has rules written anew that wait for another reason than the destinations say. Another node may have written
// them while it did not know yet what became of a destination. Rules and lists that it saw before are not looked at
// again, unless they could not be written.
func (a follower) judge(ctx context.Context, seen judged) error {
	if seen == a.polling.judged || seen.rules == nil || seen.rules.err != nil {
		return nil
	}
	if !isStale(seen.rules.list, seen.lists.destinations) {
		a.polling.judged = seen
		return nil
	}
	err := a.refresh(ctx, Node("destinations"))
	var known *Error
	if errors.As(err, &known) && known.Kind != Busy {
		a.polling.judged = seen // the Router would say the same again
	}
	return err
}

// isStale reports whether a rule waits for another reason than the destinations of this moment say.
func isStale(all []Rule, destinations []Destination) bool {
	return slices.ContainsFunc(all, func(r Rule) bool { return !slices.Equal(r.Pending, pending(&r, destinations)) })
}
