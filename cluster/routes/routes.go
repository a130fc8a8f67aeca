package routes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
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

// ErrClosed is the error of Reload after Close.
var ErrClosed = errors.New("routes: closed")

// Routes keeps the rules of this node the same as those of the other nodes. Make one with New. Its exported methods are
// safe for concurrent use.
type Routes struct {
	cfg    Config
	folder folder
	status atomic.Pointer[Status]

	requests  chan request
	closing   context.Context
	close     context.CancelFunc
	closeOnce sync.Once
	started   atomic.Bool
	ended     chan struct{} // closed when run has returned

	// What follows belongs to Start, and then to run.

	noRedis   bool // there is no Redis
	sawShared bool // there are shared rules, which this node may be unable to run
	current   currentSet
	baseline  baseline
	trouble   trouble
	counters  Status // its counters only
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

// A request is a call of Reload that run is to answer.
type request struct {
	ctx  context.Context
	done chan error // buffered for one
}

// New returns Routes. It reads nothing and starts nothing. The error wraps that of Config.Validate.
func New(c Config) (*Routes, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	c = c.withDefaults()
	r := &Routes{cfg: c, folder: folder{path: c.State}, requests: make(chan request), ended: make(chan struct{})}
	r.closing, r.close = context.WithCancel(context.Background())
	r.status.Store(&Status{})
	return r, nil
}

// Start puts rules in force, as the package comment describes, and keeps them the same as those of the other nodes from
// then on. Without Redis its error is that of reading the files. With Redis it has no error: a node without usable
// rules is not ready, and may become ready. Start waits for Redis for at most 5 s. It is called once.
func (r *Routes) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.tune.wait)
	defer cancel()
	head, err := r.askVersion(ctx)
	r.noRedis = errors.Is(err, store.ErrNoRedis)
	if r.noRedis {
		if err := r.reloadFiles(); err != nil {
			return err
		}
	} else {
		r.chooseFirst(ctx, head, err)
	}
	r.publishStatus()
	r.started.Store(true)
	go r.run() // ends with Close, which waits for it
	return nil
}

// askVersion returns the head in Redis. If Redis does not answer, it tries again, because the connection may not be
// established yet.
func (r *Routes) askVersion(ctx context.Context) (head store.RulesHead, err error) {
	if r.cfg.Store == nil {
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
		if head, err = r.cfg.Store.RulesVersion(ctx); !errors.Is(err, store.ErrUnanswered) {
			break
		}
	}
	return head, err
}

// chooseFirst puts the set in force that the node starts with. head and err are the result of askVersion.
func (r *Routes) chooseFirst(ctx context.Context, head store.RulesHead, err error) {
	kept, stateErr := r.folder.load(savedName)
	if stateErr != nil {
		r.cfg.Log.Warn("the rules in the state folder cannot be used", "cause", stateErr)
	}
	var unread *fs.PathError // the file could not be read, which does not mean that it is damaged
	damaged := stateErr != nil && !errors.As(stateErr, &unread)
	if damaged {
		r.cfg.Log.Error("the state folder held rules that cannot be read, which may be newer than the files: these " +
			"are not run. Delete the damaged file to run them")
	}
	files := r.startFiles()
	shared := err == nil && head.Number > 0
	r.sawShared = kept.set != nil || damaged || errors.Is(err, store.ErrNewer)
	if shared && (head.Number > kept.version || head.Number == kept.version && head.Digest != kept.digest) {
		err := r.adopt(ctx, head)
		if err != nil {
			r.cfg.Log.Warn("shared rules cannot be used yet", "version", head.Number, "cause", err)
		}
		r.sawShared = r.sawShared || !errors.Is(err, store.ErrCorrupt)
	}
	if r.current.digest == "" && kept.set != nil {
		if err := r.use(kept.version, kept.set, kept.digest); err != nil {
			r.cfg.Log.Error("the rules in the state folder cannot be used", "version", kept.version, "cause", err)
		}
	}
	if r.current.digest == "" && files != nil && !r.sawShared {
		if err := r.use(0, files, digest(files.encode())); err != nil {
			r.cfg.Log.Error("the rules files cannot be used", "cause", err)
		}
	}
	r.check(ctx)
	if r.current.digest == "" {
		r.cfg.Log.Error("this node has no rules and is not ready: mail is answered 451 4.3.0 until there are some")
		return
	}
	r.logDifference(files)
}

// startFiles reads the files, which are nil after an error, and sets the baseline.
func (r *Routes) startFiles() set {
	files, _, err := r.read()
	if err != nil {
		r.cfg.Log.Warn("the rules files cannot be read", "cause", err)
	}
	base, stateErr := r.folder.load(filesName)
	if stateErr != nil {
		r.cfg.Log.Warn("what the state folder holds of the rules files cannot be used", "cause", stateErr)
	}
	switch {
	case base.set != nil:
		r.baseline = baseline{base.digest, base.set}
	case files != nil:
		r.setBaseline(files)
	}
	return files
}

// logDifference logs if the files are not the rules in force, which an administrator who edits them would not expect.
func (r *Routes) logDifference(files set) {
	if files == nil || digest(files.encode()) == r.current.digest {
		return
	}
	if digest(files.encode()) != r.baseline.digest {
		r.cfg.Log.Warn("the rules files have changed since they were last taken in: a reload publishes what changed",
			"version", r.current.version)
		return
	}
	r.cfg.Log.Info("the shared rules are not those of the rules files: they have been changed elsewhere since",
		"version", r.current.version)
}

// run checks Redis regularly and answers requests to reload. It ends with closing.
func (r *Routes) run() {
	defer close(r.ended)
	timer := time.NewTimer(r.pause())
	defer timer.Stop()
	for {
		select {
		case <-r.closing.Done():
			return
		case q := <-r.requests:
			ctx, cancel := context.WithCancel(q.ctx)
			stop := context.AfterFunc(r.closing, cancel)
			q.done <- r.reload(ctx)
			stop()
			cancel()
		case <-timer.C:
			if !r.noRedis {
				r.check(r.closing)
			}
			timer.Reset(r.pause())
		}
		r.publishStatus()
	}
}

// pause returns the time until the next check. It is random, so that nodes do not check at the same time.
func (r *Routes) pause() time.Duration {
	return time.Duration(float64(r.cfg.tune.poll) * (0.8 + 0.4*rand.Float64()))
}

// Close ends what Start began. The Router keeps the rules that it has. The error is nil.
func (r *Routes) Close() error {
	r.closeOnce.Do(r.close)
	if r.started.Load() {
		<-r.ended
	}
	return nil
}

// Reload reads the files, publishes what changed in them and puts the result in force. It prepares the rules again in
// any case, with the present keys and passwords. Without Redis the files are the rules. After an error nothing changed,
// here or on other nodes, except that after store.ErrUnanswered the new rules may or may not have been published. The
// error is a *ConflictError if the files and the shared rules contradict each other, that of the Router, that of
// reading the files, or ErrClosed.
func (r *Routes) Reload(ctx context.Context) error {
	q := request{ctx, make(chan error, 1)}
	select {
	case r.requests <- q:
	case <-r.ended:
		return ErrClosed
	case <-r.closing.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-q.done:
		return err
	case <-r.ended: // run may have answered before it ended
		select {
		case err := <-q.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Ready reports whether this node has rules. why says why not, or which problem there is with the rules.
func (r *Routes) Ready() (ready bool, why string) {
	s := r.status.Load()
	if s.Digest == "" {
		return false, "no rules yet"
	}
	return true, s.Trouble
}

// Version returns the version of the rules in force, 0 while they are the files of this node.
func (r *Routes) Version() uint64 { return r.status.Load().Version }

// Status returns which rules are in force, and counters.
func (r *Routes) Status() Status { return *r.status.Load() }

// publishStatus makes the present state visible to Status.
func (r *Routes) publishStatus() {
	s := r.counters
	s.Version, s.Digest, s.Trouble = r.current.version, r.current.digest, r.trouble.logged
	s.InStep = !r.noRedis && s.Trouble == "" && s.Version > 0
	r.status.Store(&s)
}

// load loads the text of a head from the store.
func (r *Routes) load(ctx context.Context, head store.RulesHead) ([]byte, error) {
	if r.cfg.tune.load != nil {
		return r.cfg.tune.load(ctx, head)
	}
	return r.cfg.Store.LoadRules(ctx, head)
}

// publishRules publishes a text in the store.
func (r *Routes) publishRules(ctx context.Context, over store.RulesHead, version uint64,
	text []byte) (store.RulesHead, bool, error) {
	if r.cfg.tune.publish != nil {
		return r.cfg.tune.publish(ctx, over, version, text)
	}
	return r.cfg.Store.PublishRules(ctx, over, version, text)
}

// read reads the files. It returns them as a set, and the names that this node has for them.
func (r *Routes) read() (files set, paths []string, err error) {
	all, err := r.cfg.Router.Read()
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
func (r *Routes) use(version uint64, s set, digest string) error {
	use, err := r.cfg.Router.Prepare(version, s.all())
	if err != nil {
		return err
	}
	r.enforce(use, version, s, digest)
	return nil
}

// enforce puts a set in force that the Router has prepared.
func (r *Routes) enforce(use func(), version uint64, s set, digest string) {
	if r.baseline.set == nil && r.baseline.digest != "" && r.baseline.digest != digest {
		r.baseline.set = collect(r.cfg.Router.Files())
	}
	use()
	r.current = currentSet{version: version, digest: digest, empty: s.empty()}
	if r.baseline.digest == digest {
		r.baseline.set = nil
	}
	r.publishStatus()
}

// saveCurrent writes the set in force to the state folder. A failure does not stop the node.
func (r *Routes) saveCurrent(encoded []byte) {
	r.current.unsaved = !r.save(savedName, r.current.version, encoded)
}

// setBaseline sets the baseline and writes it to the state folder.
func (r *Routes) setBaseline(files set) {
	encoded := files.encode()
	r.baseline = baseline{digest(encoded), files}
	if r.baseline.digest == r.current.digest {
		r.baseline.set = nil
	}
	r.save(filesName, 0, encoded)
}

// baseSet returns the set of the baseline.
func (r *Routes) baseSet() set {
	if r.baseline.set == nil {
		return collect(r.cfg.Router.Files())
	}
	return r.baseline.set
}

// save writes a file of the state folder and reports whether it succeeded.
func (r *Routes) save(name string, version uint64, encoded []byte) bool {
	err := r.folder.save(name, version, encoded)
	if err == nil {
		return true
	}
	r.counters.Unsaved++
	r.trouble.saveAt = r.cfg.Now().Add(retrySave)
	r.cfg.Log.Warn("the rules cannot be kept in the state folder: after a restart this node knows only what redis "+
		"or its files say", "cause", err)
	r.emit(ReasonUnsaved, err)
	return false
}

// emit emits an Anomaly.
func (r *Routes) emit(reason string, cause error) {
	r.cfg.Emit(mail.Event{Kind: mail.Anomaly, Time: r.cfg.Now(), Reason: reason, Cause: cause})
}
