package egress

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestHandover_UnreachedForWantOfTime: an owner that had no time to connect says nothing of the Site, and nothing of
// itself.
func TestHandover_UnreachedForWantOfTime(t *testing.T) {
	s := smtptest.Start(t, smtptest.Behaviour{})
	there := newWorld(t, port(t, s), func(c *Config) {
		c.Connect = func(ctx context.Context, to smtpclient.Target) (net.Conn, error) {
			until, _ := ctx.Deadline()
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(until)):
			}
			return smtpclient.Connect(ctx, to)
		}
	})
	o := &owner{relay: there.relay}
	w := newWorld(t, port(t, s), func(c *Config) { c.Cluster = o })
	tx := begunFor(t, w, to("one.test"))
	if err := tx.Rcpt(mail.Until(t.Context(), time.Now().Add(fairTry)), path("x@one.test")); err != nil {
		t.Fatal(err)
	}
	tx.Abort()
	if len(o.unable) != 0 {
		t.Errorf("the owner is said to be unable: %v", o.unable)
	}
	if there.relay.local.pool.Count().Cooling {
		t.Error("the Site cools there")
	}
}
