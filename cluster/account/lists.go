package account

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/millrace/millrace/cluster/store"
)

// lists is the lists in force and where they are kept: a folder, Redis or both. A change is in force once it is kept.
// Only who has the turn of a change calls the methods; current may be loaded at any time.
type lists struct {
	folder  string       // "" for none
	store   *store.Store // which may have no Redis
	log     *slog.Logger
	current atomic.Pointer[kept]
}

// kept is all lists at one time. It is never changed, but replaced.
type kept struct {
	number       uint64 // of the version, which grows with each change; 0 before the first
	digest       string // of the text that the nodes share; "" if it is not known
	tokens       []keptToken
	destinations []Destination
	audit        []Entry

	byHash map[string]*keptToken // the tokens by their hash
	proved provedHosts
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

// use puts lists in force.
func (l *lists) use(k *kept) {
	k.byHash = make(map[string]*keptToken, len(k.tokens))
	for i := range k.tokens {
		k.byHash[k.tokens[i].Hash] = &k.tokens[i]
	}
	if old := l.current.Load(); old != nil {
		k.proved = old.proved
	}
	k.proved = provedIn(k.destinations, k.proved)
	l.current.Store(k)
}

// changeTries is how often a change is tried while other nodes change the lists.
const changeTries = 20

var errOvertaken = errors.New("other nodes change the same all the time")

// change replaces the lists in force. edit gets a copy of them, and returns what to write of the audit. It is called
// again if another node changed them meanwhile.
func (l *lists) change(ctx context.Context, edit func(k *kept) ([]Entry, error)) error {
	for range changeTries {
		old := l.current.Load()
		next := &kept{
			number: old.number + 1, tokens: slices.Clone(old.tokens), destinations: slices.Clone(old.destinations),
		}
		entries, err := edit(next)
		if err != nil || len(entries) == 0 { // nothing is changed without an entry
			return err
		}
		next.audit = bounded(append(slices.Clip(old.audit), entries...))
		done, err := l.write(ctx, old, next)
		if err != nil {
			l.log.Error("what the API made cannot be kept", "cause", err)
			return busy(err)
		}
		if done {
			l.use(next)
			for _, e := range entries {
				logEntry(l.log, e)
			}
			return nil
		}
	}
	return busy(errOvertaken)
}

// write keeps lists in place of old ones. done is false if another node did so meanwhile, whose lists are in force
// then.
func (l *lists) write(ctx context.Context, old, next *kept) (done bool, err error) {
	if !l.store.HasRedis() {
		return true, next.save(l.folder, old)
	}
	if done, err = l.publish(ctx, old, next); !done || l.folder == "" {
		return done, err
	}
	if err := next.save(l.folder, old); err != nil {
		l.log.Warn("what the API made is in redis, and cannot be kept in the state folder", "cause", err)
	}
	return true, nil
}

// compare adopts the lists in Redis if they are newer, and publishes those of this node if Redis lost them.
func (l *lists) compare(ctx context.Context) error {
	head, err := l.store.AccountVersion(ctx)
	k := l.current.Load()
	switch {
	case errors.Is(err, store.ErrCorrupt) && k.number > 0, err == nil && head.Number < k.number:
		_, err = l.put(ctx, head, k)
		return err
	case err != nil:
		return err
	case head.Number == k.number && (head.Digest == k.digest || head.Number == 0):
		return nil
	}
	return l.adopt(ctx, head)
}

// adopt puts the lists in force that Redis has.
func (l *lists) adopt(ctx context.Context, head store.RulesHead) error {
	b, err := l.store.LoadAccount(ctx, head)
	if err != nil {
		return err
	}
	next, err := decodeKept(b)
	if err != nil {
		return err
	}
	old := l.current.Load()
	next.number, next.digest = head.Number, head.Digest
	l.use(next)
	if l.folder == "" {
		return nil
	}
	if err := next.save(l.folder, old); err != nil {
		return fmt.Errorf("they cannot be kept in the state folder: %w", err)
	}
	return nil
}

// publish publishes lists in place of old ones. done is false if another node did so meanwhile, whose lists are in
// force then.
func (l *lists) publish(ctx context.Context, old, next *kept) (done bool, err error) {
	head, err := l.store.AccountVersion(ctx)
	if errors.Is(err, store.ErrCorrupt) && old.number > 0 {
		err = nil
	}
	if err != nil {
		return false, err
	}
	if head.Number > old.number || head.Number == old.number && head.Number > 0 && head.Digest != old.digest {
		return false, l.adopt(ctx, head)
	}
	return l.put(ctx, head, next)
}

// put publishes lists over a head, and reports whether no other node did so meanwhile.
func (l *lists) put(ctx context.Context, over store.RulesHead, k *kept) (done bool, err error) {
	b, err := k.encode()
	if err != nil {
		return false, err
	}
	head, done, err := l.store.PublishAccount(ctx, over, max(k.number, over.Number+1), b)
	if !done || err != nil {
		return false, err
	}
	if published := l.current.Load(); published == k { // published again as it is in force
		again := *k
		k = &again
		l.current.Store(k)
	}
	k.number, k.digest = head.Number, head.Digest
	return true, nil
}
