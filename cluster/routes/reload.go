package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/cluster/store"
)

// mergeTries is how often changed files are merged into rules that other nodes change meanwhile.
const mergeTries = 10

var (
	errUnshared = fmt.Errorf("the rules files have changed and cannot be shared, so nothing changed: reload again "+
		"when redis answers (%w)", store.ErrUnanswered)
	errUnknown = fmt.Errorf("redis did not say whether it took the changed rules: they are in force if it did, "+
		"else reload again (%w)", store.ErrUnanswered)
	errBusy = errors.New("other nodes change the rules faster than the changed files can be merged: nothing " +
		"changed, reload again")
)

// reload does what Reload promises.
func (r *Routes) reload(ctx context.Context) error {
	if r.alone {
		return r.reloadFiles()
	}
	files, paths, err := r.read()
	if err != nil {
		return err
	}
	r.watch.refused, r.watch.publish = "", r.cfg.Now() // what was in the way may be gone
	if r.force.digest != "" && r.taken.digest == digest(files.encode()) {
		if err := r.renew(); err != nil {
			return err
		}
		r.look(ctx)
		return nil
	}
	for range mergeTries {
		if done, err := r.reloadShared(ctx, files, paths); done || err != nil {
			return err
		}
	}
	return errBusy
}

// reloadFiles has the Router run the files under the names that this node has for them.
func (r *Routes) reloadFiles() error {
	files, err := r.cfg.Router.Read()
	if err != nil {
		return err
	}
	s := setOf(files)
	use, err := r.cfg.Router.Prepare(r.force.version+1, files)
	if err != nil {
		return err
	}
	r.enforce(use, r.force.version+1, s, digest(s.encode()))
	return nil
}

// renew has the Router make the rules in force anew, because keys or passwords may have changed.
func (r *Routes) renew() error {
	use, err := r.cfg.Router.Prepare(r.force.version, r.cfg.Router.Files())
	if err != nil {
		return err
	}
	use()
	return nil
}

// reloadShared takes changed files in once. It is not done when another node was faster.
func (r *Routes) reloadShared(ctx context.Context, files set, paths []string) (done bool, err error) {
	head, err := r.cfg.Store.RulesVersion(ctx)
	switch {
	case errors.Is(err, store.ErrUnanswered) && r.force.version == 0 && !r.seen:
		return true, r.runFiles(files, paths)
	case errors.Is(err, store.ErrUnanswered):
		return false, errUnshared
	case err != nil && !errors.Is(err, store.ErrCorrupt):
		return false, err
	}
	if err == nil && r.isNewer(head) {
		if err := r.adopt(ctx, head); err != nil && !errors.Is(err, store.ErrCorrupt) {
			return false, err
		}
		if r.isNewer(head) && r.force.version == 0 { // its parts are lost, and perhaps only for the moment
			return true, r.runFiles(files, paths)
		}
	}
	switch {
	case r.force.version == 0 && files.bare():
		return true, r.runFiles(files, paths)
	case r.force.version > 0 && r.taken.digest == "":
		r.takeIn(files)
		r.cfg.Log.Warn("the rules files could not be read before: what changes in them from now on is published")
		return true, r.renew()
	}
	merged, err := r.merged(files, paths)
	if err != nil {
		return false, err
	}
	sum := digest(merged.encode())
	if sum == r.force.digest && r.force.version > 0 {
		if err := r.renew(); err != nil {
			return false, err
		}
		r.takeIn(files)
		r.cfg.Log.Info("the shared rules have all that changed in the files already", "version", r.force.version)
		return true, nil
	}
	return r.publishMerged(ctx, head, merged, sum, files, paths)
}

// runFiles has a node that has seen no shared rules run its own.
func (r *Routes) runFiles(files set, paths []string) error {
	use, err := r.prepare(0, files, files, paths)
	if err != nil {
		return err
	}
	r.enforce(use, 0, files, digest(files.encode()))
	r.takeIn(files)
	return nil
}

// merged gives the set that the files and the shared rules make together.
func (r *Routes) merged(files set, paths []string) (set, error) {
	if r.force.version == 0 || r.taken.digest == r.force.digest {
		return files, nil
	}
	return merge(r.baseSet(), files, collect(r.cfg.Router.Files()), paths, r.force.version)
}

// prepare has the Router prepare a set that is made of files. Where the fault lies in them, it is told with the names
// that this node has for them.
func (r *Routes) prepare(version uint64, s, files set, paths []string) (func(), error) {
	use, err := r.cfg.Router.Prepare(version, s.all())
	if err == nil {
		return use, nil
	}
	local := make(set, len(files))
	for i, f := range files {
		local[i] = file{paths[i], f.text}
	}
	if _, err := r.cfg.Router.Prepare(version, local.all()); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("merged with version %d of the shared rules: %w", r.force.version, err)
}

// publishMerged shares a set as the version after all that are known, and puts it in force.
func (r *Routes) publishMerged(ctx context.Context, head store.RulesHead, merged set, sum string, files set,
	paths []string) (done bool, err error) {
	version := max(r.force.version, head.Number) + 1
	use, err := r.prepare(version, merged, files, paths)
	if err != nil {
		return false, err
	}
	encoded := merged.encode()
	_, ok, err := r.cfg.Store.PublishRules(ctx, head, version, encoded)
	switch {
	case errors.Is(err, store.ErrUnanswered):
		return false, errUnknown
	case err != nil:
		return false, err
	case !ok:
		r.told.Lost++
		return false, nil
	}
	r.enforce(use, version, merged, sum)
	r.told.Published++
	r.watch.trouble = ""
	r.takeIn(files)
	r.keep(encoded)
	r.cfg.Log.Info("the changed rules files are shared", "version", version, "digest", sum)
	return true, nil
}
