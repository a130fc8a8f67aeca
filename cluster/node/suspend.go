package node

import (
	"time"

	"github.com/millrace/millrace/cluster"
	"github.com/millrace/millrace/router/mail"
)

// suspensions lets the relay suspend a Site on all nodes.
type suspensions struct{ *cluster.Cluster }

// Suspended tells whether a Site gets no mail now, until when and why.
func (s suspensions) Suspended(site mail.Site) (until time.Time, reason string, ok bool) {
	held, ok := s.Cluster.Suspended(site)
	return held.Until, held.Reason, ok
}

// Suspend tells all nodes that a Site gets no mail until then.
func (s suspensions) Suspend(site mail.Site, until time.Time, reason string) {
	s.Cluster.Suspend(cluster.Suspension{Site: site, Until: until, Reason: reason})
}
