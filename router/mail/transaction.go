package mail

import (
	"context"
	"net/netip"
	"time"
)

// Params are the parameters of a MAIL command that travel with the message.
type Params struct {
	Size     int64 // SIZE= in octets (RFC 1870); 0 if not given
	Body     BodyType
	SMTPUTF8 bool // RFC 6531
	// RequireTLS says that each host on the way has to be known for certain, to show a certificate that is checked, and
	// to demand the same of the next one (RFC 8689).
	RequireTLS bool
	Parent     Parent // what the client says it is a part of; zero for nothing. It is not sent on
}

// A BodyType is the value of BODY= (RFC 6152).
type BodyType uint8

// The body types. BINARYMIME is not offered.
const (
	BodyUnknown BodyType = iota // not given
	Body7Bit
	Body8BitMIME
)

// An Envelope is the envelope of a message as the client stated it: its reverse-path, the parameters of its MAIL and
// the recipients that were accepted so far.
type Envelope struct {
	Reverse  Path
	Params   Params
	Forwards []Path
}

// A Delivery is what a transaction at a next hop begins with.
type Delivery struct {
	NextHop         NextHop
	Site            Site // "" until the relay has determined it
	Reverse         Path // as rewritten, unless Rewrite is set
	Own             Path // the sender's, where we wrote Reverse: for a host that refuses that for its length
	Params          Params
	Extra           int          // the maximum of octets that our fields add, which upstream's SIZE= includes
	RecipientDomain string       // of the first forward-path, in lower case
	Client          netip.Prefix // the network of the client; networks have fair shares of the connections
	Addr            netip.Addr   // of the client; zero if only its network is known
	Favoured        bool         // the client's network is trusted or the client authenticated: no share limits it
	Chosen          bool         // a stranger chose the next hop: connections that fail count against its network
	Trace           TraceID
	Seal            Seal
	EightBit        EightBit
	Origin          *Origin // nil: the next hop is not told who the client is
	TLS             TLSDemand
	Leg             *Leg // what the way to the next hop is written down in; nil: nowhere
	// Rewrite returns Reverse and Own where they are not known yet. It waits, so it is called once a session is found
	// and before MAIL. nil means that they are known.
	Rewrite func(context.Context) (reverse, own Path)
}

// An Origin is what a next hop is told of the client that a message comes from, by commands of Postfix.
type Origin struct {
	By    Client         // XFORWARD, which is for the log, or XCLIENT, by which the session is that client's
	Addr  netip.AddrPort // zero if it is not known
	Name  string         // as a front end called it, else ""
	Helo  string
	ESMTP bool
}

// Settle sets Reverse and Own by Rewrite, and leaves out Own where Reverse turns out to be it, not rewritten.
func (d *Delivery) Settle(ctx context.Context) {
	if d.Rewrite != nil {
		d.Reverse, d.Own = d.Rewrite(ctx)
		d.Rewrite = nil
	}
	if d.UsesOwn() {
		d.Own = Path{}
	}
}

// UsesOwn reports whether, once it is settled, Own stands in place of the reverse-path that we wrote.
func (d *Delivery) UsesOwn() bool { return !d.Own.IsNull() && d.Reverse == d.Own }

// An Outcome is the result for one recipient that a next hop had accepted.
type Outcome struct {
	Reply   Reply         // always set: the next hop's, or ours if the next hop sent none
	Host    string        // the next hop's host
	Via     string        // the peer node that the message went through, "" without one
	TLS     string        // the TLS version of the connection to Host, "" without TLS
	Reused  bool          // the connection had carried a message before
	InDoubt bool          // the dot was sent and no reply came, so the message may be delivered or not
	AboutUs bool          // see Refusal
	Again   bool          // an attempt before may have delivered the message, and it was delivered all the same
	Entry   TraceID       // the attempt by whose entry in the ledger the reply is repeated, or was written down
	Wait    time.Duration // the wait for a connection, dialling included
	Cause   error         // for the operator; may be nil
}

// A Transaction is a mail transaction open at a next hop. It is not safe for concurrent use. Exactly one of Commit and
// Abort ends it.
type Transaction interface {
	// Rcpt adds a recipient. A *Refusal carries the next hop's answer. The first Rcpt sends MAIL with it in one write,
	// and a refused MAIL is the error of that Rcpt and of each later one.
	Rcpt(ctx context.Context, forward Path) error
	// Stream says that the message goes out while it comes in, and waits until the Site has a place for it: messages
	// that do so hold a part of its connections only. It is called before Data, at most once, and not for a message
	// that is held. The error is a *Refusal, and then the transaction has to be aborted.
	Stream(ctx context.Context) error
	// Data opens the message in the form Stuffed (from DATA) or Plain (BDAT, submission). It is called once, before the
	// first Write or Commit.
	Data(ctx context.Context, form Form) error
	// Write sends a piece that is not the last one. o is borrowed until Write returns: it is neither kept nor changed.
	// An error that is a *Refusal is a reply of the next hop before the end of data, or the answer to a message that is
	// to give way; see Wanted.
	Write(o Octets) error
	// Commit sends last (in hold: the whole message) and the dot, or BDAT n LAST, in one write. It returns one Outcome
	// per accepted Rcpt, in order.
	Commit(ctx context.Context, last Octets) []Outcome
	// Abort ends the transaction and leaves the message undelivered. It may close the connection.
	Abort()

	// Lend resets the transaction at the next hop and returns its connection to the pool while the client idles, unless
	// Data was called. The next Renew, Rcpt or Data begins again with a connection, MAIL and the accepted recipients,
	// and its error is a refusal of these. Lend reports whether the connection was returned.
	Lend() bool
	// Renew begins again what was lent: a connection, MAIL and the accepted recipients, but not DATA. It does nothing
	// if nothing was lent. An error is a *Refusal; the transaction then holds no recipient and has to be aborted.
	Renew(ctx context.Context) error
	// Wanted reports whether the message is to give way, because another client waits for the connection and this one
	// is slow or its network holds too many. It is asked while a client that streams is waited for. The message is then
	// refused, because a connection within a message cannot be lent.
	Wanted() bool
	// SMTPUTF8 reports whether the host that the transaction is open at offers SMTPUTF8 (RFC 6531).
	SMTPUTF8() bool
}

// A deadlineCtx is a context with an earlier deadline and without a timer for it.
type deadlineCtx struct {
	context.Context
	at time.Time
}

// Deadline returns the earlier of the two deadlines.
func (c deadlineCtx) Deadline() (time.Time, bool) {
	if d, ok := c.Context.Deadline(); ok && d.Before(c.at) {
		return d, true
	}
	return c.at, true
}

// Until returns a context whose Deadline is at most at. It has no timer: Done and Err are those of ctx. Code that waits
// on a socket sets the deadline there, and code that waits without one derives a context.WithDeadline.
func Until(ctx context.Context, at time.Time) context.Context { return deadlineCtx{ctx, at} }

// IsOver reports whether ctx has ended or its deadline has passed. A context of Until does not end by its deadline.
func IsOver(ctx context.Context) bool {
	at, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(at)
}

// waiverKey is the key of a waiver in a context.
type waiverKey struct{}

// WaiveTLS returns ctx for the Renew, Stream and Data of a transaction whose message says that it may go where the
// destination does not show what its own policy asks of TLS (RFC 8689 section 5).
func WaiveTLS(ctx context.Context) context.Context { return context.WithValue(ctx, waiverKey{}, true) }

// WaivesTLS reports whether ctx is one of WaiveTLS.
func WaivesTLS(ctx context.Context) bool { return ctx.Value(waiverKey{}) != nil }

// stallKey is the key of a stall in a context.
type stallKey struct{}

// LeastRate is how many octets a second of a Write that others wait for are progress: one that goes on octet by octet
// would hold them for as long as it likes.
const LeastRate = 2 << 10

// WithStall returns ctx for the Data of a transaction whose Writes may make no progress for so long and no longer,
// because others wait for each of them. They progress by LeastRate.
func WithStall(ctx context.Context, stall time.Duration) context.Context {
	return context.WithValue(ctx, stallKey{}, stall)
}

// StallOf returns the stall of ctx, 0 without one.
func StallOf(ctx context.Context) time.Duration {
	d, _ := ctx.Value(stallKey{}).(time.Duration)
	return d
}
