package mail

import (
	"net/netip"
	"time"
)

// A Kind says what an Event tells of.
type Kind uint8

// The kinds of Event.
const (
	Connected    Kind = iota // a client was accepted
	Disconnected             // its connection ended
	Refused                  // a client, a command or a message got a 4yz or 5yz
	Routed                   // a recipient was accepted by a rule and by its next hop
	Relayed                  // a message got the destination's 2yz
	Dropped                  // a message was accepted for a drop rule
	Deferred                 // a message got a 4yz at or after DATA
	Aborted                  // a transaction ended without a verdict: client lost, RSET, drain
	Anomaly                  // something an operator should see: Reason says what
)

var kindNames = [...]string{
	"connected", "disconnected", "refused", "routed", "relayed", "dropped", "deferred", "aborted", "anomaly",
}

// Kinds is the number of kinds of Event.
const Kinds = len(kindNames)

// String gives the kind's name in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// A Stage is a part of a message's walk whose time is taken.
type Stage uint8

// The stages of the walk, in order.
const (
	StageScore  Stage = iota // the wait for the verdict on the client
	StageRoute               // the rules
	StageBegin               // MX hosts, Site, session
	StageRcpt                // MAIL and RCPT at the next hop
	StageData                // DATA at the next hop
	StageOctets              // the message, from our 354 to its end
	StageCommit              // the dot, until the next hop's reply
	Stages      = 7
)

var stageNames = [Stages]string{"score", "route", "begin", "rcpt", "data", "octets", "commit"}

// String gives the stage's name.
func (s Stage) String() string {
	if int(s) < len(stageNames) {
		return stageNames[s]
	}
	return "unknown"
}

// A Mode is how a message's octets travelled.
type Mode uint8

// The modes.
const (
	ModeNone    Mode = iota // no octet travelled
	ModeHold                // judged whole, then sent
	ModeStream              // sent while it came in
	ModePredict             // sent while it came in, signed over the body hash that an inbound signature foretold
)

// String gives the mode's name, "" for none.
func (m Mode) String() string {
	switch m {
	case ModeHold:
		return "hold"
	case ModeStream:
		return "stream"
	case ModePredict:
		return "predict"
	}
	return ""
}

// An Event tells what happened at one stage or to one transaction. It is one flat value of fixed size, the single
// source of log, metrics and live view, and never holds an octet of a message. Fields that do not apply are zero.
type Event struct {
	Kind       Kind
	Mode       Mode
	Reused     bool
	InDoubt    bool
	Recipients int
	Time       time.Time
	Trace      TraceID
	Client     netip.Addr
	Helo       string
	TLS        string // the TLS version spoken with the client
	Reverse    Path
	Forward    Path // the first recipient, as the client gave it
	Rule       Rule
	NextHop    NextHop
	Site       Site
	Host       string // the next hop's host
	HostTLS    string // the TLS version spoken with it
	Verb       string // the command that the reply belongs to
	Reply      Reply
	Reason     string
	Cause      error
	Octets     int64
	Score      float64 // of the client; higher is worse
	Signals    string  // the reasons of the score, "name weight, ..." the heaviest first
	Auth       string  // what authentication found, "spf=pass dkim=pass dmarc=pass arc=none"
	Took       [Stages]time.Duration
}
