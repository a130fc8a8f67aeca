package mail

import (
	"net/netip"
	"time"
)

// The reasons of a Refusal that has to do with a hook.
const (
	ReasonNeedsHook  = "hook not asked" // see HookNeeded
	ReasonHook       = "hook"           // the hook refuses the recipient, or puts it off
	ReasonHookAnswer = "hook answer"    // it names what cannot be a target
)

// HookNeeded is the Cause of a Refusal for now by a rule that has a hook asked: see Query.Hook.
type HookNeeded struct {
	Hook string // its name or its URL, as the rule has it
	Rule Rule
}

// Error returns what is to be asked. The URL may be a secret, so that the rule stands for it.
func (e *HookNeeded) Error() string { return "the hook of " + e.Rule.String() + " decides" }

// MailRule returns the rule.
func (e *HookNeeded) MailRule() Rule { return e.Rule }

// A HookQuestion is what a hook is told of a recipient.
type HookQuestion struct {
	Hook      string // its name or its URL
	Trace     TraceID
	At        time.Time
	Recipient Path
	Sender    Path
	Client    netip.Addr // the zero Addr if it is not known
	Helo      string
	TLS       string // the version, "" in clear
	LoggedIn  bool   // the client has; as whom is nothing for the owner of another domain
	Size      int64  // that the client stated; 0 if it did not
	SPF       string // of the sender, in the words of RFC 8601; "" if it was not checked
	Score     float64
	Signals   string // the reasons of the score
	Rule      Rule
}

// A HookAnswer is what a hook says of a recipient. Exactly one of Forward, Reply and Drop is set if it was heard.
type HookAnswer struct {
	Heard   bool // if not, what stands behind the hook in its rule holds
	Forward []Path
	Reply   Reply // refuses the recipient, or puts it off
	Drop    bool
	Said    string // for the log: what it said, or why it was not heard, in a word or two
}
