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
	files, paths, err := readFiles(ctx, k.cfg.Router)
	if err != nil {
		return err
	}
	k.trouble.refused, k.trouble.publishAt = "", k.cfg.Now() // try again now
	if k.current.digest != "" && k.baseline.digest == digest(files.encode()) {
		if err := renew(k.cfg.Router, k.current.version); err != nil {
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
func renew(r Router, version uint64) error {
	use, err := r.Prepare(version, r.Files())
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
		return true, renew(k.cfg.Router, k.current.version)
	}
	merged, err := k.merged(files, paths)
	if err != nil {
		return false, err
	}
	sum := digest(merged.encode())
	if sum == k.current.digest && k.current.version > 0 {
		if err := renew(k.cfg.Router, k.current.version); err != nil {
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
	own, api := shared.split()
	merged, err := merge(k.baseline.or(k.cfg.Router), files, own, paths, head.Number)
	if err != nil {
		return false, refused
	}
	if merged, err = k.cfg.settle(head.Number+1, merged, api); err != nil {
		return false, refused
	}
	return k.publishMerged(ctx, head, merged, digest(merged.encode()), files, paths)
}

// runFiles runs the files as version 0, on a node that has seen no shared rules.
func (k *keeper) runFiles(files set, paths []string) error {
	_, api := collect(k.cfg.Router.Files()).split()
	all, err := k.cfg.settle(0, files, api)
	if err != nil {
		all = files.with(api)
	}
	use, err := k.prepare(0, all, files, paths)
	if err != nil {
		return err
	}
	k.enforce(use, 0, all, digest(all.encode()))
	k.setBaseline(files)
	return nil
}

// merged returns the shared rules with the changes of the files. Of the API's rules those are left out that the files
// do not allow.
func (k *keeper) merged(files set, paths []string) (set, error) {
	if k.baseline.digest == k.current.digest {
		return files, nil
	}
	own, api := collect(k.cfg.Router.Files()).split()
	merged := files
	if k.current.version > 0 && (api == "" || digest(own.encode()) != k.baseline.digest) {
		var err error
		if merged, err = merge(k.baseline.or(k.cfg.Router), files, own, paths, k.current.version); err != nil {
			return nil, err
		}
	}
	if api == "" {
		return merged, nil
	}
	settled, err := k.cfg.settle(k.current.version+1, merged, api)
	if err != nil {
		_, err = k.prepare(k.current.version+1, merged.with(api), files, paths) // by the names of this node
	}
	return settled, err
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
	if ok, err := k.publishPrepared(ctx, head, version, merged, use); !ok {
		return false, err
	}
	k.setBaseline(files)
	k.cfg.Log.Info("the changed rules files are shared", "version", version, "digest", sum)
	return true, nil
}

// publishPrepared publishes a set that the Router has prepared and puts it in force. ok is false if another node
// published meanwhile.
func (k *keeper) publishPrepared(ctx context.Context, head store.RulesHead, version uint64, s set,
	use func()) (ok bool, err error) {
	encoded := s.encode()
	_, ok, err = k.store.publish(ctx, head, version, encoded)
	switch {
	case errors.Is(err, store.ErrUnanswered):
		return false, errUnknown
	case err != nil:
		return false, err
	case !ok:
		k.counters.Overtaken++
		return false, nil
	}
	k.enforce(use, version, s, digest(encoded))
	k.counters.Published++
	k.trouble.text, k.trouble.logged = "", ""
	k.saveCurrent(encoded)
	return true, nil
}
