package dnsbl

import (
	"net/netip"
	"strings"
	"testing"
)

// TestAddressName: the name of an address is reversed.
func TestAddressName(t *testing.T) {
	for _, tt := range []struct{ name, addr, want string }{
		{"octets of IPv4", "192.0.2.99", "99.2.0.192.zen.example"},
		{"octets of any length", "1.20.255.0", "0.255.20.1.zen.example"},
		{
			"nibbles of IPv6", "2001:db8:1:2:3:4:567:89ab",
			"b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.zen.example",
		},
		{
			"an IPv4-mapped address, as in the test entries", "::ffff:7f00:2",
			"2.0.0.0.0.0.f.7.f.f.f.f." + strings.Repeat("0.", 20) + "zen.example",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := addressName(netip.MustParseAddr(tt.addr), "zen.example"); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestAskable: lists are asked about domains only.
func TestAskable(t *testing.T) {
	for _, tt := range []struct {
		name, domain, want string
	}{
		{"a domain", "spam.example", "spam.example"},
		{"in any case, with its last dot", "Spam.EXAMPLE.", "spam.example"},
		{"an A-label", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"a U-label is for the caller to convert", "bücher.example", ""},
		{"one label", "localhost", ""},
		{"nothing", "", ""},
		{"the root", ".", ""},
		{"an empty label", "a..example", ""},
		{"a leading dot", ".example", ""},
		{"an address", "192.0.2.1", ""},
		{"an address literal", "[192.0.2.1]", ""},
		{"a blank", "a b.example", ""},
		{"a label that is too long", strings.Repeat("a", 64) + ".example", ""},
		{"a name that is too long", strings.Repeat("a.", 130) + "example", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := askable(tt.domain)
			if ok != (tt.want != "") || ok && got != tt.want {
				t.Errorf("got %q, %v, want %q", got, ok, tt.want)
			}
		})
	}
}

// TestSet_Zones: lists are not asked about addresses that no public list knows.
func TestSet_Zones(t *testing.T) {
	w := begin(t, "", Config{Lists: []List{{Zone: "zen.example", Weight: 1}}})
	open := begin(t, "", Config{Lists: []List{{Zone: "zen.example", Weight: 1}}, Private: true})
	for _, tt := range []struct {
		addr string
		want bool
	}{
		{"203.0.113.9", true}, {"::ffff:203.0.113.9", true}, {"2001:db8::1", true}, {"100.63.255.255", true},
		{"100.128.0.0", true},
		{"127.0.0.1", false}, {"::ffff:127.0.0.1", false}, {"10.1.2.3", false}, {"192.168.0.1", false},
		{"172.16.0.1", false}, {"100.64.0.1", false},
		{"169.254.1.1", false}, {"0.0.0.0", false}, {"224.0.0.1", false}, {"255.255.255.255", false}, {"::1", false},
		{"fe80::1%eth0", false}, {"fd00::1", false}, {"ff02::1", false},
	} {
		t.Run(tt.addr, func(t *testing.T) {
			addr := netip.MustParseAddr(tt.addr)
			if got := len(w.Zones(addr)) == 1; got != tt.want {
				t.Errorf("asked: %v, want %v", got, tt.want)
			}
			if len(open.Zones(addr)) != 1 {
				t.Error("not asked although Private is set")
			}
		})
	}
	if w.Zones(netip.Addr{}) != nil || open.Zones(netip.Addr{}) != nil {
		t.Error("asked about no address")
	}
}
