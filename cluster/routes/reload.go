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
func (r *Routes) reload(ctx context.Context) error {
	if r.noRedis {
		return r.reloadFiles()
	}
	files, paths, err := r.read()
	if err != nil {
		return err
	}
	r.trouble.refused, r.trouble.publishAt = "", r.cfg.Now() // try again now
	if r.current.digest != "" && r.baseline.digest == digest(files.encode()) {
		if err := r.renew(); err != nil {
			return err
		}
		r.check(ctx)
		return nil
	}
	for range mergeTries {
		if done, err := r.reloadShared(ctx, files, paths); done || err != nil {
			return err
		}
	}
	return errBusy
}

// reloadFiles runs the files, under the names that this node has for them.
func (r *Routes) reloadFiles() error {
	files, err := r.cfg.Router.Read()
	if err != nil {
		return err
	}
	s := setOf(files)
	use, err := r.cfg.Router.Prepare(r.current.version+1, files)
	if err != nil {
		return err
	}
	r.enforce(use, r.current.version+1, s, digest(s.encode()))
	return nil
}

// renew prepares and uses the rules in force again, because keys or passwords may have changed.
func (r *Routes) renew() error {
	use, err := r.cfg.Router.Prepare(r.current.version, r.cfg.Router.Files())
	if err != nil {
		return err
	}
	use()
	return nil
}

// reloadShared merges and publishes changed files once. done is false if another node published meanwhile.
func (r *Routes) reloadShared(ctx context.Context, files set, paths []string) (done bool, err error) {
	head, err := r.cfg.Store.RulesVersion(ctx)
	switch {
	case errors.Is(err, store.ErrUnanswered) && r.current.version == 0 && !r.sawShared:
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
		if r.isNewer(head) && r.current.version == 0 { // its parts are missing, perhaps only for a moment
			return true, r.runFiles(files, paths)
		}
	}
	switch {
	case r.current.version == 0 && files.empty():
		return true, r.runFiles(files, paths)
	case r.current.version > 0 && r.baseline.digest == "":
		r.setBaseline(files)
		r.cfg.Log.Warn("the rules files could not be read before: what changes in them from now on is published")
		return true, r.renew()
	}
	merged, err := r.merged(files, paths)
	if err != nil {
		return false, err
	}
	sum := digest(merged.encode())
	if sum == r.current.digest && r.current.version > 0 {
		if err := r.renew(); err != nil {
			return false, err
		}
		r.setBaseline(files)
		r.cfg.Log.Info("the shared rules have all that changed in the files already", "version", r.current.version)
		return true, nil
	}
	return r.publishMerged(ctx, head, merged, sum, files, paths)
}

// runFiles runs the files as version 0, on a node that has seen no shared rules.
func (r *Routes) runFiles(files set, paths []string) error {
	use, err := r.prepare(0, files, files, paths)
	if err != nil {
		return err
	}
	r.enforce(use, 0, files, digest(files.encode()))
	r.setBaseline(files)
	return nil
}

// merged returns the shared rules with the changes of the files.
func (r *Routes) merged(files set, paths []string) (set, error) {
	if r.current.version == 0 || r.baseline.digest == r.current.digest {
		return files, nil
	}
	return merge(r.baseSet(), files, collect(r.cfg.Router.Files()), paths, r.current.version)
}

// prepare prepares a set that was merged from files. If the files themselves are wrong, the error has the names that
// this node has for them.
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
	return nil, fmt.Errorf("merged with version %d of the shared rules: %w", r.current.version, err)
}

// publishMerged publishes a set as the next version and puts it in force.
func (r *Routes) publishMerged(ctx context.Context, head store.RulesHead, merged set, sum string, files set,
	paths []string) (done bool, err error) {
	version := max(r.current.version, head.Number) + 1
	use, err := r.prepare(version, merged, files, paths)
	if err != nil {
		return false, err
	}
	encoded := merged.encode()
	_, ok, err := r.publishRules(ctx, head, version, encoded)
	switch {
	case errors.Is(err, store.ErrUnanswered):
		return false, errUnknown
	case err != nil:
		return false, err
	case !ok:
		r.counters.Lost++
		return false, nil
	}
	r.enforce(use, version, merged, sum)
	r.counters.Published++
	r.trouble.logged = ""
	r.setBaseline(files)
	r.saveCurrent(encoded)
	r.cfg.Log.Info("the changed rules files are shared", "version", version, "digest", sum)
	return true, nil
}
