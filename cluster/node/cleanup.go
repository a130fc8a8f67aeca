package node

import (
	"context"
	"errors"
	"fmt"
)

// cleanups are what ends a node, in the order in which its parts were made or started. Each is added the moment that
// its part exists.
type cleanups []cleanup

type cleanup struct {
	name string // of the part, for errors
	end  func(context.Context) error
}

// add registers what ends a part.
func (c *cleanups) add(name string, end func(context.Context) error) {
	*c = append(*c, cleanup{name, end})
}

// end runs the cleanups from the last to the first and forgets them. The error joins theirs.
func (c *cleanups) end(ctx context.Context) error {
	var errs []error
	for i := len(*c) - 1; i >= 0; i-- {
		if err := (*c)[i].end(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", (*c)[i].name, err))
		}
	}
	*c = nil
	return errors.Join(errs...)
}
