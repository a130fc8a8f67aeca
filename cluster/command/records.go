package command

import (
	"crypto"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
)

// A record is what is to stand in DNS.
type record struct {
	Name  string `json:"name"` // without the last dot
	Type  string `json:"type"`
	Value string `json:"value"` // as a zone file has it; the text of a TXT record without quotes
	For   string `json:"for"`   // why, in a few words
}

// placeholder stands where an address of the node would, and is not known.
const placeholder = "<address>"

// recordsOf returns what is to be published for a configuration and domains that its rules host. addrs are those that
// others see of the node.
func recordsOf(c *config.Config, hosted []string, addrs []netip.Addr) ([]record, error) {
	var all []record
	add := func(name, kind, value, why string) { all = append(all, record{name, kind, value, why}) }
	for _, d := range hosted {
		add(d, "MX", "10 "+c.Hostname+".", "senders find this node")
	}
	for _, a := range addrs {
		kind := "AAAA"
		if a.Is4() {
			kind = "A"
		}
		add(c.Hostname, kind, a.String(), "the MX is found")
		add(strings.TrimSuffix(dns.ReverseName(a), "."), "PTR", c.Hostname+".",
			"destinations take mail from it; set it where you rent the address")
	}
	if len(addrs) == 0 {
		add(c.Hostname, "A", placeholder, "the MX is found")
	}
	add(c.Hostname, "TXT", "v=spf1 a -all", "bounces of this node pass SPF")
	if c.SRS != nil {
		add(c.SRS.Domain, "MX", "10 "+c.Hostname+".", "bounces of what was forwarded come back")
		add(c.SRS.Domain, "TXT", "v=spf1 a:"+c.Hostname+" -all", "what is forwarded passes SPF")
	}
	keys, err := keyRecords(c)
	all = append(all, keys...)
	for _, d := range hosted {
		add("_dmarc."+d, "TXT", "v=DMARC1; p=none; rua=mailto:postmaster@"+d, "reports about it; if it has none")
		add("_smtp._tls."+d, "TXT", "v=TLSRPTv1; rua=mailto:postmaster@"+d, "reports about TLS towards this node")
	}
	return all, err
}

// keyRecords returns the records of the keys that a configuration signs with.
func keyRecords(c *config.Config) (all []record, err error) {
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
		value, err := dkim.KeyRecord(crypto.Signer(key).Public())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.KeyFile, err)
		}
		all = append(all, record{dkim.KeyName(s.Selector, s.Domain), "TXT", value, "what is signed verifies"})
	}
	return all, nil
}

// zoneValue returns the value of a record as a zone file has it.
func (r *record) zoneValue() string {
	if r.Type != "TXT" {
		return r.Value
	}
	return dkim.ZoneText(r.Value)
}

// printRecords prints records as lines of a zone file, each group below what it is for.
func printRecords(w io.Writer, records []record) {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	why := ""
	for i := range records {
		r := &records[i]
		if r.For != why {
			why = r.For
			fmt.Fprintf(table, "\n; %s\n", why)
		}
		fmt.Fprintf(table, "%s.\tIN %s\t%s\n", r.Name, r.Type, r.zoneValue())
	}
	_ = table.Flush() // fails only when the reader has gone
}
