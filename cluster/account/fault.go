package account

import "time"

// A Kind says what an Error means to the one who asked.
type Kind uint8

// The kinds of errors.
const (
	Refused      Kind = iota // what was asked for cannot be
	Unauthorized             // no token, or a wrong one
	Limited                  // too many wrong tokens
	Forbidden                // the role or the domains of the token do not allow it
	Missing                  // there is no such thing, or it is of others
	Unkept                   // the node has nowhere to keep it
	Busy                     // not now: what keeps it does not answer
)

// The codes of errors, as an API shows them. CodeNoRule is one that clients of others know.
const (
	CodeUnauthorized  = 10000
	CodeForbidden     = 10003
	CodeLimited       = 10004
	CodeNoRule        = 2020
	CodeNoDestination = 2021
	CodeNoToken       = 2022
	CodeRefused       = 2030
	CodeClash         = 2031
	CodeUnkept        = 2040
	CodeBusy          = 2041
)

// An Error is why something was not done. Message may be shown to the one who asked.
type Error struct {
	Kind    Kind
	Code    int
	Message string
	Field   string        // of the record that is wrong; may be empty
	Wait    time.Duration // of Limited: until it may be tried again
}

// Error returns the message, with the field before it.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

func refused(field, message string) error {
	return &Error{Kind: Refused, Code: CodeRefused, Field: field, Message: message}
}

func forbidden(message string) error {
	return &Error{Kind: Forbidden, Code: CodeForbidden, Message: message}
}

func missing(code int, what string) error {
	return &Error{Kind: Missing, Code: code, Message: "there is no such " + what}
}
