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
	// mostVersion bounds a version, as the store does.
	mostVersion = 1 << 53
	// startTries is how often Start asks a Redis that does not answer, startPause apart.
	startTries = 4
	startPause = 100 * time.Millisecond
	// retryRefused is the time until a set that this node cannot run is tried again, and retryMissing that for one
	// whose parts are lost.
	retryRefused = 30 * time.Second
	retryMissing = 2 * time.Second
	// retrySave is the time until what could not be kept is kept again, and mostBackoff the longest between two
	// publications that Redis did not take.
	retrySave   = 30 * time.Second
	mostBackoff = 30 * time.Second
)

// ErrClosed is the error of Reload after Close.
var ErrClosed = errors.New("routes: closed")

// Routes keeps the rules of this node the same as those of the others. Make one with New. Its exported methods are safe
// for concurrent use.
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

	alone bool // there is no Redis
	seen  bool // there are shared rules, be it that this node cannot run them
	force inForce
	taken baseline
	watch watch
	told  Status // counters
}

// inForce is the set that the Router runs. Its text is the Router's.
type inForce struct {
	version uint64
	digest  string // "": none
	bare    bool   // it says nothing
	unsaved bool   // it is not in the state folder
}

// baseline is what the files were when they were last taken in.
type baseline struct {
	digest string // "": unknown
	set    set    // nil where it is the set in force
}

// watch remembers what goes wrong between two looks at Redis.
type watch struct {
	trouble  string    // that was logged last
	refused  string    // the head of a set that was tried in vain
	why      error     // so
	retry    time.Time // when it is tried again
	missing  string    // the head of a set whose parts are lost
	since    time.Time // when that was seen
	failures int       // publications in a row that Redis did not take
	publish  time.Time // not before
	save     time.Time // not before
}

// A request is a Reload that waits for its end.
type request struct {
	ctx  context.Context
	done chan error // has room for one
}

// New makes Routes. Nothing is read and nothing runs yet.
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

// Start puts rules in force, as the package comment says which, and keeps them the same as those of the other nodes
// from then on. Without Redis its error is that of reading the files. With one it has none: a node without rules that
// it can use is not ready, and may become so. It waits for Redis for Config.Wait at most. It is called once.
func (r *Routes) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Wait)
	defer cancel()
	head, err := r.ask(ctx)
	r.alone = errors.Is(err, store.ErrNoRedis)
	if r.alone {
		if err := r.reloadFiles(); err != nil {
			return err
		}
	} else {
		r.begin(ctx, head, err)
	}
	r.publishStatus()
	r.started.Store(true)
	go r.run() // ends with Close, which waits for it
	return nil
}

// ask asks Redis for its head, more than once if it does not answer, for it may not be connected yet.
func (r *Routes) ask(ctx context.Context) (head store.RulesHead, err error) {
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

// begin chooses the set that the node starts with. The answer of Redis to ask is at hand.
func (r *Routes) begin(ctx context.Context, head store.RulesHead, err error) {
	kept, stateErr := r.folder.load(heldName)
	if stateErr != nil {
		r.cfg.Log.Warn("the rules in the state folder cannot be used", "cause", stateErr)
	}
	var unread *fs.PathError // says nothing of what was held
	damaged := stateErr != nil && !errors.As(stateErr, &unread)
	if damaged {
		r.cfg.Log.Error("the state folder held rules that cannot be read, which may be newer than the files: these " +
			"are not run. Delete the damaged file to run them")
	}
	files := r.beginFiles()
	shared := err == nil && head.Number > 0
	r.seen = kept.set != nil || damaged || errors.Is(err, store.ErrNewer)
	if shared && (head.Number > kept.version || head.Number == kept.version && head.Digest != kept.digest) {
		err := r.adopt(ctx, head)
		if err != nil {
			r.cfg.Log.Warn("shared rules cannot be used yet", "version", head.Number, "cause", err)
		}
		r.seen = r.seen || !errors.Is(err, store.ErrCorrupt)
	}
	if r.force.digest == "" && kept.set != nil {
		if err := r.use(kept.version, kept.set, kept.digest); err != nil {
			r.cfg.Log.Error("the rules in the state folder cannot be used", "version", kept.version, "cause", err)
		}
	}
	if r.force.digest == "" && files != nil && !r.seen {
		if err := r.use(0, files, digest(files.encode())); err != nil {
			r.cfg.Log.Error("the rules files cannot be used", "cause", err)
		}
	}
	r.look(ctx)
	if r.force.digest == "" {
		r.cfg.Log.Error("this node has no rules and is not ready: mail is answered 451 4.3.0 until there are some")
		return
	}
	r.tellDifference(files)
}

// beginFiles reads the files, and what they were when they were last taken in.
func (r *Routes) beginFiles() set {
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
		r.taken = baseline{base.digest, base.set}
	case files != nil:
		r.takeIn(files)
	}
	return files
}

// tellDifference says that the files are not what is in force, which nobody would suspect who edits them.
func (r *Routes) tellDifference(files set) {
	if files == nil || digest(files.encode()) == r.force.digest {
		return
	}
	if digest(files.encode()) != r.taken.digest {
		r.cfg.Log.Warn("the rules files have changed since they were last taken in: a reload publishes what changed",
			"version", r.force.version)
		return
	}
	r.cfg.Log.Info("the shared rules are not those of the rules files: they have been changed elsewhere since",
		"version", r.force.version)
}

// run looks at Redis again and again, and reloads when it is asked to.
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
			if !r.alone {
				r.look(r.closing)
			}
			timer.Reset(r.pause())
		}
		r.publishStatus()
	}
}

// pause is the time until the next look, another one each time, so that nodes do not ask in step.
func (r *Routes) pause() time.Duration {
	return time.Duration(float64(r.cfg.Poll) * (0.8 + 0.4*rand.Float64()))
}

// Close ends what Start began. The Router goes on with the rules it has.
func (r *Routes) Close() error {
	r.closeOnce.Do(r.close)
	if r.started.Load() {
		<-r.ended
	}
	return nil
}

// Reload reads the files anew, publishes what changed in them and puts the outcome in force; the rules are made anew in
// any case, with the keys and passwords as they are now. Without Redis the files are the rules. On an error nothing
// changed, here or elsewhere, except that one of ErrUnanswered may leave it open whether the new rules were published.
// It is a *ConflictError where the files and the shared rules say different things, or that of the Router, or of
// reading.
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
	case <-r.ended: // it may have been the last thing that was done
		select {
		case err := <-q.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Ready reports whether this node has rules; if not, or if something about them is wrong, why says so.
func (r *Routes) Ready() (ready bool, why string) {
	s := r.status.Load()
	if s.Digest == "" {
		return false, "no rules yet"
	}
	return true, s.Trouble
}

// Version is that of the rules in force, 0 while they are the files of this node.
func (r *Routes) Version() uint64 { return r.status.Load().Version }

// Status tells which rules are in force and what was done so far.
func (r *Routes) Status() Status { return *r.status.Load() }

func (r *Routes) publishStatus() {
	s := r.told
	s.Version, s.Digest, s.Trouble = r.force.version, r.force.digest, r.watch.trouble
	s.InStep = !r.alone && s.Trouble == "" && s.Version > 0
	r.status.Store(&s)
}

// read reads the files, and gives how this node calls them.
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

// use has the Router run a set.
func (r *Routes) use(version uint64, s set, digest string) error {
	use, err := r.cfg.Router.Prepare(version, s.all())
	if err != nil {
		return err
	}
	r.enforce(use, version, s, digest)
	return nil
}

// enforce puts in force what the Router has prepared.
func (r *Routes) enforce(use func(), version uint64, s set, digest string) {
	if r.taken.set == nil && r.taken.digest != "" && r.taken.digest != digest {
		r.taken.set = collect(r.cfg.Router.Files())
	}
	use()
	r.force = inForce{version: version, digest: digest, bare: s.bare()}
	if r.taken.digest == digest {
		r.taken.set = nil
	}
	r.publishStatus()
}

// keep writes the set in force to the state folder. A node runs without.
func (r *Routes) keep(encoded []byte) {
	r.force.unsaved = !r.save(heldName, r.force.version, encoded)
}

// takeIn remembers files as taken in.
func (r *Routes) takeIn(files set) {
	encoded := files.encode()
	r.taken = baseline{digest(encoded), files}
	if r.taken.digest == r.force.digest {
		r.taken.set = nil
	}
	r.save(filesName, 0, encoded)
}

// baseSet gives what the files were.
func (r *Routes) baseSet() set {
	if r.taken.set == nil {
		return collect(r.cfg.Router.Files())
	}
	return r.taken.set
}

// save writes to the state folder and tells whether that succeeded.
func (r *Routes) save(name string, version uint64, encoded []byte) bool {
	err := r.folder.save(name, version, encoded)
	if err == nil {
		return true
	}
	r.told.Unsaved++
	r.watch.save = r.cfg.Now().Add(retrySave)
	r.cfg.Log.Warn("the rules cannot be kept in the state folder: after a restart this node knows only what redis "+
		"or its files say", "cause", err)
	r.emit(ReasonUnsaved, err)
	return false
}

func (r *Routes) emit(reason string, cause error) {
	r.cfg.Emit(mail.Event{Kind: mail.Anomaly, Time: r.cfg.Now(), Reason: reason, Cause: cause})
}
