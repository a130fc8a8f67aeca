package egress

import (
	"context"

	"github.com/millrace/millrace/router/mail"
)

// A Relay is what mail is handed to. It delivers from this node; in a cluster it will ask first who owns the Site, and
// begin there.
type Relay struct {
	local *Local
}

// NewRelay makes a Relay and starts the closing of idle sessions. It fails as Config.Validate does. Shutdown must be
// called to end it.
func NewRelay(cfg Config) (*Relay, error) {
	local, err := newLocal(cfg)
	if err != nil {
		return nil, err
	}
	local.pool.Start()
	return &Relay{local: local}, nil
}

// Local is the part that delivers from this node and never hands mail on to another.
func (r *Relay) Local() *Local { return r.local }

// Begin opens a transaction for d; see Local.Begin.
func (r *Relay) Begin(ctx context.Context, d mail.Delivery) (mail.Transaction, error) {
	return r.local.Begin(ctx, d)
}

// sitesTold bounds the Sites that Sessions tells of one by one.
const sitesTold = 100

// Sessions yields, for each Site that has any, how many sessions are open (those being opened included), how many of these
// are idle, and how many transactions wait for one. Those with most of them come first; of more than 100 Sites the rest
// is added up in the last yield, under the Site "". It ends when yield gives false. It takes the pool's lock, so it is for
// now and then.
func (r *Relay) Sessions(yield func(site mail.Site, open, idle, waiting int) bool) {
	for _, c := range r.local.pool.Sites(sitesTold) {
		if !yield(c.Site, c.Lent+c.Idle, c.Idle, c.Waiting) {
			return
		}
	}
}

// Shutdown closes idle sessions with QUIT and waits until the others were given back, or ctx ends. Begin fails with 451
// 4.3.2 from now on.
func (r *Relay) Shutdown(ctx context.Context) error { return r.local.pool.Shutdown(ctx) }
