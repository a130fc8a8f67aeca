package fleet

import (
	"errors"
	"fmt"
	"os"
)

// ErrVerdict is the end of a run in which not all was as it should be. The run has told of it in its last line.
var ErrVerdict = errors.New("FAIL")

// End ends the process of a command whose work ended with err: with status 1 if there is one. An error that is
// ErrVerdict is not told again, so that the verdict stays the last line.
func End(command string, err error) {
	if err == nil {
		return
	}
	if !errors.Is(err, ErrVerdict) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", command, err)
	}
	os.Exit(1)
}
