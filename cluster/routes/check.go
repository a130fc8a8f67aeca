package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/cluster/store"
)

// check compares the set that this node runs with that in Redis, and adopts or publishes one of them if they differ. A
// problem is logged when it begins and when it ends.
func (k *keeper) check(ctx context.Context) {
	err := k.compare(ctx)
	if ctx.Err() != nil { // the error is no problem of Redis
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != k.trouble.text {
		k.trouble.text, k.trouble.since = text, k.cfg.Now()
	}
	k.tell(err)
	if k.current.unsaved && !k.cfg.Now().Before(k.trouble.saveAt) {
		k.saveCurrent(collect(k.cfg.Router.Files()).encode())
	}
}

// tell logs the problem of the last check, err, when it begins and when it ends. A Redis that does not answer has to do
// so for a while.
func (k *keeper) tell(err error) {
	if k.trouble.text == k.trouble.logged ||
		errors.Is(err, store.ErrUnanswered) && k.cfg.Now().Sub(k.trouble.since) < k.cfg.tune.tell {
		return
	}
	k.trouble.logged = k.trouble.text
	if err != nil {
		k.cfg.Log.Warn("the rules of this node may differ from those of others", "version", k.current.version,
			"cause", err)
		return
	}
	k.cfg.Log.Info("the rules are those of the other nodes", "version", k.current.version)
}

var errNothing = errors.New("neither redis nor this node has rules")

// compare does the work of check. Its error is the problem.
func (k *keeper) compare(ctx context.Context) error {
	head, err := k.store.RulesVersion(ctx)
	switch {
	case errors.Is(err, store.ErrCorrupt): // no node can use it, so it counts as missing
		return k.republish(ctx, head)
	case err != nil:
		return err
	case k.current.isOlder(head):
		k.sawShared = true
		return k.adopt(ctx, head)
	case head.Number > 0 && head.Number == k.current.version && head.Whole:
		return nil
	}
	return k.republish(ctx, head)
}

// isOlder reports whether the set in Redis replaces the one that this node runs. Of two sets with the same version it
// is the one in Redis, so that no node has to publish and all nodes run the same set.
func (c *currentSet) isOlder(head store.RulesHead) bool {
	return head.Number > c.version || head.Number > 0 && head.Number == c.version && head.Digest != c.digest
}

// adopt runs the set in Redis. The error is nil if this node runs it.
func (k *keeper) adopt(ctx context.Context, head store.RulesHead) error {
	if head.String() == k.trouble.refused && k.cfg.Now().Before(k.trouble.retryAt) {
		return k.trouble.cause
	}
	text, err := k.store.load(ctx, head)
	if errors.Is(err, store.ErrCorrupt) {
		return k.partsMissing(ctx, head)
	}
	if err != nil {
		return err
	}
	s, err := decode(text)
	before := k.current
	if err == nil {
		err = k.use(head.Number, s, head.Digest)
	}
	if err != nil {
		err = fmt.Errorf("version %d of the shared rules cannot be used by this node: %w", head.Number, err)
		k.counters.Refused++
		k.trouble.refused, k.trouble.cause, k.trouble.retryAt = head.String(), err, k.cfg.Now().Add(retryRefused)
		k.cfg.anomaly(ReasonRefused, err)
		return err
	}
	k.counters.Adopted++
	k.trouble.refused, k.trouble.missing = "", ""
	if before.version == head.Number {
		k.cfg.Log.Warn("two sets of rules had the same version, and that of redis is used", "version", head.Number,
			"digest", head.Digest, "before", before.digest)
	}
	k.cfg.Log.Info("shared rules are in force", "version", head.Number, "digest", head.Digest)
	k.saveCurrent(text)
	return nil
}

// partsMissing is called for a head whose parts are missing. A node that runs this version writes them again with its
// next check. If no node does for the grace, this node publishes its own set as the next version.
func (k *keeper) partsMissing(ctx context.Context, head store.RulesHead) error {
	now := k.cfg.Now()
	if k.trouble.missing != head.String() {
		k.trouble.missing, k.trouble.missingSince = head.String(), now
	}
	err := fmt.Errorf("version %d of the shared rules: %w", head.Number, store.ErrCorrupt)
	if k.current.digest != "" && !k.current.empty && now.Sub(k.trouble.missingSince) >= k.cfg.tune.grace {
		return k.publish(ctx, head, head.Number+1, ReasonReplaced)
	}
	k.trouble.refused, k.trouble.cause = head.String(), err
	k.trouble.retryAt = now.Add(min(retryMissing, k.cfg.tune.grace))
	return err
}

// republish publishes the set that this node runs, if Redis has no set or an older one.
func (k *keeper) republish(ctx context.Context, over store.RulesHead) error {
	switch {
	case k.current.digest == "":
		return errNothing
	case k.current.empty: // other nodes should not run a set without rules
		return nil
	case k.cfg.Now().Before(k.trouble.publishAt):
		return k.trouble.cause
	}
	return k.publish(ctx, over, max(1, k.current.version), ReasonRepublished)
}

// publish publishes the set that this node runs as a version. reason is that of the Anomaly. The rules of this node
// stay the same.
func (k *keeper) publish(ctx context.Context, over store.RulesHead, version uint64, reason string) error {
	s := collect(k.cfg.Router.Files())
	encoded := s.encode()
	use := func() {}
	if version != k.current.version { // tell the Router its version
		var err error
		if use, err = k.cfg.Router.Prepare(version, s.all()); err != nil {
			return err
		}
	}
	_, ok, err := k.store.publish(ctx, over, version, encoded)
	if err != nil {
		k.trouble.failures++
		k.trouble.cause = err
		k.trouble.publishAt = k.cfg.Now().Add(min(maxBackoff, k.cfg.tune.poll<<min(k.trouble.failures, 10)))
		return err
	}
	k.trouble.failures, k.trouble.publishAt = 0, k.cfg.Now()
	if !ok {
		k.counters.Overtaken++
		return nil // the next check adopts the set that won
	}
	first := k.current.version == 0
	k.enforce(use, version, s, k.current.digest)
	k.saveCurrent(encoded)
	if first {
		k.counters.Published++
		k.cfg.Log.Info("redis held no rules: the files of this node are shared", "version", version, "digest",
			k.current.digest)
		return nil
	}
	k.counters.Republished++
	k.cfg.Log.Warn("redis had lost the rules: those of this node are shared again", "version", version, "instead_of",
		over.Number)
	k.cfg.anomaly(reason, nil)
	return nil
}
