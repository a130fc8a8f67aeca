package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/router/mail"
)

// Words returns what an error on the way to a host means, for people.
func Words(err error) string {
	var dialled *smtpclient.DialError
	var lost *smtpclient.ConnError
	var r *mail.Refusal
	ours := errors.As(err, &r)
	if ours && !isReply(err) && !errors.As(err, &dialled) && !errors.As(err, &lost) { // names led nowhere
		return causeOf(r)
	}
	for _, words := range [...]func(error) string{wordsOfReply, wordsOfCertificate, wordsOfTLS, wordsOfNetwork} {
		if says := words(err); says != "" {
			return says
		}
	}
	switch {
	case ours:
		return causeOf(r)
	case dialled != nil:
		return dialled.Err.Error()
	}
	return err.Error()
}

// causeOf returns the text of the cause of a refusal, or its own.
func causeOf(r *mail.Refusal) string {
	if r.Cause != nil {
		return r.Cause.Error()
	}
	return r.Reply.Text
}

// isReply reports whether an error is a reply of the host.
func isReply(err error) bool {
	var r *smtpclient.ReplyError
	return errors.As(err, &r)
}

// wordsOfReply returns what a host's refusal means, "" for another error. Its text stands beside it.
func wordsOfReply(err error) string {
	var r *smtpclient.ReplyError
	if !errors.As(err, &r) {
		return ""
	}
	later := r.Reply.Class() == 4
	switch r.Verb {
	case StepGreeting, "EHLO", "HELO", "LHLO":
		if later {
			return "the host does not take us now, and may later"
		}
		return "the host refuses us before any mail: it does not want this address or this name"
	case "STARTTLS":
		return "the host refuses STARTTLS"
	case "AUTH":
		switch {
		case r.Reply.Code == 535:
			return "the user or the password is wrong"
		case later:
			return "the host cannot check the password now"
		}
		return "the host refuses this way to log in"
	case "MAIL":
		if later {
			return "the host puts the sender off"
		}
		return "the host refuses the sender"
	case "RCPT":
		return wordsOfRecipient(&r.Reply)
	}
	return "the host refuses " + r.Verb
}

// wordsOfRecipient returns what the refusal of a recipient means: the path to the host is open in any case.
func wordsOfRecipient(r *mail.Reply) string {
	unknown := r.Enhanced == mail.EnhancedCode{Subject: 1, Detail: 1}
	switch {
	case r.Class() == 4:
		return "the path is open; the host puts this recipient off, as greylisting does"
	case unknown:
		return "the path is open; the host does not know this recipient"
	case r.Code == 550 && r.Enhanced == mail.EnhancedCode{Subject: 7, Detail: 1}, r.Code == 554:
		return "the path is open; the host does not take mail for this recipient from us"
	}
	return "the path is open; the host refuses this recipient"
}

// wordsOfCertificate returns what is wrong with a certificate, "" for another error.
func wordsOfCertificate(err error) string {
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &name):
		return "the certificate is for " + namesOf(name.Certificate) + " and not for " + name.Host
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c := invalid.Cert
		if time.Now().Before(c.NotBefore) {
			return "the certificate is valid from " + c.NotBefore.UTC().Format(time.DateTime) + " UTC on, not yet"
		}
		return "the certificate has ended on " + c.NotAfter.UTC().Format(time.DateOnly)
	case errors.As(err, &invalid):
		return "the certificate is not valid: " + strings.TrimPrefix(err.Error(), "x509: ")
	case errors.As(err, &unknown):
		return "the certificate is signed by " + strangerOf(err)
	}
	return ""
}

// strangerOf returns who signed a certificate whose authority is not known.
func strangerOf(err error) string {
	var failed *tls.CertificateVerificationError
	if !errors.As(err, &failed) || len(failed.UnverifiedCertificates) == 0 {
		return "an authority that this machine does not know"
	}
	by := authorityOf(failed.UnverifiedCertificates[0])
	if by == "itself" {
		return "itself and no authority"
	}
	return "an authority that this machine does not know (" + by + ")"
}

// wordsOfTLS returns what is wrong with TLS itself, "" for another error.
func wordsOfTLS(err error) string {
	var record tls.RecordHeaderError
	var alert *net.OpError
	switch {
	case errors.As(err, &record):
		return "no TLS is spoken at this port: what came is none"
	case errors.As(err, &alert) && alert.Op == "remote error":
		return "the host breaks TLS off: " + alert.Err.Error()
	case errors.As(err, &alert) && alert.Op == "local error":
		return "what the host speaks of TLS is not understood: " + alert.Err.Error()
	}
	return ""
}

// A Fault is a kind of failure on the way to a host.
type Fault string

// The faults.
const (
	RefusedConnection Fault = "refused"
	NoAnswer          Fault = "no answer"
	NoRoute           Fault = "no route"
	NoSource          Fault = "no source" // the address to connect from is not ours
	Forbidden         Fault = "forbidden" // by this machine
	NoSocket          Fault = "no socket"
	ClosedByHost      Fault = "closed"
	BadCertificate    Fault = "certificate"
	NoTLS             Fault = "tls"
	OtherFault        Fault = "other"
)

// faultOf returns the kind of an error, "" for a reply.
func faultOf(err error) Fault {
	switch {
	case isReply(err):
		return ""
	case wordsOfCertificate(err) != "":
		return BadCertificate
	case wordsOfTLS(err) != "":
		return NoTLS
	case errors.Is(err, syscall.ECONNREFUSED):
		return RefusedConnection
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return NoRoute
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return NoSource
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return Forbidden
	case errors.Is(err, fs.ErrNotExist):
		return NoSocket
	case isSlow(err):
		return NoAnswer
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isReset(err):
		return ClosedByHost
	}
	return OtherFault
}

// isSlow reports whether an error is that of a time that is over.
func isSlow(err error) bool {
	var slow interface{ Timeout() bool }
	return errors.As(err, &slow) && slow.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// wordsOfNetwork returns what an error of the network means at the stage at which it met us, "" for another error.
func wordsOfNetwork(err error) string {
	stage := stepOf(err)
	var lost *smtpclient.ConnError
	if errors.As(err, &lost) {
		stage = lost.Verb
	}
	switch faultOf(err) {
	case RefusedConnection:
		return "refused: the address answers, and nothing listens at this port, or a firewall says so"
	case NoRoute:
		if errors.Is(err, syscall.EHOSTUNREACH) {
			return "no route to the host: it is down, the tunnel is, or a firewall on the way says so"
		}
		return "no route: this machine has no way to that network (no IPv6 here, or a tunnel that is down)"
	case NoSource:
		return "the address to connect from is not on this machine (egress.source)"
	case Forbidden:
		return "forbidden on this machine: its own firewall, or the rights of this user"
	case NoSocket:
		return "there is no socket at that path"
	case ClosedByHost:
		return "the host closed the connection at " + stage
	case NoAnswer:
		switch stage {
		case StepTCP:
			return "no answer: a firewall on the way drops it, the host is down, or the tunnel to it is"
		case StepGreeting:
			return "connected, and no greeting in time: what listens there speaks no SMTP, waits for TLS, or has too " +
				"much to do"
		}
		return "no answer to " + stage + " in time"
	}
	return ""
}

// isReset reports whether the other side reset a connection.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, os.ErrClosed)
}
