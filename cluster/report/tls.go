package report

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A tlsReport is the JSON of a report on TLS (RFC 8460 section 4.4).
type tlsReport struct {
	Organization string      `json:"organization-name"`
	Range        tlsRange    `json:"date-range"`
	Contact      string      `json:"contact-info"`
	ID           string      `json:"report-id"`
	Policies     []tlsPolicy `json:"policies"`
}

type tlsRange struct {
	Start string `json:"start-datetime"`
	End   string `json:"end-datetime"`
}

type tlsPolicy struct {
	Policy struct {
		Type   string   `json:"policy-type"`
		String []string `json:"policy-string,omitempty"`
		Domain string   `json:"policy-domain"`
		Hosts  []string `json:"mx-host,omitempty"`
	} `json:"policy"`
	Summary struct {
		Successful uint64 `json:"total-successful-session-count"`
		Failed     uint64 `json:"total-failure-session-count"`
	} `json:"summary"`
	Failures []tlsFailure `json:"failure-details,omitempty"`
}

type tlsFailure struct {
	Result string `json:"result-type"`
	Source string `json:"sending-mta-ip,omitempty"`
	Host   string `json:"receiving-mx-hostname,omitempty"`
	Addr   string `json:"receiving-ip,omitempty"`
	Count  uint64 `json:"failed-session-count"`
}

// tlsText returns the JSON of a report. What is missing in it stands behind the contact: the format has no other place
// for it.
func tlsText(m *Made, p *Part) []byte {
	at := func(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
	out := tlsReport{
		Organization: m.Origin.Organization, Contact: m.Origin.Contact, ID: m.id(m.Origin),
		Range: tlsRange{at(m.Begins), at(m.ends())},
	}
	if len(m.Notes) > 0 {
		out.Contact += " (" + strings.Join(m.Notes, "; ") + ")"
	}
	for _, kind := range []mail.TLSPolicy{mail.PolicyTLSA, mail.PolicySTS, mail.NoTLSPolicy} {
		if policy, ok := policyOf(m, p, kind); ok {
			out.Policies = append(out.Policies, policy)
		}
	}
	text, _ := json.MarshalIndent(out, "", "  ") // it has only strings and numbers
	return append(text, '\n')
}

// policyOf returns what a report says of the sessions under one kind of policy, and whether there were any.
func policyOf(m *Made, p *Part, kind mail.TLSPolicy) (out tlsPolicy, ok bool) {
	out.Policy.Type, out.Policy.Domain = kind.String(), m.Domain
	if kind == mail.PolicySTS {
		out.Policy.String, out.Policy.Hosts = terms(p.Terms)
	}
	for i := range p.Rows {
		r := &p.Rows[i]
		if r.Policy != kind {
			continue
		}
		ok = true
		if r.Result == mail.TLSWorked {
			out.Summary.Successful += r.N
			continue
		}
		out.Summary.Failed += r.N
		f := tlsFailure{Result: r.Result.String(), Host: r.Host, Count: r.N}
		if r.Source.IsValid() {
			f.Source = r.Source.String()
		}
		if r.Address.IsValid() {
			f.Addr = r.Address.String()
		}
		out.Failures = append(out.Failures, f)
	}
	return out, ok
}

// terms returns the lines of a policy of MTA-STS, and the hosts that it names.
func terms(text string) (lines, hosts []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		lines = append(lines, line)
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "mx" {
			hosts = append(hosts, strings.TrimSpace(value))
		}
	}
	return lines, hosts
}
