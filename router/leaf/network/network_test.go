package network

import (
	"net/netip"
	"testing"
)

func TestOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.77":         "192.0.2.0/24",
		"::ffff:192.0.2.77":  "192.0.2.0/24",
		"2001:db8:1:2:3::4":  "2001:db8:1:2::/64",
		"fe80::1%eth0":       "fe80::/64",
		"255.255.255.255":    "255.255.255.0/24",
		"2001:db8::ffff:1:2": "2001:db8::/64",
	} {
		if got := Of(netip.MustParseAddr(in)); got != netip.MustParsePrefix(want) {
			t.Errorf("Of(%s) = %s, want %s", in, got, want)
		}
	}
	if got := Of(netip.Addr{}); got.IsValid() {
		t.Errorf("Of the zero Addr is %s", got)
	}
}

func TestHost(t *testing.T) {
	for _, in := range []string{"192.0.2.77", "2001:db8::1"} {
		a := netip.MustParseAddr(in)
		if p := Host(a); !p.IsSingleIP() || p.Addr() != a {
			t.Errorf("Host(%s) = %s", in, p)
		}
	}
}
