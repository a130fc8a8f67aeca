package migrate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// An Egress is where mail of a cluster comes from.
type Egress struct {
	Hostname  string         `json:"hostname"`
	Generated time.Time      `json:"generated"`
	Prefixes  []netip.Prefix `json:"prefixes"` // sorted; neighbours are one
}

// NewEgress returns the list of addresses.
func NewEgress(hostname string, addrs []netip.Addr, now time.Time) Egress {
	return Egress{hostname, now.UTC().Truncate(time.Second), aggregated(addrs)}
}

// aggregated returns the least prefixes that hold these addresses and no others.
func aggregated(addrs []netip.Addr) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	for {
		slices.SortFunc(all, func(a, b netip.Prefix) int {
			if a.Addr() != b.Addr() {
				return a.Addr().Compare(b.Addr())
			}
			return a.Bits() - b.Bits()
		})
		all = slices.Compact(all)
		joined := false
		for i := 0; i+1 < len(all); i++ {
			p := netip.PrefixFrom(all[i].Addr(), max(all[i].Bits()-1, 0)).Masked()
			if all[i].Bits() == all[i+1].Bits() && all[i].Addr() != all[i+1].Addr() && p.Addr() == all[i].Addr() &&
				p.Contains(all[i+1].Addr()) {
				all[i], joined = p, true
				all = slices.Delete(all, i+1, i+2)
			}
		}
		if !joined {
			return all
		}
	}
}

// families returns the prefixes of each address family as texts.
func (e Egress) families() (v4, v6 []string) {
	for _, p := range e.Prefixes {
		if p.Addr().Is4() {
			v4 = append(v4, p.String())
		} else {
			v6 = append(v6, p.String())
		}
	}
	return v4, v6
}

// In returns the list in a format: text, json, postfix, nftables or spf, and "" for text. It reports whether there is
// such a format.
func (e Egress) In(format string) (text string, ok bool) {
	switch format {
	case "", "text":
		return e.Text(), true
	case "json":
		object, err := json.MarshalIndent(e, "", "  ")
		return string(object) + "\n", err == nil
	case "postfix":
		return e.Postfix(), true
	case "nftables":
		return e.NFTables(), true
	case "spf":
		return e.SPF(), true
	}
	return "", false
}

// Text returns a line for each prefix.
func (e Egress) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Mail of %s comes from these; %s.\n", e.Hostname, e.Generated.Format(time.RFC3339))
	for _, p := range e.Prefixes {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// Postfix returns a table for check_client_access, which lets these connect and does not let them relay.
func (e Egress) Postfix() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Mail of %s comes from these; %s. In main.cf, with nobody of them in mynetworks:\n",
		e.Hostname, e.Generated.Format(time.RFC3339))
	b.WriteString("#   smtpd_client_restrictions = permit_mynetworks, check_client_access " +
		"cidr:/etc/postfix/millrace.cidr, " +
		"reject\n#   smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n")
	for _, p := range e.Prefixes {
		fmt.Fprintf(&b, "%-20s OK\n", p)
	}
	return b.String()
}

// NFTables returns rules that let these alone connect to the port of SMTP.
func (e Egress) NFTables() string {
	v4, v6 := e.families()
	var b strings.Builder
	fmt.Fprintf(&b, "# Port 25 is for mail of %s alone; %s.\ntable inet millrace\ndelete table inet millrace\n"+
		"table inet millrace {\n", e.Hostname, e.Generated.Format(time.RFC3339))
	sets := []struct {
		name, kind, field string
		elements          []string
	}{{"egress4", "ipv4_addr", "ip", v4}, {"egress6", "ipv6_addr", "ip6", v6}}
	for _, s := range sets {
		if len(s.elements) > 0 {
			fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n\t\telements = { %s }\n\t}\n", s.name, s.kind,
				strings.Join(s.elements, ", "))
		}
	}
	b.WriteString("\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t\tiifname \"lo\" " +
		"accept\n")
	for _, s := range sets {
		if len(s.elements) > 0 {
			fmt.Fprintf(&b, "\t\ttcp dport 25 %s saddr @%s accept\n", s.field, s.name)
		}
	}
	b.WriteString("\t\ttcp dport 25 drop\n\t}\n}\n")
	return b.String()
}

// SPF returns the record of a name that mail of these is sent by.
func (e Egress) SPF() string {
	var b strings.Builder
	b.WriteString("v=spf1")
	for _, p := range e.Prefixes {
		kind := " ip4:"
		if p.Addr().Is6() {
			kind = " ip6:"
		}
		text := p.String()
		if p.IsSingleIP() {
			text = p.Addr().String()
		}
		b.WriteString(kind + text)
	}
	return b.String() + " -all\n"
}
