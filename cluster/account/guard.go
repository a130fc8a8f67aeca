package account

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/leaf/network"
)

const (
	// maxWrong is how many wrong tokens a network may try in wrongTime. After that none is good, but those that were
	// right from there before and those of minSure octets and more: these cannot be guessed, and many people come from
	// the network of one proxy, of whom one has a wrong token in a program.
	maxWrong  = 20
	wrongTime = time.Minute
	minSure   = 40
	// maxNetworks bounds the networks that are remembered.
	maxNetworks = 4096
)

// A guard counts wrong tokens.
type guard struct {
	mu    sync.Mutex // held for the moment of a count
	wrong *lru.Cache[netip.Prefix, tries]
	right *lru.Cache[seenToken, struct{}]
}

// tries are the wrong tokens of a network until a time.
type tries struct {
	count int
	until time.Time
}

// A seenToken is a token that was right, and where it came from.
type seenToken struct {
	from netip.Prefix
	hash string
}

func newGuard() *guard {
	return &guard{
		wrong: lru.New[netip.Prefix, tries](maxNetworks), right: lru.New[seenToken, struct{}](maxNetworks),
	}
}

// wait returns how long a network has to wait with a token, 0 if it may be compared.
func (g *guard) wait(t seenToken, now time.Time) time.Duration {
	if _, ok := g.right.Get(t); ok {
		return 0
	}
	if w, ok := g.wrong.Get(t.from); ok && w.count >= maxWrong && now.Before(w.until) {
		return w.until.Sub(now)
	}
	return 0
}

// failed counts a wrong token.
func (g *guard) failed(from netip.Prefix, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w, ok := g.wrong.Get(from)
	if !ok || !now.Before(w.until) {
		w = tries{until: now.Add(wrongTime)}
	}
	w.count++
	g.wrong.Put(from, w, 1)
}

// Authenticate returns who has a token that came from a client, "" for none. The error is an *Error of the kinds
// Unauthorized and Limited.
func (a *Account) Authenticate(secret string, from netip.Addr) (Principal, error) {
	if secret == "" {
		return Principal{}, &Error{Kind: Unauthorized, Code: CodeUnauthorized, Message: "a token is required"}
	}
	now := a.cfg.Now()
	seen := seenToken{network.Of(from), hashOf(secret)}
	p, right := a.principalOf(secret, seen.hash)
	if wait := a.guard.wait(seen, now); wait > 0 && (!right || len(secret) < minSure) {
		return Principal{}, &Error{
			Kind: Limited, Code: CodeLimited, Message: "too many wrong tokens, try again later", Wait: wait,
		}
	}
	if right {
		a.guard.right.Put(seen, struct{}{}, 1)
		return p, nil
	}
	a.guard.failed(seen.from, now)
	return Principal{}, &Error{Kind: Unauthorized, Code: CodeUnauthorized, Message: "the token is wrong or has expired"}
}

// Sender returns the domains that the holder of a token may send mail as, by the id of the token: none if it is for all
// domains, for reading alone, over, or none. right reports whether a secret is that of the token.
func (a *Account) Sender(id, secret string) (domains []string, right bool) {
	tokens := a.lists.current.Load().tokens
	for i := range tokens {
		t := &tokens[i]
		if t.ID == id && t.Role >= Owner && !t.isOver(a.cfg.Now()) {
			return t.Domains, subtle.ConstantTimeCompare([]byte(t.Hash), []byte(hashOf(secret))) == 1
		}
	}
	return nil, false
}

// principalOf returns who has a token. Digests are compared, so that the time it takes reveals nothing of a token, not
// even its length.
func (a *Account) principalOf(secret, hash string) (Principal, bool) {
	if a.cfg.Token != nil {
		want, got := sha256.Sum256(a.cfg.Token), sha256.Sum256([]byte(secret))
		if subtle.ConstantTimeCompare(want[:], got[:]) == 1 {
			return TokenFile(), true
		}
	}
	t := a.lists.current.Load().byHash[hash]
	if t == nil || t.isOver(a.cfg.Now()) {
		return Principal{}, false
	}
	return t.principal(), true
}
