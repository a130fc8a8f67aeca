package message

import (
	"context"
	"time"

	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/spf"
	"github.com/millrace/millrace/ingress/message/filter"
	"github.com/millrace/millrace/ingress/message/once"
	"github.com/millrace/millrace/ingress/wire"
	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// A Config says how messages are treated. It is copied by New.
type Config struct {
	Hostname    string   // our name in Received fields; required
	LoopTagKeys [][]byte // keys of the loop tags, current first; at least one of at least 16 octets

	// MessageIDKey is the key of the hash by which events tell two mails from two deliveries of one; nil disables it.
	MessageIDKey []byte

	HoldWindow int64 // octets of a message that are held back when it may be signed; 0: 256 KiB

	Auth *auth.Authenticator // nil disables authentication and signing
	SPF  *spf.Checker        // nil disables SPF

	// ARC returns what a Site does with ARC sets, by which seal=auto decides; nil: mail to all Sites is signed whole.
	ARC func(mail.Site) mail.ARCUse

	Store    world.Store // remembers bodies that were predicted wrongly; nil disables prediction
	MarkKeys [][]byte    // keys of the MACs by which Store knows them, current first; at least one with Store

	// Once is the ledger by which a message that comes again is delivered once; nil disables that. It needs Store and
	// MarkKeys, and the Relay has to ask it.
	Once *once.Ledger

	Filters *filter.Set // the content filters that messages are shown; nil: there are none

	// The times below lie inside the client's own time-outs (RFC 5321 section 4.5.3.2). 0 means the default.
	Data   time.Duration // for the next hop's 354; 60 s, the client waits 10 min for the reply to the dot
	Commit time.Duration // from the client's last octet to our reply; 9 min, the client waits 10 min
	Lend   time.Duration // silence of the client after which its session at the next hop is handed back; 5 s
}

// The defaults of a Config.
const (
	DefaultHoldWindow = 256 << 10
	DefaultData       = 60 * time.Second
	DefaultCommit     = 9 * time.Minute
	DefaultLend       = 5 * time.Second
)

// minKey is the least length of a key, in octets.
const minKey = 16

// Validate returns a *mail.FieldError for the first field that cannot be served, or nil.
func (c *Config) Validate() error {
	switch {
	case c.Hostname == "":
		return &mail.FieldError{Field: "hostname", Reason: "is required"}
	case len(c.LoopTagKeys) == 0 || len(c.LoopTagKeys[0]) < minKey:
		return &mail.FieldError{Field: "loop_tag_keys", Reason: "needs a key of at least 16 octets"}
	case c.HoldWindow < 0:
		return &mail.FieldError{Field: "hold_window", Reason: "is negative"}
	case c.Store != nil && (len(c.MarkKeys) == 0 || len(c.MarkKeys[0]) < minKey):
		return &mail.FieldError{Field: "mark_keys", Reason: "needs a key of at least 16 octets"}
	case c.Once != nil && c.Store == nil:
		return &mail.FieldError{Field: "once", Reason: "needs a store"}
	case c.Commit > 9*time.Minute+30*time.Second:
		return &mail.FieldError{Field: "deadlines.commit", Reason: "is beyond the client's own time-out of 10 minutes"}
	}
	return nil
}

// Messages is what the messages of a node share. Its methods are safe for concurrent use.
type Messages struct {
	cfg         Config
	loops       loopTags
	buffers     headerBuffers
	predictions predictions
}

// New returns Messages, or the error of Config.Validate.
func New(cfg Config) (*Messages, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	setDefault(&cfg.HoldWindow, DefaultHoldWindow)
	setDefault(&cfg.Data, DefaultData)
	setDefault(&cfg.Commit, DefaultCommit)
	setDefault(&cfg.Lend, DefaultLend)
	return &Messages{
		cfg: cfg, loops: newLoopTags(cfg.LoopTagKeys),
		predictions: predictions{store: cfg.Store, keys: cfg.MarkKeys},
	}, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Room returns the refusal of a client's message for which there is no memory now, 452 4.3.1, or nil. It is asked
// before a message is taken in.
func Room(client *wire.Client) error {
	if client.Room() {
		return nil
	}
	return outOfBudget()
}

func outOfBudget() *mail.Refusal {
	return mail.Refuse(452, 3, 1, "Too much mail in transit, try again later", "hold budget", nil)
}

// An SPF is a check of a client's reverse-path and name that is under way.
type SPF = spf.Check

// CheckSPF begins the check of a client's reverse-path and name, and returns at once. The caller closes the check. It
// is nil where SPF is disabled and where the client's address is not known.
func (m *Messages) CheckSPF(ctx context.Context, client *wire.Client, reverse mail.Path) *SPF {
	if m.cfg.SPF == nil || client.Unknown {
		return nil
	}
	return m.cfg.SPF.Begin(ctx, client.Addr.Addr().Unmap(), client.Helo, reverse)
}

// Opens returns to which messages the rewritten reverse-path of a stranger opens, by what SPF says of the reverse-path.
// It waits for the check, which has its own deadline. An address that opens is a bearer token: a sender whom nothing
// speaks against gets one. No check stands for one that we could not make.
func Opens(ctx context.Context, check *SPF) mail.Opens {
	if check == nil {
		return mail.OpensToNone
	}
	switch result, _ := check.Wait(ctx); result {
	case spf.Pass.String(), spf.Neutral.String(), spf.None.String():
		return mail.OpensToBounces
	case spf.SoftFail.String():
		return mail.OpensToReports
	}
	return mail.OpensToNone
}
