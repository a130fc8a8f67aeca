package tlspolicy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// The parts of a TLSA record (RFC 6698 section 2.1).
const (
	usageTA = 2 // DANE-TA: the record names an authority
	usageEE = 3 // DANE-EE: the record names the certificate of the host

	ofCertificate = 0 // what is compared
	ofKey         = 1

	exactly  = 0 // how it is compared
	bySHA256 = 1
	bySHA512 = 2
)

// A tlsa is a TLSA record that can be used.
type tlsa struct {
	usage, selector, matching uint8
	data                      []byte
}

// recordSize is about how much memory a record takes besides its data.
const recordSize = 32

// parseTLSA reads the data of a record as a zone file has it: three numbers and hexadecimal digits, with blanks or
// without. ok is false for one that cannot be used with SMTP (RFC 7672 section 3.1): with another usage than 2 and 3,
// or what no version of DANE defines.
func parseTLSA(text string) (r tlsa, ok bool) {
	fields := strings.Fields(text)
	if len(fields) < 4 {
		return r, false
	}
	for i, part := range []*uint8{&r.usage, &r.selector, &r.matching} {
		n, err := strconv.ParseUint(fields[i], 10, 8)
		if err != nil {
			return r, false
		}
		*part = uint8(n)
	}
	data, err := hex.DecodeString(strings.Join(fields[3:], ""))
	if err != nil || r.usage != usageTA && r.usage != usageEE || r.selector > ofKey {
		return r, false
	}
	r.data = data
	switch r.matching {
	case exactly:
		return r, len(data) > 0
	case bySHA256:
		return r, len(data) == sha256.Size
	case bySHA512:
		return r, len(data) == sha512.Size
	}
	return r, false
}

// usable returns the records that count: where the same is named by both digests, the stronger one (RFC 7671 section
// 9).
func usable(texts []string) (out []tlsa) {
	for _, text := range texts {
		if r, ok := parseTLSA(text); ok {
			out = append(out, r)
		}
	}
	return slices.DeleteFunc(out, func(r tlsa) bool {
		return r.matching == bySHA256 && slices.ContainsFunc(out, func(o tlsa) bool {
			return o.matching == bySHA512 && o.usage == r.usage && o.selector == r.selector
		})
	})
}

// names reports whether the record names a certificate.
func (r *tlsa) names(c *x509.Certificate) bool {
	of := c.Raw
	if r.selector == ofKey {
		of = c.RawSubjectPublicKeyInfo
	}
	switch r.matching {
	case bySHA256:
		sum := sha256.Sum256(of)
		of = sum[:]
	case bySHA512:
		sum := sha512.Sum512(of)
		of = sum[:]
	}
	return bytes.Equal(of, r.data)
}

// A daneHost is what the DNS says of a host. It is not changed.
type daneHost struct {
	level   Level // Opportunistic without records, Encrypted where none can be used, else DANE
	records []tlsa
	base    string // the name that has them, which is asked for in TLS
	number  uint64 // tells the records from others
	err     error  // they could not be looked up
	expires time.Time
}

// lookUp returns what the DNS says of a host at our port (RFC 7672 section 2.2): of the name at the end of its CNAMEs
// where all of them are secure, then of its own name. Without a secure address there is nothing to look for, because
// servers of insecure zones may fail at TLSA records.
func (p *Policies) lookUp(ctx context.Context, host mx.Host) *daneHost {
	none := &daneHost{expires: p.cfg.Now().Add(time.Hour)}
	bases := []string{host.Name}
	switch {
	case host.AD && host.Alias != "":
		bases = []string{host.Alias, host.Name}
	case host.AD:
	case host.Alias == "":
		return none
	default: // the first CNAME may be secure although what it leads to is not
		_, meta, err := p.cfg.Resolver.LookupData(ctx, host.Name, "CNAME")
		if err != nil && dns.Temporary(err) {
			return failed(err)
		}
		if err != nil || !meta.AD {
			return none
		}
	}
	for _, base := range bases {
		texts, meta, err := p.cfg.Resolver.LookupData(ctx, "_"+strconv.Itoa(int(p.cfg.Port))+"._tcp."+base, "TLSA")
		none.expires = earlier(none.expires, meta.Expires)
		switch {
		case dns.NotFound(err):
			continue
		case err != nil:
			return failed(err)
		case !meta.AD:
			return none
		}
		h := &daneHost{level: Encrypted, records: usable(texts), base: base, expires: meta.Expires}
		if len(h.records) > 0 {
			h.level = DANE
		}
		h.number = digest(base, texts)
		return h
	}
	return none
}

// failed returns what is known of a host whose records could not be looked up: nothing, so that no mail goes there (RFC
// 7672 section 2.2). It may be that they were forged.
func failed(cause error) *daneHost {
	return &daneHost{
		err: mail.Refuse(451, 7, 5, "Destination's DANE records cannot be looked up, which is no fault of the sender",
			"dane", cause),
	}
}

// digest tells records of a name from others, in whatever order they come.
func digest(base string, texts []string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(base))
	for _, text := range slices.Sorted(slices.Values(texts)) {
		_, _ = h.Write([]byte("\n" + text))
	}
	return h.Sum64()
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

var errNotNamed = errors.New("no TLSA record of the host names the certificate that it shows")

// check returns why no record names what was shown. Usage 3 looks at the certificate of the host alone, neither at its
// names nor at its dates (RFC 7672 section 3.1.1); for usage 2 the certificate has to be signed by the one that is
// named, now, for one of names. domain is set if it is not for the first of them.
func (h *daneHost) check(shown []*x509.Certificate, names []string, now time.Time) (other string, err error) {
	if len(shown) == 0 {
		return "", errNoCertificate
	}
	named, roots := false, x509.NewCertPool()
	for i := range h.records {
		r := &h.records[i]
		if r.usage == usageEE {
			if r.names(shown[0]) {
				return "", nil
			}
			continue
		}
		for _, authority := range r.authorities(shown) {
			named = true
			roots.AddCert(authority)
		}
	}
	if !named {
		return "", errNotNamed
	}
	// Once for each name, with all authorities: the host chooses how many there are.
	options := x509.VerifyOptions{Roots: roots, Intermediates: between(shown), CurrentTime: now}
	for n, name := range names {
		options.DNSName = name
		if _, err = shown[0].Verify(options); err != nil {
			continue
		}
		if n > 0 {
			other = name
		}
		return other, nil
	}
	return "", err
}

// authorities returns the certificates that a record of usage 2 names: of those that were shown, and the one that it
// holds.
func (r *tlsa) authorities(shown []*x509.Certificate) (out []*x509.Certificate) {
	for _, c := range shown {
		if r.names(c) {
			out = append(out, c)
		}
	}
	if len(out) == 0 && r.selector == ofCertificate && r.matching == exactly {
		if c, err := x509.ParseCertificate(r.data); err == nil {
			out = append(out, c)
		}
	}
	return out
}
