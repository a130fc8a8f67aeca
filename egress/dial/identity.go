package dial

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

const (
	// heloEvery is how often the addresses behind our name are looked up, at most.
	heloEvery = time.Minute
	// heloWait is how long one Dial in that time waits for them. The name is ours, so that its server hardly fails.
	heloWait = 500 * time.Millisecond
)

// An identity keeps what we are called outside, with the addresses behind our name in EHLO as they were last found.
type identity struct {
	configured smtpclient.Identity // without what was found

	mu     sync.Mutex
	asking bool
	asked  time.Time // by the monotonic clock
	found  smtpclient.Identity
}

// now returns what we are called. Of those that ask at once, one looks up and the others get what is known.
func (i *identity) now(ctx context.Context, lookUp func(context.Context) []netip.Addr) smtpclient.Identity {
	i.mu.Lock()
	if i.asked.IsZero() {
		i.found = i.configured
	}
	if i.asking || !i.asked.IsZero() && time.Since(i.asked) < heloEvery {
		defer i.mu.Unlock()
		return i.found
	}
	i.asking = true
	i.mu.Unlock()
	addrs := lookUp(mail.Until(ctx, time.Now().Add(heloWait)))
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asking, i.asked = false, time.Now()
	if len(addrs) > 0 { // else what was found last stands
		i.found = i.configured
		i.found.Addrs = slices.Concat(i.configured.Addrs, addrs)
	}
	return i.found
}

// lookUpHelo returns the addresses behind our names in EHLO, nil if they are not known in time.
func (d *Dialer) lookUpHelo(ctx context.Context) (all []netip.Addr) {
	names := append(slices.Collect(maps.Values(d.cfg.Helos)), d.cfg.Helo)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !mail.IsDomain(name) {
			continue
		}
		if addrs, err := d.cfg.Finder.FixedAddrs(ctx, name); err == nil {
			all = append(all, addrs...)
		}
	}
	return all
}
