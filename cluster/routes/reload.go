package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/cluster/store"
)

// mergeTries is how often Reload merges if other nodes publish meanwhile.
const mergeTries = 10

var (
	errUnshared = fmt.Errorf("the rules files have changed and cannot be shared, so nothing changed: reload again "+
		"when redis answers (%w)", store.ErrUnanswered)
	errUnknown = fmt.Errorf("redis did not say whether it took the changed rules: they are in force if it did, "+
		"else reload again (%w)", store.ErrUnanswered)
	errBusy = errors.New("other nodes change the rules faster than the changed files can be merged: nothing " +
		"changed, reload again")
)

// reload does the work of Reload, in run.
func (k *keeper) reload(ctx context.Context) error {
	if k.noRedis {
		return k.reloadFiles(ctx)
	}
	files, paths, err := k.read(ctx)
	if err != nil {
		return err
	}
	k.trouble.refused, k.trouble.publishAt = "", k.cfg.Now() // try again now
	if k.current.digest != "" && k.baseline.digest == digest(files.encode()) {
		if err := k.renew(); err != nil {
			return err
		}
		k.check(ctx)
		return nil
	}
	for range mergeTries {
		if done, err := k.reloadShared(ctx, files, paths); done || err != nil {
			return err
		}
	}
	return errBusy
}

// reloadFiles runs the files, under the names that this node has for them.
func (k *keeper) reloadFiles(ctx context.Context) error {
	files, err := k.cfg.Router.Read(ctx)
	if err != nil {
		return err
	}
	s := setOf(files)
	use, err := k.cfg.Router.Prepare(k.current.version+1, files)
	if err != nil {
		return err
	}
	k.enforce(use, k.current.version+1, s, digest(s.encode()))
	return nil
}

// renew prepares and uses the rules in force again, because keys or passwords may have changed.
func (k *keeper) renew() error {
	use, err := k.cfg.Router.Prepare(k.current.version, k.cfg.Router.Files())
	if err != nil {
		return err
	}
	use()
	return nil
}

// reloadShared merges and publishes changed files once. done is false if another node published meanwhile.
func (k *keeper) reloadShared(ctx context.Context, files set, paths []string) (done bool, err error) {
	head, err := k.store.RulesVersion(ctx)
	switch {
	case errors.Is(err, store.ErrUnanswered) && k.current.version == 0 && !k.sawShared:
		return true, k.runFiles(files, paths)
	case errors.Is(err, store.ErrUnanswered):
		return false, errUnshared
	case err != nil && !errors.Is(err, store.ErrCorrupt):
		return false, err
	}
	if err == nil && k.current.isOlder(head) {
		if err := k.adopt(ctx, head); err != nil && !errors.Is(err, store.ErrCorrupt) {
			return k.mend(ctx, head, files, paths, err)
		}
		if k.current.isOlder(head) && k.current.version == 0 { // its parts are missing, perhaps only for a moment
			return true, k.runFiles(files, paths)
		}
	}
	switch {
	case k.current.version == 0 && files.empty():
		return true, k.runFiles(files, paths)
	case k.current.version > 0 && k.baseline.digest == "":
		k.setBaseline(files)
		k.cfg.Log.Warn("the rules files could not be read before: what changes in them from now on is published")
		return true, k.renew()
	}
	merged, err := k.merged(files, paths)
	if err != nil {
		return false, err
	}
	sum := digest(merged.encode())
	if sum == k.current.digest && k.current.version > 0 {
		if err := k.renew(); err != nil {
			return false, err
		}
		k.setBaseline(files)
		k.cfg.Log.Info("the shared rules have all that changed in the files already", "version", k.current.version)
		return true, nil
	}
	return k.publishMerged(ctx, head, merged, sum, files, paths)
}

// mend is called if this node cannot run the shared rules. It merges the changed files into them all the same, and
// publishes the result if this node can run that: the files then have mended the lines that it could not run. Otherwise
// nothing changes, and the error is refused, which is why the shared rules cannot be run.
func (k *keeper) mend(ctx context.Context, head store.RulesHead, files set, paths []string,
	refused error) (done bool, err error) {
	text, err := k.store.load(ctx, head)
	if err != nil {
		return false, refused
	}
	shared, err := decode(text)
	if err != nil {
		return false, refused
	}
	merged, err := merge(k.baseline.or(k.cfg.Router), files, shared, paths, head.Number)
	if err != nil {
		return false, refused
	}
	if _, err := k.prepare(head.Number+1, merged, files, paths); err != nil {
		return false, refused
	}
	return k.publishMerged(ctx, head, merged, digest(merged.encode()), files, paths)
}

// runFiles runs the files as version 0, on a node that has seen no shared rules.
func (k *keeper) runFiles(files set, paths []string) error {
	use, err := k.prepare(0, files, files, paths)
	if err != nil {
		return err
	}
	k.enforce(use, 0, files, digest(files.encode()))
	k.setBaseline(files)
	return nil
}

// merged returns the shared rules with the changes of the files.
func (k *keeper) merged(files set, paths []string) (set, error) {
	if k.current.version == 0 || k.baseline.digest == k.current.digest {
		return files, nil
	}
	return merge(k.baseline.or(k.cfg.Router), files, collect(k.cfg.Router.Files()), paths, k.current.version)
}

// prepare prepares a set that was merged from files. If the files themselves are wrong, the error has the names that
// this node has for them.
func (k *keeper) prepare(version uint64, s, files set, paths []string) (func(), error) {
	use, err := k.cfg.Router.Prepare(version, s.all())
	if err == nil {
		return use, nil
	}
	local := make(set, len(files))
	for i, f := range files {
		local[i] = file{paths[i], f.text}
	}
	if _, err := k.cfg.Router.Prepare(version, local.all()); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("merged with version %d of the shared rules: %w", k.current.version, err)
}

// publishMerged publishes a set as the next version and puts it in force.
func (k *keeper) publishMerged(ctx context.Context, head store.RulesHead, merged set, sum string, files set,
	paths []string) (done bool, err error) {
	version := max(k.current.version, head.Number) + 1
	use, err := k.prepare(version, merged, files, paths)
	if err != nil {
		return false, err
	}
	encoded := merged.encode()
	_, ok, err := k.store.publish(ctx, head, version, encoded)
	switch {
	case errors.Is(err, store.ErrUnanswered):
		return false, errUnknown
	case err != nil:
		return false, err
	case !ok:
		k.counters.Overtaken++
		return false, nil
	}
	k.enforce(use, version, merged, sum)
	k.counters.Published++
	k.trouble.text, k.trouble.logged = "", ""
	k.setBaseline(files)
	k.saveCurrent(encoded)
	k.cfg.Log.Info("the changed rules files are shared", "version", version, "digest", sum)
	return true, nil
}
