package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/cluster/store"
)

// look compares what this node runs with what Redis holds, and does what the difference asks for. What goes wrong is
// logged when it begins and when it ends.
func (r *Routes) look(ctx context.Context) {
	err := r.compare(ctx)
	if ctx.Err() != nil { // nothing was learnt
		return
	}
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if trouble != r.watch.trouble {
		r.watch.trouble = trouble
		if err != nil {
			r.cfg.Log.Warn("the rules of this node may differ from those of others", "version", r.force.version,
				"cause", err)
		} else {
			r.cfg.Log.Info("the rules are those of the other nodes", "version", r.force.version)
		}
	}
	if r.force.unsaved && !r.cfg.Now().Before(r.watch.save) {
		r.keep(collect(r.cfg.Router.Files()).encode())
	}
}

var errNothing = errors.New("neither redis nor this node has rules")

// compare does one look.
func (r *Routes) compare(ctx context.Context) error {
	head, err := r.cfg.Store.RulesVersion(ctx)
	switch {
	case errors.Is(err, store.ErrCorrupt): // nobody can use it, so it is none
		return r.giveBack(ctx, head)
	case err != nil:
		return err
	case r.isNewer(head):
		r.seen = true
		return r.adopt(ctx, head)
	case head.Number > 0 && head.Number == r.force.version && head.Whole:
		return nil
	}
	return r.giveBack(ctx, head)
}

// isNewer tells whether what Redis holds takes the place of what this node runs. Two sets with one version are settled
// by Redis: so nobody has to publish, and all come to the same one.
func (r *Routes) isNewer(head store.RulesHead) bool {
	return head.Number > r.force.version ||
		head.Number > 0 && head.Number == r.force.version && head.Digest != r.force.digest
}

// adopt takes over what Redis holds.
func (r *Routes) adopt(ctx context.Context, head store.RulesHead) error {
	if head.String() == r.watch.refused && r.cfg.Now().Before(r.watch.retry) {
		return r.watch.why
	}
	text, err := r.cfg.Store.LoadRules(ctx, head)
	if errors.Is(err, store.ErrCorrupt) {
		return r.miss(ctx, head)
	}
	if err != nil {
		return err
	}
	s, err := decode(text)
	before := r.force
	if err == nil {
		err = r.use(head.Number, s, head.Digest)
	}
	if err != nil {
		err = fmt.Errorf("version %d of the shared rules cannot be used by this node: %w", head.Number, err)
		r.told.Refused++
		r.watch.refused, r.watch.why, r.watch.retry = head.String(), err, r.cfg.Now().Add(retryRefused)
		r.emit(ReasonRefused, err)
		return err
	}
	r.told.Adopted++
	r.watch.refused, r.watch.missing = "", ""
	if before.version == head.Number {
		r.cfg.Log.Warn("two sets of rules had the same version, and that of redis is used", "version", head.Number,
			"digest", head.Digest, "before", before.digest)
	}
	r.cfg.Log.Info("shared rules are in force", "version", head.Number, "digest", head.Digest)
	r.keep(text)
	return nil
}

// miss is told of a head whose parts are lost. A node that runs this version writes them again when it looks; if none
// does, there is none left, and another set takes its place.
func (r *Routes) miss(ctx context.Context, head store.RulesHead) error {
	now := r.cfg.Now()
	if r.watch.missing != head.String() {
		r.watch.missing, r.watch.since = head.String(), now
	}
	err := fmt.Errorf("version %d of the shared rules: %w", head.Number, store.ErrCorrupt)
	if r.force.digest != "" && !r.force.bare && now.Sub(r.watch.since) >= r.cfg.Grace {
		return r.publish(ctx, head, head.Number+1, ReasonReplaced)
	}
	r.watch.refused, r.watch.why, r.watch.retry = head.String(), err, now.Add(min(retryMissing, r.cfg.Grace))
	return err
}

// giveBack publishes what this node runs where Redis has none, or less.
func (r *Routes) giveBack(ctx context.Context, over store.RulesHead) error {
	switch {
	case r.force.digest == "":
		return errNothing
	case r.force.bare: // an empty file is no set that others should run
		return nil
	case r.cfg.Now().Before(r.watch.publish):
		return r.watch.why
	}
	return r.publish(ctx, over, max(1, r.force.version), ReasonRepublished)
}

// publish has Redis hold what this node runs as a version. Nothing else changes for this node.
func (r *Routes) publish(ctx context.Context, over store.RulesHead, version uint64, reason string) error {
	s := collect(r.cfg.Router.Files())
	encoded := s.encode()
	use := func() {}
	if version != r.force.version { // the Router is to know its version
		var err error
		if use, err = r.cfg.Router.Prepare(version, s.all()); err != nil {
			return err
		}
	}
	_, ok, err := r.cfg.Store.PublishRules(ctx, over, version, encoded)
	if err != nil {
		r.watch.failures++
		r.watch.why = err
		r.watch.publish = r.cfg.Now().Add(min(mostBackoff, r.cfg.Poll<<min(r.watch.failures, 10)))
		return err
	}
	r.watch.failures, r.watch.publish = 0, r.cfg.Now()
	if !ok {
		r.told.Lost++
		return nil // the next look tells what won
	}
	first := r.force.version == 0
	r.enforce(use, version, s, r.force.digest)
	r.keep(encoded)
	if first {
		r.told.Published++
		r.cfg.Log.Info("redis held no rules: the files of this node are shared", "version", version, "digest",
			r.force.digest)
		return nil
	}
	r.told.Republished++
	r.cfg.Log.Warn("redis had lost the rules: those of this node are shared again", "version", version, "instead_of",
		over.Number)
	r.emit(reason, nil)
	return nil
}
