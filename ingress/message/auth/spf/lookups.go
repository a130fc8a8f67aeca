package spf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/millrace/millrace/ingress/world"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

const (
	// maxRecord bounds the octets of a record that is evaluated. RFC 7208 section 3.4 wants a reply of 512 octets; a
	// longer record than this would only cost time.
	maxRecord = 8 << 10
)

// lookups is the resolver that the library sees in one check, in the shape of net.Resolver. It puts right the names
// that come out of macros, looks at records before the library does, and makes every error one that the library
// understands. An answer without records becomes a *net.DNSError with IsNotFound: the library counts it as a void
// look-up (RFC 7208 section 4.6.4). It is used by one goroutine.
type lookups struct {
	resolver world.Resolver
	client   netip.Addr
	failed   error // the first look-up that failed
	late     bool  // a look-up failed because the time was over
	broken   error // a record was malformed
	exists   bool  // a record has the mechanism "exists"
}

// name returns the name to look up, and whether it can be looked up.
func (l *lookups) name(name string) (string, bool) {
	if strings.Contains(name, hiddenLocal) || strings.Contains(name, "%1B") {
		return "", false
	}
	if strings.Contains(name, hiddenAt) || strings.Contains(name, "%1A") {
		name = strings.NewReplacer(hiddenAt, "@", "%1A", "%40").Replace(name)
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return "", false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", false
		}
	}
	return name, true
}

// shortened returns name without leading labels if it is too long (RFC 7208 section 7.3).
func shortened(name string) string {
	for len(name) > domain.MaxName {
		_, name, _ = strings.Cut(name, ".")
	}
	return name
}

// LookupTXT returns the TXT records of a name, with a malformed SPF record replaced by one that the library calls
// malformed: RFC 7208 section 4.6 demands a permerror for an error anywhere in a record, and the library stops at the
// first match. A name that is too long is not found rather than shortened: it is the macro d of an included record, and
// a record could include itself with a name that grows by each step.
func (l *lookups) LookupTXT(ctx context.Context, name string) ([]string, error) {
	asked, ok := l.name(name)
	if !ok || len(asked) > domain.MaxName {
		return nil, notFound(name)
	}
	texts, err := l.resolver.LookupTXT(ctx, asked)
	if err != nil {
		return nil, l.fault(ctx, name, err)
	}
	if len(texts) == 0 {
		return nil, notFound(name)
	}
	var out []string // texts may be a cache's
	for i, text := range texts {
		if !isRecord(text) {
			continue
		}
		l.exists = l.exists || strings.Contains(strings.ToLower(text), "exists:")
		if err := checkSyntax(text); err != nil {
			if out == nil {
				out = append([]string(nil), texts...)
			}
			l.broken, out[i] = err, "v=spf1 malformed"
		}
	}
	if out != nil {
		return out, nil
	}
	return texts, nil
}

// LookupMX returns the MX records of a name. Their preferences are not known and not used.
func (l *lookups) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	asked, ok := l.name(name)
	if !ok {
		return nil, notFound(name)
	}
	hosts, err := l.resolver.LookupMX(ctx, shortened(asked))
	switch {
	case err != nil:
		return nil, l.fault(ctx, name, err)
	case len(hosts) == 0:
		return nil, notFound(name)
	}
	records := make([]*net.MX, len(hosts))
	for i, host := range hosts {
		records[i] = &net.MX{Host: host}
	}
	return records, nil
}

// LookupIPAddr returns the addresses of a name. A resolver may take an address for its own name; the DNS does not.
func (l *lookups) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	asked, ok := l.name(host)
	if !ok {
		return nil, notFound(host)
	}
	asked = shortened(asked)
	if _, err := netip.ParseAddr(asked); err == nil {
		return nil, notFound(host)
	}
	// RFC 7208 section 5: of the family of the client, but "exists" (section 5.7) is about IPv4 always.
	addrs, err := l.resolver.LookupSameFamily(ctx, asked, l.client)
	if err == nil && len(addrs) == 0 && l.exists && !l.client.Is4() {
		addrs, err = l.resolver.LookupSameFamily(ctx, asked, netip.IPv4Unspecified())
	}
	switch {
	case err != nil:
		return nil, l.fault(ctx, host, err)
	case len(addrs) == 0:
		return nil, notFound(host)
	}
	out := make([]net.IPAddr, len(addrs))
	for i, a := range addrs {
		out[i].IP = a.AsSlice()
	}
	return out, nil
}

// LookupAddr returns the names of an address.
func (l *lookups) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, l.fault(ctx, addr, err)
	}
	names, err := l.resolver.LookupPTR(ctx, a)
	switch {
	case err != nil:
		return nil, l.fault(ctx, addr, err)
	case len(names) == 0:
		return nil, notFound(addr)
	}
	return names, nil
}

func notFound(name string) error {
	return &net.DNSError{Err: "no such name", Name: name, IsNotFound: true}
}

// fault returns err in the form that the library needs: it knows only an unwrapped *net.DNSError, and an error that is
// not temporary is a permerror to it, where RFC 7208 section 4.4 wants a temperror for every DNS failure.
func (l *lookups) fault(ctx context.Context, name string, err error) error {
	if errors.Is(err, mail.ErrBadName) { // a macro can make any name; it does not exist
		return notFound(name)
	}
	if l.failed == nil || errors.Is(err, mail.ErrEnough) {
		l.failed = err
	}
	over := ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	l.late = l.late || over
	return &net.DNSError{Err: "look-up failed", Name: name, IsTemporary: true, UnwrapErr: err}
}
