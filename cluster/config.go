package cluster

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// The tuning of failure detection: a node that was killed is out of the ring in under 3 s, and one that stood still for
// 2 s is not. A node that does not answer one probe (probeInterval, in which other nodes are asked to try as well) is
// suspected for suspicion times probeInterval, in which it can speak up.
const (
	probeInterval  = 250 * time.Millisecond
	probeTimeout   = 125 * time.Millisecond
	suspicion      = 8
	gossipInterval = 100 * time.Millisecond
	pushPull       = 5 * time.Second
	tcpTimeout     = 2 * time.Second
)

// A Config describes this node and how it finds the others.
type Config struct {
	// Name is the node's own in the cluster. It is what the ring hashes and certificates are checked for.
	Name string
	// Bind is the address and port for gossip, by UDP and TCP; port 0 takes a free one.
	Bind string
	// Advertise is the address and port that others are told, if it is another than Bind.
	Advertise string
	// Peer is the address and port of the hop between nodes, which others are told.
	Peer string
	// Join names nodes to find the others by, "host:port" each. A host name is resolved anew each time.
	Join []string
	// Keys encrypt gossip: 16, 24 or 32 octets each (AES-GCM). The first is used, all are understood.
	Keys [][]byte
	// Label keeps clusters apart that share a network, at most 255 octets. Empty: "millrace".
	Label string
	// Weight is this node's share of the Sites; 0 means 1.
	Weight float64
	// Version is the program's, for others to show.
	Version string
	// Spread is how many owners a Site has; nil means one each. It is called by many at once, and must be the same
	// function on all nodes.
	Spread func(mail.Site) int
	// Lookup resolves the host names of Join. Nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Rejoin is how often nodes of Join that are missing are looked for. 0: 2 s.
	Rejoin time.Duration
	// Stable is how long a member that died without leaving is counted by Stable. 0: 5 min.
	Stable time.Duration
	// Log is told who comes and goes; nil: nobody.
	Log *slog.Logger
	// Changed is called when the members, the suspensions or the shares have changed. It must not block and must not
	// call back.
	Changed func()
	// Now is the clock that suspensions and Stable are compared with. Nil: time.Now.
	Now func() time.Time
}

// Validate reports the first field that is wrong as a *mail.FieldError.
func (c Config) Validate() error {
	wrong := func(field, reason string) error { return &mail.FieldError{Field: field, Reason: reason} }
	if !mail.IsDomain(c.Name) || len(c.Name) > 128 {
		return wrong("name", "wants at most 128 letters, digits, hyphens and dots")
	}
	if _, err := netip.ParseAddrPort(c.Bind); err != nil {
		return wrong("bind", "wants address:port")
	}
	if c.Advertise != "" {
		if a, err := netip.ParseAddrPort(c.Advertise); err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
			return wrong("advertise", "wants the address:port that other nodes reach this one by")
		}
	}
	if _, _, err := net.SplitHostPort(c.Peer); err != nil || len(c.Peer) > 128 {
		return wrong("peer", "wants address:port")
	}
	for i, j := range c.Join {
		if _, port, err := net.SplitHostPort(j); err != nil || !isPort(port) {
			return wrong("join["+strconv.Itoa(i)+"]", "wants host:port")
		}
	}
	if len(c.Keys) == 0 {
		return wrong("keys", "are required: gossip is never in clear")
	}
	if !slices.ContainsFunc(c.Keys, func(k []byte) bool { return len(k) != 16 && len(k) != 24 && len(k) != 32 }) {
		return c.validateRest()
	}
	return wrong("keys", "want 16, 24 or 32 octets each")
}

func (c Config) validateRest() error {
	wrong := func(field, reason string) error { return &mail.FieldError{Field: field, Reason: reason} }
	switch {
	case len(c.Label) > 255:
		return wrong("label", "is longer than 255 octets")
	case !(c.Weight >= 0) || c.Weight > 1000:
		return wrong("weight", "is not between 0 and 1000")
	case len(c.Version) > 64:
		return wrong("version", "is longer than 64 octets")
	case c.Rejoin < 0 || c.Stable < 0:
		return wrong("rejoin", "is negative")
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func (c Config) withDefaults() Config {
	if c.Label == "" {
		c.Label = "millrace"
	}
	if c.Rejoin == 0 {
		c.Rejoin = 2 * time.Second
	}
	if c.Stable == 0 {
		c.Stable = 5 * time.Minute
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
