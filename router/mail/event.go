package mail

import (
	"net/netip"
	"time"
)

// A Kind says what an Event reports.
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
	Aborted                  // a transaction ended without a final reply: client gone, RSET, drain
	Anomaly                  // something an operator should see; Reason says what
	Unread                   // a client is gone and its TCP had not acknowledged the 2yz to its message
)

var kindNames = [...]string{
	"connected", "disconnected", "refused", "routed", "relayed", "dropped", "deferred", "aborted", "anomaly",
	"unread",
}

// Kinds is the number of kinds of Event.
const Kinds = len(kindNames)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// A Stage is a part of a message's way through the relay whose duration is measured.
type Stage uint8

// The stages in order, and their number.
const (
	StageScore  Stage = iota // the wait for the verdict on the client
	StageRoute               // the rules
	StageBegin               // MX hosts, Site, connection
	StageRcpt                // MAIL and RCPT at the next hop
	StageData                // DATA at the next hop
	StageOctets              // the message, from our 354 to its last octet
	StageCommit              // from the dot to the next hop's reply
	Stages      = 7
)

var stageNames = [Stages]string{"score", "route", "begin", "rcpt", "data", "octets", "commit"}

// String returns the stage's name in lower case.
func (s Stage) String() string {
	if int(s) < len(stageNames) {
		return stageNames[s]
	}
	return "unknown"
}

// A Mode says when a message's octets were sent to the next hop.
type Mode uint8

// The modes.
const (
	ModeNone    Mode = iota // no octet was sent
	ModeHold                // sent after the whole message was received and judged
	ModeStream              // sent while the message was received
	ModePredict             // sent while it was received, signed over the body hash that an inbound signature states
)

// String returns the mode's name in lower case, and "" for ModeNone.
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

// An Event reports what happened at one stage or to one transaction. It is one flat value of fixed size and the single
// source of log, metrics and live view. It never holds an octet of a message. Fields that do not apply are zero.
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
	TLS        string // the TLS version of the client's connection, "" without TLS
	Reverse    Path
	Forward    Path // the first recipient, as the client wrote it
	Rule       Rule
	NextHop    NextHop
	Site       Site
	Host       string // the next hop's host
	HostTLS    string // the TLS version of the connection to Host, "" without TLS
	Verb       string // the command that Reply belongs to
	Reply      Reply
	Reason     string
	Cause      error
	Octets     int64
	Score      float64 // of the client; higher is worse
	Signals    string  // the reasons of the score as "name weight, ...", the heaviest first
	Auth       string  // the results of authentication, such as "spf=pass dkim=pass dmarc=pass arc=none"
	SRS        string  // to what the rewritten reverse-path opens; "" if it was not rewritten
	Took       [Stages]time.Duration
}
