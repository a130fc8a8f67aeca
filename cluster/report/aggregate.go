package report

import (
	"encoding/xml"
	"strings"
)

// A feedback is the XML of a report on messages (RFC 9990 appendix A). The order of its elements is that of RFC 7489
// where readers of that one look for an order. A message that passes has the disposition none, which both formats know.
type feedback struct {
	XMLName  xml.Name  `xml:"urn:ietf:params:xml:ns:dmarc-2.0 feedback"`
	Version  string    `xml:"version"`
	Metadata metadata  `xml:"report_metadata"`
	Policy   published `xml:"policy_published"`
	Records  []record  `xml:"record"`
}

type metadata struct {
	Organization string `xml:"org_name"`
	Email        string `xml:"email"`
	ID           string `xml:"report_id"`
	Begins       int64  `xml:"date_range>begin"`
	Ends         int64  `xml:"date_range>end"`
	Error        string `xml:"error,omitempty"`
	Generator    string `xml:"generator,omitempty"`
}

type published struct {
	Domain  string `xml:"domain"`
	Method  string `xml:"discovery_method"`
	ADKIM   string `xml:"adkim,omitempty"`
	ASPF    string `xml:"aspf,omitempty"`
	P       string `xml:"p"`
	SP      string `xml:"sp,omitempty"`
	NP      string `xml:"np,omitempty"`
	FO      string `xml:"fo,omitempty"`
	Testing string `xml:"testing"`
}

type record struct {
	Source      string       `xml:"row>source_ip"`
	Count       uint64       `xml:"row>count"`
	Disposition string       `xml:"row>policy_evaluated>disposition"`
	DKIM        string       `xml:"row>policy_evaluated>dkim"`
	SPF         string       `xml:"row>policy_evaluated>spf"`
	Reason      *reason      `xml:"row>policy_evaluated>reason"`
	From        string       `xml:"identifiers>header_from"`
	Envelope    string       `xml:"identifiers>envelope_from"`
	Signatures  []dkimResult `xml:"auth_results>dkim"`
	Sender      *spfResult   `xml:"auth_results>spf"`
}

type reason struct {
	Type    string `xml:"type"`
	Comment string `xml:"comment,omitempty"`
}

type dkimResult struct {
	Domain   string `xml:"domain"`
	Selector string `xml:"selector"`
	Result   string `xml:"result"`
}

type spfResult struct {
	Domain string `xml:"domain"`
	Scope  string `xml:"scope"`
	Result string `xml:"result"`
}

// aggregateText returns the XML of a report.
func aggregateText(m *Made, p *Part) []byte {
	out := feedback{
		Version: "1.0",
		Metadata: metadata{
			Organization: m.Origin.Organization, Email: m.Origin.Contact, ID: m.id(m.Origin), Begins: m.Begins,
			Ends: m.ends(), Error: strings.Join(m.Notes, "; "), Generator: m.Origin.Generator,
		},
		Policy: published{Domain: m.Domain, Method: "treewalk", P: "none", Testing: "n"},
	}
	if r := p.Record; r != nil {
		out.Policy.ADKIM, out.Policy.ASPF, out.Policy.FO = r.ADKIM, r.ASPF, r.FO
		out.Policy.P, out.Policy.SP, out.Policy.NP = r.P, r.SP, r.NP
		if r.Testing {
			out.Policy.Testing = "y"
		}
	}
	for i := range p.Rows {
		out.Records = append(out.Records, recordOf(&p.Rows[i]))
	}
	text, _ := xml.MarshalIndent(out, "", "  ") // it has only strings and numbers
	return append(append([]byte(xml.Header), text...), '\n')
}

// recordOf returns the record of a row.
func recordOf(r *Counted) record {
	out := record{
		Source: r.Source.String(), Count: r.N, Disposition: r.Disposition,
		DKIM: aligned(r.Aligned&alignedDKIM != 0), SPF: aligned(r.Aligned&alignedSPF != 0),
		From: r.From, Envelope: r.Envelope,
	}
	if r.Override != "" {
		out.Reason = &reason{r.Override, r.Comment}
	}
	for line := range strings.SplitSeq(r.Signers, "\n") {
		if word := strings.Fields(line); len(word) == 3 {
			out.Signatures = append(out.Signatures, dkimResult{word[0], word[1], word[2]})
		}
	}
	if name, result, ok := strings.Cut(r.SPF, " "); ok {
		out.Sender = &spfResult{name, "mfrom", result}
	}
	return out
}

// aligned returns the word for whether an identifier is aligned.
func aligned(is bool) string {
	if is {
		return "pass"
	}
	return "fail"
}
