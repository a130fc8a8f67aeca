package account

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace/millrace/cluster/store"
)

// pollInterval is the mean time between two looks at the lists that nodes share, which varies by a fifth.
const pollInterval = 500 * time.Millisecond

// polling is what follows the lists that nodes share.
type polling struct {
	stop    context.CancelFunc
	ended   chan struct{}
	trouble string // the problem of the last look, "" for none
}

// text is the lists as nodes share them.
type text struct {
	Tokens       []keptToken   `json:"tokens"`
	Destinations []Destination `json:"destinations"`
	Audit        []Entry       `json:"audit"`
}

// encode returns the lists as nodes share them.
func (k *kept) encode() ([]byte, error) {
	b, err := json.Marshal(text{k.tokens, k.destinations, k.audit})
	if err != nil {
		return nil, fmt.Errorf("account: %w", err)
	}
	return b, nil
}

// decodeKept reverses encode.
func decodeKept(b []byte) (*kept, error) {
	var t text
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // of a later version, which would be lost
	if err := errors.Join(d.Decode(&t), trailing(d)); err != nil {
		return nil, fmt.Errorf("the lists in redis are not of this version: %w", err)
	}
	return &kept{tokens: t.Tokens, destinations: t.Destinations, audit: t.Audit}, nil
}

// Start begins to follow the lists that nodes share, if they share some. Close ends it.
func (a *Account) Start(ctx context.Context) {
	if !a.cfg.Store.HasRedis() {
		return
	}
	a.look(ctx)
	run, stop := context.WithCancel(context.Background())
	a.polling.stop, a.polling.ended = stop, make(chan struct{})
	go a.follow(run) // ends with Close, which waits for it
}

// Close ends what Start began.
func (a *Account) Close() {
	if a.polling.stop != nil {
		a.polling.stop()
		<-a.polling.ended
	}
}

func (a *Account) follow(ctx context.Context) {
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
func (a *Account) look(ctx context.Context) {
	select {
	case a.writing <- struct{}{}:
	default:
		return // a change asks Redis by itself
	}
	defer func() { <-a.writing }()
	adopted, err := a.compare(ctx)
	if adopted && err == nil && a.isStale() {
		err = a.refresh(ctx, Node("destinations"))
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

// compare does the work of look, in its turn. It reports whether lists of Redis were adopted.
func (a *Account) compare(ctx context.Context) (adopted bool, err error) {
	head, err := a.cfg.Store.AccountVersion(ctx)
	k := a.kept.Load()
	switch {
	case errors.Is(err, store.ErrCorrupt) && k.number > 0, err == nil && head.Number < k.number:
		_, err = a.put(ctx, head, k)
		return false, err
	case err != nil:
		return false, err
	case head.Number == k.number && (head.Digest == k.digest || head.Number == 0):
		return false, nil
	}
	return true, a.adopt(ctx, head)
}

// adopt puts the lists in force that Redis has.
func (a *Account) adopt(ctx context.Context, head store.RulesHead) error {
	b, err := a.cfg.Store.LoadAccount(ctx, head)
	if err != nil {
		return err
	}
	next, err := decodeKept(b)
	if err != nil {
		return err
	}
	old := a.kept.Load()
	next.number, next.digest = head.Number, head.Digest
	a.use(next)
	if a.cfg.State == "" {
		return nil
	}
	if err := next.save(a.cfg.State, old); err != nil {
		return fmt.Errorf("they cannot be kept in the state folder: %w", err)
	}
	return nil
}

// publish publishes lists in place of old ones. done is false if another node did so meanwhile, whose lists are in
// force then.
func (a *Account) publish(ctx context.Context, old, next *kept) (done bool, err error) {
	head, err := a.cfg.Store.AccountVersion(ctx)
	if errors.Is(err, store.ErrCorrupt) && old.number > 0 {
		err = nil
	}
	if err != nil {
		return false, err
	}
	if head.Number > old.number || head.Number == old.number && head.Number > 0 && head.Digest != old.digest {
		return false, a.adopt(ctx, head)
	}
	return a.put(ctx, head, next)
}

// put publishes lists over a head, and reports whether no other node did so meanwhile.
func (a *Account) put(ctx context.Context, over store.RulesHead, k *kept) (done bool, err error) {
	b, err := k.encode()
	if err != nil {
		return false, err
	}
	head, done, err := a.cfg.Store.PublishAccount(ctx, over, max(k.number, over.Number+1), b)
	if !done || err != nil {
		return false, err
	}
	if published := a.kept.Load(); published == k { // published again as it is in force
		again := *k
		k = &again
		a.kept.Store(k)
	}
	k.number, k.digest = head.Number, head.Digest
	return true, nil
}

// isStale reports whether a rule waits for another reason than the destinations of this moment say.
func (a *Account) isStale() bool {
	all, err := a.rules()
	if err != nil {
		return false
	}
	destinations := a.kept.Load().destinations
	return slices.ContainsFunc(all, func(r Rule) bool { return !slices.Equal(r.Pending, pending(&r, destinations)) })
}
