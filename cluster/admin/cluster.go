package admin

import (
	"net/http"

	"github.com/millrace/millrace/router/mail"
)

// A ClusterStatus is what one node knows of its cluster. Other nodes may know otherwise for a while, so an
// administrator may want to ask several.
type ClusterStatus struct {
	Node     string          `json:"node"` // the name of this node; "" without a cluster
	Draining bool            `json:"draining"`
	Members  []ClusterMember `json:"members"`
	Ring     string          `json:"ring"` // the same on nodes that see the same owners; "" without a cluster
	// fingerprints of the cluster's secrets, the one that is used first
	Keys  []string `json:"keys,omitempty"`
	Rules uint64   `json:"rules"` // version of the rules; 0: this node's files

	Sites       []ClusterSite       `json:"sites"`
	Sessions    int                 `json:"sessions"` // with destinations, open now
	Relayed     uint64              `json:"relayed"`  // messages that came in here and a next hop took, since the start
	Reused      uint64              `json:"reused"`   // of these, those whose session had carried one before
	Suspensions []ClusterSuspension `json:"suspensions"`
	Stable      int                 `json:"stable"` // the number of nodes that limits are shared by
}

// A ClusterMember is a node as this one sees it.
type ClusterMember struct {
	Name     string  `json:"name"`
	Self     bool    `json:"self,omitempty"`
	Gossip   string  `json:"gossip"`
	Peer     string  `json:"peer"`
	Weight   float64 `json:"weight"`
	Draining bool    `json:"draining"`
	Protocol int     `json:"protocol"`
	Version  string  `json:"version"`
}

// A ClusterSite is a Site that this node sent mail to or looked up, its owner by the ring (several, with commas, if its
// limits say spread), and the sessions of this node.
type ClusterSite struct {
	Site    mail.Site `json:"site"`
	Owner   string    `json:"owner"`
	Open    int       `json:"open"`
	Idle    int       `json:"idle"`
	Waiting int       `json:"waiting"`
}

// A ClusterSuspension is a Site that gets no mail for now.
type ClusterSuspension struct {
	Site   mail.Site `json:"site"`
	Until  string    `json:"until"` // RFC 3339
	Reason string    `json:"reason"`
	Node   string    `json:"node"` // the node that suspended it
}

// cluster answers with Config.Cluster, or with 404 if that is nil.
func (s *Server) cluster(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Cluster == nil {
		http.NotFound(w, r)
		return
	}
	writeJSON(w, http.StatusOK, s.cfg.Cluster())
}

// drain asks the node to end and answers at once. The client notices the end when the server no longer answers.
func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Drain == nil {
		http.NotFound(w, r)
		return
	}
	s.cfg.Drain()
	writeJSON(w, http.StatusAccepted, map[string]any{"draining": true})
}
