package routes

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/router/mail"
)

// A Router runs rules.
type Router interface {
	// Read reads the files that the configuration names and returns their names and texts. It may wait for files that
	// are being written, until ctx ends.
	Read(ctx context.Context) (iter.Seq2[string, string], error)
	// Prepare prepares rules to be used as version number. Nothing changes until use is called. The error is that of
	// invalid rules, or of no rules at all in place of some.
	Prepare(number uint64, files iter.Seq2[string, string]) (use func(), err error)
	// Files returns the names and texts of the rules in force, nothing before the first use.
	Files() iter.Seq2[string, string]
}

// A Config says which Router's rules are kept the same, and where they are kept.
type Config struct {
	// Router runs the rules. It should have no rules yet. Required.
	Router Router
	// Store holds the shared rules. Without it, and if it has no Redis, the files are the rules.
	Store *store.Store
	// API is the text of the rules that the API of this node made while it did not share its rules. They are among
	// those that this node brings if there are no shared rules yet.
	API string
	// Faults returns the lines of the API's rules that an error of Router is about. nil means that there are none.
	Faults func(error) []account.Fault
	// State is the folder that keeps the rules over a restart. It is created if it does not exist. "" disables it.
	State string
	// Emit is called with an Anomaly for each problem that an operator should see. It must not block. nil disables it.
	Emit func(mail.Event)
	// Log gets a line for each change of version and for each problem that begins or ends. nil disables it.
	Log *slog.Logger
	// Now is the clock of pauses and retries. nil means time.Now.
	Now func() time.Time

	tune tuning
}

const (
	// pollInterval is the mean time between two checks of Redis, which varies by a fifth.
	pollInterval = 500 * time.Millisecond
	// startWait bounds how long Start waits for Redis, which may hold rules newer than those that this node remembers.
	startWait = 5 * time.Second
	// tellAfter is how long Redis has to be silent before that is told: a busy moment makes single checks fail, and
	// nothing comes of it.
	tellAfter = 10 * time.Second
	// missingGrace is how long the parts of a set that Redis names may be missing before another set replaces it.
	missingGrace = 30 * time.Second
)

// A tuning holds what tests change. Its zero fields mean the constants and the methods of Config.Store.
type tuning struct {
	poll    time.Duration
	tell    time.Duration
	version func(context.Context) (store.RulesHead, error)
	wait    time.Duration
	grace   time.Duration
	load    func(context.Context, store.RulesHead) ([]byte, error)
	publish func(ctx context.Context, over store.RulesHead, number uint64, text []byte) (store.RulesHead, bool, error)
}

// Validate returns the first field that is wrong as a *mail.FieldError, or nil.
func (c Config) Validate() error {
	if c.Router == nil {
		return &mail.FieldError{Field: "router", Reason: "is required"}
	}
	return nil
}

// withDefaults returns c with its zero fields set.
func (c Config) withDefaults() Config {
	c.tune.poll = cmp.Or(c.tune.poll, pollInterval)
	c.tune.tell = cmp.Or(c.tune.tell, tellAfter)
	c.tune.wait = cmp.Or(c.tune.wait, startWait)
	c.tune.grace = cmp.Or(c.tune.grace, missingGrace)
	if c.Faults == nil {
		c.Faults = func(error) []account.Fault { return nil }
	}
	if c.Emit == nil {
		c.Emit = func(mail.Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
