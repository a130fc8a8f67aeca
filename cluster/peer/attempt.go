package peer

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// attemptVersion is the version of the hop from which on a peer knows the frame attempt.
const attemptVersion = 2

// maxNames bounds the names of entries that an attempt may have, and maxName the length of one in octets.
const (
	maxNames = 16
	maxName  = 64
)

// appendAttempt appends the content of attempt.
func appendAttempt(f fields, a *mail.Attempt) fields {
	f = f.text(fTrace, traceID(a.ID)).flag(fProved, a.Proved).flag(fBrief, a.Brief)
	for _, k := range a.Keys {
		f = f.text(fMessage, k.Message)
		for _, names := range k.Recipients {
			f = f.text(fEntries, strings.Join(names, " "))
		}
	}
	return f
}

// parseAttempt reads the content of attempt.
func parseAttempt(f fields) (*mail.Attempt, error) {
	a := &mail.Attempt{}
	for len(f) > 0 {
		name, v, rest, err := f.next()
		if err != nil {
			return nil, err
		}
		f = rest
		switch name {
		case fTrace:
			copy(a.ID[:], v)
		case fProved:
			a.Proved = true
		case fBrief:
			a.Brief = true
		case fMessage:
			if len(v) == 0 || len(v) > maxName {
				return nil, fmt.Errorf("%w: a name of %d octets", errFrame, len(v))
			}
			a.Keys = append(a.Keys, mail.LedgerKeys{Message: string(v)})
		case fEntries:
			names := strings.Fields(string(v))
			if len(a.Keys) == 0 || len(names) == 0 || len(names) > maxNames {
				return nil, fmt.Errorf("%w: %d entries of a recipient", errFrame, len(names))
			}
			k := &a.Keys[len(a.Keys)-1]
			k.Recipients = append(k.Recipients, names)
		}
	}
	if a.ID.IsZero() || len(a.Keys) == 0 {
		return nil, fmt.Errorf("%w: an attempt without a name", errFrame)
	}
	for _, k := range a.Keys {
		if len(k.Recipients) != len(a.Keys[0].Recipients) {
			return nil, fmt.Errorf("%w: an attempt with other recipients under another key", errFrame)
		}
	}
	return a, nil
}
