// Package smtpclient is the client side of one SMTP or LMTP session: greeting, EHLO, STARTTLS, AUTH, and then one mail
// transaction after another, each with the destination's own answers handed back as they came.
//
// It owns the connection, its deadlines, the form in which octets go out (DATA or BDAT, stuffed or plain) and the
// reading of replies, early ones included. It refuses to know where hosts come from, which session serves which
// message, what is retried, and what a stranger may read of a reply.
//
// Invariants: no end of data is sent but by Commit; no reply is believed to be the end of data's unless it came after
// the whole of it was written; an Outcome is 2yz only if the server said so; inside DATA the only way out is to close.
package smtpclient

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A Config holds the limits of a Client that depend on the node's configuration. A zero field takes the default named
// with it. The other limits are constants of this package.
type Config struct {
	Connect time.Duration    // to connect; 30 s
	Data    time.Duration    // from DATA to its 354; 60 s
	Stall   time.Duration    // that a write may make no progress; 120 s
	Dot     time.Duration    // from the end of data to its reply, unless the context has a deadline; 10 min
	Now     func() time.Time // the clock of Born and LastUsed; nil means time.Now

	tune tuning
}

// tuning holds the limits that only tests change. A zero field takes its constant.
type tuning struct {
	mail time.Duration // mailTimeout
	rcpt time.Duration // rcptTimeout
}

// A TLSPolicy says what a Target's session must have of TLS.
type TLSPolicy uint8

// The policies.
const (
	None TLSPolicy = iota // clear, even where STARTTLS is offered
	// STARTTLS where it is offered, with any certificate; clear where it is not offered or refused
	Opportunistic
	Required // STARTTLS, and a certificate valid for Host
	Implicit // TLS from the first octet, and a certificate valid for Host
)

// A Target is what to connect to and how.
type Target struct {
	Network string // "tcp", or "unix"
	Addr    string // an IP address and a port, or a path
	Source  netip.Addr
	Host    string // the name for SNI, the certificate, and errors
	Helo    string // our name
	LMTP    bool
	TLS     TLSPolicy
	// TLSConfig is the base of the session's, for RootCAs, ClientSessionCache, VerifyConnection and CurvePreferences;
	// it is cloned. nil: the system's roots and no cache.
	TLSConfig *tls.Config
	User      string // AUTH PLAIN or LOGIN as this user; needs Required or Implicit
	Password  string
}

// A Stage is the part of Dial that failed.
type Stage string

// The stages of Dial.
const (
	StageConnect  Stage = "connect"
	StageGreeting Stage = "greeting"
	StageHelo     Stage = "EHLO"
	StageStartTLS Stage = "STARTTLS"
	StageTLS      Stage = "TLS"
	StageAuth     Stage = "AUTH"
)

// A DialError tells where Dial failed. Err is a *mail.Refusal where the host spoke or the TLS policy is unmet, else
// whatever the network or crypto/tls said.
type DialError struct {
	Host  string
	Stage Stage
	Err   error
}

// Error names host and stage.
func (e *DialError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Host, e.Stage, e.Err) }

// Unwrap gives Err.
func (e *DialError) Unwrap() error { return e.Err }

// A ConnError tells that the connection broke or a deadline passed inside a transaction. It is no verdict of the host.
type ConnError struct {
	Host string
	Verb string // the command that was under way
	Err  error
}

// Error names host and verb.
func (e *ConnError) Error() string { return fmt.Sprintf("%s: lost in %s: %v", e.Host, e.Verb, e.Err) }

// Unwrap gives Err.
func (e *ConnError) Unwrap() error { return e.Err }

// Reply is what a client should be told: 451 4.4.2.
func (e *ConnError) Reply() mail.Reply {
	return mail.NewReply(451, 4, 2, "Connection to destination lost, try again later")
}

// A ReplyError is a host's negative reply as it came, before it was turned into what the client is told. It is the
// Cause of refusals.
type ReplyError struct {
	// Heard is the text for rules on texts: in lower case, every run of blanks and line ends as one blank, and without
	// what the host only repeats of the envelope and of our name. It is "" for a RCPT that was refused because of its
	// address.
	Heard string
	Verb  string
	Reply mail.Reply // Code may be 421
}

// Error names the verb and gives the reply.
func (e *ReplyError) Error() string { return e.Verb + ": " + e.Reply.String() }

// Extensions are those of a server that matter here.
type Extensions struct {
	ESMTP        bool // EHLO or LHLO was accepted
	Pipelining   bool
	Chunking     bool
	EightBitMIME bool
	SMTPUTF8     bool
	StartTLS     bool
	RequireTLS   bool
	Enhanced     bool  // ENHANCEDSTATUSCODES
	Size         int64 // SIZE offered with a limit, in octets; 0: no limit known
	SizeOffered  bool
	AuthPlain    bool
	AuthLogin    bool
	MailMax      int // LIMITS MAILMAX and RCPTMAX (RFC 9422); 0: none
	RcptMax      int
}
