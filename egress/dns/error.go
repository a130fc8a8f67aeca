package dns

import (
	"context"
	"errors"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// What a question can end in other than records. Each *Error wraps exactly one of them, for errors.Is.
var (
	// ErrNXDomain means that the name does not exist, and neither does any name below it (RFC 8020).
	ErrNXDomain = errors.New("no such domain")
	// ErrNoData means that the name exists and has no record of the type.
	ErrNoData = errors.New("no such record")
	// ErrServer means that the servers answered with an error of theirs: SERVFAIL, REFUSED or another code.
	ErrServer = errors.New("name server failure")
	// ErrTimeout means that no server answered in time, that no server could be reached, or that the caller's time was
	// over.
	ErrTimeout = errors.New("no answer from a name server")
	// ErrBadReply means that the replies were malformed or that their CNAMEs lead nowhere within bounds.
	ErrBadReply = errors.New("unusable reply from a name server")
	// ErrBadName means that what was asked for is no domain name; nothing was sent.
	ErrBadName = mail.ErrBadName
	// ErrBusy means that too many questions are open; nothing was sent.
	ErrBusy = mail.ErrNotAsked
	// ErrEnough means that the caller's transaction has asked as many questions as it may; nothing was sent.
	ErrEnough = mail.ErrEnough
	// ErrClosed means that the Resolver was closed.
	ErrClosed = errors.New("resolver closed")
)

// An Error says which question failed and how. Errors are shared between callers and must not be changed.
type Error struct {
	Name   string // the name asked for
	Type   string // the record type asked for, such as "MX"
	Server string // the server that was asked last, "" if no server was
	Rcode  string // the reply's code when Err is ErrServer, such as "SERVFAIL"
	Err    error  // one of the Err variables
	Cause  error  // what lies below, such as a socket's error or the context's; may be nil
}

// Error returns type, name, what happened and the server.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Type)
	b.WriteString(" of ")
	b.WriteString(e.Name)
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	if e.Rcode != "" {
		b.WriteString(" " + e.Rcode)
	}
	if e.Server != "" {
		b.WriteString(" from " + e.Server)
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	return b.String()
}

// Unwrap returns Err and Cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Cause}
}

// NotFound reports whether err is a definite answer that there is no such name or no such record.
func NotFound(err error) bool {
	return errors.Is(err, ErrNXDomain) || errors.Is(err, ErrNoData)
}

// Temporary reports whether err may go away when the same is asked later. It is false for nil.
func Temporary(err error) bool {
	return err != nil && !NotFound(err) && !errors.Is(err, ErrBadName)
}

// gaveUp returns the error of a caller whose context ended before the answer came.
func (k key) gaveUp(ctx context.Context) *Error {
	return &Error{Name: k.name, Type: k.typeName(), Err: ErrTimeout, Cause: context.Cause(ctx)}
}
