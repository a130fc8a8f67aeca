package egress

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

const (
	// complaintsNeeded is how many client networks must have met a refusal of us inside a message before it is believed
	// not to be about what one of them wrote.
	complaintsNeeded = 3
	// complaintFor is how long one of them counts.
	complaintFor = 10 * time.Minute
	// complaintCache bounds the Sites that are counted for.
	complaintCache = 4096
)

// aboutUs gives the Refusal in err if it is one of us rather than of the message.
func aboutUs(err error) *mail.Refusal {
	var r *mail.Refusal
	if errors.As(err, &r) && r.AboutUs {
		return r
	}
	return nil
}

// learn reacts to err as the rules say. If it is a refusal of us the operator is told, and the Site is cooled where no
// rule says better, unless a stranger may have brought it about to cut the Site off from everybody. It reports whether
// a rule did.
func (t *transaction) learn(err error) (reacted bool) {
	reacted = t.react(err) != feedback.Nothing
	r := aboutUs(err)
	if r == nil {
		return reacted
	}
	reply, _ := said(err)
	t.local.anomaly(&t.d, r, reply.Verb)
	switch {
	case t.slot == nil || reacted:
		return reacted
	case t.opened: // the destination has read what the client wrote
		if !t.local.complaints.add(t.d.Site, t.d.Client, t.local.cfg.Now()) {
			return false
		}
	case isSyntax(reply.Reply.Code) && (reply.Verb == "MAIL" || reply.Verb == "RCPT"):
		return false
	}
	t.slot.Refused(err)
	return false
}

// isSyntax reports whether a reply is about how a command was written. At MAIL and RCPT a stranger can bring that
// about, with an address that the destination cannot read, and must not be able to cool a Site for everybody.
func isSyntax(code int) bool { return code >= 500 && code <= 504 || code == 555 }

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
	place := 0
	for i, network := range seen.networks {
		if !seen.at[i].IsZero() && network == client {
			place = i
			break
		}
		if seen.at[i].Before(seen.at[place]) {
			place = i
		}
	}
	seen.networks[place], seen.at[place] = client, now
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

// wide gives the network by which a client is told from another one: in IPv6 a /48, which one customer has whole.
func wide(client netip.Prefix) netip.Prefix {
	if client.Addr().Is6() && client.Bits() > 48 {
		return netip.PrefixFrom(client.Addr(), 48).Masked()
	}
	return client
}
