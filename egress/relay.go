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

// Shutdown closes idle sessions with QUIT and waits until the others were given back, or ctx ends. Begin fails with 451
// 4.3.2 from now on.
func (r *Relay) Shutdown(ctx context.Context) error { return r.local.pool.Shutdown(ctx) }
