// Package tlspolicy says what TLS a host has to show before it gets a message, and checks that it does.
//
// It owns the levels of trust in a session, their order, the policies of domains (MTA-STS, RFC 8461) and of hosts
// (DANE, RFC 7672), and the check of certificates. It refuses to know sockets, sessions, pools and how TLS is begun.
//
// Invariants: what is demanded only grows, unless the sender waives it (RFC 8689 section 5); a session serves no demand
// that it was not checked against; a check is made for each connection, also for one that resumes another; what cannot
// be looked up never lowers what is known; a record counts only if a resolver that is trusted vouches for it.
package tlspolicy

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// A Level says how far a session was checked, or has to have been.
type Level uint8

// The levels. A session of a higher one serves demands of the first two; Verified and DANE are different checks, of
// which neither stands for the other.
const (
	Opportunistic Level = iota // TLS where it is offered and works, with any certificate
	Encrypted                  // TLS, with any certificate
	Verified                   // a certificate that an authority signed for the name of the host
	DANE                       // a certificate that the TLSA records of the host name
)

// String returns the name of the level.
func (l Level) String() string {
	return [...]string{"opportunistic", "encrypted", "verified", "dane"}[l]
}

// A Trust is what a session was checked for, or has to have been. Trusts are comparable. The zero Trust is that of a
// session of which nothing is demanded.
type Trust struct {
	Level Level
	// Waived says that the session was opened for a message whose sender waives what the destination asks for, so that
	// it serves such messages alone.
	Waived bool
	// RequireTLS says that the host offers the extension of that name (RFC 8689 section 2).
	RequireTLS bool
	// Against tells apart what certificates are checked against: the authorities of Verified, the records of DANE.
	Against uint64
	// For is the one domain that the session serves, because its certificate is for that name and not for the host's;
	// "" for any. Of a demand it is the domain of the message.
	For string
}

// Serves reports whether a session that was checked for has may serve what needs need.
func (has Trust) Serves(need Trust) bool {
	switch {
	case has.Waived && !need.Waived, need.RequireTLS && !has.RequireTLS:
		return false
	case need.Level <= Encrypted:
		return has.Level >= need.Level
	}
	return has.Level == need.Level && has.Against == need.Against && (has.For == "" || has.For == need.For)
}

// Demands are what a message demands of the sessions with each host of its destination. The zero Demands are those of
// opportunistic TLS.
type Demands struct {
	Least       Level        // of each host
	Authorities *Authorities // that sign for hosts; nil: those of the system
	Policy      *Policy      // what the destination asks for; nil: nothing
	Waived      bool         // the sender waives that
	// Required says that the sender demands a host that is known for certain and a certificate that is checked (RFC
	// 8689 section 4.2.1). Written says that hosts are known because the administrator wrote them down, and Last that
	// no host behind them is to know of the demand.
	Required, Written, Last bool
}

// A Demand is what a session with one host has to show.
type Demand struct {
	Trust
	Report mail.TLSReport // whose policy it is, and what a session showed that only a test looks at
	Err    error          // why the host gets no mail, a *mail.Refusal; nil if it may get some

	host        string
	authorities *Authorities
	dane        *daneHost // nil unless the level is DANE
	tests       bool      // the certificate is checked for the Report alone
	shownFor    string    // see Trust.For
}

// ServedBy reports whether a session with the host that was checked for has may serve. None may where the host gets no
// mail, whatever it showed others.
func (d *Demand) ServedBy(has Trust) bool { return d.Err == nil && has.Serves(d.Trust) }

var errForeignHost = errors.New("the policy of MTA-STS does not name the host")

// Of returns what is demanded of a host. Its name is an address where it has none.
func (d *Demands) Of(host string) Demand {
	out := Demand{
		Trust: Trust{Level: d.Least, Waived: d.Waived, RequireTLS: d.Required && !d.Last},
		host:  host, authorities: d.Authorities,
	}
	if d.Policy != nil && !d.Waived {
		d.Policy.raise(&out)
	}
	if d.Required && out.Err == nil && out.Level < Verified {
		if d.Written || d.Policy.knows(host) {
			out.Level = Verified
		} else {
			out.Err = mail.Refuse(550, 7, 30, "Destination's hosts are not secured, as REQUIRETLS demands",
				"requiretls", fmt.Errorf("%s is the host by an insecure MX record alone", host))
		}
	}
	if out.Level == Verified {
		out.Against = d.Authorities.number()
	}
	return out
}

// raise raises a demand to what the policy asks for: first DANE, then MTA-STS.
func (p *Policy) raise(d *Demand) {
	h := p.hosts[d.host]
	if h != nil && h.err != nil {
		d.Err, d.Report = h.err, mail.TLSReport{Policy: mail.PolicyTLSA, Result: mail.TLSNoDNSSEC}
		return
	}
	if h != nil && h.level == DANE {
		d.Level, d.dane, d.Against, d.For = DANE, h, h.number, p.domain
		d.Report.Policy = mail.PolicyTLSA
		return
	}
	if h != nil && h.level == Encrypted {
		d.Level = max(d.Level, Encrypted)
		d.Report = mail.TLSReport{Policy: mail.PolicyTLSA, Result: mail.TLSARecordsInvalid}
	}
	if p.entry == nil {
		return
	}
	sts := p.entry.policy
	switch {
	case sts == nil && p.entry.result != mail.TLSWorked && d.Report.Policy == mail.NoTLSPolicy:
		d.Report = mail.TLSReport{Policy: mail.PolicySTS, Result: p.entry.result}
	case sts == nil || sts.mode == stsNone:
	case sts.mode == stsTesting:
		d.Report.Policy, d.tests = mail.PolicySTS, true
	case !sts.matches(d.host):
		d.Report = mail.TLSReport{Policy: mail.PolicySTS, Result: mail.TLSFailed}
		d.Err = mail.Refuse(451, 7, 5,
			"Destination's MTA-STS policy names none of its hosts, which is no fault of the sender", "mta-sts",
			fmt.Errorf("%s: %w", d.host, errForeignHost))
	default:
		d.Level = max(d.Level, Verified)
		d.Report = mail.TLSReport{Policy: mail.PolicySTS}
	}
}

// knows reports whether a host is the domain's for certain: by DNSSEC, or because its policy of MTA-STS names it.
func (p *Policy) knows(host string) bool {
	if p == nil {
		return false
	}
	return p.secure || p.entry != nil && p.entry.policy != nil && p.entry.policy.mode != stsNone &&
		p.entry.policy.matches(host)
}

// Highest returns the highest level that is demanded of one of the hosts. One that gets no mail counts as Verified.
func (d *Demands) Highest(hosts []mx.Host) (most Level) {
	for i := range hosts {
		demand := d.Of(hosts[i].Name)
		if demand.Err != nil {
			demand.Level = Verified
		}
		most = max(most, demand.Level)
	}
	return most
}
