package routes

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxVersion bounds a version, as the store does.
	maxVersion = 1 << 53
	// startTries is how often Start asks a Redis that does not answer, and startPause the time between two tries.
	startTries = 4
	startPause = 100 * time.Millisecond
	// retryRefused is the time until a set that this node cannot run is tried again, and retryMissing the time for a
	// set whose parts are missing.
	retryRefused = 30 * time.Second
	retryMissing = 2 * time.Second
	// retrySave is the time until a failed write of the state folder is tried again, and maxBackoff the maximum time
	// between two tries to publish.
	retrySave  = 30 * time.Second
	maxBackoff = 30 * time.Second
)

// A keeper keeps the rules of this node the same as those of the other nodes. It belongs to one goroutine at a time,
// except its status.
type keeper struct {
	cfg    Config
	store  sharedRules
	folder folder
	status atomic.Pointer[Status]

	noRedis   bool // there is no Redis
	sawShared bool // there are shared rules, which this node may be unable to run
	current   currentSet
	baseline  baseline
	trouble   trouble
	counters  Status // its counters only
}

// newKeeper returns a keeper for a configuration with defaults.
func newKeeper(c Config) *keeper {
	k := &keeper{cfg: c, store: sharedRules{c.Store, c.tune}, folder: folder{path: c.State}}
	k.status.Store(&Status{})
	return k
}

// sharedRules is the store, some of whose methods tests replace.
type sharedRules struct {
	*store.Store
	tune tuning
}

// RulesVersion returns which rules there are; see store.RulesVersion.
func (s sharedRules) RulesVersion(ctx context.Context) (store.RulesHead, error) {
	if s.tune.version != nil {
		return s.tune.version(ctx)
	}
	return s.Store.RulesVersion(ctx)
}

// load loads the text of a head; see store.LoadRules.
func (s sharedRules) load(ctx context.Context, head store.RulesHead) ([]byte, error) {
	if s.tune.load != nil {
		return s.tune.load(ctx, head)
	}
	return s.LoadRules(ctx, head)
}

// publish publishes a text; see store.PublishRules.
func (s sharedRules) publish(ctx context.Context, over store.RulesHead, version uint64,
	text []byte) (store.RulesHead, bool, error) {
	if s.tune.publish != nil {
		return s.tune.publish(ctx, over, version, text)
	}
	return s.PublishRules(ctx, over, version, text)
}

// askVersion returns the head in Redis. If Redis does not answer, it tries again, because the connection may not be
// established yet.
func (s sharedRules) askVersion(ctx context.Context) (head store.RulesHead, err error) {
	if s.Store == nil {
		return head, store.ErrNoRedis
	}
	for try := range startTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return head, err
			case <-time.After(startPause):
			}
		}
		if head, err = s.RulesVersion(ctx); !errors.Is(err, store.ErrUnanswered) {
			break
		}
	}
	return head, err
}

// currentSet is the set in force. The Router has its text.
type currentSet struct {
	version uint64
	digest  string // "" if there is no set
	empty   bool   // it has no rules
	unsaved bool   // it is not in the state folder
}

// baseline is the state of the files at the last publication or merge.
type baseline struct {
	digest string // "" if unknown
	set    set    // nil if it is the set in force
}

// trouble is what is remembered of problems from one check of Redis to the next.
type trouble struct {
	text         string    // the problem of the last check, "" for no problem
	since        time.Time // of text
	logged       string    // the problem that was logged last, "" for no problem
	refused      string    // the head of a set that could not be adopted
	cause        error     // why, or why publishing failed
	retryAt      time.Time // when adopting is tried again
	missing      string    // the head of a set whose parts are missing
	missingSince time.Time
	failures     int       // failed tries to publish in a row
	publishAt    time.Time // not before
	saveAt       time.Time // not before
}

// chooseFirst puts the set in force that the node starts with. files are those of startFiles, head and err the result
// of askVersion.
func (k *keeper) chooseFirst(ctx context.Context, files set, head store.RulesHead, err error) {
	kept, stateErr := k.folder.load(savedName)
	if stateErr != nil {
		k.cfg.Log.Warn("the rules in the state folder cannot be used", "cause", stateErr)
	}
	var unread *fs.PathError // the file could not be read, which does not mean that it is damaged
	damaged := stateErr != nil && !errors.As(stateErr, &unread)
	if damaged {
		k.cfg.Log.Error("the state folder held rules that cannot be read, which may be newer than the files: these " +
			"are not run. Delete the damaged file to run them")
	}
	shared := err == nil && head.Number > 0
	k.sawShared = kept.set != nil || damaged || errors.Is(err, store.ErrNewer)
	if shared && (head.Number > kept.version || head.Number == kept.version && head.Digest != kept.digest) {
		err := k.adopt(ctx, head)
		if err != nil {
			k.cfg.Log.Warn("shared rules cannot be used yet", "version", head.Number, "cause", err)
		}
		k.sawShared = k.sawShared || !errors.Is(err, store.ErrCorrupt)
	}
	if k.current.digest == "" && kept.set != nil {
		if err := k.use(kept.version, kept.set, kept.digest); err != nil {
			k.cfg.Log.Error("the rules in the state folder cannot be used", "version", kept.version, "cause", err)
		}
	}
	if k.current.digest == "" && files != nil && !k.sawShared {
		files, err := k.cfg.settle(0, files, k.cfg.API)
		if err == nil {
			err = k.use(0, files, digest(files.encode()))
		}
		if err != nil {
			k.cfg.Log.Error("the rules files cannot be used", "cause", err)
		}
	}
}

// begin compares the set that the node starts with, of chooseFirst, with that in Redis for the first time.
func (k *keeper) begin(ctx context.Context, files set) {
	k.check(ctx)
	if k.current.digest == "" {
		k.cfg.Log.Error("this node has no rules and is not ready: mail is answered 451 4.3.0 until there are some")
		return
	}
	k.logDifference(files)
}

// startFiles reads the files, which are nil after an error, and sets the baseline.
func (k *keeper) startFiles(ctx context.Context) set {
	files, _, err := readFiles(ctx, k.cfg.Router)
	if err != nil {
		k.cfg.Log.Warn("the rules files cannot be read", "cause", err)
	}
	base, stateErr := k.folder.load(filesName)
	if stateErr != nil {
		k.cfg.Log.Warn("what the state folder holds of the rules files cannot be used", "cause", stateErr)
	}
	switch {
	case base.set != nil:
		k.baseline = baseline{base.digest, base.set}
	case files != nil:
		k.setBaseline(files)
	}
	return files
}

// logDifference logs if the files are not the rules in force, which an administrator who edits them would not expect.
func (k *keeper) logDifference(files set) {
	own, _ := collect(k.cfg.Router.Files()).split()
	if files == nil || digest(files.encode()) == digest(own.encode()) {
		return
	}
	if digest(files.encode()) != k.baseline.digest {
		k.cfg.Log.Warn("the rules files have changed since they were last taken in: a reload publishes what changed",
			"version", k.current.version)
		return
	}
	k.cfg.Log.Info("the shared rules are not those of the rules files: they have been changed elsewhere since",
		"version", k.current.version)
}

// publishStatus makes the present state visible to Status.
func (k *keeper) publishStatus() {
	s := k.counters
	s.Version, s.Digest, s.Trouble = k.current.version, k.current.digest, k.trouble.text
	s.InStep = !k.noRedis && s.Trouble == "" && s.Version > 0
	k.status.Store(&s)
}

// readFiles reads the files. It returns them as a set, and the names that this node has for them.
func readFiles(ctx context.Context, r Router) (files set, paths []string, err error) {
	all, err := r.Read(ctx)
	if err != nil {
		return nil, nil, err
	}
	for name := range all {
		paths = append(paths, name)
	}
	files = setOf(all)
	if files == nil {
		files = set{}
	}
	return files, paths, nil
}

// use prepares a set and puts it in force.
func (k *keeper) use(version uint64, s set, digest string) error {
	use, err := k.cfg.Router.Prepare(version, s.all())
	if err != nil {
		return err
	}
	k.enforce(use, version, s, digest)
	return nil
}

// enforce puts a set in force that the Router has prepared.
func (k *keeper) enforce(use func(), version uint64, s set, digest string) {
	if k.baseline.set == nil && k.baseline.digest != "" && k.baseline.digest != digest {
		k.baseline.set = collect(k.cfg.Router.Files())
	}
	use()
	k.current = currentSet{version: version, digest: digest, empty: s.empty()}
	if k.baseline.digest == digest {
		k.baseline.set = nil
	}
	k.publishStatus()
}

// saveCurrent writes the set in force to the state folder. A failure does not stop the node.
func (k *keeper) saveCurrent(encoded []byte) {
	k.current.unsaved = !k.save(savedName, k.current.version, encoded)
}

// setBaseline sets the baseline and writes it to the state folder.
func (k *keeper) setBaseline(files set) {
	encoded := files.encode()
	k.baseline = baseline{digest(encoded), files}
	if k.baseline.digest == k.current.digest {
		k.baseline.set = nil
	}
	k.save(filesName, 0, encoded)
}

// or returns the set of the baseline, which may be the one in force.
func (b *baseline) or(inForce Router) set {
	if b.set == nil {
		return collect(inForce.Files())
	}
	return b.set
}

// save writes a file of the state folder and reports whether it succeeded.
func (k *keeper) save(name string, version uint64, encoded []byte) bool {
	err := k.folder.save(name, version, encoded)
	if err == nil {
		return true
	}
	k.counters.Unsaved++
	k.trouble.saveAt = k.cfg.Now().Add(retrySave)
	k.cfg.Log.Warn("the rules cannot be kept in the state folder: after a restart this node knows only what redis "+
		"or its files say", "cause", err)
	k.cfg.anomaly(ReasonUnsaved, err)
	return false
}

// anomaly emits an Anomaly.
func (c *Config) anomaly(reason string, cause error) {
	c.Emit(mail.Event{Kind: mail.Anomaly, Time: c.Now(), Reason: reason, Cause: cause})
}
