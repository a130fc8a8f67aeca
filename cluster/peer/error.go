package peer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace/millrace/router/mail"
)

// A PeerError says that the hop failed, and not the destination.
type PeerError struct {
	Node string
	// Committed says that COMMIT was written whole, so that the message may be delivered or not: it is in doubt. If it
	// is false, the peer cannot have all of it, nothing was delivered and nothing will be.
	Committed bool
	Cause     error
}

// Error names the peer and the cause.
func (e *PeerError) Error() string {
	if e.Committed {
		return fmt.Sprintf("node %s was lost after the end of data: %v", e.Node, e.Cause)
	}
	return fmt.Sprintf("node %s was lost: %v", e.Node, e.Cause)
}

// Unwrap returns the cause.
func (e *PeerError) Unwrap() error { return e.Cause }

// Sent returns Committed. Packages that may not import this one recognise a PeerError by this method.
func (e *PeerError) Sent() bool { return e.Committed }

// Declined reports whether the peer works and leaves this next hop to us. Packages that may not import this one
// recognise that by this method.
func (e *PeerError) Declined() bool { return errors.Is(e.Cause, errNotTaken) }

// refusal returns the refusal of a transaction whose hop failed.
func (e *PeerError) refusal() *mail.Refusal {
	return mail.Refuse(451, 4, 2, "Connection lost on the way to the destination, try again", "peer lost", e)
}

// isReachable reports whether err, an error of a hop, does not say that the peer cannot be reached.
func isReachable(err error) bool {
	return slices.ContainsFunc([]error{context.DeadlineExceeded, context.Canceled, errGoodbye, errAbortedByDrain},
		func(e error) bool { return errors.Is(err, e) })
}
