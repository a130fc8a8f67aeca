package tlspolicy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/egress/smtptest"
)

// state is a handshake in which a certificate was shown.
func state(c tls.Certificate) tls.ConnectionState {
	var s tls.ConnectionState
	for _, der := range c.Certificate {
		one, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		s.PeerCertificates = append(s.PeerCertificates, one)
	}
	return s
}

// TestDemand_CheckVerified: where a certificate is demanded, it is valid now, for the host, by an authority that
// counts.
func TestDemand_CheckVerified(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	now := time.Now()
	shown := state(ca.Certificate("mx.one.test", "*.wild.test"))
	ours := &Authorities{Pool: ca.Pool(), Number: 1}
	for _, c := range []struct {
		name  string
		host  string
		of    *Authorities
		shown tls.ConnectionState
		at    time.Time
		valid bool
	}{
		{"it is valid", "mx.one.test", ours, shown, now, true},
		{"it is valid for the name with a last dot", "mx.one.test.", ours, shown, now, true},
		{"it is valid by a wildcard", "mx.wild.test", ours, shown, now, true},
		{"it is for another name", "mx.two.test", ours, shown, now, false},
		{"a wildcard stands for one label", "a.mx.wild.test", ours, shown, now, false},
		{"it has ended", "mx.one.test", ours, shown, now.Add(48 * time.Hour), false},
		{"it has not begun", "mx.one.test", ours, shown, now.Add(-48 * time.Hour), false},
		{"another authority signed it", "mx.one.test", &Authorities{Pool: other.Pool()}, shown, now, false},
		{"no authority of the system signed it", "mx.one.test", nil, shown, now, false},
		{"none is shown", "mx.one.test", ours, tls.ConnectionState{}, now, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			demand := (&Demands{Least: Verified, Authorities: c.of}).Of(c.host)
			err := demand.Check(c.shown, c.at)
			var wrong *tls.CertificateVerificationError
			if (err == nil) != c.valid || err != nil && !errors.As(err, &wrong) {
				t.Errorf("got %v", err)
			}
			free := (&Demands{Authorities: c.of}).Of(c.host)
			if err := free.Check(c.shown, c.at); err != nil {
				t.Errorf("nothing is demanded, and yet: %v", err)
			}
		})
	}
}

// trusts draws a Trust.
func trusts() *rapid.Generator[Trust] {
	return rapid.Custom(func(t *rapid.T) Trust {
		return Trust{
			Level:  Level(rapid.IntRange(0, int(DANE)).Draw(t, "level")),
			Waived: rapid.Bool().Draw(t, "waived"), RequireTLS: rapid.Bool().Draw(t, "require tls"),
			Against: rapid.Uint64Range(0, 2).Draw(t, "against"),
			For:     rapid.SampledFrom([]string{"", "one.test", "two.test"}).Draw(t, "for"),
		}
	})
}

// TestTrust_Serves: a session serves what it was checked for and what demands nothing, and never a higher level,
// another check or the same one against something else.
func TestTrust_Serves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		has, need := trusts().Draw(t, "has"), trusts().Draw(t, "need")
		serves := has.Serves(need)
		switch {
		case has == need && !serves:
			t.Fatal("it does not serve what it was checked for")
		case need == (Trust{}) && serves == has.Waived:
			t.Fatal("what demands nothing is served by all but what was opened for a waiver")
		case serves && (has.Level < need.Level || has.Waived && !need.Waived || need.RequireTLS && !has.RequireTLS):
			t.Fatal("it serves more than it was checked for")
		case serves && need.Level >= Verified && (has.Level != need.Level || has.Against != need.Against ||
			has.For != "" && has.For != need.For):
			t.Fatal("it serves what needs another check")
		}
	})
}
