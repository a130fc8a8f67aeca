package doctor

import (
	"crypto/rsa"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/domain"
)

// A Record is what is to stand in DNS.
type Record struct {
	Name  string `json:"name"` // without the last dot
	Type  string `json:"type"`
	Value string `json:"value"` // as a zone file has it; the text of a TXT record without quotes
	For   string `json:"for"`   // why, in a few words
}

// placeholder stands where an address of the node would, and is not known.
const placeholder = "<address>"

// IsPlaceholder reports whether a part of the record is not known.
func (r *Record) IsPlaceholder() bool { return r.Value == placeholder }

// ZoneValue returns the value of a record as a zone file has it.
func (r *Record) ZoneValue() string {
	if r.Type != "TXT" {
		return r.Value
	}
	return dkim.ZoneText(r.Value)
}

// Records returns what is to be published for a configuration and domains that its rules host. addrs are those that
// others see of the node.
func Records(c *config.Config, hosted []string, addrs []netip.Addr) ([]Record, error) {
	var all []Record
	add := func(name, kind, value, why string) { all = append(all, Record{name, kind, value, why}) }
	for _, d := range hosted {
		add(d, "MX", "10 "+c.Hostname+".", "senders find this node")
	}
	reverse := func(a netip.Addr, name string) {
		add(strings.TrimSuffix(dns.ReverseName(a), "."), "PTR", name+".",
			"destinations take mail from it; set it where you rent the address")
	}
	senders := "a:" + c.Hostname // as SPF has them
	named := make(map[netip.Addr]bool)
	for _, s := range c.Egress.Source {
		if a := s.Addr.Unmap(); s.Helo != "" && s.Helo != c.Hostname && !isLiteral(s.Helo) {
			named[a] = true
			add(s.Helo, addressType(a), a.String(), "it is said in EHLO from this address")
			reverse(a, s.Helo)
			add(s.Helo, "TXT", "v=spf1 a -all", "bounces from it pass SPF")
			senders += " a:" + s.Helo
		}
	}
	// The hostname has addresses of its own, or else those that other names are said from.
	alone := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !named[a] })
	for _, a := range addrs {
		if !named[a] || !alone {
			add(c.Hostname, addressType(a), a.String(), "the MX is found")
		}
		if !named[a] {
			reverse(a, c.Hostname)
		}
	}
	if len(addrs) == 0 {
		add(c.Hostname, "A", placeholder, "the MX is found")
	}
	add(c.Hostname, "TXT", "v=spf1 a -all", "bounces of this node pass SPF")
	if c.SRS != nil {
		add(c.SRS.Domain, "MX", "10 "+c.Hostname+".", "bounces of what was forwarded come back")
		add(c.SRS.Domain, "TXT", "v=spf1 "+senders+" -all", "what is forwarded passes SPF")
	}
	keys, err := Keys(c)
	for _, k := range keys {
		add(k.name(), "TXT", k.Record, "what is signed verifies")
	}
	for _, d := range hosted {
		add("_dmarc."+d, "TXT", dmarcRecord(d), "reports about it; if it has none")
		add("_smtp._tls."+d, "TXT", reportsRecord(d), "reports about TLS towards this node")
		if p, ok := PolicyOf(c, d); ok {
			add("mta-sts."+d, "CNAME", publicHost(c)+".", "senders fetch the policy of MTA-STS, at port 443")
			add("_mta-sts."+d, "TXT", p.Record(), "senders know of the policy")
		}
	}
	return all, err
}

// publicHost returns the host of the public pages.
func publicHost(c *config.Config) string {
	u, err := url.Parse(c.Public.URL)
	if err != nil {
		return c.Hostname
	}
	return domain.Canonical(u.Hostname())
}

// addressType returns the type of the record of an address.
func addressType(a netip.Addr) string {
	if a.Is4() {
		return "A"
	}
	return "AAAA"
}

// dmarcRecord is the policy that a domain begins with.
func dmarcRecord(d string) string { return "v=DMARC1; p=none; rua=mailto:postmaster@" + d }

// reportsRecord asks for reports about TLS.
func reportsRecord(d string) string { return "v=TLSRPTv1; rua=mailto:postmaster@" + d }

// A Key is a key that signs.
type Key struct {
	Domain, Selector string
	Record           string // that publishes it; "" for a key that is not ours
	Bits             int    // of an RSA key
}

func (k *Key) name() string { return dkim.KeyName(k.Selector, k.Domain) }

// Keys returns the keys that a configuration signs with.
func Keys(c *config.Config) (keys []Key, err error) {
	var signers []config.Signer
	if c.ARC != nil && c.ARC.Domain != "" {
		signers = append(signers, config.Signer{Domain: c.ARC.Domain, Selector: c.ARC.Selector, KeyFile: c.ARC.KeyFile})
	}
	if c.DKIM != nil {
		signers = append(append(signers, c.DKIM.Relay...), c.DKIM.Domains...)
	}
	for _, s := range signers {
		text, err := os.ReadFile(string(s.KeyFile))
		if err != nil {
			return nil, err
		}
		key, err := dkim.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.KeyFile, err)
		}
		value, err := dkim.KeyRecord(key.Public())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.KeyFile, err)
		}
		k := Key{Domain: domain.Canonical(s.Domain), Selector: s.Selector, Record: value}
		if public, ok := key.Public().(*rsa.PublicKey); ok {
			k.Bits = public.N.BitLen()
		}
		keys = append(keys, k)
	}
	return keys, nil
}
