package feedback

import (
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

const (
	// complaintsNeeded is how many client networks must have met a refusal of us inside a message before it is believed
	// not to be about what one of them wrote.
	complaintsNeeded = 3
	// complaintFor is how long one refusal counts.
	complaintFor = 10 * time.Minute
	// complaintCache bounds the Sites that are counted for.
	complaintCache = 4096
)

// complaints count the client networks in whose messages a Site refused us. It is safe for concurrent use.
type complaints struct {
	mu    sync.Mutex
	sites *lru.Cache[mail.Site, complaint]
}

// A complaint is the last networks at one Site, each once, and when they were refused.
type complaint struct {
	networks [complaintsNeeded]netip.Prefix
	at       [complaintsNeeded]time.Time
}

func newComplaints() *complaints {
	return &complaints{sites: lru.New[mail.Site, complaint](complaintCache)}
}

// add notes a refusal and reports whether enough networks have met one lately; counting begins anew then.
func (c *complaints) add(site mail.Site, client netip.Prefix, now time.Time) bool {
	client = wide(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, _ := c.sites.Get(site)
	entry := 0 // the client's own, else the oldest one
	for i, network := range seen.networks {
		if !seen.at[i].IsZero() && network == client {
			entry = i
			break
		}
		if seen.at[i].Before(seen.at[entry]) {
			entry = i
		}
	}
	seen.networks[entry], seen.at[entry] = client, now
	lately := 0
	for _, at := range seen.at {
		if !at.IsZero() && now.Sub(at) < complaintFor {
			lately++
		}
	}
	if lately == complaintsNeeded {
		c.sites.Delete(site)
		return true
	}
	c.sites.Put(site, seen, 1)
	return false
}

// wide returns the network by which one client is told from another: in IPv6 a /48, which one customer has whole.
func wide(client netip.Prefix) netip.Prefix {
	if client.Addr().Is6() && client.Bits() > 48 {
		return netip.PrefixFrom(client.Addr(), 48).Masked()
	}
	return client
}
