package egress

import (
	"context"
	"errors"
	"strings"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// noSession is the Refusal for an error of the pool.
func noSession(err error) *mail.Refusal {
	var cooled *pool.CooledError
	switch {
	case errors.As(err, &cooled) && cooled.Suspended:
		return paused(cooled.Until, err)
	case errors.As(err, &cooled):
		return mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", "cooling", err)
	case errors.Is(err, pool.ErrBusy) && errors.Is(err, context.Canceled):
		return mail.Refuse(451, 4, 5, "Destination is busy, try again later", "cancelled", err)
	case errors.Is(err, pool.ErrBusy):
		return mail.Refuse(451, 4, 5, "Destination is busy, try again later", "site at its cap", err)
	}
	return mail.Refuse(451, 3, 2, "System is shutting down, try again later", "shutdown", err)
}

// noHost is the Refusal for hosts none of which could be used.
func noHost(failed failures) *mail.Refusal {
	for _, err := range failed {
		if isPolicy(err) {
			return mail.Refuse(451, 7, 5, "Destination does not offer the TLS that is required", "tls policy", failed)
		}
	}
	return mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", "unreachable", failed)
}

// isPolicy reports whether a session was not opened because its TLS would have been too little.
func isPolicy(err error) bool {
	var r *mail.Refusal
	return errors.As(err, &r) && r.Reply.Enhanced == mail.EnhancedCode{Subject: 7, Detail: 5}
}

// lost is the Refusal for a connection that broke before the end of data was sent.
func lost(host string, cause error) *mail.Refusal {
	r := mail.Refuse(451, 4, 2, "Connection to destination lost, try again later", "lost", cause)
	r.Host = host
	return r
}

// mixedReplay is the Refusal for a transaction of which only a part was accepted when it was begun again.
func mixedReplay(cause error) *mail.Refusal {
	r := mail.Refuse(451, 3, 0, "Destination no longer accepts all recipients, try again later", "replay", cause)
	r.AboutUs = aboutUs(cause) != nil
	return r
}

// said gives the reply that the host itself gave, as it came, if err comes from one.
func said(err error) (smtpclient.ReplyError, bool) {
	var r *smtpclient.ReplyError
	if errors.As(err, &r) {
		return *r, true
	}
	return smtpclient.ReplyError{}, false
}

// isVerdict reports whether err is an answer, of the host or of ours, and not a broken connection.
func isVerdict(err error) bool {
	var r *mail.Refusal
	return errors.As(err, &r)
}

// failures are why each host in turn could not be used.
type failures []error

// Error joins them on one line.
func (f failures) Error() string {
	lines := make([]string, len(f))
	for i, err := range f {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "; ")
}

// Unwrap gives them all.
func (f failures) Unwrap() []error { return f }
