package egress

import (
	"cmp"
	"context"
	"hash/maphash"
	"time"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/router/mail"
)

// streamWait is how long a message waits for a place to stream where Config.Client says nothing.
const streamWait = 120 * time.Second

// A streamed is the place that a message holds while it streams, if it does.
type streamed struct {
	held pool.Stream[*client]
}

// take waits for a place for d at the Site, with the recipients that were accepted. The error is a *mail.Refusal.
func (s *streamed) take(ctx context.Context, r *resources, at *destination, d *mail.Delivery, to []mail.Path) error {
	if d.Favoured {
		return nil
	}
	ctx = mail.Until(ctx, time.Now().Add(cmp.Or(r.cfg.Client.Stall, streamWait)))
	client := d.Addr
	if !client.IsValid() { // an older node told its network alone
		client = d.Client.Addr()
	}
	err := r.pool.Stream(ctx, pool.StreamRequest{
		Site: at.site, Limits: at.limits, Client: client, Message: r.attempt(d.Reverse, to),
	}, &s.held)
	if err != nil {
		return noSession(err)
	}
	return nil
}

// brought notes octets of the client, and returns the refusal of a message that is to give way.
func (s *streamed) brought(octets int) error {
	if s.held.Brought(octets) {
		return mail.Refuse(451, 4, 5, "Others wait for this destination, try again", "gave way", nil)
	}
	return nil
}

// attempt returns a number that the attempts at one message have in common: it is that of the reverse-path and of the
// recipient that is the first by name, whatever their order.
func (r *resources) attempt(reverse mail.Path, to []mail.Path) uint64 {
	var first mail.Path
	for i, p := range to {
		if i == 0 || cmp.Or(cmp.Compare(p.Domain, first.Domain), cmp.Compare(p.Local, first.Local)) < 0 {
			first = p
		}
	}
	return maphash.Comparable(r.attempts, [2]mail.Path{reverse, first})
}
