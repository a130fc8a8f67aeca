// Package egress is where mail goes out: it takes a Delivery to the Site that its next hop leads to, over a session
// from the pool or a new one, and returns a mail.Transaction whose answers are the destination's own.
//
// It owns the choice of node and session, the retries that cannot duplicate a message, the replay of a transaction
// whose session was lent back, and what is done about replies that concern the Site. It refuses to know clients, rules
// and what a message says.
//
// Invariants: no second host is tried once an octet of the message may have gone out; a recipient is accepted only by
// the destination's own 2yz, and stays so or the transaction fails, but where it waits for what the message says of TLS
// (see waiting); trouble of ours or of the network is 4yz; a session goes back to the pool only when nothing is open on
// it.
//
// Calls between the files go down this list only: relay, handover, waive, which begins in relay again, local,
// transaction, once, replay, lease, stream, destination, observe, refusal, resources, config.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/egress/dial"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtpclient"
	"github.com/millrace/millrace/egress/tlspolicy"
	"github.com/millrace/millrace/router/mail"
)

// A TLS is what is asked of TLS where the next hop itself does not say, which is with MX hosts, smtp:// and lmtp://.
type TLS uint8

// The TLS policies.
const (
	TLSOpportunistic TLS = iota // STARTTLS where it is offered, with any certificate; clear where it fails
	TLSRequired                 // STARTTLS with a certificate that is valid for the host, or no delivery
	TLSNone                     // clear
)

// ParseTLS reads a policy's name: "opportunistic" (or ""), "required" or "none". ok is false for any other name.
func ParseTLS(s string) (policy TLS, ok bool) {
	switch s {
	case "", "opportunistic":
		return TLSOpportunistic, true
	case "required":
		return TLSRequired, true
	case "none":
		return TLSNone, true
	}
	return 0, false
}

// A Cluster is what a Relay asks of the other nodes. All methods are called by many goroutines at once. All but Begin
// are called for each transaction and must not block.
type Cluster interface {
	// Owner returns the node that a Site belongs to for mail to domain, and reports whether that is this node. It is
	// advice: every node can deliver everything.
	Owner(site mail.Site, domain string) (node string, self bool)
	// Next returns the node that a Site would belong to without this one, and reports whether there is one that can be
	// asked. It is called only for what this node does not reach.
	Next(site mail.Site, domain string) (node string, ok bool)
	// Begin begins a transaction at another node. An error, and one of the transaction, that has a method Sent() bool
	// among its causes says that the node was lost and not the destination. Sent reports whether the end of data may
	// have reached the node.
	Begin(ctx context.Context, node string, d mail.Delivery) (mail.Transaction, error)
	// Reached says that a Site took a recipient from this node. It is called for each.
	Reached(site mail.Site)
	// Unable says that a node, or this one if it is "", reached no host of a Site which took a recipient from another
	// node.
	Unable(site mail.Site, node string)
	// Share returns the part of a Site's sessions and rates that this node may have, above 0 and at most 1.
	Share(site mail.Site) float64

	// Suspended reports whether a Site gets no mail for now because it asked for that, until when and why, as far as
	// the whole cluster knows.
	Suspended(site mail.Site) (until time.Time, reason string, ok bool)
	// Suspend tells all nodes that a Site gets no mail until then.
	Suspend(site mail.Site, until time.Time, reason string)
	// Resume tells all nodes that the suspension of a Site is over.
	Resume(site mail.Site)
}

// A Ledger remembers which message was taken for which recipient. Both methods are called by many goroutines at once.
type Ledger interface {
	// Claim returns the recipients of an attempt that the message is to be delivered to, and the outcomes of the
	// others. whole says that the message can begin again for some of them.
	Claim(ctx context.Context, a *mail.Attempt, whole bool) mail.LedgerAnswer
	// Settle says what became of the recipients that Claim left open, and completes their outcomes.
	Settle(ctx context.Context, a *mail.Attempt, open []int, outcomes []mail.Outcome)
}

// A Config is what a Relay needs to be told. Helo and Resolver are required.
type Config struct {
	Helo     string        // our name in EHLO and LHLO
	Port     uint16        // where MX hosts listen, 0 for 25
	TLS      TLS           // where the next hop does not say
	Resolver *dns.Resolver // resolves all names

	Ours
	Trust
	// AllowPrivate, Self, SelfAddrs and Providers are those of mx.Config.
	AllowPrivate bool
	Self         []string
	SelfAddrs    []netip.Addr
	Providers    *mx.Providers

	// Password returns the password of user at a fixed next hop, and reports whether there is one. It is called when a
	// session is opened.
	Password func(user, host string, port uint16) (string, bool)
	// Client holds the deadlines of sessions. A message that streams waits for a place as long as a write may stall.
	Client smtpclient.Config
	Limits

	// Cluster is nil where this node is alone: all mail is delivered from here, with the whole of each Site's limits.
	Cluster Cluster
	// Reactions say what is done when a Site replies that it gets too much; nil means feedback.Shipped.
	Reactions *feedback.Table

	// Ledger is asked before the end of data of a message is released whose Commit has a mail.Attempt, so that no
	// recipient gets the message twice. nil disables it.
	Ledger Ledger

	// Emit is called with what an operator should see. It must not block. nil disables it.
	Emit func(mail.Event)
	// Now is the clock that expiries are read from; nil means time.Now.
	Now func() time.Time

	tune tuning
}

// Ours say where we connect from, and what we are called.
type Ours struct {
	// Sources are addresses of ours to connect from. A Site always sees the same one of each family, so that its
	// greylisting knows us again. Without an address of a family the system chooses.
	Sources []netip.Addr
	// Helos are our names in EHLO from some of the Sources. From others it is Config.Helo.
	Helos map[netip.Addr]string
	// Certificate returns what we show to a fixed next hop at a host, and its key; nil for none. nil shows none.
	Certificate func(host string) *tls.Certificate
	// Family is that of the addresses that are connected to. If all Sources are of one family, it is that one.
	Family dial.Family
	// Addresses are those that destinations see us at. Behind address translation they are not those of our sockets.
	// With SRSDomain, Helo and the addresses behind it they tell a refusal of us from one of a message.
	Addresses []netip.Addr
	SRSDomain string // of the reverse-paths that we write, "" without SRS
	// Connect opens connections; nil means the system's.
	Connect func(context.Context, smtpclient.Target) (net.Conn, error)
}

// Trust says what hosts have to show.
type Trust struct {
	// Authorities returns those that sign the certificates of a fixed next hop at a host, and of MX hosts if it is "",
	// and reports whether they are written down for that host, which then has to show a certificate of theirs. nil
	// means those of the system.
	Authorities func(host string) (of *tlspolicy.Authorities, pinned bool)
	MinTLS      uint16 // see dial.Config
	// Public is that of mx.Config.
	Public func(host string) bool
	// Fetch fetches policies of MTA-STS, Load and Save keep them for others; see tlspolicy.Config. nil disables each.
	Fetch func(context.Context, hook.Request) (hook.Response, error)
	Load  func(ctx context.Context, domain string) (policy string, ok bool)
	Save  func(ctx context.Context, domain, policy string, ttl time.Duration)
	// Report is told of sessions for reports on their TLS; see dial.Config. nil disables it.
	Report func(mail.TLSSession)
}

// Limits bound what a message may take.
type Limits struct {
	// Budget is how long Begin and the first Rcpt may take in all when their context sets no deadline, 0 for 60 s.
	Budget time.Duration
	// StreamFloor is how many octets a second a client has to bring of a message that streams, so that the message
	// keeps its session while others wait; 0 for 64 KiB.
	StreamFloor int64
}

// A tuning holds what only tests of this package set.
type tuning struct {
	// rootCAs verify certificates where the policy demands it; nil means the system's.
	rootCAs *x509.CertPool
	// limits go over those of Providers, for a Site by its name. A zero field leaves what is there.
	limits map[mail.Site]pool.Limits
	// unanswered is unansweredFor, unless 0.
	unanswered time.Duration
}

// Validate returns a *mail.FieldError that names the first field that makes no sense, or nil.
func (c *Config) Validate() error {
	switch {
	case !mail.IsDomain(c.Helo) && !isLiteral(c.Helo):
		return &mail.FieldError{Field: "helo", Reason: strconv.Quote(c.Helo) + " is no domain name"}
	case c.TLS > TLSNone:
		return &mail.FieldError{Field: "tls", Reason: "is no policy"}
	case c.Resolver == nil:
		return &mail.FieldError{Field: "resolver", Reason: "is missing"}
	case c.StreamFloor < 0:
		return &mail.FieldError{Field: "stream_floor", Reason: "is negative"}
	case c.Budget < 0:
		return &mail.FieldError{Field: "budget", Reason: "is negative"}
	}
	for i, a := range c.Sources {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return &mail.FieldError{Field: "source[" + strconv.Itoa(i) + "]", Reason: "is no address to connect from"}
		}
		if !c.Family.Has(a) {
			return &mail.FieldError{
				Field: "source[" + strconv.Itoa(i) + "]", Reason: "is not of the family " + c.Family.String(),
			}
		}
	}
	for a, name := range c.Helos {
		if i := slices.Index(c.Sources, a); i >= 0 && !mail.IsDomain(name) && !isLiteral(name) {
			return &mail.FieldError{
				Field: "source[" + strconv.Itoa(i) + "]", Reason: strconv.Quote(name) + " is no domain name",
			}
		}
	}
	for i, a := range c.Addresses {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return &mail.FieldError{
				Field: "addresses[" + strconv.Itoa(i) + "]", Reason: "is no address that a destination can see",
			}
		}
	}
	var f *mail.FieldError
	if err := c.Client.Validate(); errors.As(err, &f) {
		return &mail.FieldError{Field: "client." + f.Field, Reason: f.Reason}
	}
	return nil
}

func isLiteral(s string) bool {
	_, ok := mail.LiteralAddr(s)
	return ok
}
