package tlspolicy

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
)

// TestParseTLSA: what DANE for SMTP does not use is left out.
func TestParseTLSA(t *testing.T) {
	sum256, sum512 := strings.Repeat("ab", 32), strings.Repeat("cd", 64)
	for text, ok := range map[string]bool{
		"3 1 1 " + sum256: true, "3 1 2 " + sum512: true, "2 0 1 " + sum256: true, "3 0 0 3082": true,
		"3 1 1 " + sum256[:30] + " " + sum256[30:]: true, "3 1 1 " + strings.ToUpper(sum256): true,
		"0 1 1 " + sum256: false, "1 1 1 " + sum256: false, "4 1 1 " + sum256: false, "3 2 1 " + sum256: false,
		"3 1 3 " + sum256: false, "3 1 1 " + sum512: false, "3 1 2 " + sum256: false, "3 0 0": false, "3 1 1 zz": false,
		"": false, "3 1": false, "256 1 1 " + sum256: false, "-1 1 1 " + sum256: false,
	} {
		if _, got := parseTLSA(text); got != ok {
			t.Errorf("%q: got %t", text, got)
		}
	}
}

// TestUsable_Digests: of two digests of the same thing the stronger one counts.
func TestUsable_Digests(t *testing.T) {
	sum256, sum512 := strings.Repeat("ab", 32), strings.Repeat("cd", 64)
	got := usable([]string{"3 1 1 " + sum256, "3 1 2 " + sum512, "2 0 1 " + sum256, "0 0 1 " + sum256})
	if len(got) != 2 || got[0].matching != bySHA512 || got[1].usage != usageTA {
		t.Errorf("got %+v", got)
	}
}

// record returns a TLSA record of a certificate of a chain.
func record(c tls.Certificate, at int, usage, selector, matching uint8) string {
	one := state(c).PeerCertificates[at]
	of := one.Raw
	if selector == ofKey {
		of = one.RawSubjectPublicKeyInfo
	}
	switch matching {
	case bySHA256:
		sum := sha256.Sum256(of)
		of = sum[:]
	case bySHA512:
		sum := sha512.Sum512(of)
		of = sum[:]
	}
	return fmt.Sprintf("%d %d %d %s", usage, selector, matching, hex.EncodeToString(of))
}

// TestDaneHost_Check: usage 3 names the certificate whatever it says; usage 2 an authority of it, which has to be valid
// for the host, or for the domain.
func TestDaneHost_Check(t *testing.T) {
	ca, other := smtptest.NewCA(), smtptest.NewCA()
	own, foreign := ca.Certificate("mx.one.test", "shared.test"), other.Certificate("mx.one.test")
	leafAlone := tls.Certificate{Certificate: own.Certificate[:1]}
	names := []string{"mx.one.test", "one.test"}
	now := time.Now()
	var each []string
	for _, usage := range []uint8{usageTA, usageEE} {
		for _, selector := range []uint8{ofCertificate, ofKey} {
			for _, matching := range []uint8{exactly, bySHA256, bySHA512} {
				at := 0
				if usage == usageTA {
					at = 1
				}
				each = append(each, record(own, at, usage, selector, matching))
			}
		}
	}
	for _, c := range []struct {
		name    string
		records []string
		shown   tls.Certificate
		names   []string
		at      time.Time
		other   string
		ok      bool
	}{
		{"the certificate itself, of another name", []string{each[6]}, own, []string{"mx.two.test"}, now, "", true},
		{"the certificate itself, at its end", []string{each[6]}, own, names, now.Add(99 * time.Hour), "", true},
		{"another certificate", []string{record(foreign, 0, usageEE, ofKey, bySHA256)}, own, names, now, "", false},
		{"the authority", []string{each[1]}, own, names, now, "", true},
		{"the authority, for another name", []string{each[1]}, own, []string{"mx.two.test"}, now, "", false},
		{"the authority, for the domain", []string{each[1]}, own, []string{"mx.two.test", "shared.test"}, now,
			"shared.test", true},
		{"the authority, at its end", []string{each[1]}, own, names, now.Add(99 * time.Hour), "", false},
		{"the authority, which is not shown", []string{each[1]}, leafAlone, names, now, "", false},
		{"the authority, which the record holds", []string{each[0]}, leafAlone, names, now, "", true},
		{"another authority", []string{record(foreign, 1, usageTA, ofCertificate, bySHA256)}, own, names, now, "",
			false},
		{"an old record and the new one", []string{record(foreign, 0, usageEE, ofKey, bySHA256), each[10]}, own, names,
			now, "", true},
		{"nothing is shown", each, tls.Certificate{}, names, now, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := daneHost{records: usable(c.records)}
			other, err := h.check(state(c.shown).PeerCertificates, c.names, c.at)
			if (err == nil) != c.ok || other != c.other {
				t.Errorf("got %q, %v", other, err)
			}
		})
	}
	for _, text := range each {
		h := daneHost{records: usable([]string{text})}
		if _, err := h.check(state(own).PeerCertificates, names, now); err != nil || len(h.records) != 1 {
			t.Errorf("%.12s: %v", text, err)
		}
	}
	if slices.Contains(each, "") {
		t.Error("a record is empty")
	}
}

// TestDaneHost_CheckOfMany: a host that shows many authorities, all of which its records name, does not have chains
// looked for from each of them.
func TestDaneHost_CheckOfMany(t *testing.T) {
	shown := smtptest.NewCA().Certificate("mx.one.test")
	shown.Certificate = shown.Certificate[:1]
	var records []string
	for at := 1; at <= 40; at++ {
		shown.Certificate = append(shown.Certificate, smtptest.NewCA().Certificate("mx.one.test").Certificate[1])
		records = append(records, record(shown, at, usageTA, ofCertificate, bySHA256))
	}
	chain := state(shown).PeerCertificates
	cost := func(records []string) float64 {
		h := daneHost{records: usable(records)}
		return testing.AllocsPerRun(1, func() {
			if _, err := h.check(chain, []string{"mx.one.test", "one.test"}, time.Now()); err == nil {
				t.Error("none of them signed it")
			}
		})
	}
	if one, all := cost(records[:1]), cost(records); all > 5*one {
		t.Errorf("%v allocations where one is named, %v where all are", one, all)
	}
}

// FuzzParseTLSA: no record breaks the reader, and what it takes can be compared.
func FuzzParseTLSA(f *testing.F) {
	f.Add("3 1 1 " + strings.Repeat("ab", 32))
	f.Add("2 0 0 3082")
	shown := state(smtptest.NewCA().Certificate("mx.one.test")).PeerCertificates
	f.Fuzz(func(t *testing.T, text string) {
		h := daneHost{records: usable([]string{text})}
		if _, err := h.check(shown, []string{"mx.one.test"}, time.Now()); err == nil && len(h.records) == 0 {
			t.Error("nothing named it")
		}
	})
}
