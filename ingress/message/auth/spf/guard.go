package spf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"blitiri.com.ar/go/spf"
	"golang.org/x/net/idna"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// Our reasons. Those for a match and for a broken record are the library's fixed texts.
const (
	reasonLate     = "no answer in time"
	reasonFault    = "DNS look-up failed"
	reasonEnough   = "not evaluated"
	reasonNoName   = "no domain name to check"
	reasonNoClient = "no client address to check"
	reasonNoRecord = "no SPF record"
	reasonNoMatch  = "no mechanism matched"
	reasonSyntax   = "syntax error in SPF record"
)

// A question is one identity to be checked. Domain is "" if there is nothing to check.
type question struct {
	local  string // in the form that the library reads right
	domain string
}

// An inquiry is the input of both checks.
type inquiry struct {
	client     netip.Addr
	name       string // the HELO name as the macro h expands to it
	mail, helo question
}

// Octets that no path and no HELO name can hold. They replace in a local part what the library would misread: it splits
// a mailbox at the first "@", which in "a@b"@example.com belongs to the local part, and it would look up non-ASCII
// local parts, which can match nothing (RFC 8616 section 4). lookups.name corrects the names that macros make of them.
const (
	hiddenAt    = "\x1a"
	hiddenLocal = "\x1b"
)

const postmaster = "postmaster"

// questions returns the questions of a check.
func questions(client netip.Addr, helo string, reverse mail.Path) inquiry {
	q := inquiry{client: client.Unmap().WithZone(""), name: helo}
	if len(helo) > mail.MaxDomain || strings.ContainsFunc(helo, isControl) {
		q.name = "unknown"
	}
	q.helo = question{postmaster, asciiDomain(helo)}
	if reverse.IsNull() {
		q.mail = q.helo
		return q
	}
	q.mail = question{hide(reverse.LocalPart()), asciiDomain(reverse.Domain)}
	return q
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// unasked returns the results of a check without questions.
func (q inquiry) unasked() (fromMail, fromHelo Identity) {
	reason := reasonNoName
	if !q.client.IsValid() {
		reason = reasonNoClient
	}
	return Identity{Domain: q.mail.domain, Reason: reason}, Identity{Domain: q.helo.domain, Reason: reason}
}

// hide returns a local part in the form that the library reads right.
func hide(local string) string {
	if local == "" {
		return postmaster // RFC 7208 section 4.3
	}
	for i := range len(local) {
		if local[i] >= 0x80 || isControl(rune(local[i])) {
			return hiddenLocal
		}
	}
	return strings.ReplaceAll(local, "@", hiddenAt)
}

// asciiDomain returns a domain name as Canonical does, or "" for what RFC 7208 section 4.3 has no check for: an address
// literal, a malformed name, a name of one label.
func asciiDomain(name string) string {
	name = Canonical(name)
	if strings.IndexByte(name, '.') < 0 {
		return ""
	}
	return name
}

// Canonical returns a domain name in lower case and as A-labels (RFC 8616 section 4), without its last dot, or "" for
// what is no domain name.
func Canonical(name string) string {
	name = strings.TrimSuffix(name, ".")
	if !mail.IsDomain(name) {
		return ""
	}
	plain := strings.ToLower(name)
	if !ascii.Is(name) {
		var err error
		if plain, err = idna.Lookup.ToASCII(name); err != nil || !mail.IsDomain(plain) {
			return ""
		}
	}
	if len(plain) > domain.MaxName {
		return ""
	}
	return plain
}

// ask checks one identity.
func (c *Checker) ask(ctx context.Context, client netip.Addr, helo string, q question) Identity {
	if q.domain == "" {
		return Identity{Reason: reasonNoName}
	}
	l := &lookups{resolver: c.resolver, client: client}
	word, err := spf.CheckHostWithSender(net.IP(client.AsSlice()), helo, q.local+"@"+q.domain,
		spf.WithContext(ctx), spf.WithResolver(l))
	id := Identity{Result: resultOf(word), Domain: q.domain}
	if (l.late || errors.Is(l.failed, mail.ErrEnough)) && id.Result != Pass {
		// Some mechanisms treat a failed look-up as no match, and the record's "-all" would then count against the
		// client.
		id.Result = TempError
	}
	switch id.Result {
	case TempError:
		id.Reason, id.Cause = reasonFault, l.failed
		switch {
		case id.IsUnevaluated():
			id.Reason = reasonEnough
		case l.late:
			id.Reason = reasonLate
		}
	case None:
		id.Reason = reasonNoRecord
	case PermError:
		id.Reason, id.Cause = libraryReason(err), err
		if l.broken != nil {
			id.Reason, id.Cause = reasonSyntax, l.broken
		}
	default:
		id.Reason = libraryReason(err)
	}
	return id
}

func resultOf(r spf.Result) Result {
	switch r {
	case spf.Neutral:
		return Neutral
	case spf.Pass:
		return Pass
	case spf.Fail:
		return Fail
	case spf.SoftFail:
		return SoftFail
	case spf.TempError:
		return TempError
	case spf.PermError:
		return PermError
	}
	return None
}

// libraryReason returns the text of an error that the library declares. These texts have no word of the client or of a
// record.
func libraryReason(err error) string {
	for _, known := range [...]error{
		spf.ErrMatchedAll, spf.ErrMatchedA, spf.ErrMatchedIP, spf.ErrMatchedMX, spf.ErrMatchedPTR, spf.ErrMatchedExists,
		spf.ErrUnknownField, spf.ErrInvalidIP, spf.ErrInvalidMask, spf.ErrInvalidMacro, spf.ErrInvalidDomain,
		spf.ErrLookupLimitReached, spf.ErrVoidLookupLimitReached, spf.ErrTooManyMXRecords, spf.ErrMultipleRecords,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if errors.Is(err, spf.ErrNoResult) {
		return "included domain has no SPF record"
	}
	return reasonNoMatch
}
