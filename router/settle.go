package router

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/router/rules"
)

const (
	// quiet is how long a file must not have changed before a reload reads it, and the time between two looks at it.
	quiet = time.Second
	// looks is how often a reload looks at files that change.
	looks = 5
)

// errChanging prevents that a file which is being written, and is cut at the end of a line, refuses the mail of the
// domains that it lacks yet.
var errChanging = errors.New("the rules files were changed at each of 5 looks within four seconds, and the rules in " +
	"force are kept: reload again when they are written")

// A seenFile is what a look at a file shows.
type seenFile struct {
	name    string
	size    int64
	changed int64 // in nanoseconds since 1970
}

// settled calls read when the files of the Config are quiet, and again if they changed meanwhile. Before the first
// rules there are none to keep, so that read is called at once. A wait ends with ctx, and so does settled.
func (r *Router) settled(ctx context.Context, read func() error) error {
	var last []seenFile
	for n := range looks {
		if n > 0 && !wait(ctx, quiet) {
			return context.Cause(ctx)
		}
		now := time.Now()
		before, err := look(r.cfg.Paths)
		if err != nil {
			return err
		}
		if r.Ready() && !areQuiet(before, now) && !(n > 0 && slices.Equal(before, last)) {
			last = before
			continue
		}
		readErr := read()
		if last, err = look(r.cfg.Paths); err != nil {
			return err
		}
		if slices.Equal(before, last) {
			return readErr
		}
	}
	return errChanging
}

// wait waits for d and reports whether ctx lasted as long.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// look returns what there is to see of the files of paths.
func look(paths []string) ([]seenFile, error) {
	names, err := rules.Names(paths)
	if err != nil {
		return nil, err
	}
	seen := make([]seenFile, 0, len(names))
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		seen = append(seen, seenFile{name, info.Size(), info.ModTime().UnixNano()})
	}
	return seen, nil
}

// areQuiet reports whether the last change of each file is a while ago. The time of a file that another clock wrote can
// lie in the future: such a file is quiet if two looks see the same.
func areQuiet(seen []seenFile, now time.Time) bool {
	for _, f := range seen {
		if now.UnixNano()-f.changed < int64(quiet) {
			return false
		}
	}
	return true
}
