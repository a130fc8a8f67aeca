package cluster

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/router/mail"
)

// A Suspension says that a Site gets no mail for now because it asked for that. Meanwhile all nodes answer RCPT with a
// 4yz.
type Suspension struct {
	Site   mail.Site `json:"s"`
	Until  time.Time `json:"u"` // when it ends by itself
	Reason string    `json:"r"` // a short fixed word, never a next hop's text
	Node   string    `json:"n"` // the node that suspended the Site
	At     time.Time `json:"a"` // when; of two suspensions of a Site the later one is in force
}

const (
	// maxSuspension bounds how long a Site can be suspended, for any clock of another node.
	maxSuspension = time.Hour
	// clockSlack is by how much the end of a suspension may exceed that, by our clock, and is shortened. A suspension
	// that exceeds it further is ignored.
	clockSlack = time.Minute
	// keepResumed is how long the end of a suspension is remembered, so that late gossip does not restore it.
	keepResumed = time.Minute
	// maxSuspended bounds the number of suspensions.
	maxSuspended = 10000
	// maxText bounds the reason and the names in octets, because a message of gossip has to fit into one packet.
	maxText = 255
)

// suspensions are the suspensions of all nodes. Its methods are safe for concurrent use.
type suspensions struct {
	cfg   Config
	queue *memberlist.TransmitLimitedQueue // suspensions that are to be sent

	mu    sync.Mutex // not held across calls of memberlist or of the Config
	sites map[mail.Site]Suspension
}

// newSuspensions returns suspensions without any. nodes returns the number of members.
func newSuspensions(cfg Config, nodes func() int) *suspensions {
	return &suspensions{
		cfg: cfg, sites: make(map[mail.Site]Suspension),
		queue: &memberlist.TransmitLimitedQueue{NumNodes: nodes, RetransmitMult: 4},
	}
}

// Suspend tells all nodes of a suspension by this node. It sets At and Node.
func (s *suspensions) Suspend(x Suspension) {
	x.Node, x.At = s.cfg.Name, s.cfg.Now()
	s.spread(x)
}

// Resume tells all nodes that a Site gets mail again.
func (s *suspensions) Resume(site mail.Site) {
	now := s.cfg.Now()
	s.spread(Suspension{Site: site, Until: now, Node: s.cfg.Name, At: now})
}

// Suspended returns the suspension of a Site and whether it is in force.
func (s *suspensions) Suspended(site mail.Site) (Suspension, bool) {
	s.mu.Lock()
	x, ok := s.sites[site]
	s.mu.Unlock()
	return x, ok && s.cfg.Now().Before(x.Until)
}

// Suspensions returns all suspensions in force, in no order.
func (s *suspensions) Suspensions() []Suspension {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Suspension
	for _, x := range s.sites {
		if now.Before(x.Until) {
			out = append(out, x)
		}
	}
	return out
}

// spread keeps a suspension and sends it to all nodes.
func (s *suspensions) spread(x Suspension) {
	if s.keep(x) {
		b, _ := json.Marshal(x) // cannot fail for strings and times
		s.queue.QueueBroadcast(broadcast{x.Site, b})
	}
}

// keep keeps a suspension of any node and reports whether it is news. It ignores one that is out of bounds.
func (s *suspensions) keep(x Suspension) bool {
	now := s.cfg.Now()
	if x.Site == "" || len(x.Site) > maxText || len(x.Reason) > maxText || len(x.Node) > maxText {
		return false
	}
	limit := now.Add(maxSuspension)
	if x.At.After(limit) || x.Until.After(limit.Add(clockSlack)) {
		return false
	}
	if x.Until.After(limit) {
		x.Until = limit
	}
	s.mu.Lock()
	old, held := s.sites[x.Site]
	news := (!held || x.At.After(old.At)) && now.Before(x.Until.Add(keepResumed)) &&
		(held || len(s.sites) < maxSuspended)
	if news {
		s.sites[x.Site] = x
	}
	s.mu.Unlock()
	if news {
		s.cfg.Changed()
	}
	return news
}

// forget removes suspensions that ended some time ago.
func (s *suspensions) forget() {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for site, x := range s.sites {
		if now.After(x.Until.Add(keepResumed)) {
			delete(s.sites, site)
		}
	}
}

// receive keeps a suspension that another node sent, and sends it on if it is news.
func (s *suspensions) receive(b []byte) {
	var x Suspension
	if len(b) > 4*maxText || json.Unmarshal(b, &x) != nil {
		return
	}
	if s.keep(x) {
		s.queue.QueueBroadcast(broadcast{x.Site, append([]byte(nil), b...)})
	}
}

// all returns all suspensions.
func (s *suspensions) all() []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]any, 0, len(s.sites))
	for _, x := range s.sites {
		all = append(all, x)
	}
	return all
}

// A broadcast is a suspension that is to be sent. A later one of the same Site replaces it. Its methods are those of
// memberlist.Broadcast.
type broadcast struct {
	site mail.Site
	b    []byte
}

// Invalidates reports whether this broadcast replaces b.
func (n broadcast) Invalidates(b memberlist.Broadcast) bool {
	o, ok := b.(broadcast)
	return ok && o.site == n.site
}

// Message returns the octets to send.
func (n broadcast) Message() []byte { return n.b }

// Finished does nothing.
func (n broadcast) Finished() {}
