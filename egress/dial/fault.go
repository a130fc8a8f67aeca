package dial

import (
	"errors"
	"slices"
	"syscall"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// ours are the errors of the system that say nothing of the other side: descriptors, buffers, ports and memory are
// used up, a firewall of ours is in the way, there is no route.
var ours = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE,
	syscall.EACCES, syscall.EPERM, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EHOSTUNREACH, syscall.EAFNOSUPPORT,
	syscall.EINVAL, // Linux, where the route is a black hole
}

// isOurs reports whether err, of an address or a host that could not be used, comes from a fault of ours.
func isOurs(err error) bool {
	var dns *mail.Refusal
	if errors.As(err, &dns) && dns.Reply.Enhanced == (mail.EnhancedCode{Subject: 4, Detail: 3}) {
		return true
	}
	return slices.ContainsFunc(ours, func(o error) bool { return errors.Is(err, o) })
}

// Connects returns how many of the failures are of addresses that were connected to, and no fault of ours.
func (f Failures) Connects() (n int) {
	for _, err := range f {
		var one *smtpclient.DialError
		if errors.As(err, &one) && !isOurs(err) {
			n++
		}
	}
	return n
}

// IsCut reports whether there are addresses that were not tried because so many others were.
func (f Failures) IsCut() bool {
	return slices.ContainsFunc(f, func(err error) bool { return errors.Is(err, errMostAddrs) })
}

// AreSlow reports whether a deadline ended one of the tries.
func (f Failures) AreSlow() bool {
	return slices.ContainsFunc(f, func(err error) bool {
		var slow interface{ Timeout() bool }
		return errors.As(err, &slow) && slow.Timeout()
	})
}

// AreOurs reports whether each of the failures comes from a fault of ours, so that they say nothing of the destination.
func (f Failures) AreOurs() bool {
	return len(f) > 0 && !slices.ContainsFunc(f, func(err error) bool { return !isOurs(err) })
}

// Unanswered reports whether no host has said anything: none accepted a connection, or was even asked for one. It may
// be for a fault of ours, and another node may reach one. It does not report it where the DNS said that there is none.
func (f Failures) Unanswered() bool {
	return slices.ContainsFunc(f, isUnanswered) && !slices.ContainsFunc(f, isAnswer)
}

// isAnswer reports whether err comes from a host that accepted the connection.
func isAnswer(err error) bool {
	var one *smtpclient.DialError
	return errors.As(err, &one) && one.Stage != smtpclient.StageConnect && !isOurs(err)
}

// isUnanswered reports whether another node may do better at the address or the host that failed with err.
func isUnanswered(err error) bool {
	var one *smtpclient.DialError
	var r *mail.Refusal
	if errors.As(err, &one) || !errors.As(err, &r) {
		return !isAnswer(err)
	}
	return isOurs(err) || r.Reason == reasonFamily
}
