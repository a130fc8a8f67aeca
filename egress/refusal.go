package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// noSession returns the Refusal for an error of the pool.
func noSession(err error) *mail.Refusal {
	var cooled *pool.CooledError
	switch {
	case errors.As(err, &cooled) && cooled.Suspended:
		return paused(cooled.Until, err)
	case errors.As(err, &cooled):
		r := mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", reasonCooling, err)
		r.Unreached = unreached(cooled.Cause) != nil
		return r
	case errors.Is(err, pool.ErrBusy) && errors.Is(err, context.Canceled):
		return mail.Refuse(451, 4, 5, "Destination is busy, try again later", "cancelled", err)
	case errors.Is(err, pool.ErrBusy):
		return mail.Refuse(451, 4, 5, "Destination is busy, try again later", "site at its cap", err)
	}
	r := mail.Refuse(451, 3, 2, "System is shutting down, try again later", "shutdown", err)
	r.Unreached = true
	return r
}

// suspendedUntil returns the Refusal for a Site that the cluster suspended, and why.
func suspendedUntil(until time.Time, site mail.Site, reason string) *mail.Refusal {
	return paused(until, fmt.Errorf("%s is suspended: %s", site, reason))
}

// paused returns the Refusal for a Site that is suspended until then.
func paused(until time.Time, cause error) *mail.Refusal {
	return mail.Refuse(451, 4, 5, "Destination asked for a pause, try again after "+until.UTC().Format("15:04:05 UTC"),
		"suspended", cause)
}

// noHost returns the Refusal for a destination of which no host could be used. required says that the message demands
// REQUIRETLS.
func noHost(failed dial.Failures, required bool) *mail.Refusal {
	lacks := 0
	for _, err := range failed {
		if required && lacksTLS(err) {
			lacks++
		}
	}
	if lacks > 0 && lacks == len(failed) {
		return mail.Refuse(550, 7, 30, "Destination does not meet REQUIRETLS, which is no fault of the sender",
			"requiretls", failed)
	}
	for _, err := range failed {
		ruled, ofHost := err.(*mail.Refusal) // not errors.As: of a host that was not even connected to
		switch {
		case !isPolicy(err):
		case ofHost:
			r := *ruled
			r.Cause = failed
			return &r
		case isCertificate(err):
			return mail.Refuse(451, 7, 5,
				"Destination's certificate is not valid for it, which is no fault of the sender", reasonCertificate,
				failed)
		default:
			return mail.Refuse(451, 7, 5,
				"Destination does not meet the TLS policy that is its own or ours, which is no fault of the sender",
				"tls policy", failed)
		}
	}
	if slices.ContainsFunc(failed, isOfUser) {
		return mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", reasonCredentials, failed)
	}
	r := mail.Refuse(451, 4, 1, "Destination cannot be reached, try again later", reasonUnreachable, failed)
	r.Unreached = failed.Unanswered()
	return r
}

// lacksTLS reports whether a host has said, or shown, that it does not have what REQUIRETLS demands. What may be
// otherwise when it is asked again is no such word.
func lacksTLS(err error) bool {
	var r *mail.Refusal
	var one *smtpclient.DialError
	var reply *smtpclient.ReplyError
	if errors.As(err, &r) && r.Reply.Enhanced == (mail.EnhancedCode{Subject: 7, Detail: 30}) || isCertificate(err) {
		return true
	}
	return errors.As(err, &one) && one.Stage == smtpclient.StageStartTLS && isPolicy(err) && !errors.As(err, &reply)
}

// The reasons of refusals that are Unreached and say that this node does not reach the Site. The last is that of mx.
const (
	reasonUnreachable = "unreachable"
	reasonCooling     = "cooling"
	reasonDNS         = "dns"
)

// The reasons of refusals that an administrator ends: a user or a password that a next hop refuses, or that is not
// configured, and a certificate that is not valid where one is required.
const (
	reasonCredentials = "credentials"
	reasonCertificate = "certificate"
)

// isCertificate reports whether the certificate of a host is not valid for it.
func isCertificate(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

// reasonNoTime is the reason of a refusal that is Unreached because too little time was left to try.
const reasonNoTime = "no time to connect"

// unreached returns the refusal in err if no destination made it, see mail.Refusal, else nil.
func unreached(err error) *mail.Refusal {
	var r *mail.Refusal
	if errors.As(err, &r) && r.Unreached {
		return r
	}
	return nil
}

// isOfSite reports whether a refusal that is Unreached says that a node does not reach the Site, and not that there is
// something in the way of this message alone, such as the budget of its client.
func isOfSite(r *mail.Refusal) bool {
	return r.Reason == reasonUnreachable || r.Reason == reasonCooling || r.Reason == reasonDNS
}

// isPolicy reports whether a session was not opened because its TLS would have been too little.
func isPolicy(err error) bool {
	var r *mail.Refusal
	return errors.As(err, &r) && r.Reply.Enhanced == mail.EnhancedCode{Subject: 7, Detail: 5}
}

// isOfUser reports whether a host refused our user and nothing else.
func isOfUser(err error) bool {
	var d *smtpclient.DialError
	var lost *smtpclient.ConnError
	return errors.As(err, &d) && d.Stage == smtpclient.StageAuth && !errors.As(err, &lost)
}

// isAuth reports whether no host got further than to our user.
func isAuth(failed dial.Failures) bool {
	for _, err := range failed {
		var d *smtpclient.DialError
		if !errors.As(err, &d) || d.Stage != smtpclient.StageAuth {
			return false
		}
	}
	return len(failed) > 0
}

// connError returns the Refusal for a connection that broke before the end of data was sent.
func connError(host string, cause error) *mail.Refusal {
	r := mail.Refuse(451, 4, 2, "Connection to destination lost, try again later", "lost", cause)
	r.Host = host
	return r
}

// mixedReplay returns the Refusal for a transaction of which only a part was accepted when it was begun again.
func mixedReplay(cause error) *mail.Refusal {
	r := mail.Refuse(451, 3, 0, "Destination no longer accepts all recipients, try again later", "replay", cause)
	r.AboutUs, r.Unreached = aboutUs(cause) != nil, unreached(cause) != nil
	return r
}

// aboutUs returns the Refusal in err if the destination refused us rather than the message, else nil.
func aboutUs(err error) *mail.Refusal {
	var r *mail.Refusal
	if errors.As(err, &r) && r.AboutUs {
		return r
	}
	return nil
}

// replyOf returns the reply that the host itself sent, as it came, and reports whether err comes from one.
func replyOf(err error) (smtpclient.ReplyError, bool) {
	var r *smtpclient.ReplyError
	if errors.As(err, &r) {
		return *r, true
	}
	return smtpclient.ReplyError{}, false
}

// isReply reports whether err is an answer, of the host or of ours, and not a broken connection.
func isReply(err error) bool {
	var r *mail.Refusal
	return errors.As(err, &r)
}
