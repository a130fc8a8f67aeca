package egress

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// mostFailed is how many connections may fail for the clients of a stranger's network in failedPer. A destination
	// that is down is left alone for a while, so that honest mail to it comes to a few dozen.
	mostFailed = 300
	failedPer  = 10 * time.Minute
	// failedNetworks bounds the networks that are remembered.
	failedNetworks = 1 << 12
)

// connects is the budget of failed connections of each client network. What a stranger writes to may lead to addresses
// that do not answer, and each costs us a socket and the time of an attempt.
type connects struct {
	now func() time.Time

	mu     sync.Mutex // guards what is in failed
	failed *lru.Cache[netip.Prefix, *drawn]
}

// A drawn is what is drawn of a budget. It leaks at the rate of mostFailed in failedPer.
type drawn struct {
	n  float64
	at time.Time
}

func newConnects(now func() time.Time) *connects {
	return &connects{now: now, failed: lru.New[netip.Prefix, *drawn](failedNetworks)}
}

// of returns what is drawn for the client of a delivery, nil if that is nothing. The caller holds mu.
func (c *connects) of(client netip.Prefix) *drawn {
	d, ok := c.failed.Get(client)
	if !ok {
		return nil
	}
	now := c.now()
	d.n = max(0, d.n-now.Sub(d.at).Seconds()*mostFailed/failedPer.Seconds())
	d.at = now
	return d
}

// spent returns the refusal of a delivery whose client's network has no failed connection left, or nil.
func (c *connects) spent(d *mail.Delivery) *mail.Refusal {
	client := network.Widest(d.Client.Addr())
	if d.Favoured || !client.IsValid() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if of := c.of(client); of == nil || of.n < mostFailed {
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
	if n == 0 || d.Favoured || !client.IsValid() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.of(client)
	if of == nil {
		of = &drawn{at: c.now()}
		c.failed.Put(client, of, 1)
	}
	of.n += float64(n)
}
