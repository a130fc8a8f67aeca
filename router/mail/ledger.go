package mail

import "context"

// A LedgerPhase says how far the delivery of a message to a recipient has come, as far as the ledger knows.
type LedgerPhase uint8

// The phases.
const (
	LedgerAbsent LedgerPhase = iota // nothing is known
	LedgerIntent                    // an attempt is about to release the end of data, or has and waits for the answer
	LedgerDoubt                     // an attempt released it and had no answer: the message is delivered or not
	LedgerDone                      // the next hop took the message
)

// A LedgerEntry is what the ledger remembers of one recipient of one message. It holds no text and no address. The zero
// LedgerEntry is that of a recipient of which nothing is known. Times are milliseconds of the Unix epoch, by the clock
// of the store.
type LedgerEntry struct {
	Phase    LedgerPhase
	Doubtful bool    // an attempt before that of Holder may have delivered the message
	Proved   bool    // Holder's client had a domain for which SPF passes
	Holder   TraceID // the attempt that wrote the entry
	Until    int64   // the end of Holder's lease; 0 unless the phase is LedgerIntent
	Expires  int64   // from then on the entry counts as absent
	Code     uint16  // of the next hop's reply; 0 unless the phase is LedgerDone
	Enhanced EnhancedCode
}

// A LedgerEventKind says what happened to an attempt to deliver a message.
type LedgerEventKind uint8

// The kinds of LedgerEvent.
const (
	LedgerLooked  LedgerEventKind = iota // nothing: the entries are wanted
	LedgerClaimed                        // the attempt is about to release the end of data
	LedgerRenewed                        // it still waits for the next hop's answer
	LedgerTook                           // the next hop said 2yz
	LedgerRefused                        // the next hop said 4yz or 5yz, or the end of data was not released
	LedgerLost                           // the end of data was released, and no answer came
	LedgerRead                           // the client has provably read the 2yz
	LedgerFades                          // the client may have read it: Keep bounds how long the entry is remembered
)

// A LedgerEvent is what happened to an attempt. Durations and times are milliseconds.
type LedgerEvent struct {
	Kind   LedgerEventKind
	Holder TraceID // the attempt; with LedgerRead and LedgerFades the holder of the entry that is meant
	Now    int64   // by the clock of the store, which sets it
	Lease  int64   // how long the entry is the attempt's alone, unless it is renewed
	Keep   int64   // how long the entry is remembered
	Proved bool    // the first field of each recipient stands for a domain for which SPF passes
	Whole  bool    // the whole message is in hand: it can begin again for some of its recipients
	Reply  Reply   // of the next hop, with LedgerTook
}

// LedgerKeys name the entries of the recipients of a message. They are MACs under one key.
type LedgerKeys struct {
	Message string // what stays the same between the attempts to send the message
	// Recipients hold a field for each identity that the client showed: the entry of a recipient is found under each of
	// them.
	Recipients [][]string
}

// A LedgerCall is an event on the entries of the recipients of a message.
type LedgerCall struct {
	Keys  []LedgerKeys // as in Attempt
	Event LedgerEvent
}

// An Attempt is one attempt to deliver a message, as the ledger sees it.
type Attempt struct {
	ID     TraceID
	Keys   []LedgerKeys // under the current key, and under the previous one if there is one
	Proved bool         // as in LedgerEvent
	Brief  bool         // the message has no Message-ID or no Date, and another one may look the same
}

// Part returns the attempt for some of its recipients alone, by their indexes.
func (a *Attempt) Part(of []int) *Attempt {
	part := *a
	part.Keys = make([]LedgerKeys, len(a.Keys))
	for i, k := range a.Keys {
		names := make([][]string, len(of))
		for n, at := range of {
			names[n] = k.Recipients[at]
		}
		part.Keys[i] = LedgerKeys{Message: k.Message, Recipients: names}
	}
	return &part
}

// A LedgerAnswer says to which recipients of an attempt the message is to be delivered.
type LedgerAnswer struct {
	Open []int // their indexes, ascending; none: the end of data is not to be released
	// Outcomes are those of the others, one per recipient. Of the open ones only Again is set.
	Outcomes []Outcome
}

// attemptKey is the key of an Attempt in a context.
type attemptKey struct{}

// WithAttempt returns ctx for the Commit of an attempt that the ledger guards.
func WithAttempt(ctx context.Context, a *Attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

// AttemptOf returns the attempt of ctx, nil without one.
func AttemptOf(ctx context.Context) *Attempt {
	a, _ := ctx.Value(attemptKey{}).(*Attempt)
	return a
}
