package account

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/router/mail"
)

// Rules is the file of rules that the API writes, among the rules that the node runs.
type Rules struct {
	// Text returns the text of the file as it is in force, "" without one.
	Text func() string
	// Change has the file changed: edit gets its newest text and returns the one that takes its place. The Router has
	// to accept it beside the files of the administrator. Then it is kept, and put in force. edit may be called again.
	// An error of edit is returned as it is, and then nothing has changed.
	Change func(ctx context.Context, edit func(old string) (string, error)) error
	// Try returns the error that Change would have for a text. Nothing changes.
	Try func(text string) error
	// Files returns the names and the texts of all files of rules in force. nil means that there are none.
	Files func() iter.Seq2[string, string]
	// Faults returns the lines of the file that an error of Change is about, and whether it is one of rules at all.
	Faults func(err error) (lines []Fault, isRules bool)
}

// A Config says where an Account keeps what it has.
type Config struct {
	// State is the folder of the lists.
	State string
	// Store shares the lists among nodes, if it has Redis. Without it and without State they are kept nowhere, and
	// nothing can be changed.
	Store *store.Store
	// Rules is the file of rules. Its functions may be nil if nothing is kept.
	Rules Rules
	// Token is the token of the configuration, whose principal is TokenFile; nil for none.
	Token []byte
	// ALabels returns a domain as A-labels, and false for what is no domain. Required.
	ALabels func(string) (string, bool)
	// Log gets a line for each change. nil disables it.
	Log *slog.Logger
	// Emit is called with an Anomaly for each rule that is disabled because its destination goes. It must not block.
	// nil disables it.
	Emit func(mail.Event)
	// Now is the clock. nil means time.Now.
	Now func() time.Time
}

// An Account is what the API makes and keeps. Its methods are safe for concurrent use.
type Account struct {
	cfg     Config
	writing chan struct{} // holds one value while something is changed, which is the turn
	lists   lists
	rules   ruleReader
	guard   *guard
	polling polling
}

// New returns an Account with what its folder has. The error is that of a list that cannot be read.
func New(c Config) (*Account, error) {
	if c.ALabels == nil {
		return nil, errors.New("account: ALabels is required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Emit == nil {
		c.Emit = func(mail.Event) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &Account{
		cfg: c, writing: make(chan struct{}, 1), guard: newGuard(),
		lists: lists{folder: c.State, store: c.Store, log: c.Log}, rules: ruleReader{source: c.Rules.Text},
	}
	k := &kept{}
	if c.State != "" {
		if err := k.load(c.State); err != nil {
			return nil, fmt.Errorf("account: %w", err)
		}
	}
	a.lists.use(k)
	return a, nil
}

// now returns the time as records have it.
func (a *Account) now() time.Time { return a.cfg.Now().UTC().Truncate(time.Millisecond) }

// Keeps returns an *Error of the kind Unkept if nothing can be kept.
func (a *Account) Keeps() error {
	if a.cfg.State == "" && !a.cfg.Store.HasRedis() || a.cfg.Rules.Change == nil {
		return &Error{Kind: Unkept, Code: CodeUnkept, Message: "this node has nowhere to keep it: the configuration " +
			"has neither state, a folder, nor redis"}
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

// change changes lists. edit gets a copy of what is kept, and returns what to write of the audit. It is called again if
// another node changed them meanwhile.
func (a *Account) change(ctx context.Context, edit func(k *kept) ([]Entry, error)) error {
	end, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return a.lists.change(ctx, edit)
}
