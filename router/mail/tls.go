package mail

import "net/netip"

// A TLSPolicy says whose policy decided what TLS a host had to show (RFC 8460 section 4.2).
type TLSPolicy uint8

// The policies.
const (
	NoTLSPolicy TLSPolicy = iota
	PolicySTS             // MTA-STS (RFC 8461)
	PolicyTLSA            // DANE (RFC 7672)
)

// String returns the policy-type of RFC 8460.
func (p TLSPolicy) String() string {
	return [...]string{"no-policy-found", "sts", "tlsa"}[min(p, PolicyTLSA)]
}

// A TLSResult is why a session did not come about as a policy demands, or would not have (RFC 8460 section 4.3).
type TLSResult uint8

// The results. The zero value is success.
const (
	TLSWorked TLSResult = iota
	TLSNotOffered
	TLSHostMismatch
	TLSExpired
	TLSNotTrusted
	TLSFailed // in any other way
	TLSARecordsInvalid
	TLSNoDNSSEC
	TLSNoPolicy // it could not be fetched
	TLSPolicyInvalid
	TLSWebPKIInvalid // the certificate of the host that has the policy
)

// String returns the result-type of RFC 8460, "" for success.
func (r TLSResult) String() string {
	return [...]string{
		"", "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
		"validation-failure", "tlsa-invalid", "dnssec-invalid", "sts-policy-fetch-error", "sts-policy-invalid",
		"sts-webpki-invalid",
	}[min(r, TLSWebPKIInvalid)]
}

// A TLSReport is what a report says of one session (RFC 8460): whose policy decided, and what came of it.
type TLSReport struct {
	Policy TLSPolicy
	Result TLSResult
}

// A TLSSession is a session with an MX host of a domain that was opened, or did not come about, as a report tells it.
type TLSSession struct {
	Domain       string // of the recipient that it was opened for
	Host         string
	Addr, Source netip.Addr // of the host, and ours; zero if they are not known
	Terms        string     // the text of the policy of MTA-STS, "" without one
	TLSReport
}

// A TLSDemand is what a Delivery says of TLS besides Params.RequireTLS. It is for the relay and its peers.
type TLSDemand struct {
	// Waived says that the sender waives what the policies of the destination ask for.
	Waived bool
	// Least is the highest level that another node demands of a host of the destination. A node that demands less does
	// not know what that one knows, and leaves the message to it.
	Least uint8
}
