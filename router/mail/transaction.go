package mail

import (
	"context"
	"net/netip"
	"time"
)

// Params are the parameters of a MAIL command that travel with the message.
type Params struct {
	Size     int64 // SIZE= in octets (RFC 1870); 0 when not given
	Body     BodyType
	SMTPUTF8 bool // RFC 6531
}

// A BodyType is the value of BODY= (RFC 6152).
type BodyType uint8

// The body types. BINARYMIME is not offered.
const (
	BodyUnknown BodyType = iota // not given
	Body7Bit
	Body8BitMIME
)

// An Envelope is what a client said of a message: its reverse-path, the parameters of its MAIL and the recipients that
// were accepted so far, as the client gave them.
type Envelope struct {
	Reverse  Path
	Params   Params
	Forwards []Path
}

// A Delivery is what a next hop's transaction begins with.
type Delivery struct {
	NextHop         NextHop
	Site            Site // "" until the relay found it
	Reverse         Path // as rewritten
	Params          Params
	Extra           int          // octets of our fields at most, which upstream's SIZE= counts as well
	RecipientDomain string       // of the first forward-path, lower case
	Client          netip.Prefix // the network of the client, by which sessions are shared out fairly
	Favoured        bool         // a trusted network or an authenticated client: not subject to that share
	Trace           TraceID
	Seal            Seal
	EightBit        EightBit
}

// An Outcome is what became of one recipient that a next hop had accepted.
type Outcome struct {
	Reply   Reply         // always set: the next hop's own, or ours where it has none
	Host    string        // who said it
	Via     string        // the peer node it went through, if any
	TLS     string        // the TLS version spoken with Host, "" in clear
	Reused  bool          // the session had carried a message before
	InDoubt bool          // the dot was sent and no reply came: it may be delivered or not
	AboutUs bool          // see Refusal
	Wait    time.Duration // time spent waiting for a session, dialling included
	Cause   error         // for the operator
}

// A Transaction is a mail transaction open at a next hop. It is not safe for concurrent use. Exactly one of Commit and
// Abort ends it.
type Transaction interface {
	// Rcpt adds a recipient. A *Refusal carries the next hop's answer. The first Rcpt sends MAIL with it in one write,
	// and a refused MAIL is the error of that Rcpt and of each later one.
	Rcpt(ctx context.Context, forward Path) error
	// Data opens the message: Stuffed (from DATA) or Plain (BDAT, submission); once, before the first Write or Commit.
	Data(ctx context.Context, form Form) error
	// Write sends all but the last piece; o is borrowed until return: the callee keeps and changes nothing. An error
	// that is a *Refusal is the next hop's verdict, given before the end of data.
	Write(o Octets) error
	// Commit sends last (in hold: the whole message) and the dot, or BDAT n LAST, in one write, and returns one Outcome
	// per accepted Rcpt, in order.
	Commit(ctx context.Context, last Octets) []Outcome
	// Abort leaves the message undelivered; it may cost the connection.
	Abort()

	// Lend resets the transaction at the next hop and hands its session back while the client idles, if Data was not
	// called. The next Renew, Rcpt or Data begins again with a session, MAIL and the accepted recipients; what is
	// refused then is that call's error. It reports whether the session was handed back.
	Lend() bool
	// Renew begins again what was lent: a session, MAIL and the accepted recipients, and not DATA. It does nothing when
	// nothing was lent. An error is a *Refusal; the transaction then holds no recipient and is to be aborted.
	Renew(ctx context.Context) error
	// Wanted reports whether the client's network holds more than its share of the sessions while another client waits.
	// A client that is slow with a message then has to give way, because a session within a message cannot be lent.
	Wanted() bool
	// SMTPUTF8 reports whether the host that the transaction is open at offers SMTPUTF8 (RFC 6531).
	SMTPUTF8() bool
}

type deadlineCtx struct {
	context.Context
	at time.Time
}

// Deadline gives the earlier of the two deadlines.
func (c deadlineCtx) Deadline() (time.Time, bool) {
	if d, ok := c.Context.Deadline(); ok && d.Before(c.at) {
		return d, true
	}
	return c.at, true
}

// Until gives a context whose Deadline is at most at. It has no timer of its own: Done and Err are ctx's, so it costs
// nothing, and whoever waits without a socket turns the deadline into one with context.WithDeadline.
func Until(ctx context.Context, at time.Time) context.Context { return deadlineCtx{ctx, at} }
