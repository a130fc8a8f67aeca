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
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/network"
)

// apex returns the zone that a name lies in and its name servers. Without an error and a name it cannot be told.
func (d *Doctor) apex(ctx context.Context, name string) (zone string, servers []string, err error) {
	for zone = name; strings.Contains(zone, "."); _, zone, _ = strings.Cut(zone, ".") {
		found, _, err := d.LookupData(ctx, zone, "NS")
		switch {
		case dns.NotFound(err):
			continue
		case err != nil:
			return zone, nil, err
		}
		for _, host := range found {
			servers = append(servers, domain.Canonical(host))
		}
		return zone, servers, nil
	}
	return "", nil, nil
}

// servers looks at the name servers of a domain's zone, and at DNSSEC.
func (d *Doctor) servers(ctx context.Context, name string) (all []Finding) {
	zone, servers, err := d.apex(ctx, name)
	f := Finding{Check: "NS", Name: zone, State: Ready, Found: shownAll(servers)}
	switch {
	case err != nil:
		u := unknown("NS", zone, "", err)
		u.Reason = "The name servers of the zone fail: they are not set up for it (a lame delegation), or its " +
			"signatures are " +
			"wrong. Mail to the domain waits or comes back."
		u.Fix = "See that each name server of the delegation serves " + zone + " and that its DS records fit its keys."
		return []Finding{u}
	case zone == "":
		return nil
	}
	for _, host := range servers[:min(len(servers), 8)] {
		if bad := d.server(ctx, &f, zone, host); bad != nil {
			all = append(all, *bad)
		}
	}
	if len(all) == 0 {
		if len(servers) == 1 {
			f.Fix = "Have a second name server: while this one is away, no mail comes."
		}
		all = append(all, f)
	}
	return append(all, d.dnssec(ctx, zone))
}

// server looks at one name server. What cannot be reached from here is noted and no fault.
func (d *Doctor) server(ctx context.Context, f *Finding, zone, host string) *Finding {
	bad := Finding{Check: "NS", Name: zone, State: Misconfigured, Found: f.Found}
	addrs, alias, err := d.addrs(ctx, host)
	switch {
	case err != nil:
		f.Steps = append(f.Steps, shown(host)+": not known")
		return nil
	case alias != "":
		bad.Fault = "ns-alias"
		bad.Reason = shown(host) + " is an alias (CNAME), which a name server must not be (RFC 2181 section 10.3)."
		bad.Fix = "Delegate to the name itself: " + shown(alias)
		return &bad
	case len(addrs) == 0:
		bad.Fault = "ns-dead"
		bad.Reason = shown(host) + " has no address: the delegation leads nowhere."
		bad.Fix = "Remove " + shown(host) + " from the name servers of " + zone + ", or publish its address."
		return &bad
	}
	port := "53"
	if d.cfg.NamePort != 0 {
		port = strconv.Itoa(int(d.cfg.NamePort))
	}
	for _, a := range addrs[:min(len(addrs), 2)] {
		if !network.IsPublic(a) && !d.node.Egress.AllowPrivate {
			continue
		}
		answer, err := dns.Primary{Addr: net.JoinHostPort(a.String(), port)}.Ask(ctx, zone, "SOA")
		switch {
		case err != nil:
			f.Steps = append(f.Steps, fmt.Sprintf("%s (%s): does not answer here", shown(host), a))
			continue
		case answer.Rcode == "NOERROR" && answer.Authoritative:
			continue
		}
		bad.Fault, bad.Found = "ns-lame", fmt.Sprintf("%s (%s): %s, authoritative: %t", shown(host), a, answer.Rcode,
			answer.Authoritative)
		bad.Reason = shown(host) + " is a name server of " + zone + " by its delegation, and does not serve it: each " +
			"question that reaches it is lost."
		bad.Fix = "Set up " + zone + " at " + shown(host) + ", or remove it from the name servers of the zone and " +
			"of its " +
			"registration."
		return &bad
	}
	return nil
}

// dnssec looks at whether a zone is signed as its delegation says.
func (d *Doctor) dnssec(ctx context.Context, zone string) Finding {
	f := Finding{Check: "DNSSEC", Name: zone, State: Ready, Found: "not signed"}
	ds, _, errDS := d.LookupData(ctx, zone, "DS")
	keys, _, errKeys := d.LookupData(ctx, zone, "DNSKEY")
	for _, err := range []error{errDS, errKeys} {
		if err != nil && !dns.NotFound(err) {
			f.Found = "not known: " + shown(err.Error()) // where mail needs the answer, others say so
			return f
		}
	}
	set := func(fault, reason, fix string) Finding {
		f.State, f.Fault, f.Reason, f.Fix = Misconfigured, fault, reason, fix
		return f
	}
	remove := "Remove the DS record at the registration of " + zone + ", or "
	switch {
	case len(ds) > 0 && len(keys) == 0:
		f.Found = "DS without DNSKEY"
		return set("dnssec-unsigned", "The delegation says that the zone is signed, and it is not: resolvers that "+
			"validate "+
			"answer SERVFAIL, and mail does not come.", remove+"sign the zone.")
	case len(ds) > 0 && !dns.Delegated(zone, ds, keys):
		f.Found = "DS for another key"
		return set("dnssec-ds", "No DS record fits a key of the zone: resolvers that validate answer SERVFAIL, and "+
			"mail does "+
			"not come.", remove+"replace it by that of the key in use.")
	case len(ds) > 0:
		f.Found = "signed"
	case len(keys) > 0:
		f.Found = "signed, without DS"
		f.Fix = "The signatures count for nothing until the DS record stands at the registration of " + zone + "."
	}
	return f
}

// tlsa looks at the TLSA records of the node's name (RFC 7672). Without any, DANE is not used, and nothing is wrong.
func (d *Doctor) tlsa(ctx context.Context) []Finding {
	host := domain.Canonical(d.node.Hostname)
	at := "_25._tcp." + host
	f := Finding{Check: "TLSA", Name: at, State: Ready, Found: "no record"}
	records, _, err := d.LookupData(ctx, at, "TLSA")
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
	chain := chainOf(d.certificate())
	if len(chain) > 0 {
		sum := sha256.Sum256(chain[0].RawSubjectPublicKeyInfo)
		f.Expected = at + ". TLSA 3 1 1 " + hex.EncodeToString(sum[:])
	}
	zone, _, err := d.apex(ctx, host)
	if err == nil && zone != "" {
		if _, _, err := d.LookupData(ctx, zone, "DS"); dns.NotFound(err) {
			return set("tlsa-unsigned", "The zone is not signed (DNSSEC), so that the record counts for nothing.",
				"Sign "+zone+" and have its DS record at the registration, or remove the record.")
		}
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
func (d *Doctor) certificate() string {
	if d.node.TLS == nil {
		return ""
	}
	return string(d.node.TLS.Cert)
}
