package cluster

import (
	"slices"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A node's share of a Site's limits follows from what the node knows, and the two halves of a partitioned cluster do
// not know the same at the same time. Therefore a share shrinks early and grows late. It shrinks as soon as another
// node is silent, well before any node takes over the Sites of that node. It grows some time after a node joined or a
// Site moved, when all other nodes have stopped using what is not theirs any more.
const (
	// pingInterval is how often each other node is pinged, directly and not through a third node. A node that has not
	// answered for silentAfter does not count as present. That is well below the time after which it leaves the ring.
	pingInterval = probeInterval
	silentAfter  = 4 * pingInterval
	// settling is how long after its join a node counts as present, and a new owner as an owner.
	settling = 2 * time.Second
)

// A presence says how a Site's limit is shared. Each of stable nodes has an equal share, and an owner has the shares of
// all present nodes. An absent node keeps its share, because it may deliver by itself.
type presence struct {
	view            *view
	before          *view // the view before a change, while the change settles; nil otherwise
	present, stable int
}

// share returns the share of a node in the limits of a Site with a spread.
func (p *presence) share(w *waivers, site mail.Site, spread int, node string) float64 {
	owners := w.ownersOf(p.view, site, spread)
	if !slices.Contains(owners, node) || w.settles(site) ||
		p.before != nil && !slices.Contains(w.ownersOf(p.before, site, spread), node) {
		return 1 / float64(p.stable)
	}
	return float64(p.present) / float64(p.stable*len(owners))
}
