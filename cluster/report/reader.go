package report

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// mostReaders bounds those that a domain may name.
const mostReaders = 4

// A Reader is where a domain wants its reports.
type Reader struct {
	URI  string    // as the record has it, without its size
	To   mail.Path // of mailto; else zero
	Most int64     // octets, 0 for any number
}

// host returns the destination host of RFC 9990 section 4.
func (r *Reader) host() string { return domain.Canonical(r.To.Domain) }

// ParseReaders returns the readers that a value of rua= names, at most mostReaders of them: addresses, and of reports
// on TLS URLs as well. What is none is left out.
func ParseReaders(k Kind, value string) (readers []Reader) {
	for uri := range strings.SplitSeq(value, ",") {
		r, ok := parseReader(k, strings.TrimSpace(uri))
		same := func(other Reader) bool { return other.URI == r.URI }
		if ok && len(readers) < mostReaders && !slices.ContainsFunc(readers, same) {
			readers = append(readers, r)
		}
	}
	return readers
}

// parseReader reads one URI, behind which a size may stand (RFC 7489 section 6.2).
func parseReader(k Kind, text string) (r Reader, ok bool) {
	uri, size, sized := strings.Cut(text, "!")
	r.URI = uri
	if sized {
		if r.Most, ok = parseSize(size); !ok {
			return r, false
		}
	}
	u, err := url.Parse(uri)
	switch {
	case err != nil:
		return r, false
	case u.Scheme == "https":
		return r, k == TLS && u.Host != "" && u.User == nil
	case u.Scheme != "mailto":
		return r, false
	}
	address, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return r, false
	}
	if r.To, err = mail.ParsePath(address, false); err != nil || r.To.IsNull() || !isName(r.To.Domain) {
		return r, false
	}
	return r, true
}

// parseSize reads a size such as 10m, in powers of 1024.
func parseSize(text string) (octets int64, ok bool) {
	shift := 0
	if text != "" {
		if at := strings.IndexByte("kmgt", text[len(text)-1]|0x20); at >= 0 {
			shift, text = 10*(at+1), text[:len(text)-1]
		}
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 || n<<shift>>shift != n || n<<shift > 1<<62 {
		return 0, false
	}
	return int64(n << shift), true
}

// tags returns the tags of a record that begins with v= and a version. Of several with one name the first counts.
func tags(text, version string) (all map[string]string, ok bool) {
	for i, tag := range strings.Split(text, ";") {
		name, value, found := strings.Cut(tag, "=")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if i == 0 {
			if name != "v" || value != version {
				return nil, false
			}
			all = make(map[string]string)
		}
		if _, twice := all[name]; found && !twice {
			all[name] = value
		}
	}
	return all, true
}

// A Lookup asks the DNS what readers need to be known.
type Lookup struct {
	// TXT returns the texts of a name, and none for a name that has none.
	TXT func(ctx context.Context, name string) ([]string, error)
	// Organization returns the organizational domain of a domain (RFC 9989 section 4.10.2).
	Organization func(ctx context.Context, name string) (string, error)
}

// A Refused is a reader that a domain names and that is not told.
type Refused struct {
	URI string `json:"uri"`
	Why string `json:"why"`
}

// tlsReaders returns who reads the reports of a domain on TLS (RFC 8460 section 3). There are none unless it has one
// record alone.
func (l *Lookup) tlsReaders(ctx context.Context, name string) ([]Reader, error) {
	texts, err := l.TXT(ctx, "_smtp._tls."+name)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, text := range texts {
		if all, ok := tags(text, "TLSRPTv1"); ok {
			found = append(found, all["rua"])
		}
	}
	if len(found) != 1 {
		return nil, nil
	}
	return ParseReaders(TLS, found[0]), nil
}

var errTooLong = errors.New("the name of its consent is too long")

// dmarcReaders returns who reads the reports about the messages of a domain, and who is named and may not. A reader of
// another organization has to publish that it wants them (RFC 9990 section 4), and may put another address of the same
// host in the place of the one that is named. An error means that it is not known now of one of them.
func (l *Lookup) dmarcReaders(ctx context.Context, name, value string) (may []Reader, not []Refused, err error) {
	own, err := l.Organization(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range ParseReaders(DMARC, value) {
		organization, err := l.Organization(ctx, r.host())
		if err != nil {
			return nil, nil, err
		}
		if organization == own {
			may = append(may, r)
			continue
		}
		instead, why, err := l.consent(ctx, name, &r)
		switch {
		case err != nil:
			return nil, nil, err
		case why != "":
			not = append(not, Refused{r.URI, why})
		default:
			may = append(may, instead...)
		}
	}
	return may, not, nil
}

// consent asks whether a reader of another organization wants the reports of a domain. It returns who is told in its
// place, or why it is not.
func (l *Lookup) consent(ctx context.Context, name string, r *Reader) (may []Reader, why string, err error) {
	record := name + "._report._dmarc." + r.host()
	if len(record) > domain.MaxName {
		return nil, errTooLong.Error(), nil
	}
	texts, err := l.TXT(ctx, record)
	if err != nil {
		return nil, "", err
	}
	why = "there is no v=DMARC1 at " + record
	for _, text := range texts {
		all, ok := tags(text, "DMARC1")
		if !ok {
			continue
		}
		if all["rua"] == "" {
			return []Reader{*r}, "", nil
		}
		may = ParseReaders(DMARC, all["rua"])
		other := func(o Reader) bool { return o.host() != r.host() }
		if len(may) == 0 || slices.ContainsFunc(may, other) {
			return nil, record + " names a reader at another host", nil
		}
		return may, "", nil
	}
	return nil, why, nil
}
