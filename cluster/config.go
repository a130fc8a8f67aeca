package cluster

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/router/mail"
)

// The tuning of failure detection. A node that was killed leaves the ring in under 3 s, and one that stood still for 2
// s does not. A node that does not answer one probe (within probeInterval, in which other nodes are asked to probe it
// as well) is suspected for suspicion times probeInterval, in which it can refute that.
const (
	probeInterval  = 250 * time.Millisecond
	probeTimeout   = 125 * time.Millisecond
	suspicion      = 8
	gossipInterval = 100 * time.Millisecond
	pushPull       = 5 * time.Second
	tcpTimeout     = 2 * time.Second
)

const (
	// rejoinInterval is how often missing nodes of Config.Join are contacted.
	rejoinInterval = 2 * time.Second
	// stableFor is how long a member that died without leaving is counted by Stable.
	stableFor = 5 * time.Minute
)

// A Config describes this node and how it finds the others.
type Config struct {
	// Name is this node's name in the cluster, at most 128 octets. The ring hashes it, and certificates are for it.
	Name string
	// Bind is the address and port for gossip by UDP and TCP. Port 0 takes a free port.
	Bind string
	// Advertise is the address and port that other nodes use. "" means Bind.
	Advertise string
	// Peer is the address and port of the hop that other nodes use, at most 128 octets.
	Peer string
	// Join names nodes through which the others are found, "host:port" each. A host name is resolved each time.
	Join []string
	// Members are the names of the nodes that may be members, this one among them. Others are not seen. nil admits each
	// node that has a key.
	Members []string
	// Keys encrypt gossip and have 16, 24 or 32 octets each (AES-GCM). The first one encrypts, all decrypt.
	Keys [][]byte
	// Label separates clusters that share a network, at most 255 octets. "" means "millrace".
	Label string
	// Weight is the weight of this node's share of the Sites, from 0 to 1000. 0 means 1.
	Weight float64
	// Version is that of the program, for other nodes to show, at most 64 octets.
	Version string
	// Spread returns how many owners a Site has. It is called concurrently and must be the same function on all nodes.
	// nil means one owner each.
	Spread func(mail.Site) int
	// Lookup resolves the host names of Join. nil means the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Log gets a line when a node joins and when one leaves or dies. nil disables it.
	Log *slog.Logger
	// Changed is called when the members, the suspensions or the shares have changed. It must neither block nor call
	// the Cluster. nil disables it.
	Changed func()
	// Now is the clock of suspensions, shares and Stable. nil means time.Now.
	Now func() time.Time
	// Transport carries gossip. nil means sockets at Bind.
	Transport memberlist.Transport

	tune tuning
}

// A tuning holds what tests change. Its zero fields mean the constants.
type tuning struct {
	rejoin time.Duration
}

// Validate returns all fields that are wrong as mail.Faults, or nil.
func (c Config) Validate() error {
	var wrong mail.Faults
	named := mail.IsDomain(c.Name) && len(c.Name) <= 128
	wrong.AddIf(!named, "name", "wants at most 128 letters, digits, hyphens and dots")
	if _, err := netip.ParseAddrPort(c.Bind); err != nil {
		wrong.Add("bind", "wants address:port")
	}
	if c.Advertise != "" {
		a, err := netip.ParseAddrPort(c.Advertise)
		wrong.AddIf(err != nil || a.Port() == 0 || a.Addr().IsUnspecified(), "advertise",
			"wants the address:port that other nodes reach this one by")
	}
	if _, _, err := net.SplitHostPort(c.Peer); err != nil || len(c.Peer) > 128 {
		wrong.Add("peer", "wants address:port")
	}
	for i, j := range c.Join {
		_, port, err := net.SplitHostPort(j)
		wrong.AddIf(err != nil || !isPort(port), "join["+strconv.Itoa(i)+"]", "wants host:port")
	}
	for i, m := range c.Members {
		wrong.AddIf(!mail.IsDomain(m), "members["+strconv.Itoa(i)+"]", "is not the name of a node")
	}
	wrong.AddIf(named && !c.admits(c.Name), "members", "does not name this node, "+c.Name)
	wrong.AddIf(len(c.Keys) == 0, "keys", "are required: gossip is never in clear")
	for _, k := range c.Keys {
		wrong.AddIf(len(k) != 16 && len(k) != 24 && len(k) != 32, "keys", "want 16, 24 or 32 octets each")
	}
	wrong.AddIf(len(c.Label) > 255, "label", "is longer than 255 octets")
	wrong.AddIf(!(c.Weight >= 0) || c.Weight > 1000, "weight", "is not between 0 and 1000")
	wrong.AddIf(len(c.Version) > 64, "version", "is longer than 64 octets")
	return wrong.Err()
}

// admits reports whether a node may be a member.
func (c *Config) admits(node string) bool {
	return c.Members == nil || slices.Contains(c.Members, node)
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// withDefaults returns c with its zero fields set.
func (c Config) withDefaults() Config {
	if c.Label == "" {
		c.Label = "millrace"
	}
	if c.tune.rejoin == 0 {
		c.tune.rejoin = rejoinInterval
	}
	if c.Spread == nil {
		c.Spread = func(mail.Site) int { return 1 }
	}
	if c.Lookup == nil {
		c.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
