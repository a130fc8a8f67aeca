package cluster

import (
	"encoding/json"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/router/mail"
)

// A Suspension says that a Site gets no mail for now, because it asked for it: all nodes answer 4yz at RCPT meanwhile.
type Suspension struct {
	Site   mail.Site `json:"s"`
	Until  time.Time `json:"u"` // when it ends by itself
	Reason string    `json:"r"` // a short fixed word, and never a next hop's text
	Node   string    `json:"n"` // who met it
	At     time.Time `json:"a"` // when: of two on one Site the later one holds
}

const (
	// maxSuspension bounds how long a Site can be suspended, whatever a node with a wrong clock says.
	maxSuspension = time.Hour
	// clockSlack is how far beyond that the end may be by our clock and is cut, instead of being no suspension.
	clockSlack = time.Minute
	// keepResumed is how long the end of a suspension is remembered, so that no late gossip brings it back.
	keepResumed = time.Minute
	// maxSuspended bounds the suspensions that are kept.
	maxSuspended = 10000
	// maxReason bounds Reason and the names in octets: a message of gossip has to fit into one packet.
	maxText = 255
)

// Suspend tells all nodes of a suspension of this node's. At and Node are set here.
func (c *Cluster) Suspend(s Suspension) {
	s.Node, s.At = c.cfg.Name, c.cfg.Now()
	c.spread(s)
}

// Resume tells all nodes that a Site gets mail again.
func (c *Cluster) Resume(site mail.Site) {
	now := c.cfg.Now()
	c.spread(Suspension{Site: site, Until: now, Node: c.cfg.Name, At: now})
}

// Suspended tells whether a Site is suspended.
func (c *Cluster) Suspended(site mail.Site) (Suspension, bool) {
	c.mu.Lock()
	s, ok := c.suspended[site]
	c.mu.Unlock()
	return s, ok && c.cfg.Now().Before(s.Until)
}

// Suspensions are all that hold now, in no order.
func (c *Cluster) Suspensions() []Suspension {
	now := c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Suspension
	for _, s := range c.suspended {
		if now.Before(s.Until) {
			out = append(out, s)
		}
	}
	return out
}

func (c *Cluster) spread(s Suspension) {
	if c.keep(s) {
		b, _ := json.Marshal(s) // of strings and times: it cannot fail
		c.queue.QueueBroadcast(suspensionNews{s.Site, b})
	}
}

// keep takes a suspension, this node's own or another's, and reports whether that is news.
func (c *Cluster) keep(s Suspension) bool {
	now := c.cfg.Now()
	if s.Site == "" || len(s.Site) > maxText || len(s.Reason) > maxText || len(s.Node) > maxText {
		return false
	}
	most := now.Add(maxSuspension)
	if s.At.After(most) || s.Until.After(most.Add(clockSlack)) {
		return false
	}
	if s.Until.After(most) {
		s.Until = most
	}
	c.mu.Lock()
	old, known := c.suspended[s.Site]
	news := (!known || s.At.After(old.At)) && now.Before(s.Until.Add(keepResumed)) &&
		(known || len(c.suspended) < maxSuspended)
	if news {
		c.suspended[s.Site] = s
	}
	c.mu.Unlock()
	if news {
		c.cfg.Changed()
	}
	return news
}

// suspensionNews is a suspension on its way by gossip. A later one of the same Site takes its place.
type suspensionNews struct {
	site mail.Site
	b    []byte
}

// Invalidates is memberlist's.
func (n suspensionNews) Invalidates(b memberlist.Broadcast) bool {
	o, ok := b.(suspensionNews)
	return ok && o.site == n.site
}

// Message is memberlist's.
func (n suspensionNews) Message() []byte { return n.b }

// Finished is memberlist's.
func (n suspensionNews) Finished() {}

// NotifyMsg is memberlist's: another node's news. What is news here too is passed on.
func (c *Cluster) NotifyMsg(b []byte) {
	var s Suspension
	if len(b) > 4*maxText || json.Unmarshal(b, &s) != nil {
		return
	}
	if c.keep(s) {
		c.queue.QueueBroadcast(suspensionNews{s.Site, append([]byte(nil), b...)})
	}
}

// GetBroadcasts is memberlist's.
func (c *Cluster) GetBroadcasts(overhead, limit int) [][]byte {
	return c.queue.GetBroadcasts(overhead, limit)
}

// LocalState is memberlist's: all suspensions, for a node that joins and every now and then, so that none is missed for
// long.
func (c *Cluster) LocalState(bool) []byte {
	c.mu.Lock()
	all := make([]Suspension, 0, len(c.suspended))
	for _, s := range c.suspended {
		all = append(all, s)
	}
	c.mu.Unlock()
	b, _ := json.Marshal(all) // see spread
	return b
}

// MergeRemoteState is memberlist's: all suspensions of another node.
func (c *Cluster) MergeRemoteState(b []byte, _ bool) {
	var all []Suspension
	if json.Unmarshal(b, &all) != nil {
		return
	}
	for _, s := range all[:min(len(all), maxSuspended)] {
		c.keep(s)
	}
}
