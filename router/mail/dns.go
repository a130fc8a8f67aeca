package mail

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
)

// The errors of DNS look-ups that both the resolver and its callers know. Errors of a look-up wrap them.
var (
	// ErrBadName means that what was asked for is no domain name; nothing was sent.
	ErrBadName = errors.New("not a domain name")
	// ErrNotAsked means that too many questions are open; nothing was sent. It says nothing about the name or its
	// servers.
	ErrNotAsked = errors.New("too many questions open")
)

// A Rank says what a question is for, and so who chose the name.
type Rank uint8

const (
	// RankClient is the rank of a name that the client chose: its name in reverse DNS and in EHLO, the domains of
	// its reverse-path and of its message.
	RankClient Rank = iota
	// RankOurs is the rank of a name that we chose: that of a DNS list, or of a host that we send to.
	RankOurs
)

// Questions are the DNS questions of one client connection. They are safe for concurrent use.
type Questions struct {
	// Client is the widest network of the client, in whose share they are; zero if the client is not known. It is set
	// before the first question.
	Client   netip.Prefix
	favoured atomic.Bool
}

// Favour takes the questions of a client that is trusted, allowed or known good out of the share of its network.
func (q *Questions) Favour() { q.favoured.Store(true) }

// An Asking is a context that says for whom the DNS is asked. A question under a context without one is our own.
type Asking struct {
	context.Context
	Questions *Questions // nil: of no client
	Rank      Rank
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

// AskingOf returns the innermost Asking of ctx, nil without one.
func AskingOf(ctx context.Context) *Asking {
	a, _ := ctx.Value(askingKey{}).(*Asking)
	return a
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
