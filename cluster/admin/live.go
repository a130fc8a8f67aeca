package admin

import (
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Live is what one node does now, and what it has counted since its start. It is read from what is counted anyway.
type Live struct {
	Node     string            `json:"node"`
	Failed   string            `json:"failed,omitempty"` // why the node could not be asked; the rest is zero then
	At       time.Time         `json:"at"`
	Ready    bool              `json:"ready"`
	Draining bool              `json:"draining"`
	Outcomes map[string]uint64 `json:"outcomes"` // by the name of the kind of event
	Octets   uint64            `json:"octets"`   // of the messages that a next hop took
	Took     []uint64          `json:"took"`     // relayed messages by how long they took, by LiveBounds
	Clients  int               `json:"clients"`  // connections of clients
	Most     int               `json:"most"`     // that there may be
	Open     int               `json:"open"`     // transactions of clients
	Sites    []ClusterSite     `json:"sites,omitempty"`
}

// MaxLiveSites is how many Sites of a node are shown, the busiest first.
const MaxLiveSites = 100

// LiveBounds are the ends of the classes of Live.Took. The last class has no end.
func LiveBounds() []time.Duration { return stageBounds }

// Live returns what was counted. The caller fills in the rest.
func (m *Metrics) Live() Live {
	l := Live{Outcomes: make(map[string]uint64), Octets: m.octets.Load()}
	for k, n := range m.outcomes.each() {
		l.Outcomes[k.kind.String()] += n.Load()
	}
	h := m.times.transactions[mail.Relayed]
	l.Took = make([]uint64, len(h.buckets))
	for i := range h.buckets {
		l.Took[i] = h.buckets[i].Load()
	}
	return l
}
