package mail

import "strings"

// An Auth is what the authentication of a message came to. It is not changed once an Event has it.
type Auth struct {
	// SPF, DKIM, DMARC and ARC are results in the words of RFC 8601, and "temperror" for ARC besides; "" for what was
	// not checked; "unevaluated" for what would have taken more questions to the DNS than the transaction may ask. SPF
	// is that of the reverse-path; DKIM that of the best signature, "policy" where it was not compared with the body.
	SPF, DKIM, DMARC, ARC string
	// Policy is that of the author's domain (DMARC): none, quarantine, reject; "" without a record.
	Policy string
	// Overrides are why a message that DMARC would refuse is delivered: "allow list", "known good", "list" or "trusted
	// ARC sealer". Each of them is enough.
	Overrides []string
	// Unauthenticated says that require_auth (report or yes) was not met.
	Unauthenticated bool
	// Signers are the domains of the DKIM signatures that were looked at, in the order in which they stand. Unverified
	// is how many more there are.
	Signers    []Signer
	Unverified int
	// Report is what a report to the author's domain says of the message (RFC 9990); nil unless this node makes
	// reports and the domain asks for them.
	Report *Evaluation
}

// A Signer is the domain of a DKIM signature (d=), "" if it could not be read, its result, and its selector.
type Signer struct{ Domain, Result, Selector string }

// An Evaluation is the evaluation by DMARC of one message as a report tells it. Domains are in lower case and as
// A-labels.
type Evaluation struct {
	Domain    string       // of the policy record
	Policy    *DMARCPolicy // not changed
	Author    string       // domain
	SPF, DKIM bool         // an identifier of the mechanism passed and is aligned
	Asked     string       // what the domain asks for: none, quarantine or reject
}

// A DMARCPolicy is a policy record as a report repeats it: the values of its tags, "" for those that it has not.
type DMARCPolicy struct {
	P       string `json:"p"`
	SP      string `json:"sp,omitempty"`
	NP      string `json:"np,omitempty"`
	ADKIM   string `json:"adkim,omitempty"`
	ASPF    string `json:"aspf,omitempty"`
	FO      string `json:"fo,omitempty"`
	Testing bool   `json:"testing,omitempty"`
	RUA     string `json:"rua"` // where reports go
}

// String returns the results, such as "spf=pass dkim=pass dmarc=fail arc=none (allow list)", and "" for a nil Auth.
func (a *Auth) String() string {
	if a == nil {
		return ""
	}
	var buf [128]byte
	b := buf[:0]
	for _, part := range [...]struct{ name, result string }{
		{"spf=", a.SPF}, {"dkim=", a.DKIM}, {"dmarc=", a.DMARC}, {"arc=", a.ARC},
	} {
		if part.result == "" {
			continue
		}
		if len(b) > 0 {
			b = append(b, ' ')
		}
		b = append(append(b, part.name...), part.result...)
	}
	if len(a.Overrides) > 0 {
		b = append(append(append(b, " ("...), strings.Join(a.Overrides, ", ")...), ')')
	}
	if a.Unauthenticated {
		b = append(b, " unauthenticated"...)
	}
	return string(b)
}
