package srs

import (
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// Validity is for how long an address opens, from the end of the day that it was made. Senders stop after some five
// days (RFC 5321 section 4.5.4.1) and the bounce may take as long. It has to stay below the 1024 days that a stamp
// can tell apart.
const Validity = 10 * day

// The limits of a Config.
const (
	MinKey  = 16 // octets of a key, at least
	MaxKeys = 16 // keys; each costs a MAC for every address that is opened
)

const day = 24 * time.Hour

var (
	// ErrNotSRS is Reverse's error for an address in another domain, or one that does not begin with SRS0 or SRS1 and
	// a separator.
	ErrNotSRS = errors.New("no SRS address")
	// ErrSyntax is Reverse's error for an address that begins like one of ours and has another form then, and Forward's
	// for a reverse-path without a valid domain.
	ErrSyntax = errors.New("malformed SRS address")
	// ErrBadMAC is Reverse's error for an address that was made with no key of ours, or more than 1024 days ago.
	ErrBadMAC = errors.New("SRS address not made here")
	// ErrExpired is Reverse's error for an address that was made here and is too old.
	ErrExpired = errors.New("SRS address expired")
	// ErrClosed is Reverse's error for an address that was made here so that it opens to no message.
	ErrClosed = errors.New("SRS address that opens to no message")
	// ErrTooLong is Forward's error where the local part would exceed mail.MaxLocal.
	ErrTooLong = errors.New("address too long for SRS")
)

// A Config has what a Rewriter needs. Domain and Keys are required.
type Config struct {
	// Domain is the domain of the addresses. Its mail must come to us. It is ASCII, because a U-label would ask
	// SMTPUTF8 of every next hop.
	Domain string
	// Keys are secrets of MinKey octets at least, at most MaxKeys of them. The first makes addresses, all open them. An
	// administrator who puts a new key first keeps the old one for Validity and two days more, while its last addresses
	// open.
	Keys [][]byte
	// Now is the wall clock. nil means time.Now.
	Now func() time.Time
}

// Validate returns a *mail.FieldError that names the first field that is wrong. It never shows a key.
func (c Config) Validate() error {
	if !mail.IsDomain(c.Domain) || !(mail.Path{Domain: c.Domain}).IsASCII() {
		return &mail.FieldError{Field: "domain", Reason: strconv.Quote(c.Domain) + " is no domain name in ASCII"}
	}
	if len(c.Keys) == 0 || len(c.Keys) > MaxKeys {
		return &mail.FieldError{Field: "keys",
			Reason: "holds " + strconv.Itoa(len(c.Keys)) + " keys; from 1 to " + strconv.Itoa(MaxKeys) + " are needed"}
	}
	for i, key := range c.Keys {
		if len(key) < MinKey {
			return &mail.FieldError{
				Field: "keys[" + strconv.Itoa(i) + "]", Reason: "is shorter than " + strconv.Itoa(MinKey) + " octets",
			}
		}
	}
	return nil
}

// A Rewriter writes and opens SRS addresses. It is safe for concurrent use.
type Rewriter struct {
	domain string
	keys   []*key // current first
	days   int64  // for how many days an address opens after the day that it was made on
	now    func() time.Time
}

// New makes a Rewriter. It fails as Config.Validate does. The keys are copied.
func New(c Config) (*Rewriter, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	w := &Rewriter{domain: c.Domain, days: int64(Validity / day), now: c.Now}
	if w.now == nil {
		w.now = time.Now
	}
	for _, secret := range c.Keys {
		w.keys = append(w.keys, newKey(secret))
	}
	return w, nil
}

// today returns the number of days since 1970 in UTC.
func (w *Rewriter) today() int64 { return w.now().Unix() / int64(day/time.Second) }

// Forward returns the reverse-path with which mail from reverse is forwarded. That is SRS1 for an SRS0 or SRS1 address
// of another forwarder, which keeps the first forwarder and drops those between, else SRS0. A malformed SRS1 address is
// an address like any other and becomes SRS0.
//
// The address opens to what opens says, and no change of its octets makes it open to more. One that opens to reports is
// another one for each network of a client, so that what a stranger does with his uses up no other.
//
// The null reverse-path and an address at the Rewriter's own domain, whose bounces come here anyway, are returned
// unchanged. An SRS1 address elsewhere with us as its first forwarder becomes our SRS0 address again, unless opens is
// mail.OpensToNone; its MAC is checked when a bounce arrives. The caller leaves out other domains of ours.
//
// reverse is a path of mail.ParsePath. The error is ErrSyntax for one without a domain, such as "Postmaster", and
// ErrTooLong for a result over mail.MaxLocal, of which SRS0 takes 18 octets and the sender's domain, and 5 octets more
// if it opens to reports. A local part over 64 octets is written, although RFC 5321 section 4.5.3.1.1 requires no
// server to take it: most do. A result is ASCII if reverse is.
func (w *Rewriter) Forward(reverse mail.Path, opens mail.Opens, client netip.Prefix) (mail.Path, error) {
	if reverse.IsNull() || ascii.EqualFold(reverse.Domain, w.domain) {
		return reverse, nil
	}
	var from network
	if opens == mail.OpensToReports {
		from = w.keys[0].networkOf(client)
	}
	return w.write(reverse, opens, from)
}

// write is Forward for an address elsewhere, from the network that stands in the address.
func (w *Rewriter) write(reverse mail.Path, opens mail.Opens, from network) (mail.Path, error) {
	if !isHost(reverse.Domain) {
		return mail.Path{}, ErrSyntax
	}
	l := readLocal(reverse.Local)
	a := address{kind: srs0, opens: opens, network: from, domain: reverse.Domain}
	switch kind, n := cutTag(l.text); kind {
	case srs0:
		if n < len(l.text) {
			a.kind, a.tail = srs1, n-1 // the separator belongs to the tail
		}
	case srs1:
		if first, tail, ok := cutFirstForwarder(l.text, n); ok {
			a.kind, a.domain, a.tail = srs1, first, tail
			if ascii.EqualFold(first, w.domain) && opens != mail.OpensToNone {
				return a.open(l), nil
			}
		}
	}
	a.day = w.today()
	a.mac = w.keys[0].mac(a, l.text[a.tail:])
	return a.write(l, w.domain)
}

// Reverse opens an address that Forward wrote. It returns the sender for an SRS0 address, and the SRS0 address of the
// first forwarder for an SRS1 address, and whether it opens to bounces or to reports. The error is ErrNotSRS,
// ErrSyntax, ErrBadMAC, ErrExpired or ErrClosed. The last two are only for addresses that were made here.
//
// An address made on one day opens until Validity after the end of that day, and already a day before it was made, for
// nodes whose clocks disagree around midnight. The case of letters does not matter. If no server changed the address on
// the way, the result is the sender octet for octet, with its case and its quotes. There are two exceptions: "SRS0"
// becomes upper case, and quotes and backslashes that are not needed may be lost if the sender's domain is an address
// literal or a tag has a backslash in it. If a server changed case or quotes, the result has them changed too: it is
// the same mailbox wherever case does not matter. A caller that counts how often an address is opened therefore counts
// without the case of ASCII letters.
//
// The address opens for every client that has it. The caller checks that the reverse-path is null, that there is one
// recipient, and how often that happens.
func (w *Rewriter) Reverse(forward mail.Path) (mail.Path, mail.Opens, error) {
	if !ascii.EqualFold(forward.Domain, w.domain) {
		return mail.Path{}, 0, ErrNotSRS
	}
	l := readLocal(forward.Local)
	today := w.today()
	a, err := readAddress(l.text, today)
	switch {
	case err != nil:
		return mail.Path{}, 0, err
	case !w.made(&a, l.text[a.tail:]):
		return mail.Path{}, 0, ErrBadMAC
	case today-a.day > w.days:
		return mail.Path{}, 0, ErrExpired
	case a.opens == mail.OpensToNone:
		return mail.Path{}, 0, ErrClosed
	}
	return a.open(l), a.opens, nil
}
