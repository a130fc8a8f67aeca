package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/cluster/store"
)

// check compares the set that this node runs with that in Redis, and adopts or publishes one of them if they differ. A
// problem is logged when it begins and when it ends.
func (r *Routes) check(ctx context.Context) {
	err := r.compare(ctx)
	if ctx.Err() != nil { // the error is no problem of Redis
		return
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != r.trouble.logged {
		r.trouble.logged = text
		if err != nil {
			r.cfg.Log.Warn("the rules of this node may differ from those of others", "version", r.current.version,
				"cause", err)
		} else {
			r.cfg.Log.Info("the rules are those of the other nodes", "version", r.current.version)
		}
	}
	if r.current.unsaved && !r.cfg.Now().Before(r.trouble.saveAt) {
		r.saveCurrent(collect(r.cfg.Router.Files()).encode())
	}
}

var errNothing = errors.New("neither redis nor this node has rules")

// compare does the work of check. Its error is the problem.
func (r *Routes) compare(ctx context.Context) error {
	head, err := r.cfg.Store.RulesVersion(ctx)
	switch {
	case errors.Is(err, store.ErrCorrupt): // no node can use it, so it counts as missing
		return r.republish(ctx, head)
	case err != nil:
		return err
	case r.isNewer(head):
		r.sawShared = true
		return r.adopt(ctx, head)
	case head.Number > 0 && head.Number == r.current.version && head.Whole:
		return nil
	}
	return r.republish(ctx, head)
}

// isNewer reports whether the set in Redis replaces the one that this node runs. Of two sets with the same version it
// is the one in Redis, so that no node has to publish and all nodes run the same set.
func (r *Routes) isNewer(head store.RulesHead) bool {
	return head.Number > r.current.version ||
		head.Number > 0 && head.Number == r.current.version && head.Digest != r.current.digest
}

// adopt runs the set in Redis. The error is nil if this node runs it.
func (r *Routes) adopt(ctx context.Context, head store.RulesHead) error {
	if head.String() == r.trouble.refused && r.cfg.Now().Before(r.trouble.retryAt) {
		return r.trouble.cause
	}
	text, err := r.load(ctx, head)
	if errors.Is(err, store.ErrCorrupt) {
		return r.partsMissing(ctx, head)
	}
	if err != nil {
		return err
	}
	s, err := decode(text)
	before := r.current
	if err == nil {
		err = r.use(head.Number, s, head.Digest)
	}
	if err != nil {
		err = fmt.Errorf("version %d of the shared rules cannot be used by this node: %w", head.Number, err)
		r.counters.Refused++
		r.trouble.refused, r.trouble.cause, r.trouble.retryAt = head.String(), err, r.cfg.Now().Add(retryRefused)
		r.emit(ReasonRefused, err)
		return err
	}
	r.counters.Adopted++
	r.trouble.refused, r.trouble.missing = "", ""
	if before.version == head.Number {
		r.cfg.Log.Warn("two sets of rules had the same version, and that of redis is used", "version", head.Number,
			"digest", head.Digest, "before", before.digest)
	}
	r.cfg.Log.Info("shared rules are in force", "version", head.Number, "digest", head.Digest)
	r.saveCurrent(text)
	return nil
}

// partsMissing is called for a head whose parts are missing. A node that runs this version writes them again with its
// next check. If no node does for the grace, this node publishes its own set as the next version.
func (r *Routes) partsMissing(ctx context.Context, head store.RulesHead) error {
	now := r.cfg.Now()
	if r.trouble.missing != head.String() {
		r.trouble.missing, r.trouble.missingSince = head.String(), now
	}
	err := fmt.Errorf("version %d of the shared rules: %w", head.Number, store.ErrCorrupt)
	if r.current.digest != "" && !r.current.empty && now.Sub(r.trouble.missingSince) >= r.cfg.tune.grace {
		return r.publish(ctx, head, head.Number+1, ReasonReplaced)
	}
	r.trouble.refused, r.trouble.cause = head.String(), err
	r.trouble.retryAt = now.Add(min(retryMissing, r.cfg.tune.grace))
	return err
}

// republish publishes the set that this node runs, if Redis has no set or an older one.
func (r *Routes) republish(ctx context.Context, over store.RulesHead) error {
	switch {
	case r.current.digest == "":
		return errNothing
	case r.current.empty: // other nodes should not run a set without rules
		return nil
	case r.cfg.Now().Before(r.trouble.publishAt):
		return r.trouble.cause
	}
	return r.publish(ctx, over, max(1, r.current.version), ReasonRepublished)
}

// publish publishes the set that this node runs as a version. reason is that of the Anomaly. The rules of this node
// stay the same.
func (r *Routes) publish(ctx context.Context, over store.RulesHead, version uint64, reason string) error {
	s := collect(r.cfg.Router.Files())
	encoded := s.encode()
	use := func() {}
	if version != r.current.version { // tell the Router its version
		var err error
		if use, err = r.cfg.Router.Prepare(version, s.all()); err != nil {
			return err
		}
	}
	_, ok, err := r.publishRules(ctx, over, version, encoded)
	if err != nil {
		r.trouble.failures++
		r.trouble.cause = err
		r.trouble.publishAt = r.cfg.Now().Add(min(maxBackoff, r.cfg.tune.poll<<min(r.trouble.failures, 10)))
		return err
	}
	r.trouble.failures, r.trouble.publishAt = 0, r.cfg.Now()
	if !ok {
		r.counters.Lost++
		return nil // the next check adopts the set that won
	}
	first := r.current.version == 0
	r.enforce(use, version, s, r.current.digest)
	r.saveCurrent(encoded)
	if first {
		r.counters.Published++
		r.cfg.Log.Info("redis held no rules: the files of this node are shared", "version", version, "digest",
			r.current.digest)
		return nil
	}
	r.counters.Republished++
	r.cfg.Log.Warn("redis had lost the rules: those of this node are shared again", "version", version, "instead_of",
		over.Number)
	r.emit(reason, nil)
	return nil
}
