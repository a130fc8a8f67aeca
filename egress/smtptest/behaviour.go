// Package smtptest is a real destination whose behaviour is a script: an SMTP or LMTP server on a TCP or unix socket
// that keeps what it accepted, whole and octet for octet, in memory, and answers each verb and each recipient as it is
// told to. It serves the tests of every package that sends mail, and the world that "millrace dev" shows.
//
// It owns its listener, its sessions and what they recorded. It refuses to know the relay: it shares no code with
// egress/smtpclient, so that a mistake there is not repeated here. It is strict where the RFCs are and notes each
// breach by a client in Violations. A message is recorded only at a true end of data (CRLF.CRLF, or the last octet of
// BDAT LAST); half a message never is.
package smtptest

import (
	"crypto/tls"
	"strconv"
	"strings"
	"time"
)

// The keys of Behaviour.Answers that are no verbs of RFC 5321: the greeting, the end of data (the dot, or BDAT LAST)
// and a chunk that is not the last.
const (
	Greeting = "GREETING"
	Dot      = "DOT"
)

// An Answer is what the server does at one step. The zero Answer is what the server would do by itself.
type Answer struct {
	// Reply is written as it stands: its lines are separated by "\n" and carry their codes ("550-one\n550 two"); CRLF
	// is added to each. "" stands for the reply that the server would send by itself, unless Close or Reset is set:
	// then there is no reply.
	Reply string
	// After is waited before anything else is done.
	After time.Duration
	// Close ends the connection, after Reply if there is one.
	Close bool
	// Reset is Close by a TCP RST, which also throws away what the client has not read yet.
	Reset bool
	// Discard, at Dot and with no Reply, forgets the message before the connection ends. Without it a Close or Reset at
	// Dot stands for a destination that kept the message and whose reply was lost.
	Discard bool
	// Greylist, at RCPT, answers 451 4.7.1 the first time that a client address, reverse-path and forward-path are seen
	// together, and what the server would answer by itself afterwards.
	Greylist bool
}

// A Fault happens inside the octets of a message.
type Fault struct {
	After int64 // the number of octets read of the message, as they came, before it happens
	// a Reply with a 4yz or 5yz is an early refusal: the rest is read and discarded, the dot gets no reply
	Answer Answer
	// reading stops for good, after Answer; the connection stays open until the client or the Server closes it
	Stall bool
}

// A Step is the point of a session that Behaviour.On is asked about.
type Step struct {
	Session int64   // the session's number, from 1
	Verb    string  // the verb in upper case, Greeting or Dot
	Line    string  // the command line as it came, without CRLF
	Forward string  // at RCPT, and at Dot of LMTP: the recipient
	Message Message // the transaction so far; at Dot the whole message
}

// A Behaviour is the script of a Server. The zero Behaviour is a well-behaved SMTP server that accepts everything. It
// is not changed by the Server and may be shared.
type Behaviour struct {
	Hostname string // in the greeting and the reply to EHLO; "destination.test" when empty
	LMTP     bool   // LHLO instead of EHLO and one reply per recipient at the end of data (RFC 2033)

	// Extensions are the lines of the reply to EHLO that are offered and honoured, XFORWARD and XCLIENT with their
	// attributes among them; nil stands for DefaultExtensions. SIZE, STARTTLS and AUTH are added by the fields below.
	// Other lines are offered as they stand and mean nothing.
	Extensions []string
	// offers SIZE and refuses longer messages; 0: not offered; negative: offered without a limit
	Size     int64
	TLS      *tls.Config       // offers STARTTLS
	Implicit bool              // TLS from the first octet, and no STARTTLS
	Users    map[string]string // password by user: offers AUTH PLAIN LOGIN, inside TLS

	// Answers are keyed by verb in upper case, Greeting or Dot, Recipients by the local part of the recipient, in lower
	// case, at RCPT, and Dots likewise at the end of data: in LMTP for that recipient, in SMTP for the message. What is
	// asked first: On, then Recipients or Dots, then Answers.
	Answers    map[string]Answer
	Recipients map[string]Answer
	Dots       map[string]Answer
	Body       *Fault

	// On, if not nil, is asked at every step. It reports whether its Answer counts. It is called from many sessions.
	On func(Step) (Answer, bool)

	Idle        time.Duration // a client silent that long between commands gets 421 4.4.2 and is closed; 0: never
	MaxSessions int           // sessions over this number are greeted with 421 4.7.0; 0: no limit
	MaxMessages int           // the MAIL after this number of messages in a session gets 421 4.7.0; 0: no limit
	Keep        int           // how many messages and command lines are kept, oldest forgotten first; 0: 10000
}

// DefaultExtensions returns what a Behaviour without Extensions offers.
func DefaultExtensions() []string {
	return []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES"}
}

// Without returns DefaultExtensions without those named.
func Without(names ...string) []string {
	out := []string{}
	for _, e := range DefaultExtensions() {
		drop := false
		for _, n := range names {
			drop = drop || strings.EqualFold(n, e)
		}
		if !drop {
			out = append(out, e)
		}
	}
	return out
}

// ByLocalPart returns Recipients for a destination whose addresses say what happens to them: 421, 450, 451, 452, 550,
// 551, 552, 553 and 554 are refused with that code, "greylist" is greylisted, "slow" waits 2 seconds, "drop" and
// "reset" lose the connection.
func ByLocalPart() map[string]Answer {
	m := map[string]Answer{
		"greylist": {Greylist: true},
		"slow":     {After: 2 * time.Second},
		"drop":     {Close: true},
		"reset":    {Reset: true},
		"421":      {Reply: "421 4.3.2 Closing, as this address asks for", Close: true},
	}
	for _, code := range []int{450, 451, 452, 550, 551, 552, 553, 554} {
		c := strconv.Itoa(code)
		m[c] = Answer{Reply: c + " " + c[:1] + ".1.1 Refused, as this address asks for"}
	}
	return m
}

// extensions returns the lines offered, without SIZE, STARTTLS and AUTH.
func (b *Behaviour) extensions() []string {
	if b.Extensions == nil {
		return DefaultExtensions()
	}
	return b.Extensions
}

// offers reports whether the extension with this keyword is among the lines offered.
func (b *Behaviour) offers(keyword string) bool {
	for _, e := range b.extensions() {
		k, _, _ := strings.Cut(e, " ")
		if strings.EqualFold(k, keyword) {
			return true
		}
	}
	return false
}

func (b *Behaviour) hostname() string {
	if b.Hostname == "" {
		return "destination.test"
	}
	return b.Hostname
}

func (b *Behaviour) keep() int {
	if b.Keep <= 0 {
		return 10000
	}
	return b.Keep
}
