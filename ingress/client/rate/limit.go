package rate

import (
	"net/netip"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// The names of the counters. Those of a client are kept under its address or network. That of a recipient is followed
// by the recipient's MAC.
const (
	connections = "connections"
	messages    = "messages"
	recipients  = "recipients"
	refused     = "refused"
	sent        = "sent"   // by a reverse-path domain
	taken       = "taken"  // by a recipient domain
	addressed   = "taken:" // by a recipient

	barren = "barren " // before the name of a counter of messages: of transactions that brought none
)

// barrenTimes is how many transactions without a message there may be for each message that a limit allows. Hosts that
// verify an address use up no message so.
const barrenTimes = 20

// The units. Zero is left to a caller that appends other rates to the same query.
const (
	connectUnit = 1
	firstUnit   = 1 // of the first recipient; each further one has the next
)

// Limits make the rates of a Config. They are safe for concurrent use and hold no counter. Make them with New.
type Limits struct {
	cfg   Config
	names *Names
}

// New makes Limits. The error is a *mail.FieldError.
func New(c Config) (*Limits, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &Limits{cfg: c, names: NewNames(c.Key)}
	l.cfg.Key = nil // Names has it
	return l, nil
}

// Connect returns what is drawn when a client connects, for the Rates of a mail.ClientQuery: the connections of its
// address and network together or not at all, and its refused recipients, which are only peeked at. The result is the
// caller's, nil if nothing is limited or the address is not known. Refusal reads the answer.
func (l *Limits) Connect(client netip.Addr) []mail.Rate {
	client = client.Unmap().WithZone("")
	c := &l.cfg
	n := count(c.ClientConnections, c.NetworkConnections, c.ClientRefused)
	if n == 0 || !client.IsValid() {
		return nil
	}
	host, subnet := network.Host(client), network.Of(client)
	rates := make([]mail.Rate, 0, n)
	rates = add(rates, c.ClientConnections, mail.Rate{Client: host, Name: connections, Unit: connectUnit})
	rates = add(rates, c.NetworkConnections, mail.Rate{Client: subnet, Name: connections, Unit: connectUnit})
	return add(rates, c.ClientRefused, mail.Rate{Client: host, Name: refused, Unit: connectUnit, Peek: true})
}

// A RcptQuestion is a group of recipients of one mail transaction, as the client pipelined them.
type RcptQuestion struct {
	Client  netip.Addr // invalid if not known: then the rates of clients are not asked
	Reverse mail.Path
	// First is set if no recipient of this transaction was within its rates yet. Those of the message are asked with
	// this group then.
	First bool
	Rcpts []Rcpt
}

// A Rcpt is one recipient of a RcptQuestion.
type Rcpt struct {
	Forward mail.Path // as the client sent it
	// Subaddress is the separator of the domain's policy: what follows it does not make another recipient. 0 disables
	// subaddresses.
	Subaddress byte
}

// Rcpt returns what is asked for a group of recipients, for the Rates of a mail.RcptQuery. The result is the caller's,
// nil if nothing is limited. The caller may put other rates before or behind it, with Unit 0. RcptRefusal reads the
// answer.
//
// Each recipient is one unit. That it was named is drawn of the client's recipients, unless another rate of the unit is
// used up. The rates of messages, and those of transactions without one, are only peeked at: Ended draws them. So one
// recipient's used up rate refuses that recipient only.
func (l *Limits) Rcpt(q RcptQuestion) []mail.Rate {
	if len(q.Rcpts) == 0 {
		return nil
	}
	var buffer [3]mail.Rate
	c, message := &l.cfg, buffer[:0]
	if q.First {
		message = l.message(message, &q)
	}
	each := 2*(len(message)+count(c.RecipientMessages, c.DomainMessages)) + count(c.ClientRecipients, c.ClientRefused)
	if each == 0 {
		return nil
	}
	rates := make([]mail.Rate, 0, each*len(q.Rcpts))
	group := domainGroup{limits: l}
	client := q.Client.Unmap().WithZone("")
	for i, r := range q.Rcpts {
		unit := len(rates)
		rates = append(rates, message...)
		rates = l.rcpt(rates, r, &group)
		for _, m := range rates[unit:] {
			rates = append(rates, withoutMessage(m))
		}
		Peek(rates[unit:])
		if client.IsValid() {
			host := network.Host(client)
			rates = add(rates, c.ClientRefused, mail.Rate{Client: host, Name: refused, Peek: true})
			rates = add(rates, c.ClientRecipients, mail.Rate{Client: host, Name: recipients})
		}
		for n := unit; n < len(rates); n++ {
			rates[n].Unit = firstUnit + i
		}
	}
	return rates
}

// Ended returns what is drawn when a transaction has ended, for a Background: for the message if q.First is set, and
// for the recipients. brought says that they have the message, or may have it; else it is drawn of what transactions
// may be without one. It is nil if nothing is limited.
func (l *Limits) Ended(q RcptQuestion, brought bool) []mail.Rate {
	var rates []mail.Rate
	if q.First {
		rates = l.message(rates, &q)
	}
	group := domainGroup{limits: l}
	for _, r := range q.Rcpts {
		rates = l.rcpt(rates, r, &group)
	}
	if !brought {
		for i := range rates {
			rates[i] = withoutMessage(rates[i])
		}
	}
	return rates
}

// withoutMessage returns the rate of transactions without a message, for one of messages.
func withoutMessage(r mail.Rate) mail.Rate {
	r.Name = barren + r.Name
	r.Count, r.Burst = min(barrenTimes*r.Count, MaxCount), min(barrenTimes*r.Burst, MaxCount)
	return r
}

// message appends what one message draws.
func (l *Limits) message(rates []mail.Rate, q *RcptQuestion) []mail.Rate {
	c := &l.cfg
	if client := q.Client.Unmap().WithZone(""); client.IsValid() {
		rates = add(rates, c.ClientMessages, mail.Rate{Client: network.Host(client), Name: messages, Happened: true})
		rates = add(rates, c.NetworkMessages, mail.Rate{Client: network.Of(client), Name: messages, Happened: true})
	}
	if c.SenderMessages.isSet() && q.Reverse.Domain != "" {
		group := l.names.Of("sender", ascii.Fold(q.Reverse.Domain))
		rates = add(rates, c.SenderMessages, mail.Rate{Group: group, Name: sent, Happened: true})
	}
	return rates
}

// rcpt appends what one recipient of a message draws.
func (l *Limits) rcpt(rates []mail.Rate, r Rcpt, group *domainGroup) []mail.Rate {
	c := &l.cfg
	if !c.RecipientMessages.isSet() && !c.DomainMessages.isSet() {
		return rates
	}
	domain := group.of(r.Forward.Domain)
	if c.RecipientMessages.isSet() {
		local := ascii.Fold(withoutTag(r.Forward.LocalPart(), r.Subaddress))
		name := addressed + l.names.Of("recipient", local, ascii.Fold(r.Forward.Domain))
		rates = add(rates, c.RecipientMessages, mail.Rate{Group: domain, Name: name, Happened: true})
	}
	return add(rates, c.DomainMessages, mail.Rate{Group: domain, Name: taken, Happened: true})
}

// A domainGroup is the group of the last recipient domain. The recipients of a message mostly share one domain, whose
// group is made once.
type domainGroup struct {
	limits       *Limits
	domain, name string
}

// of returns the Group of the counters of a domain.
func (g *domainGroup) of(domain string) string {
	if g.name == "" || g.domain != domain {
		g.domain, g.name = domain, g.limits.names.Of("domain", ascii.Fold(domain))
	}
	return g.name
}

// Refused returns the rate that one recipient of client draws that was refused for good, and whether there is a limit.
// It is for a Background. It is drawn one at a time: a cost above what is left would draw nothing at all.
func (l *Limits) Refused(client netip.Addr) (r mail.Rate, limited bool) {
	client = client.Unmap().WithZone("")
	if !l.cfg.ClientRefused.isSet() || !client.IsValid() {
		return mail.Rate{}, false
	}
	var one [1]mail.Rate
	return add(one[:0], l.cfg.ClientRefused, mail.Rate{Client: network.Host(client), Name: refused})[0], true
}

// Peek sets Peek in each of rates, so that they are looked at and draw nothing, as explain needs them. It returns its
// argument.
func Peek(rates []mail.Rate) []mail.Rate {
	for i := range rates {
		rates[i].Peek = true
	}
	return rates
}

// count returns how many of the limits are set.
func count(limits ...Limit) int {
	n := 0
	for _, l := range limits {
		if l.isSet() {
			n++
		}
	}
	return n
}

// add appends what is counted under the limit, if it is set.
func add(rates []mail.Rate, limit Limit, counted mail.Rate) []mail.Rate {
	if !limit.isSet() {
		return rates
	}
	counted.Count, counted.Per, counted.Burst = limit.Count, limit.Per, limit.Burst
	return append(rates, counted)
}
