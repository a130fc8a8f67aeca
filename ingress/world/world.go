// Package world declares what ingress asks of the world outside it: DNS, and the store of what is known about clients.
//
// It owns the two contracts and nothing else. It refuses to know how DNS is spoken, where the store keeps its data and
// what the answers are used for.
//
// Invariants: every method is safe for concurrent use and returns when its context ends; answers are shared and must
// not be changed.
package world

import (
	"context"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Resolver answers questions of the DNS. That there is no such name or no such record is an answer and no error; an
// error means that the answer cannot be known now. An error for what is no domain name wraps mail.ErrBadName, one for
// want of room to ask mail.ErrNotAsked, and one for want of questions that the transaction may ask mail.ErrEnough. The
// context says for whom it is asked (mail.Asking). Names need no dot at their end.
type Resolver interface {
	// LookupTXT returns the TXT records of a name, the strings of each joined.
	LookupTXT(ctx context.Context, name string) ([]string, error)
	// LookupMX returns the MX hosts of a domain by preference. The null MX (RFC 7505) is the one host ".".
	LookupMX(ctx context.Context, name string) (hosts []string, err error)
	// LookupAddrs returns the addresses of a name in both families. It does not wait long for the second family once it
	// has the first: with an error the addresses may be some of them, which can be believed, but what is missing may
	// not be held against the client.
	LookupAddrs(ctx context.Context, name string) ([]netip.Addr, error)
	// LookupSameFamily returns the addresses of a name in the family of another address, and waits for them.
	LookupSameFamily(ctx context.Context, name string, as netip.Addr) ([]netip.Addr, error)
	// LookupPTR returns the names that an address maps to. Nothing says that they map back.
	LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error)
	// LookupA returns the A records of a name, as DNS lists answer with them, and how long they hold. Without records
	// ttl is the negative TTL (RFC 2308). An expired answer is an error: it would hide that the list is dead.
	LookupA(ctx context.Context, name string) (codes []netip.Addr, ttl time.Duration, err error)
	// Exists reports whether there is a name, whatever records it has. It is false only for a name that the DNS denies
	// (NXDOMAIN, RFC 8020).
	Exists(ctx context.Context, name string) (bool, error)
}

// A Store keeps what the nodes know together about clients, rates and messages. *store.Store implements it. Where its
// shared half fails, the local half answers.
type Store interface {
	// Client returns what is known about a client, in one round trip of bounded time.
	Client(ctx context.Context, q mail.ClientQuery) (mail.Facts, error)
	// Rcpt draws the rates of a group of recipients and remembers what greylisting saw, in one round trip. The error is
	// that of a rate that cannot be kept.
	Rcpt(ctx context.Context, q mail.RcptQuery) (mail.RcptFacts, error)
	// Rates draws rates. The results are in their order; the error is that of a rate that cannot be kept.
	Rates(ctx context.Context, rates []mail.Rate) ([]mail.RateResult, error)
	// AwaitLists returns an answer of each DNS list about an address. It waits for the answers that another caller is
	// looking up, until one of them is this caller's or ctx ends. The caller may take lock to look up those that are
	// mail.ListAskedOfYou.
	AwaitLists(ctx context.Context, addr netip.Addr, lists []string, lock time.Duration) ([]mail.ListAnswer, error)
	// PutDNSBL keeps an answer of a DNS list about an address for ttl; no codes mean not listed.
	PutDNSBL(ctx context.Context, addr netip.Addr, list string, codes []netip.Addr, ttl time.Duration)
	// Vote counts a vote on a client and reports whether it changed anything.
	Vote(ctx context.Context, v mail.Vote) bool
	// KnowGood marks the network of a client as known good for ttl, for mail of a domain for which SPF passes, or of
	// none if that is "". It replaces what was left of an earlier mark.
	KnowGood(ctx context.Context, client netip.Addr, domain string, ttl time.Duration)
	// Mark sets a mark for ttl, on this node in any case, and reports whether the other nodes will see it.
	Mark(ctx context.Context, key string, ttl time.Duration) bool
	// Marked reports which marks stand, and whether that is all that the nodes know together.
	Marked(ctx context.Context, keys ...string) (marked []bool, all bool)
}
