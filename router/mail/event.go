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
	Refused                  // a client, a command, a recipient or a message got a 5yz
	Routed                   // a recipient was accepted by a rule and by its next hop
	Relayed                  // a message got the destination's 2yz
	Dropped                  // a message was accepted for drop rules alone
	Deferred                 // a client, a command, a recipient or a message got a 4yz
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

// RefusedBy returns what a client, a command or a message became that got a negative reply.
func RefusedBy(r Reply) Kind {
	if r.Class() == 4 {
		return Deferred
	}
	return Refused
}

// IsOutcome reports whether a kind says how a transaction, or one of its recipients, ended.
func (k Kind) IsOutcome() bool {
	switch k {
	case Refused, Relayed, Dropped, Deferred, Aborted:
		return true
	}
	return false
}

// A Stage is a part of a message's way through the relay whose duration is measured.
type Stage uint8

// The stages in order, and their number.
const (
	StageScore  Stage = iota // the wait for the report on the client
	StageRoute               // the rules
	StageBegin               // MX hosts, Site, connection
	StageRcpt                // MAIL and RCPT at the next hop
	StageData                // DATA at the next hop
	StageOctets              // the message, from our 354 to its last octet
	StageFilter              // of that, the wait for content filters
	StageCommit              // from the dot to the next hop's reply
	Stages      = 8
)

var stageNames = [Stages]string{"score", "route", "begin", "rcpt", "data", "octets", "filter", "commit"}

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

// A To is what became of one recipient of a transaction.
type To struct {
	Forward Path // as the client wrote it
	Rule    Rule
	Outcome Kind
	Verb    string // the command that Reply belongs to: RCPT where it was refused there, else DATA
	Reply   Reply  // that the client got for it last
	Reason  string // of a reply that refuses it
	Drop    bool   // the rule delivers it nowhere
	Targets []Target
	Entry   TraceID // see Outcome; zero without a ledger

	Complaints bool // the rule says that reports of abuse come here
}

// A Complaint is what a report of abuse (RFC 5965) says of the message that is complained of. It is what the sender of
// the report claims.
type Complaint struct {
	Feedback   string    // the type of the report in lower case, such as "abuse"
	Recipients []Path    // to whom the message went
	Arrived    time.Time // zero if the report does not say
}

// A Target is one address that a recipient became.
type Target struct {
	Forward Path
	NextHop NextHop
	Refused bool  // by the next hop, although the recipient was accepted for the sake of others
	Reply   Reply // of the next hop to the end of data; zero if it came to none
	InDoubt bool  // see Outcome
}

// A Leg is the way of a message to one next hop, for the operator. What delivers fills it in while it goes; the methods
// of a nil Leg do nothing. It is used by one goroutine at a time.
type Leg struct {
	NextHop NextHop
	Site    Site
	Node    string // the peer node that delivered, "" for this one
	Reverse Path   // the reverse-path that was sent
	Tried   []Try  // what did not serve the message, in order
	Session Taken  // what it went over last; zero if there was none
	Replied Reply  // of the next hop to the end of data; ours if it said nothing
	Wait    time.Duration
	Sealed  Sealed // what we signed the message with that went there
	Steps   *Steps // for the trace; nil unless there is one
}

// A Sealed says what a message to one next hop was signed with, and why.
type Sealed struct {
	Wanted   string // what the next hop was to get, by a short fixed text, such as "auto: arc=unproved"
	Signed   string // see Event
	Unsigned string // see Event
}

// A Try is a host, or an address of one, that did not serve a message.
type Try struct {
	Host  string
	Addr  netip.AddrPort // zero if it did not come to a connection, or for a unix socket
	Cause string         // why it did not
	Took  time.Duration

	Report TLSReport
}

// A Taken is a session that took a transaction.
type Taken struct {
	Host        string
	Addr        netip.AddrPort // of the host; zero for a unix socket
	Source      netip.Addr     // of ours
	TLS         string         // the version; "" without TLS
	Cipher      string
	KeyExchange string
	Verified    bool // the certificate is valid for the host
	Report      TLSReport
	Kind        SessionKind
}

// A SessionKind says how a session came about that took a transaction.
type SessionKind uint8

// The kinds of session.
const (
	SessionNew     SessionKind = iota // opened for this transaction
	SessionResumed                    // opened for it, and TLS was resumed with a ticket
	SessionWarm                       // it had served another transaction
)

// String returns the kind's name in lower case.
func (k SessionKind) String() string { return [...]string{"new", "resumed", "warm"}[k] }

// maxTried bounds what a Leg remembers of what did not serve.
const maxTried = 16

// Try notes what did not serve the message.
func (l *Leg) Try(t Try) {
	if l == nil {
		return
	}
	if len(l.Tried) < maxTried {
		l.Tried = append(l.Tried, t)
	}
	if l.Steps != nil {
		began := time.Now().Add(-t.Took)
		l.Steps.Add(StepTried, began, t.Took, Note{Host: t.Host, Addr: t.Addr, Text: t.Cause})
	}
}

// Enter begins a step of the way; see Steps.
func (l *Leg) Enter(kind StepKind) int {
	if l == nil {
		return -1
	}
	return l.Steps.Enter(kind)
}

// Leave ends a step of the way; see Steps.
func (l *Leg) Leave(at int, err error) {
	if l != nil {
		l.Steps.Leave(at, err)
	}
}

// Next ends a step of the way and begins another one; see Steps.
func (l *Leg) Next(at int, kind StepKind) int {
	if l == nil {
		return -1
	}
	return l.Steps.Next(at, kind)
}

// Took notes the session that takes the message from here on.
func (l *Leg) Took(t Taken) {
	if l != nil {
		l.Session = t
	}
}

// A Filtered is what one content filter said of a message, or against a recipient.
type Filtered struct {
	Name    string
	Result  string // accept, discard, tempfail, reject, quarantine, or late where it said nothing in time
	Score   float64
	Scored  bool     // Score was said
	Rcpt    bool     // it is about a recipient
	Symbols string   // what it found, by names
	Changes []string // what it asked for that is not made, each by its name
	Took    time.Duration
	Cause   error // why it said nothing
}

// An Event reports what happened at one stage or to one transaction. It is a plain record and the single source of log,
// metrics and live view: what it points to is not changed once it was emitted. It never holds an octet of a message.
// Fields that do not apply are zero.
//
// The event that ends a transaction has all of its recipients in To and its ways to next hops in Legs. That of one
// recipient which was refused has that one. Forward, Rule, NextHop, Site, Host and HostTLS are of the recipient and the
// host that any other event is about, and of the first recipient of a transaction.
type Event struct {
	Kind       Kind
	Mode       Mode
	Reused     bool
	InDoubt    bool
	Ends       bool // it ends the transaction of a message, after its last octet or in place of it
	Recipients int  // that were accepted
	Time       time.Time
	Trace      TraceID
	Client     netip.Addr
	Helo       string
	User       string // that the client has logged in as, or could not; "" elsewhere
	TLS        string // the TLS version of the client's connection, "" without TLS
	Reverse    Path
	Forward    Path // the first recipient, as the client wrote it
	Rule       Rule
	NextHop    NextHop
	Site       Site
	Host       string // the next hop's host
	HostTLS    string // the TLS version of the connection to Host, "" without TLS
	To         []To
	Legs       []Leg
	Complaint  *Complaint // nil unless the message is a report of abuse to a recipient of such reports
	Hook       string     // what the last hook of the transaction said of a recipient; "" if none was asked
	Verb       string     // the command that Reply belongs to
	Reply      Reply
	Reason     string
	Cause      error
	Octets     int64
	Score      float64 // of the client; higher is worse
	Signals    string  // the reasons of the score as "name weight, ...", the heaviest first
	Entries    string  // the entries of the allow and the block list that spoke, as "allow allow.txt:7 for=score, ..."
	Auth       *Auth   // nil: the message was not authenticated
	Signed     string  // what we signed with, such as "example.com, arc"
	Unsigned   string  // why we did not sign though we might have
	MessageID  uint64  // a keyed hash of the Message-ID; 0 without one
	Rules      string  // the rules in force, as "version 7" of those that nodes share or "files 0123456789ab"
	SRS        string  // to what the rewritten reverse-path opens; "" if it was not rewritten
	Took       [Stages]time.Duration
	All        time.Duration // from MAIL to the end of the transaction
	Waited     time.Duration // of All, for the client

	Filtered []Filtered // what content filters said, in the order of the configuration; nil if none was asked
}
