package mail

import "errors"

// The errors of DNS look-ups that both the resolver and its callers know. Errors of a look-up wrap them.
var (
	// ErrBadName means that what was asked for is no domain name; nothing was sent.
	ErrBadName = errors.New("not a domain name")
	// ErrNotAsked means that too many questions are open; nothing was sent. It says nothing about the name or its
	// servers.
	ErrNotAsked = errors.New("too many questions open")
)
