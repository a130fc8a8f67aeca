package node

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/wire"
)

// reservedFiles are the descriptors that are left for all but mail: listeners, DNS, Redis, files.
const reservedFiles = 256

// sessionFiles are those that clients leave for what is opened for them, sessions at next hops and links to other
// nodes; a quarter where there are few.
const sessionFiles = 600

// filesFor returns how many descriptors mail may have in a process that may open so many files.
func filesFor(openFiles uint64) int {
	return int(max(min(openFiles, 1<<40), reservedFiles+2) - reservedFiles)
}

// placesFor returns how many clients may be connected at once: limits.connections, or what the process may have open. A
// client has one descriptor; a second one is taken when a transaction needs a session that is not open yet.
func placesFor(connections int, openFiles uint64) int {
	files := filesFor(openFiles)
	return min(connections, files-max(1, min(sessionFiles, files/4)))
}

// maxOpenFiles returns the number of descriptors that the process may have open. The runtime has raised the soft limit
// to the hard one.
func maxOpenFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1 << 40 // not known: the configuration is believed
	}
	return uint64(limit.Cur)
}

// placesWarning returns what is to be said if fewer clients can be connected than limits.connections says.
func placesWarning(c *config.Config, openFiles uint64) []config.Problem {
	places := placesFor(c.Limits.Connections, openFiles)
	if places >= c.Limits.Connections {
		return nil
	}
	return []config.Problem{c.Problem("limits.connections", fmt.Sprintf(
		"only %d places: this process may open %d files, and %d connections need %d (LimitNOFILE, ulimit -n)",
		places, openFiles, c.Limits.Connections, c.Limits.Connections+sessionFiles+reservedFiles))}
}

// newPlaces returns the places of all listeners.
func newPlaces(l *config.Limits) *wire.Places {
	return wire.NewPlaces(wire.Limits{
		Total:  placesFor(l.Connections, maxOpenFiles()),
		Client: l.ConnectionsPerClient,
		Net24:  l.ConnectionsPerNetwork.Net24,
		Net56:  l.ConnectionsPerNetwork.Net56,
		Net48:  l.ConnectionsPerNetwork.Net48,
		Files:  filesFor(maxOpenFiles()),

		Messages: l.Messages,
	})
}

// standingOn returns in which shares of the places a client of a listener counts. scoring may be nil.
func standingOn(l *config.Listener, scoring *scoring) func(*wire.Client) wire.Standing {
	trusted := config.Prefixes(l.Networks)
	return func(c *wire.Client) wire.Standing {
		addr := c.Addr.Addr()
		if scoring != nil && scoring.scorer.AllowsPlace(addr) {
			return wire.Allowed
		}
		if !c.Lowered && slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return wire.Favoured
		}
		return wire.Stranger
	}
}
