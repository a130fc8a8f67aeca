package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// TestIsOurs: what this machine lacks says nothing of a destination.
func TestIsOurs(t *testing.T) {
	connect := func(errno syscall.Errno) error {
		return &smtpclient.DialError{Stage: smtpclient.StageConnect, Err: &net.OpError{
			Op: "dial", Err: os.NewSyscallError("connect", errno),
		}}
	}
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"no descriptor", connect(syscall.EMFILE), true},
		{"none in the system", connect(syscall.ENFILE), true},
		{"no buffer", connect(syscall.ENOBUFS), true},
		{"no port", connect(syscall.EADDRNOTAVAIL), true},
		{"a source address that is not ours", connect(syscall.EADDRINUSE), true},
		{"a firewall of ours", connect(syscall.EACCES), true},
		{"another", connect(syscall.EPERM), true},
		{"no route to the network", connect(syscall.ENETUNREACH), true},
		{"no route to the host", connect(syscall.EHOSTUNREACH), true},
		{"no IPv6 here", connect(syscall.EAFNOSUPPORT), true},
		{"our name server", mail.Refuse(451, 4, 3, "DNS", "dns", errors.New("SERVFAIL")), true},
		{"refused", connect(syscall.ECONNREFUSED), false},
		{"reset", connect(syscall.ECONNRESET), false},
		{"silent", connect(syscall.ETIMEDOUT), false},
		{"a deadline", &smtpclient.DialError{Stage: smtpclient.StageGreeting, Err: os.ErrDeadlineExceeded}, false},
		{"its end", &smtpclient.DialError{Err: errors.New("EOF")}, false},
		{"a refusal", mail.Refuse(451, 7, 0, "no", "refused", nil), false},
		{"another end of ctx", context.Canceled, false},
	} {
		if got := isOurs(c.err); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
	mine, its := connect(syscall.EMFILE), fmt.Errorf("x: %w", connect(syscall.ECONNREFUSED))
	if !(Failures{mine, mine}).AreOurs() || (Failures{mine, its}).AreOurs() || (Failures{}).AreOurs() {
		t.Error("one that is its own is enough")
	}
}

// TestFailures_Unanswered: another node may do better where no host has said anything, and where it would not be told
// the same by the DNS.
func TestFailures_Unanswered(t *testing.T) {
	at := func(stage smtpclient.Stage, err error) error { return &smtpclient.DialError{Stage: stage, Err: err} }
	silent := at(smtpclient.StageConnect, os.ErrDeadlineExceeded)
	for _, c := range []struct {
		name   string
		failed Failures
		want   bool
	}{
		{"no connection is accepted", Failures{silent, at(smtpclient.StageConnect, syscall.ECONNREFUSED)}, true},
		{"a fault of ours", Failures{at(smtpclient.StageConnect, syscall.EMFILE)}, true},
		{"one behind the connection", Failures{at(smtpclient.StageHelo, syscall.ENETUNREACH)}, true},
		{"our name server", Failures{mail.Refuse(451, 4, 3, "DNS", "dns", errors.New("SERVFAIL"))}, true},
		{"our family", Failures{mail.Refuse(451, 4, 4, "no host", reasonFamily, nil)}, true},
		{"too many addresses", Failures{silent, errMostAddrs}, true},
		{"one host does not exist", Failures{mail.Refuse(451, 4, 4, "no host", "no mail host", nil), silent}, true},
		{"none exists", Failures{mail.Refuse(451, 4, 4, "no host", "no mail host", nil)}, false},
		{"one says no", Failures{silent, at(smtpclient.StageGreeting, mail.Refuse(451, 7, 0, "no", "", nil))}, false},
		{"one is silent behind it", Failures{at(smtpclient.StageGreeting, os.ErrDeadlineExceeded), silent}, false},
		{"one fails in TLS", Failures{at(smtpclient.StageTLS, errors.New("EOF"))}, false},
		{"nothing failed", nil, false},
	} {
		if got := c.failed.Unanswered(); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}
