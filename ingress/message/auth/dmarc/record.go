package dmarc

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/millrace/millrace/router/mail"
)

// A record is a DMARC policy record (RFC 9989 section 4.7).
type record struct {
	policy      Disposition // p=
	subdomain   optional    // sp=
	nonExistent optional    // np=
	// applies is false without a valid policy and without an address for reports: DMARC is not applied then (section
	// 4.10.1).
	applies    bool
	testing    bool // t=y
	percent    int  // pct=, which counts for nothing
	strictDKIM bool // adkim=s
	strictSPF  bool // aspf=s
	psd        byte // 'y', 'n' or 'u'
	// published is the record as a report repeats it. It has no RUA without a valid address for reports.
	published mail.DMARCPolicy
}

// An optional is a Disposition that may be absent.
type optional struct {
	Disposition
	ok bool
}

// maxRecordLength bounds the octets of a record; a longer text is no record.
const maxRecordLength = 16 << 10

// parseRecord parses a TXT record, and reports whether it is a policy record: one that begins with the tag v and the
// value DMARC1. Within it a tag that is unknown, malformed or out of range is ignored (section 4.8). Of several tags
// with one name the first counts. Names of tags match in any case.
func parseRecord(text string) (*record, bool) {
	if len(text) > maxRecordLength {
		return nil, false
	}
	first, rest, _ := strings.Cut(text, ";")
	name, value, ok := strings.Cut(first, "=")
	if !ok || !strings.EqualFold(trimRight(name), "v") || trim(value) != "DMARC1" {
		return nil, false
	}
	r := recordReader{record: &record{percent: percentOfMessages, psd: 'u'}}
	seen := map[string]bool{}
	for tag := range strings.SplitSeq(rest, ";") {
		name, value, ok := strings.Cut(tag, "=")
		if !ok {
			continue
		}
		name, value = strings.ToLower(trim(name)), trim(value)
		if !isKnown(name) || seen[name] {
			continue
		}
		seen[name] = true
		r.take(name, value)
	}
	return r.finish(), true
}

// A recordReader collects the tags of a record.
type recordReader struct {
	record  *record
	valid   bool // p= is a policy
	broken  bool // sp= or np= is not a policy
	reports bool // rua= has a valid URI
}

// take sets what a tag says.
func (t *recordReader) take(name, value string) {
	r := t.record
	switch name {
	case "p":
		r.policy, t.valid = parsePolicy(value)
	case "sp":
		r.subdomain.Disposition, r.subdomain.ok = parsePolicy(value)
		t.broken = t.broken || !r.subdomain.ok
	case "np":
		r.nonExistent.Disposition, r.nonExistent.ok = parsePolicy(value)
		t.broken = t.broken || !r.nonExistent.ok
	case "adkim":
		r.strictDKIM = strings.EqualFold(value, "s")
	case "aspf":
		r.strictSPF = strings.EqualFold(value, "s")
	case "t":
		r.testing = strings.EqualFold(value, "y")
	case "psd":
		if len(value) == 1 && strings.Contains("ynu", strings.ToLower(value)) {
			r.psd = value[0] | 0x20
		}
	case "rua":
		if t.reports = hasURI(value); t.reports {
			r.published.RUA = value
		}
	case "fo":
		if isFailureOption(value) {
			r.published.FO = strings.ToLower(value)
		}
	case "pct":
		r.percent = parsePercent(value)
	}
}

// finish returns the record as it counts with all its tags.
func (t *recordReader) finish() *record {
	r := t.record
	r.applies = true
	if !t.valid || t.broken {
		// Section 4.10.1: as if the record said p=none, if it has an address for reports; else there is no policy.
		r.policy, r.applies = NoAction, t.reports
		r.subdomain, r.nonExistent = optional{}, optional{}
	}
	p := &r.published
	p.P, p.SP, p.NP, p.Testing = r.policy.String(), r.subdomain.keyword(), r.nonExistent.keyword(), r.testing
	p.ADKIM, p.ASPF = alignmentMode(r.strictDKIM), alignmentMode(r.strictSPF)
	return r
}

// keyword returns the policy's keyword, "" if it is absent.
func (o optional) keyword() string {
	if !o.ok {
		return ""
	}
	return o.String()
}

// alignmentMode returns the value of adkim= and aspf=.
func alignmentMode(strict bool) string {
	if strict {
		return "s"
	}
	return "r"
}

// isFailureOption reports whether a value is one that fo= may have (RFC 9989 section 4.7).
func isFailureOption(value string) bool {
	for option := range strings.SplitSeq(value, ":") {
		switch strings.ToLower(trim(option)) {
		case "0", "1", "d", "s":
		default:
			return false
		}
	}
	return true
}

// isKnown reports whether a tag is used here. rf, ri and ruf concern reports that are not made.
func isKnown(name string) bool {
	switch name {
	case "p", "sp", "np", "adkim", "aspf", "t", "psd", "rua", "fo", "pct":
		return true
	}
	return false
}

func parsePolicy(value string) (Disposition, bool) {
	switch strings.ToLower(value) {
	case "none":
		return NoAction, true
	case "quarantine":
		return Quarantine, true
	case "reject":
		return Reject, true
	}
	return NoAction, false
}

// parsePercent reads pct= (RFC 7489 section 6.3); what is no number from 0 to 100 is 100, the default.
func parsePercent(value string) int {
	n, err := strconv.ParseUint(value, 10, 8)
	if err != nil || n > percentOfMessages {
		return percentOfMessages
	}
	return int(n)
}

// hasURI reports whether a list holds a reporting URI that is syntactically valid (section 4.6), with or without the
// size of RFC 7489.
func hasURI(list string) bool {
	for uri := range strings.SplitSeq(list, ",") {
		uri, _, _ = strings.Cut(trim(uri), "!")
		u, err := url.Parse(uri)
		if err != nil || u.Scheme == "" {
			continue
		}
		if u.Scheme == "mailto" {
			local, domain, ok := strings.Cut(u.Opaque, "@")
			if ok && local != "" && domain != "" {
				return true
			}
			continue
		}
		if u.Host != "" || u.Opaque != "" || u.Path != "" {
			return true
		}
	}
	return false
}

const blanks = " \t"

func trim(s string) string { return strings.Trim(s, blanks) }

func trimRight(s string) string { return strings.TrimRight(s, blanks) }
