package rate

import (
	"net/netip"

	"github.com/millrace/millrace/router/mail"
)

// The names of the counters. Those of a client lie under its address or network, that of a recipient has its MAC behind
// it.
const (
	connections = "connections"
	messages    = "messages"
	recipients  = "recipients"
	refused     = "refused"
	sent        = "sent"   // by a reverse-path domain
	taken       = "taken"  // by a recipient domain
	addressed   = "taken:" // by a recipient
)

// The units. Zero is left to whoever appends rates of his own to the same query.
const (
	connectUnit = 1
	firstUnit   = 1 // of the first recipient; each has the next one, and the message behind them all
)

// Limits are the rates of a Config. They are safe for concurrent use and hold no counter. Make them with New.
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

// Connect gives what is drawn when a client connects, for the Rates of a mail.ClientQuery: the connections of its
// address and network together or not at all, and its refused recipients, which are only looked at. The result is the
// caller's, nil if nothing is limited or the address is not known. Refusal reads the answer.
func (l *Limits) Connect(client netip.Addr) []mail.Rate {
	client = client.Unmap().WithZone("")
	c := &l.cfg
	n := count(c.ClientConnections, c.NetworkConnections, c.ClientRefused)
	if n == 0 || !client.IsValid() {
		return nil
	}
	rates := make([]mail.Rate, 0, n)
	rates = add(rates, c.ClientConnections, mail.Rate{Client: whole(client), Name: connections, Unit: connectUnit})
	rates = add(rates, c.NetworkConnections, mail.Rate{Client: Network(client), Name: connections, Unit: connectUnit})
	return add(rates, c.ClientRefused, mail.Rate{Client: whole(client), Name: refused, Unit: connectUnit, Peek: true})
}

// A RcptQuestion is a group of recipients of one mail transaction, as the client pipelined them.
type RcptQuestion struct {
	Client  netip.Addr // invalid: not known, and the rates of clients are not asked
	Reverse mail.Path
	// First says that no recipient of this transaction was counted yet: the message counts with this group.
	First bool
	Rcpts []Rcpt
}

// A Rcpt is one recipient of a RcptQuestion.
type Rcpt struct {
	Forward mail.Path // as the client gave it
	// Subaddress is the separator of the domain's policy: what follows it does not make another recipient. 0: none.
	Subaddress byte
}

// Rcpt gives what is drawn for a group of recipients, for the Rates of a mail.RcptQuery. The result is the caller's,
// nil if nothing is limited; rates of his own may stand before or behind it with Unit 0. RcptRefusal reads the answer.
//
// Each recipient is one unit: what it takes of the client, of itself and of its domain is drawn together or not at all.
// A lone recipient draws the message with it. In a larger group each recipient only looks whether the message could be
// drawn, and it is drawn behind them, once. So who is over the rate of messages uses up no recipient's rate, and one
// recipient's used up rate refuses that recipient only. What stays drawn for nothing is the message of a group of which
// each recipient was refused, which is an attempt after all.
func (l *Limits) Rcpt(q RcptQuestion) []mail.Rate {
	if len(q.Rcpts) == 0 {
		return nil
	}
	var buffer [3]mail.Rate
	message := l.message(buffer[:0], &q)
	alone := len(q.Rcpts) == 1
	c := &l.cfg
	each := len(message) + count(c.ClientRecipients, c.ClientRefused, c.RecipientMessages, c.DomainMessages)
	if each == 0 {
		return nil
	}
	rates := make([]mail.Rate, 0, each*len(q.Rcpts)+len(message))
	group := domainGroup{limits: l}
	for i, r := range q.Rcpts {
		unit := firstUnit + i
		for _, m := range message {
			m.Unit, m.Peek = unit, !alone
			rates = append(rates, m)
		}
		rates = l.rcpt(rates, q.Client, r, unit, &group)
	}
	if !alone {
		for _, m := range message {
			m.Unit = firstUnit + len(q.Rcpts)
			rates = append(rates, m)
		}
	}
	return rates
}

// message appends what one message takes, if it is to be counted now.
func (l *Limits) message(rates []mail.Rate, q *RcptQuestion) []mail.Rate {
	c := &l.cfg
	if !q.First {
		return rates
	}
	if client := q.Client.Unmap().WithZone(""); client.IsValid() {
		rates = add(rates, c.ClientMessages, mail.Rate{Client: whole(client), Name: messages})
		rates = add(rates, c.NetworkMessages, mail.Rate{Client: Network(client), Name: messages})
	}
	if c.SenderMessages.limited() && q.Reverse.Domain != "" {
		rates = add(rates, c.SenderMessages, mail.Rate{Group: l.names.Of("sender", Fold(q.Reverse.Domain)), Name: sent})
	}
	return rates
}

// rcpt appends what one recipient takes.
func (l *Limits) rcpt(rates []mail.Rate, client netip.Addr, r Rcpt, unit int, group *domainGroup) []mail.Rate {
	c := &l.cfg
	if client = client.Unmap().WithZone(""); client.IsValid() {
		rates = add(rates, c.ClientRefused, mail.Rate{Client: whole(client), Name: refused, Unit: unit, Peek: true})
		rates = add(rates, c.ClientRecipients, mail.Rate{Client: whole(client), Name: recipients, Unit: unit})
	}
	if !c.RecipientMessages.limited() && !c.DomainMessages.limited() {
		return rates
	}
	domain := group.of(r.Forward.Domain)
	if c.RecipientMessages.limited() {
		local := Fold(withoutTag(r.Forward.LocalPart(), r.Subaddress))
		name := addressed + l.names.Of("recipient", local, Fold(r.Forward.Domain))
		rates = add(rates, c.RecipientMessages, mail.Rate{Group: domain, Name: name, Unit: unit})
	}
	return add(rates, c.DomainMessages, mail.Rate{Group: domain, Name: taken, Unit: unit})
}

// A domainGroup gives the group of a recipient domain. The recipients of a message mostly share one: it is made once.
type domainGroup struct {
	limits       *Limits
	domain, name string
}

func (g *domainGroup) of(domain string) string {
	if g.name == "" || g.domain != domain {
		g.domain, g.name = domain, g.limits.names.Of("domain", Fold(domain))
	}
	return g.name
}

// Refused gives the rate that one recipient of client which was refused for good draws, and whether there is one. It is
// for Later: no client waits for it. One at a time: a cost above what is left would draw nothing at all.
func (l *Limits) Refused(client netip.Addr) (r mail.Rate, limited bool) {
	client = client.Unmap().WithZone("")
	if !l.cfg.ClientRefused.limited() || !client.IsValid() {
		return mail.Rate{}, false
	}
	var one [1]mail.Rate
	return add(one[:0], l.cfg.ClientRefused, mail.Rate{Client: whole(client), Name: refused})[0], true
}

// Peek makes rates that are looked at and draw nothing, as explain needs them. It changes its argument and gives it
// back.
func Peek(rates []mail.Rate) []mail.Rate {
	for i := range rates {
		rates[i].Peek = true
	}
	return rates
}

// Network gives the network that stands for a client beside its address: its /24, for IPv6 its /64. It is the zero
// Prefix for an invalid address.
func Network(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := 64
	if client.Is4() {
		bits = 24
	}
	p, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// whole is the prefix that stands for one address.
func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// count tells how many of the rates are kept.
func count(rates ...Rate) int {
	n := 0
	for _, r := range rates {
		if r.limited() {
			n++
		}
	}
	return n
}

// add appends what is counted under the limit, if there is one.
func add(rates []mail.Rate, limit Rate, counted mail.Rate) []mail.Rate {
	if !limit.limited() {
		return rates
	}
	counted.Count, counted.Per, counted.Burst = limit.Count, limit.Per, limit.Burst
	return append(rates, counted)
}
