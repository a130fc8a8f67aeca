// Package tlspolicy says what TLS a host has to show before it gets a message, and checks that it does.
//
// It owns the levels of trust in a session, their order and the check of certificates. It refuses to know sockets,
// sessions, pools and how TLS is begun.
//
// Invariants: what is demanded only grows, unless the sender waives it; a session serves no demand that it was not
// checked against; a check is made for each connection, also for one that resumes another.
package tlspolicy

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
	// Against tells apart what certificates are checked against: the authorities of Verified, the records of DANE.
	Against uint64
}

// Serves reports whether a session that was checked for has may serve what needs need.
func (has Trust) Serves(need Trust) bool {
	if need.Level <= Encrypted {
		return has.Level >= need.Level
	}
	return has == need
}

// Demands are what a message demands of the sessions with each host of its destination. The zero Demands are those of
// opportunistic TLS.
type Demands struct {
	Least       Level        // of each host
	Authorities *Authorities // that sign for hosts; nil: those of the system
}

// A Demand is what a session with one host has to show.
type Demand struct {
	Trust
	authorities *Authorities
	host        string
}

// Of returns what is demanded of a host. Its name is an address where it has none.
func (d *Demands) Of(host string) Demand {
	out := Demand{Trust: Trust{Level: d.Least}, authorities: d.Authorities, host: host}
	if out.Level == Verified {
		out.Against = d.Authorities.number()
	}
	return out
}
