package node

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/printable"
)

const (
	// publicationPause is the time from one look-up of a key that was not seen yet to the next.
	publicationPause = time.Minute
	// publicationTime bounds the look-up of one record.
	publicationTime = 20 * time.Second
)

// A keyState is what is known of the record of a key.
type keyState uint8

const (
	keyUnlooked keyState = iota // no look-up has answered: the key signs
	keyAbsent                   // the record is not there, or has another key: the key does not sign
	keySeen                     // it was there: the key signs from now on
)

// A publication lets keys sign once their records can be looked up. A key signs until a look-up answers that its record
// is absent, or that of another key. Once it was seen it stays in use: a zone that loses the record for an hour is no
// reason to leave mail unsigned.
type publication struct {
	resolver *dns.Resolver
	auth     *auth.Authenticator
	say      func(level slog.Level, message string, args ...any)
	wake     chan struct{} // holds an element when there are other keys

	mu     sync.Mutex // guards what follows; not held across a look-up
	ring   auth.Keyring
	states map[string]keyState // by the record's name and text
}

// newPublication returns a publication of the keys that are in use, nil if they sign whether they are published or not.
func (p *parts) newPublication(say func(level slog.Level, message string, args ...any)) *publication {
	c := p.cfg
	if !c.Signs() || c.DKIM != nil && c.DKIM.Unpublished == "sign" {
		return nil
	}
	return &publication{
		resolver: p.resolver, auth: p.auth, say: say, wake: make(chan struct{}, 1), ring: p.files.keyring,
		states: make(map[string]keyState),
	}
}

// leaveUnpublished looks once at all keys, and leaves out those that are not published.
func (p *parts) leaveUnpublished(ctx context.Context) {
	if k := p.newPublication(func(slog.Level, string, ...any) {}); k != nil {
		k.look(ctx)
	}
}

// startKeys begins to look whether the keys are published.
func (w *watches) startKeys(p *parts, log *logger, ends *cleanups) {
	if w.keys = p.newPublication(log.say); w.keys == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.keys.run(ctx) }) // ends with ctx
	ends.add("publication of keys", func(context.Context) error {
		cancel()
		running.Wait()
		return nil
	})
}

// run looks until all keys were seen, and again when there are others.
func (p *publication) run(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-pause.C:
		}
		if !p.look(ctx) {
			pause.Reset(publicationPause)
		}
	}
}

// replace takes other keys, which are in use already, and leaves out those that are not published. It does nothing if p
// is nil.
func (p *publication) replace(ring auth.Keyring) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ring = ring
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return p.auth.Use(p.published())
}

// keysOf returns all keys of a Keyring.
func keysOf(ring auth.Keyring) (keys []dkim.SigningKey) {
	if ring.ARC != nil {
		keys = append(keys, *ring.ARC)
	}
	keys = append(keys, ring.Relay...)
	for _, list := range ring.Domains {
		keys = append(keys, list...)
	}
	return keys
}

// recordOf returns the name and the text of the record of a key.
func recordOf(k *dkim.SigningKey) (name, text string) {
	text, _ = dkim.KeyRecord(k.Key.Public()) // a key that signs has one
	return dkim.KeyName(k.Selector, strings.ToLower(k.Domain)), text
}

// stateOf returns what is known of a key. The caller holds mu.
func (p *publication) stateOf(k *dkim.SigningKey) keyState {
	name, text := recordOf(k)
	return p.states[name+" "+text]
}

// published returns the keys that sign. The caller holds mu.
func (p *publication) published() auth.Keyring {
	isAbsent := func(k dkim.SigningKey) bool { return p.stateOf(&k) == keyAbsent }
	out := auth.Keyring{
		Relay:   slices.DeleteFunc(slices.Clone(p.ring.Relay), isAbsent),
		Domains: make(map[string][]dkim.SigningKey),
	}
	if p.ring.ARC != nil && !isAbsent(*p.ring.ARC) {
		out.ARC = p.ring.ARC
	}
	for name, keys := range p.ring.Domains {
		if keys = slices.DeleteFunc(slices.Clone(keys), isAbsent); len(keys) > 0 {
			out.Domains[name] = keys
		}
	}
	return out
}

// look looks up the records of all keys that were not seen, and reports whether all have been seen now.
func (p *publication) look(ctx context.Context) (all bool) {
	p.mu.Lock()
	keys := slices.DeleteFunc(keysOf(p.ring), func(k dkim.SigningKey) bool { return p.stateOf(&k) == keySeen })
	p.mu.Unlock()
	all = true
	for i := range keys {
		name, text := recordOf(&keys[i])
		state, found := p.lookUp(ctx, name, &keys[i])
		all = all && state == keySeen
		if state != keyUnlooked {
			p.note(name, text, state, found)
		}
	}
	return all
}

// lookUp asks for the record of a key.
func (p *publication) lookUp(ctx context.Context, name string, k *dkim.SigningKey) (keyState, []string) {
	ctx, cancel := context.WithTimeout(ctx, publicationTime)
	defer cancel()
	texts, meta, err := p.resolver.LookupTXT(ctx, name)
	switch {
	case err != nil && !dns.NotFound(err), meta.Stale:
		return keyUnlooked, nil
	case slices.ContainsFunc(texts, func(t string) bool { return dkim.Publishes(t, k.Key.Public()) }):
		return keySeen, texts
	}
	return keyAbsent, texts
}

// note takes what a look-up answered, and has the keys sign that may.
func (p *publication) note(name, text string, state keyState, found []string) {
	p.mu.Lock()
	before := p.states[name+" "+text]
	p.states[name+" "+text] = state
	var err error
	if before != state && (before == keyAbsent || state == keyAbsent) {
		err = p.auth.Use(p.published())
	}
	p.mu.Unlock()
	switch {
	case err != nil:
		p.say(slog.LevelError, "the keys that are published cannot be used", "cause", err.Error())
	case state == keyAbsent && before != keyAbsent:
		p.say(slog.LevelWarn, "a key does not sign until its record is in the DNS", "record", name, "expected", text,
			"found", printable.Text(strings.Join(found, " | ")))
	case state == keySeen && before == keyAbsent:
		p.say(slog.LevelInfo, "a key signs, its record is in the DNS", "record", name)
	}
}
