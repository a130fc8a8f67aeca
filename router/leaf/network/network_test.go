package network

import (
	"fmt"
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

func TestNested(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.77":           "[192.0.2.77/32 192.0.2.0/24]",
		"::ffff:192.0.2.77":    "[192.0.2.77/32 192.0.2.0/24]",
		"2001:db8:1:2345::6:7": "[2001:db8:1:2345::/64 2001:db8:1:2300::/56 2001:db8:1::/48]",
		"fe80::1%eth0":         "[fe80::/64 fe80::/56 fe80::/48]",
	} {
		addr := netip.MustParseAddr(in)
		got := Nested(addr)
		if fmt.Sprint(got) != want {
			t.Errorf("Nested(%s) = %s, want %s", in, got, want)
		}
		if p := Widest(addr); p != got[len(got)-1] {
			t.Errorf("Widest(%s) = %s", in, p)
		}
	}
	if got := Nested(netip.Addr{}); len(got) != 0 || Widest(netip.Addr{}).IsValid() {
		t.Errorf("Nested of the zero Addr is %s", got)
	}
}

// TestNested_Allocations shows that a loop over the networks of a client allocates nothing.
func TestNested_Allocations(t *testing.T) {
	addr, n := netip.MustParseAddr("2001:db8::1"), 0
	if a := testing.AllocsPerRun(100, func() {
		for _, p := range Nested(addr) {
			n += p.Bits()
		}
	}); a != 0 {
		t.Errorf("%v allocations", a)
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

func TestIsPublic(t *testing.T) {
	for in, want := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "100.63.255.255": true, "100.128.0.0": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.0.1": false, "100.64.0.1": false,
		"169.254.1.1": false, "0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false,
		"::1": false, "fe80::1%eth0": false, "fd00::1": false, "ff02::1": false,
	} {
		if got := IsPublic(netip.MustParseAddr(in)); got != want {
			t.Errorf("IsPublic(%s) = %v", in, got)
		}
	}
	if IsPublic(netip.Addr{}) {
		t.Error("the zero Addr is public")
	}
}
