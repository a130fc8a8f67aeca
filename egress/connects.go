package egress

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/gcra"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// failedNetworks bounds the networks whose failed connections are remembered.
const failedNetworks = 1 << 12

// mostFailed is how many connections may fail to destinations that the strangers of a network chose.
var mostFailed = gcra.Per(300, 10*time.Minute)

// connects is the budget of failed connections of each client network. A stranger can have us connect to addresses of
// his own choice that do not answer, and each costs us a socket and the time of an attempt. Destinations that rules of
// ours chose do not count: a stranger who writes to one that is down keeps none of his neighbours from another.
type connects struct {
	now func() time.Time

	mu     sync.Mutex // guards what is in failed
	failed *lru.Cache[netip.Prefix, *gcra.Account]
}

func newConnects(now func() time.Time) *connects {
	return &connects{now: now, failed: lru.New[netip.Prefix, *gcra.Account](failedNetworks)}
}

// spent returns the refusal of a delivery whose client's network has no failed connection left, or nil.
func (c *connects) spent(d *mail.Delivery) *mail.Refusal {
	client := network.Widest(d.Client.Addr())
	if !d.Chosen || !client.IsValid() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if of, ok := c.failed.Get(client); !ok || !of.Until(mostFailed).After(c.now()) {
		return nil
	}
	r := mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", "failed connects",
		errors.New("too many connections failed for clients of "+client.String()))
	r.Unreached = true
	return r
}

// draw counts connections that failed.
func (c *connects) draw(d *mail.Delivery, n int) {
	client := network.Widest(d.Client.Addr())
	if n == 0 || !d.Chosen || !client.IsValid() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of, ok := c.failed.Get(client)
	if !ok {
		of = new(gcra.Account)
		c.failed.Put(client, of, 1)
	}
	of.Draw(c.now(), mostFailed, n)
}
