package mail

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A Query is a question to the rules: where does mail from Reverse to Forward go?
type Query struct {
	Reverse Path
	Forward Path
	Client  netip.Prefix // the widest network of the client; the zero Prefix if its address is not known
	Addr    netip.Addr   // the client's address; the zero Addr if it is not known
	Trusted bool         // the client may relay anywhere
	// SPF is what SPF says of Reverse, in the words of RFC 8601, "" while it was not asked. A Refusal with
	// ReasonNeedsSPF is the answer where a rule depends on it.
	SPF string
	// Hook is what the hook of the recipient's rule said, nil while it was not asked. A Refusal with ReasonNeedsHook is
	// the answer where a rule has one asked.
	Hook *HookAnswer
	// At is when the query is asked: rules begin and end. The zero Time stands for now.
	At time.Time
	// Via is the next hop by which the client's listener sends mail to domains that are not ours, the zero NextHop for
	// none. It counts for trusted clients alone.
	Via NextHop
}

// Opens says to which messages a rewritten reverse-path opens.
type Opens uint8

// The values of Opens.
const (
	OpensToNone    Opens = iota // to none: it looks like the others, and a bounce to it is refused
	OpensToReports              // to a few with the null reverse-path that are multipart/report (RFC 6522)
	OpensToBounces              // to those with the null reverse-path
)

// NoSuchMail is the text of each refusal of mail to a rewritten reverse-path. One text hides which addresses were made
// here, and what for.
const NoSuchMail = "This address takes no such mail"

// String returns "none", "reports" or "bounces".
func (o Opens) String() string {
	switch o {
	case OpensToBounces:
		return "bounces"
	case OpensToReports:
		return "reports"
	}
	return "none"
}

// An Action says what to do with the message of a Route.
type Action uint8

// The actions of a Route. A rule that rejects or defers yields a Refusal and no Route.
const (
	Forward Action = iota // relay it to the next hop
	Drop                  // accept it and deliver it nowhere, as the rule demands explicitly
)

// A Route says where a recipient's mail goes. A recipient whose rule fans out to several next hops has several.
type Route struct {
	Rule     Rule
	Action   Action
	Policy   DomainPolicy
	NextHop  NextHop
	Reverse  Path   // the reverse-path to use upstream, unless Rewrite is set
	Rewrite  bool   // Reverse is to be rewritten by what SPF says of it
	Forwards []Path // the forward-paths to use upstream; shared, not to be changed
	Rewrote  bool   // Forwards name another mailbox than the client did
	Alone    bool   // the recipient shares its transaction with no other
	Reports  bool   // the message has to be multipart/report
	// Rates are all drawn when the next hop has taken the message, RefusedRates when the recipient or the message is
	// refused for good, and BarrenRates when the transaction ends without either. A recipient is refused while one of
	// them is used up. The slices are shared and not to be changed.
	Rates, RefusedRates, BarrenRates []Rate
	// Else is the route to try if this one fails before the message: its next hop cannot be reached, or answers 4yz or
	// 5yz to MAIL or to RCPT. It is nil for the last one. All of a list have one rule, policy and reverse-path, and one
	// forward-path each.
	Else *Route
}

// A Rule names the line that decided, so that an operator can find it.
type Rule struct {
	Pattern string // as it stands in the file; "" if a listener's trust decided and no line did
	File    string // "" if the rule is from no file
	Line    int    // from 1
}

// String returns file:line and the pattern.
func (r Rule) String() string {
	if r.File == "" {
		return r.Pattern
	}
	return fmt.Sprintf("%s:%d %s", r.File, r.Line, r.Pattern)
}

// The values of a route's options. The zero value of each is its default.
type (
	// SRS says when the reverse-path is rewritten.
	SRS uint8
	// Seal says when our signatures are added.
	Seal uint8
	// DMARC says how mail is treated that the author domain's policy rejects.
	DMARC uint8
	// Quarantine says how mail is treated that the author domain's policy quarantines.
	Quarantine uint8
	// RequireAuth says whether mail without any authentication is refused.
	RequireAuth uint8
	// EightBit says how 8-bit mail for a next hop without 8BITMIME is treated.
	EightBit uint8
	// UpstreamText says how much of a next hop's text the client gets to read.
	UpstreamText uint8
	// Client says how a fixed next hop is told who the client is.
	Client uint8
	// Mixed says how a fan-out is answered if some targets accept and some refuse.
	Mixed uint8
	// Tag says what becomes of the tag of a recipient whose rule names it without.
	Tag uint8
	// Dots says whether addresses that differ in dots of the local part are two.
	Dots uint8
	// Filter says what content filters have to do with mail.
	Filter uint8
)

// The values of filter.
const (
	FilterOn     Filter = iota // what they say is done
	FilterReport               // what they say is written down
	FilterOff                  // they are not asked
)

// The values of srs. In each option the first value is the default.
const (
	SRSAuto SRS = iota
	SRSAlways
	SRSNever
)

// The values of seal.
const (
	SealAuto Seal = iota
	SealAlways
	SealNever
)

// An ARCUse says what a Site does with ARC sets on mail that is forwarded.
type ARCUse uint8

// The values of an ARCUse.
const (
	ARCUnread     ARCUse = iota // no use is known
	ARCOfUnproved               // it looks at them where no DKIM signature proves the author
	ARCOfAll                    // it wants them on all that is forwarded
)

// The values of dmarc.
const (
	DMARCEnforce DMARC = iota
	DMARCReport
	DMARCOff
)

// The values of quarantine.
const (
	QuarantineForward Quarantine = iota
	QuarantineRefuse
)

// The values of require_auth.
const (
	RequireAuthReport RequireAuth = iota
	RequireAuthNo
	RequireAuthYes
)

// The values of eightbit.
const (
	EightBitSend EightBit = iota
	EightBitRefuse
)

// The values of upstream_text. The default is redact where a rule rewrote the recipient and full elsewhere.
const (
	UpstreamTextDefault UpstreamText = iota
	UpstreamTextRedact
	UpstreamTextFull
	UpstreamTextCode
)

// The values of client.
const (
	ClientUntold Client = iota
	ClientXforward
	ClientXclient
)

// String returns the value as a rule has it.
func (c Client) String() string {
	return [...]string{"untold", "xforward", "xclient"}[min(c, ClientXclient)]
}

// The values of mixed.
const (
	MixedAccept Mixed = iota
	MixedReject
)

// The values of tag.
const (
	TagDropped Tag = iota
	TagKept
)

// The values of dots.
const (
	DotsCount Dots = iota
	DotsIgnored
)

// A DomainPolicy is the set of options in force for a route: its rule's over its domain's over the defaults. The zero
// value is the defaults.
type DomainPolicy struct {
	SRS          SRS
	Seal         Seal
	DMARC        DMARC
	Quarantine   Quarantine
	RequireAuth  RequireAuth
	EightBit     EightBit
	UpstreamText UpstreamText
	Mixed        Mixed
	Client       Client
	Filter       Filter
	Tag          Tag
	Dots         Dots
	MessageSize  uint32 // the most octets of a message; 0 for as many as the node takes
	Subaddress   byte   // the separator; 0 disables subaddresses
	RoutingKeep  bool   // local parts that look like routing are accepted
	Complaints   bool   // reports of abuse come here, and are told of
}

// A Transport says which protocol a next hop speaks.
type Transport uint8

// The transports of a NextHop.
const (
	MX         Transport = iota // SMTP with the MX hosts of the domain Host, port egress.port
	SMTP                        // SMTP with Host itself, port 25 unless Port says otherwise
	SMTPS                       // SMTP in TLS from the first octet, port 465; verified
	Submission                  // SMTP with STARTTLS, port 587; verified
	LMTP                        // LMTP over TCP, port 24
	LMTPUnix                    // LMTP over the unix socket whose path is Host
)

// A NextHop is where a message goes: the MX hosts of a domain, or a fixed host or socket. NextHops are comparable, and
// recipients with equal ones share a transaction.
type NextHop struct {
	Transport Transport
	Host      string // a domain, a host name, an IP address without brackets, or a path
	Port      uint16 // 0 for the transport's default
	User      string // the user name to authenticate with; "" disables authentication
	Proxy     string // host:port of the SOCKS5 proxy (RFC 1928) that it is reached by; "" for none
}

// String returns the next hop as a rules file writes it, and "mx:" and the domain for MX. The proxy stands behind it as
// an option.
func (h NextHop) String() string {
	if h.Proxy != "" {
		proxy := h.Proxy
		h.Proxy = ""
		return h.String() + " via=socks5://" + proxy
	}
	scheme := [...]string{"mx:", "smtp://", "smtps://", "submission://", "lmtp://", "lmtp+unix:"}[h.Transport]
	if h.Transport == MX || h.Transport == LMTPUnix {
		return scheme + h.Host
	}
	if h.User != "" {
		scheme += strings.ReplaceAll(url.QueryEscape(h.User), "+", "%20") + "@"
	}
	switch {
	case h.Port != 0:
		return scheme + net.JoinHostPort(h.Host, strconv.Itoa(int(h.Port)))
	case strings.Contains(h.Host, ":"):
		return scheme + "[" + h.Host + "]"
	}
	return scheme + h.Host
}

// IsLocal reports whether a next hop is on the machine that connects to it, or is reached by what that machine has: a
// unix socket, localhost, an address on loopback, or a proxy. It means another thing on another node.
func (h NextHop) IsLocal() bool {
	host := strings.ToLower(strings.TrimSuffix(h.Host, "."))
	if h.Transport == LMTPUnix || h.Proxy != "" || host == "localhost" || host == "localhost.localdomain" ||
		strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, literal := LiteralAddr(host)
	if !literal {
		var err error
		if a, err = netip.ParseAddr(host); err != nil {
			return false
		}
	}
	a = a.Unmap()
	return a.IsLoopback() || a.IsUnspecified()
}

// A Site names a set of MX hosts that mail for many domains may share. It is the unit of limits and, in a cluster, of
// ownership. Its text is the provider's name, or the sorted MX host set, or a fixed next hop's own name.
type Site string
