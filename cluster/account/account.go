package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// Rules is the file of rules that the API writes, among the rules that the node runs.
type Rules struct {
	// Text returns the text of the file as it is in force, "" without one.
	Text func() string
	// Change has the file changed: edit gets its newest text and returns the one that takes its place. The Router has
	// to accept it beside the files of the administrator. Then it is kept, and put in force. edit may be called again.
	// An error of edit is returned as it is, and then nothing has changed.
	Change func(ctx context.Context, edit func(old string) (string, error)) error
	// Faults returns the lines of the file that an error of Change is about, and whether it is one of rules at all.
	Faults func(err error) (lines []Fault, isRules bool)
}

// A Config says where an Account keeps what it has.
type Config struct {
	// State is the folder of the lists. Without it they are kept nowhere, and nothing can be changed.
	State string
	// Rules is the file of rules. Its functions may be nil if nothing is kept.
	Rules Rules
	// Token is the token of the configuration, whose principal is TokenFile; nil for none.
	Token []byte
	// ALabels returns a domain as A-labels, and false for what is no domain. Required.
	ALabels func(string) (string, bool)
	// Log gets a line for each change. nil disables it.
	Log *slog.Logger
	// Now is the clock. nil means time.Now.
	Now func() time.Time
}

// An Account is what the API makes and keeps. Its methods are safe for concurrent use.
type Account struct {
	cfg     Config
	writing chan struct{} // holds one value while something is changed
	kept    atomic.Pointer[kept]
	read    atomic.Pointer[readRules]
	guard   *guard
}

// kept is all lists at one time. It is never changed, but replaced.
type kept struct {
	tokens       list[keptToken]
	destinations list[Destination]
	audit        list[Entry]

	byHash map[string]*keptToken // the tokens by their hash
}

// readRules is the rules of a text.
type readRules struct {
	text string
	list []Rule
	err  error
}

// New returns an Account with what its folder has. The error is that of a list that cannot be read.
func New(c Config) (*Account, error) {
	if c.ALabels == nil {
		return nil, errors.New("account: ALabels is required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &Account{cfg: c, writing: make(chan struct{}, 1), guard: newGuard()}
	k := &kept{}
	if c.State != "" {
		var errs [3]error
		k.tokens, errs[0] = loadList[keptToken](c.State, tokensName)
		k.destinations, errs[1] = loadList[Destination](c.State, destinationsName)
		k.audit, errs[2] = loadList[Entry](c.State, auditName)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("account: %w", err)
		}
	}
	a.use(k)
	return a, nil
}

// now returns the time as records have it.
func (a *Account) now() time.Time { return a.cfg.Now().UTC().Truncate(time.Millisecond) }

// use puts lists in force.
func (a *Account) use(k *kept) {
	k.byHash = make(map[string]*keptToken, len(k.tokens.list))
	for i := range k.tokens.list {
		k.byHash[k.tokens.list[i].Hash] = &k.tokens.list[i]
	}
	a.kept.Store(k)
}

// Keeps returns an *Error of the kind Unkept if nothing can be kept.
func (a *Account) Keeps() error {
	if a.cfg.State == "" || a.cfg.Rules.Change == nil {
		return &Error{Kind: Unkept, Code: CodeUnkept, Message: "this node has nowhere to keep it: the configuration " +
			"names no folder as state"}
	}
	return nil
}

// begin awaits the turn of a change. The caller ends it.
func (a *Account) begin(ctx context.Context) (end func(), err error) {
	if err := a.Keeps(); err != nil {
		return nil, err
	}
	select {
	case a.writing <- struct{}{}:
		return func() { <-a.writing }, nil
	case <-ctx.Done():
		return nil, busy(ctx.Err())
	}
}

func busy(err error) error {
	return &Error{Kind: Busy, Code: CodeBusy, Message: "not now: " + err.Error()}
}

// change changes lists. edit gets a copy of what is kept, and returns what to write of the audit.
func (a *Account) change(ctx context.Context, edit func(k *kept) ([]Entry, error)) error {
	end, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return a.changeLists(edit)
}

// changeLists does the work of change, in its turn.
func (a *Account) changeLists(edit func(k *kept) ([]Entry, error)) error {
	old := a.kept.Load()
	next := &kept{tokens: old.tokens, destinations: old.destinations, audit: old.audit}
	next.tokens.list = slices.Clone(old.tokens.list)
	next.destinations.list = slices.Clone(old.destinations.list)
	entries, err := edit(next)
	if err != nil {
		return err
	}
	next.audit.list = bounded(append(slices.Clip(old.audit.list), entries...))
	if err := errors.Join(
		saveChanged(a.cfg.State, tokensName, &next.tokens, old.tokens),
		saveChanged(a.cfg.State, destinationsName, &next.destinations, old.destinations),
		saveChanged(a.cfg.State, auditName, &next.audit, old.audit),
	); err != nil {
		a.cfg.Log.Error("what the API made cannot be kept", "cause", err)
		return busy(err)
	}
	a.use(next)
	return nil
}

// saveChanged writes a list with its next number, if it has changed.
func saveChanged[T any](folder, name string, next *list[T], old list[T]) error {
	same, err := isSame(name, *next, old)
	if same || err != nil {
		return err
	}
	next.number = old.number + 1
	return saveList(folder, name, *next)
}

func isSame[T any](name string, one, other list[T]) (bool, error) {
	if len(one.list) != len(other.list) {
		return false, nil
	}
	a, err := encode(name, one)
	if err != nil {
		return false, err
	}
	b, err := encode(name, other)
	return string(a) == string(b), err
}
