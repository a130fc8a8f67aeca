package dkim

import (
	"context"
	"errors"
	"sync"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/mail"
)

// The bounds of a KeyFinder's memory: some megabytes.
const (
	maxCachedKeys   = 1024
	maxCachedRecord = 1024 // octets of a record that is kept
)

// A KeyFinder asks DNS for keys and keeps the keys of parsed records, because parsing a record takes a third of the
// time that an RSA verification takes. It keeps no names and no age: DNS is asked each time, and its answer decides
// which record holds. It is safe for concurrent use. Make one with NewKeyFinder.
type KeyFinder struct {
	resolver world.Resolver
	mu       sync.Mutex
	parsed   map[string]*PublicKey // by record
}

// NewKeyFinder returns a KeyFinder that asks a resolver.
func NewKeyFinder(r world.Resolver) *KeyFinder {
	return &KeyFinder{resolver: r, parsed: make(map[string]*PublicKey)}
}

// Find asks for the key at a name, within the time of ctx. An error is a *Failure: a temperror when DNS did not answer,
// a permerror when the answer holds no usable key or more than one.
func (f *KeyFinder) Find(ctx context.Context, name string) (*PublicKey, error) {
	records, err := f.resolver.LookupTXT(ctx, name)
	switch {
	case errors.Is(err, mail.ErrEnough):
		return nil, &Failure{TempError, "not evaluated", err}
	case err != nil:
		return nil, &Failure{TempError, "key unavailable", err}
	case len(records) == 0:
		return nil, permError("no key for signature")
	}
	record, ok := keyRecord(records)
	if !ok {
		return nil, permError("multiple key records")
	}
	return f.parse(record)
}

// keyRecord returns the one record that is a key; the first record if none is. It reports false for several keys: RFC
// 6376 section 3.6.2.2 leaves open which one counts, and choosing would be a guess. Other records at the name, such as
// one for SPF that a wildcard puts there, are of the same domain and can be taken for no key.
func keyRecord(records []string) (string, bool) {
	if len(records) == 1 {
		return records[0], true
	}
	found := ""
	for _, r := range records {
		switch {
		case !isKeyRecord(r):
		case found != "":
			return "", false
		default:
			found = r
		}
	}
	if found == "" {
		return records[0], true
	}
	return found, true
}

// parse is ParseKeyRecord with the memory of f.
func (f *KeyFinder) parse(record string) (*PublicKey, error) {
	f.mu.Lock()
	key := f.parsed[record]
	f.mu.Unlock()
	if key != nil {
		return key, nil
	}
	key, err := ParseKeyRecord(record)
	if err != nil || len(record) > maxCachedRecord {
		return key, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// A sender can fill the memory and so empty it; that costs the other keys one parsing each.
	if len(f.parsed) >= maxCachedKeys {
		clear(f.parsed)
	}
	f.parsed[record] = key
	return key, nil
}
