package arc

import (
	"context"
	"sync"

	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// fetch asks for the key at a name. An error is a *dkim.Failure. The flags of a key record are about identities of DKIM
// and say nothing here.
func (v *Verifier) fetch(ctx context.Context, name string) (*dkim.PublicKey, error) {
	records, err := v.cfg.Resolver.LookupTXT(ctx, name)
	switch {
	case err != nil:
		return nil, &dkim.Failure{Result: dkim.TempError, Reason: "key unavailable", Cause: err}
	case len(records) == 0:
		return nil, fault("no key for signature", nil)
	case len(records) > 1:
		// RFC 6376 section 3.6.2.2: the results are undefined.
		return nil, fault("multiple key records", nil)
	}
	return v.keys.parse(records[0])
}

// A keyCache holds what key records say: the few sealers there are sign most chains, and parsing a record takes a third
// of the time that verifying with its key takes. It knows no names and no age. The zero keyCache is ready for use, and
// safe for concurrent use.
type keyCache struct {
	mu     sync.Mutex
	parsed map[string]*dkim.PublicKey // by record; the keys are shared and not to be changed
}

// maxCachedKeys and maxCachedRecord bound a keyCache at a megabyte.
const (
	maxCachedKeys   = 256
	maxCachedRecord = 1024
)

func (c *keyCache) parse(record string) (*dkim.PublicKey, error) {
	c.mu.Lock()
	key := c.parsed[record]
	c.mu.Unlock()
	if key != nil {
		return key, nil
	}
	key, err := dkim.ParseKeyRecord(record)
	if err != nil || len(record) > maxCachedRecord {
		return key, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// A stranger can fill it and so empty it; that costs the others one parsing each.
	if c.parsed == nil || len(c.parsed) >= maxCachedKeys {
		c.parsed = make(map[string]*dkim.PublicKey)
	}
	c.parsed[record] = key
	return key, nil
}
