package routes

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/router/mail"
)

// A Router runs rules.
type Router interface {
	// Read gives the names and the texts of the files that the configuration names, read anew.
	Read() (iter.Seq2[string, string], error)
	// Prepare makes rules ready to be used as version number, and changes nothing until use is called. It refuses what
	// is no set of rules, and no rules at all in the place of some.
	Prepare(number uint64, files iter.Seq2[string, string]) (use func(), err error)
	// Files gives the names and the texts of the rules in force, none before the first use.
	Files() iter.Seq2[string, string]
}

// A Store holds the rules that are shared. Its errors are those of package store.
type Store interface {
	RulesVersion(context.Context) (store.RulesHead, error)
	LoadRules(context.Context, store.RulesHead) ([]byte, error)
	PublishRules(ctx context.Context, over store.RulesHead, number uint64, text []byte) (head store.RulesHead, ok bool,
		err error)
}

// A Config says whose rules are kept the same, and where.
type Config struct {
	// Router runs the rules. It should have none yet.
	Router Router
	// Store holds the shared rules. Nil, or a store without Redis: the files are the rules.
	Store Store
	// State is the folder in which the rules are kept over a restart; it is made if it is not there. Empty: nowhere.
	State string
	// Poll is the time between two looks at Redis, give or take a fifth, between 1 ms and 1 minute. 0: 500 ms.
	Poll time.Duration
	// Wait bounds how long Start waits for Redis, which may hold rules newer than those this node remembers. 0: 5 s.
	Wait time.Duration
	// Grace is how long rules that Redis names and does not have may be missing before others take their place. 0: 30
	// s.
	Grace time.Duration
	// Emit is told, as an Anomaly, of what an operator should see; it must not block. Nil: nobody.
	Emit func(mail.Event)
	// Log gets a line for each change of version and for each trouble that begins. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock of Grace and of retries; nil means time.Now.
	Now func() time.Time
}

// Validate reports the first field that is wrong as a *mail.FieldError.
func (c Config) Validate() error {
	switch {
	case c.Router == nil:
		return &mail.FieldError{Field: "router", Reason: "is required"}
	case c.Poll != 0 && (c.Poll < time.Millisecond || c.Poll > time.Minute):
		return &mail.FieldError{Field: "poll", Reason: "is not between 1ms and 1m"}
	case c.Wait < 0:
		return &mail.FieldError{Field: "wait", Reason: "is negative"}
	case c.Grace < 0:
		return &mail.FieldError{Field: "grace", Reason: "is negative"}
	}
	return nil
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&c.Poll, 500*time.Millisecond)
	set(&c.Wait, 5*time.Second)
	set(&c.Grace, 30*time.Second)
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
