package arc

import (
	"context"
	"sync"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/mail"
)

// window bounds the keys of older seals that are looked for at a time.
const window = 8

// A search is the search for the keys of one chain. Its methods are called by one goroutine.
type search struct {
	ctx     context.Context
	keys    *dkim.KeyFinder
	lookups map[string]*lookup
}

// A lookup is the search for one key. Its goroutine sets key and err. It ends when the resolver answers, at the latest
// when the context of the search ends; judge waits for it.
type lookup struct {
	key  *dkim.PublicKey
	err  error
	done sync.WaitGroup
}

// start starts the search for the key at a name, unless it was started before.
func (s *search) start(name string) {
	if s.lookups[name] != nil {
		return
	}
	l := &lookup{}
	s.lookups[name] = l
	l.done.Go(func() { l.key, l.err = s.keys.Find(s.ctx, name) })
}

// verify waits for a key and checks a signature.
func (s *search) verify(g *signature) error {
	l := s.lookups[g.keyName]
	l.done.Wait()
	if l.err != nil {
		return l.err
	}
	return l.key.Verify(g.algorithm, g.digest, g.value)
}

// judge checks all signatures, but not the body. It sets failure and oldest. No look-up is under way when it returns.
func (c *Chain) judge(ctx context.Context, v *Verifier) {
	ctx, cancel := context.WithCancel(ctx)
	c.asking = mail.AskAs(ctx, mail.RankARC)
	s := &search{&c.asking, v.keys, make(map[string]*lookup, 2)}
	defer func() {
		cancel() // ends what is under way after a failure
		for _, l := range s.lookups {
			l.done.Wait()
		}
	}()
	n := len(c.sets)
	newest := &c.sets[n-1]
	s.start(newest.message.keyName)
	s.start(newest.seal.keyName)
	message := at(n, messageName, s.verify(&newest.message.signature))
	seal := at(n, sealName, s.verify(&newest.seal))
	if c.failure = worse(message, seal); c.failure != nil {
		return
	}
	if c.failure = c.judgeSeals(s); c.failure == nil {
		c.judgeMessages(s)
	}
}

// judgeSeals checks the older seals from the newest on, while the keys of the next ones are looked for.
func (c *Chain) judgeSeals(s *search) *dkim.Failure {
	var unknown *dkim.Failure
	ahead := len(c.sets) - 1 // the set below which no search has begun
	for i := len(c.sets) - 2; i >= 0; i-- {
		// After a key that cannot be had now no further ones are looked for: they may all be out of reach.
		for unknown == nil && ahead > 0 && ahead > i+1-window {
			ahead--
			s.start(c.sets[ahead].seal.keyName)
		}
		if s.lookups[c.sets[i].seal.keyName] == nil {
			return unknown
		}
		unknown = worse(unknown, at(i+1, sealName, s.verify(&c.sets[i].seal)))
		if unknown != nil && unknown.Result != dkim.TempError {
			return unknown
		}
	}
	return unknown
}

// judgeMessages checks the older message signatures from the newest on, as far as their keys were looked for.
func (c *Chain) judgeMessages(s *search) {
	c.oldest = len(c.sets)
	for c.oldest > 1 {
		m := &c.sets[c.oldest-2].message
		if !m.readable || s.lookups[m.keyName] == nil || s.verify(&m.signature) != nil {
			return
		}
		c.oldest--
	}
}

// worse returns the failure that counts of two: a permanent one before a temporary one, else the first.
func worse(a, b *dkim.Failure) *dkim.Failure {
	switch {
	case a == nil:
		return b
	case b != nil && a.Result == dkim.TempError && b.Result != dkim.TempError:
		return b
	}
	return a
}
