package doctor

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/domain"
)

// tlsa looks at the TLSA records of the node's name (RFC 7672). Without any, DANE is not used, and nothing is wrong.
func (m *mta) tlsa(ctx context.Context) []Finding {
	host := domain.Canonical(m.node.Hostname)
	at := "_25._tcp." + host
	f := Finding{Check: "TLSA", Name: at, State: Ready, Found: "no record"}
	records, _, err := m.LookupData(ctx, at, "TLSA")
	switch {
	case dns.NotFound(err):
		return []Finding{f}
	case err != nil:
		return []Finding{unknown("TLSA", at, "", err)}
	}
	f.Found = shownAll(records)
	set := func(fault, reason, fix string) []Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return []Finding{f}
	}
	chain := chainOf(m.certificate())
	if len(chain) > 0 {
		f.Expected = at + ". TLSA " + keyMatch(chain[0])
	}
	if zone, signed, err := m.signed(ctx, host); err == nil && zone != "" && !signed {
		return set("tlsa-unsigned", "The zone is not signed (DNSSEC), so that the record counts for nothing.",
			"Sign "+zone+" and have its DS record at the registration, or remove the record.")
	}
	usable := slices.ContainsFunc(records, func(r string) bool { return r[:1] == "2" || r[:1] == "3" })
	switch {
	case !usable:
		return set("tlsa-usage", "Of the usages only 2 and 3 count for mail (RFC 7672 section 3.1.3).",
			"Publish "+f.Expected)
	case len(chain) > 0 && !slices.ContainsFunc(records, func(r string) bool { return fits(r, chain) }):
		return set("tlsa-other", "No record fits the certificate of tls.cert: senders that obey DANE do not deliver.",
			"Publish "+f.Expected+". At the next change of the key publish the new one before it is used.")
	}
	return []Finding{f}
}

// signed returns the zone of a name, and whether it has a DS record at its registration.
func (n names) signed(ctx context.Context, name string) (zone string, is bool, err error) {
	if zone, _, err = n.apex(ctx, name); err != nil || zone == "" {
		return zone, false, err
	}
	_, _, err = n.LookupData(ctx, zone, "DS")
	if dns.NotFound(err) {
		return zone, false, nil
	}
	return zone, err == nil, err
}

// keyMatch returns the value of a TLSA record by which the key of a certificate is known, not its signer.
func keyMatch(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "3 1 1 " + hex.EncodeToString(sum[:])
}

// TLSARecord returns the record by which senders that obey DANE know the key of tls.cert (RFC 7672). The error says why
// there is to be none: it would count for nothing, or keep mail away.
func TLSARecord(ctx context.Context, c *config.Config, r *dns.Resolver) (Record, error) {
	m := &mta{names: names{r}, node: c}
	host := domain.Canonical(c.Hostname)
	chain := chainOf(m.certificate())
	if len(chain) == 0 {
		return Record{}, errors.New("tls.cert names no certificate: the one that is made at each start has another " +
			"key each time")
	}
	switch zone, signed, err := m.signed(ctx, host); {
	case err != nil:
		return Record{}, fmt.Errorf("whether the zone of %s is signed (DNSSEC) cannot be told: %w", host, err)
	case zone == "":
		return Record{}, fmt.Errorf("no name server knows a zone that %s is in", host)
	case !signed:
		return Record{}, fmt.Errorf("the zone %s is not signed (DNSSEC, it has no DS record), so that a TLSA record "+
			"counts for nothing", zone)
	}
	return Record{"_25._tcp." + host, "TLSA", keyMatch(chain[0]), "senders that obey DANE verify this key"}, nil
}

// chainOf reads the certificates of a file, the node's own first. It is empty without a file that can be read.
func chainOf(file string) (chain []*x509.Certificate) {
	text, err := os.ReadFile(file)
	for err == nil {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if c, parseErr := x509.ParseCertificate(block.Bytes); parseErr == nil {
			chain = append(chain, c)
		}
	}
	return chain
}

// fits reports whether a TLSA record is about a chain (RFC 6698 section 2.1).
func fits(record string, chain []*x509.Certificate) bool {
	fields := strings.Fields(record)
	if len(fields) < 4 {
		return false
	}
	if fields[0] == "3" {
		chain = chain[:1]
	}
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		data := c.Raw
		if fields[1] == "1" {
			data = c.RawSubjectPublicKeyInfo
		}
		sum, err := matched(fields[2], data)
		return err == nil && strings.EqualFold(strings.Join(fields[3:], ""), hex.EncodeToString(sum))
	})
}

// matched returns what a matching type makes of data.
func matched(kind string, data []byte) ([]byte, error) {
	switch kind {
	case "0":
		return data, nil
	case "1":
		sum := sha256.Sum256(data)
		return sum[:], nil
	case "2":
		sum := sha512.Sum512(data)
		return sum[:], nil
	}
	return nil, errors.New("no such matching type")
}

// certificate returns the file of the node's certificate, "" without one.
func (m *mta) certificate() string {
	if m.node.TLS == nil {
		return ""
	}
	return string(m.node.TLS.Cert)
}
