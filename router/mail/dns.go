package mail

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"
)

// The errors of DNS look-ups that both the resolver and its callers know. Errors of a look-up wrap them.
var (
	// ErrBadName means that what was asked for is no domain name; nothing was sent.
	ErrBadName = errors.New("not a domain name")
	// ErrNotAsked means that too many questions are open; nothing was sent. It says nothing about the name or its
	// servers.
	ErrNotAsked = errors.New("too many questions open")
	// ErrEnough means that the transaction has asked as many questions as it may; nothing was sent. What depends on the
	// answer is not evaluated.
	ErrEnough = errors.New("too many questions for one transaction")
)

// A Rank says what a question is for: who chose the name, and what goes before it when not all can be asked.
type Rank uint8

// The ranks. The client chose the names of all but RankOurs.
const (
	RankClient  Rank = iota // the signals of the score: its name in reverse DNS and in EHLO, the domain of MAIL
	RankHelo                // SPF of the name in EHLO
	RankARC                 // the keys of ARC
	RankSPF                 // SPF of the reverse-path
	RankMessage             // the policies of the authors, and the keys of DKIM
	RankOurs                // the name of a DNS list, or of a host that we send to
	RankChosen              // the name of a host that we send to because the client chose it
)

// maxQuestions is how many questions a transaction may ask that no cache answers, besides those about names of ours.
const maxQuestions = 40

// kept are how many of them each rank leaves to those above it: five signatures are verified at most, the policy of one
// author takes nine questions at most, and a check of SPF seldom more than a dozen.
var kept = [...]int32{RankClient: 28, RankHelo: 20, RankARC: 14, RankSPF: 16, RankMessage: 0, RankOurs: 0}

// Questions are the DNS questions of one client connection. They are safe for concurrent use.
type Questions struct {
	// Client is the widest network of the client, in whose share they are; zero if the client is not known. It is set
	// before the first question.
	Client   netip.Prefix
	favoured atomic.Bool
	used     atomic.Int32 // by the transaction
}

// Renew says that a transaction has ended, so that the next one has questions of its own. What was asked before the
// first one counts in it.
func (q *Questions) Renew() { q.used.Store(0) }

// draw takes a question of this rank, and reports whether there was one.
func (q *Questions) draw(rank Rank) bool {
	for {
		used := q.used.Load()
		if used >= maxQuestions-kept[rank] {
			return false
		}
		if q.used.CompareAndSwap(used, used+1) {
			return true
		}
	}
}

// Favour takes the questions of a client that is trusted, allowed or known good out of the share of its network.
func (q *Questions) Favour() { q.favoured.Store(true) }

// An Asking is a context that says for whom the DNS is asked. A question under a context without one is our own.
type Asking struct {
	context.Context
	Questions *Questions // nil: of no client
	Rank      Rank
	Turn      *Turn // of its one question; nil if the caller does not need to know
}

// A Turn says whether a question waits until there is room to ask it. The one goroutine that has the question changes
// it; Waits and Since are safe for concurrent use.
type Turn struct {
	at atomic.Int64 // 0: it did not wait yet; turnWaits; else when it was asked first, in Unix nanoseconds
}

const turnWaits = -1

// Await says that the question waits. One that was asked before, and is to be asked again, does not.
func (t *Turn) Await() {
	if t != nil && t.at.Load() == 0 {
		t.at.Store(turnWaits)
	}
}

// Come says that the question is asked now.
func (t *Turn) Come(now time.Time) {
	if t != nil && t.at.Load() <= 0 {
		t.at.Store(now.UnixNano())
	}
}

// Renew says that the question begins anew, with the next that it has to pass.
func (t *Turn) Renew() { t.at.Store(0) }

// Waits reports whether the question waits and was never asked.
func (t *Turn) Waits() bool { return t != nil && t.at.Load() == turnWaits }

// Since returns when the question was asked, or began if that is not known.
func (t *Turn) Since(began time.Time) time.Time {
	if t == nil || t.at.Load() <= 0 {
		return began
	}
	return time.Unix(0, t.at.Load())
}

type askingKey struct{}

// Value returns what the context holds under a key.
func (a *Asking) Value(key any) any {
	if key == (askingKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// AskAs returns an Asking for the client that ctx asks for. It is a context by its address.
func AskAs(ctx context.Context, rank Rank) Asking {
	a := Asking{Context: ctx, Rank: rank}
	if outer := AskingOf(ctx); outer != nil {
		a.Questions = outer.Questions
	}
	return a
}

// AskForHost returns an Asking for the names of a destination: RankOurs, unless ctx says RankChosen.
func AskForHost(ctx context.Context) Asking {
	if outer := AskingOf(ctx); outer != nil && outer.Rank == RankChosen {
		return AskAs(ctx, RankChosen)
	}
	return AskAs(ctx, RankOurs)
}

// AskingOf returns the innermost Asking of ctx, nil without one.
func AskingOf(ctx context.Context) *Asking {
	a, _ := ctx.Value(askingKey{}).(*Asking)
	return a
}

// Draw takes the question from those that the transaction may ask, and reports whether there was one left for its rank.
func (a *Asking) Draw() bool {
	return a == nil || a.Questions == nil || a.Rank >= RankOurs || a.Questions.draw(a.Rank)
}

// IsOurs reports whether the question is not to stand in the share of the client's network: we chose the name, or the
// client is favoured.
func (a *Asking) IsOurs() bool {
	return a == nil || a.Rank == RankOurs || a.Questions != nil && a.Questions.favoured.Load()
}

// Client returns the network of the client that is asked for, zero if there is none.
func (a *Asking) Client() netip.Prefix {
	if a == nil || a.Questions == nil {
		return netip.Prefix{}
	}
	return a.Questions.Client
}
