package srs

import (
	"errors"
	"strconv"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// DefaultValidity is for how long an address opens unless the Config says otherwise. Senders give up after some five
// days (RFC 5321 section 4.5.4.1) and the bounce may take as long.
const DefaultValidity = 10 * day

// The limits of a Config.
const (
	MinKey      = 16        // octets of a key, at least
	MaxKeys     = 16        // keys; each costs a MAC for every address that is opened
	MaxValidity = 365 * day // well below the 1024 days that a stamp can tell apart
)

const day = 24 * time.Hour

var (
	// ErrNotSRS is Reverse's error for an address that lies elsewhere or does not begin with SRS0 or SRS1 and a
	// separator.
	ErrNotSRS = errors.New("no SRS address")
	// ErrSyntax is Reverse's error for an address that begins like one of ours and does not go on like one, and
	// Forward's for a reverse-path without a valid domain.
	ErrSyntax = errors.New("malformed SRS address")
	// ErrBadMAC is Reverse's error for an address that no key of ours made, or one of more than 1024 days ago.
	ErrBadMAC = errors.New("SRS address not made here")
	// ErrExpired is Reverse's error for an address that was made here and is too old.
	ErrExpired = errors.New("SRS address expired")
	// ErrTooLong is Forward's error where the local part would exceed mail.MaxLocal.
	ErrTooLong = errors.New("address too long for SRS")
)

// A Config is what a Rewriter is made of. Domain and Keys are required.
type Config struct {
	// Domain is where the addresses lie. Its mail must come to us. It is ASCII, a U-label would ask SMTPUTF8 of every
	// next hop.
	Domain string
	// Keys are secrets of MinKey octets at least, at most MaxKeys of them. The first makes addresses, all open them.
	// Whoever puts a new key first leaves the old one in for Validity and two days more: for so long its last addresses
	// live.
	Keys [][]byte
	// Validity is for how long an address opens, in whole days from the end of the day that it was made, at most
	// MaxValidity. Zero means DefaultValidity.
	Validity time.Duration
	// Now is the wall clock; nil means time.Now.
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
	if c.Validity < 0 || c.Validity > MaxValidity || c.Validity%day != 0 {
		return &mail.FieldError{
			Field: "validity", Reason: c.Validity.String() + " is not a number of whole days up to 365",
		}
	}
	return nil
}

// A Rewriter writes and opens SRS addresses. It is safe for concurrent use.
type Rewriter struct {
	domain string
	keys   []*key // current first
	days   int64  // that an address opens after the one it was made on
	now    func() time.Time
}

// New makes a Rewriter. It fails as Config.Validate does. The keys are copied.
func New(c Config) (*Rewriter, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	w := &Rewriter{domain: c.Domain, days: int64(DefaultValidity / day), now: c.Now}
	if c.Validity != 0 {
		w.days = int64(c.Validity / day)
	}
	if w.now == nil {
		w.now = time.Now
	}
	for _, secret := range c.Keys {
		w.keys = append(w.keys, newKey(secret))
	}
	return w, nil
}

// today counts the days since 1970 in UTC.
func (w *Rewriter) today() int64 { return w.now().Unix() / int64(day/time.Second) }

// Forward gives the reverse-path with which mail from reverse is passed on: SRS1 for an SRS0 or SRS1 address of another
// forwarder, keeping the first of them and dropping those between, else SRS0. What looks like SRS1 and is malformed is
// an address like any other and becomes SRS0.
//
// Two things need no rewriting and come back as they are: the null reverse-path, and an address at the Rewriter's own
// domain, whose bounces come here anyway. An SRS1 address elsewhere whose first forwarder are we becomes our SRS0
// address again; its MAC is looked at when a bounce arrives. Other domains of ours are the caller's to spare.
//
// reverse is a path that mail.ParsePath gives. ErrSyntax is for one without a domain, such as "Postmaster". ErrTooLong
// is for a result over mail.MaxLocal, of which SRS0 takes 18 octets and the sender's domain; what then is the caller's
// choice. A local part over 64 octets is written, although RFC 5321 section 4.5.3.1.1 asks no server to take it: most
// do. A result is ASCII if reverse is.
func (w *Rewriter) Forward(reverse mail.Path) (mail.Path, error) {
	if reverse.IsNull() || equalFold(reverse.Domain, w.domain) {
		return reverse, nil
	}
	if !isHost(reverse.Domain) {
		return mail.Path{}, ErrSyntax
	}
	l := readLocal(reverse.Local)
	a := address{kind: srs0, domain: reverse.Domain}
	switch kind, n := cutTag(l.text); kind {
	case srs0:
		if n < len(l.text) {
			a.kind, a.cut = srs1, n-1 // the separator goes with it
		}
	case srs1:
		if first, cut, ok := cutFirstHop(l.text, n); ok {
			a.kind, a.domain, a.cut = srs1, first, cut
			if equalFold(first, w.domain) {
				return a.open(l), nil
			}
		}
	}
	a.day = w.today()
	a.mac = w.keys[0].mac(a, l.text[a.cut:])
	return a.write(l, w.domain)
}

// Reverse opens an address that Forward wrote: an SRS0 address gives the sender, an SRS1 address the SRS0 address of
// the first forwarder and never more than that. The error is ErrNotSRS, ErrSyntax, ErrBadMAC or ErrExpired; the last is
// only for addresses that were made here.
//
// An address made on one day opens until Validity after the end of that day, and already a day before it was made, for
// nodes whose clocks disagree around midnight. The case of letters does not matter. If nobody changed the address on
// the way, the sender comes back octet for octet, with its case and its quotes, but for this: "SRS0" comes back in
// capitals, and quotes and backslashes that nothing needs may be lost where the sender's domain is an address literal
// or a tag has a backslash in it. If a server changed case or quotes, so are they in what comes back: the same mailbox
// wherever case does not matter. Who counts how often an address is opened therefore counts without the case of ASCII
// letters.
//
// The address opens for anybody who has it. That only a null reverse-path may do so, to one recipient, and how often,
// is the caller's to see to.
func (w *Rewriter) Reverse(forward mail.Path) (mail.Path, error) {
	if !equalFold(forward.Domain, w.domain) {
		return mail.Path{}, ErrNotSRS
	}
	l := readLocal(forward.Local)
	today := w.today()
	a, err := readAddress(l.text, today)
	if err != nil {
		return mail.Path{}, err
	}
	if !w.made(a, l.text[a.cut:]) {
		return mail.Path{}, ErrBadMAC
	}
	if today-a.day > w.days {
		return mail.Path{}, ErrExpired
	}
	return a.open(l), nil
}
