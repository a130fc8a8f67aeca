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

// TestSpecial: networks that are not public.
func TestSpecial(t *testing.T) {
	for addr, want := range map[string]string{
		"8.8.8.8": "", "2a00:1450::1": "", "192.0.1.255": "", "192.0.3.0": "", "198.17.255.255": "", "198.20.0.0": "",
		"2001:1::1": "", "2001:200::1": "", "2001:db7::1": "", "64:ff9a::1": "",
		"192.0.2.1": Documentation, "198.51.100.9": Documentation, "203.0.113.255": Documentation,
		"2001:db8::1": Documentation, "3fff:fff::1": Documentation,
		"198.18.0.1": "for benchmarks (RFC 2544)", "198.19.255.255": "for benchmarks (RFC 2544)",
		"2001:2::1": "for benchmarks (RFC 5180)", "192.0.0.8": "for protocols (RFC 6890)",
		"192.88.99.1": "a 6to4 relay (RFC 7526)", "fec0::1": "site-local (RFC 3879)",
		"64:ff9b:1::a00:1": "of a translator (RFC 8215)", "64:ff9b:1:ffff::1": "of a translator (RFC 8215)",
		"2001::1": "Teredo (RFC 4380)", "2001:0:a00:1::": "Teredo (RFC 4380)",
		"5f00::1": "of segment routing (RFC 9602)", "64:ff9b::198.18.0.1": "for benchmarks (RFC 2544)",
		"2002:c612:1::1": "for benchmarks (RFC 2544)",
		"100.63.255.255": "", "100.128.0.0": "", "172.15.0.1": "",
		"172.32.0.1": "",
		"127.0.0.1":  "on loopback", "127.255.0.1": "on loopback", "::1": "on loopback",
		"::ffff:127.0.0.1": "on loopback",
		"10.1.2.3":         "private (RFC 1918)", "172.16.0.1": "private (RFC 1918)",
		"172.31.255.255": "private (RFC 1918)",
		"192.168.1.1":    "private (RFC 1918)",
		"100.64.0.1":     "shared address space (RFC 6598)", "100.127.255.255": "shared address space (RFC 6598)",
		"169.254.169.254": "link-local", "fe80::1": "link-local", "fe80::1%eth0": "link-local",
		"fc00::1": "unique local (RFC 4193)", "fdff::1": "unique local (RFC 4193)",
		"64:ff9b::10.0.0.1": "private (RFC 1918)", "64:ff9b::8.8.8.8": "", "2002:a00:1::1": "private (RFC 1918)",
		"2002:808:808::1": "", "::10.0.0.1": "private (RFC 1918)", "::ffff:0:10.0.0.1": "private (RFC 1918)",
		"::ffff:0:8.8.8.8": "",
		// where clouds tell a machine its secrets
		"192.0.0.192": "for protocols (RFC 6890)", "100.100.100.200": "shared address space (RFC 6598)",
		"fd00:ec2::254": "unique local (RFC 4193)",
		"168.63.129.16": "of the platform under a virtual machine (Azure)", "168.63.129.17": "",
		"64:ff9b::a9fe:a9fe": "link-local", "2002:a9fe:a9fe::1": "link-local", "::ffff:a9fe:a9fe": "link-local",
	} {
		if kind, never := Special(netip.MustParseAddr(addr)); kind != want || never {
			t.Errorf("%s: got %q, %v; want %q", addr, kind, never, want)
		}
	}
	for _, addr := range []string{
		"0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "224.0.0.1", "239.1.1.1", "255.255.255.255", "ff02::1",
		"64:ff9b::", "240.0.0.1", "254.255.255.255", "2002:f000:1::", "100::1", "100:0:0:1::1", "2001:10::1",
		"2001:2f::1",
	} {
		if kind, never := Special(netip.MustParseAddr(addr)); kind == "" || !never {
			t.Errorf("%s: got %q, %v; want never", addr, kind, never)
		}
	}
}
