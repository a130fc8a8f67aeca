package mx

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestFinder_Addrs(t *testing.T) {
	strict := newWorld(t, Config{})
	lax := newWorld(t, Config{AllowPrivate: true})
	for _, tt := range []struct {
		name  string
		w     *world
		host  string
		want  string
		cause string
	}{
		{"IPv6 comes first", strict, "mx1.example", "[2001:db8::1 192.0.2.1 192.0.2.11]", ""},
		{"a CNAME is followed", strict, "mxalias.example", "[2001:db8::1 192.0.2.1 192.0.2.11]", ""},
		{
			"private addresses only", strict, "lan.example", "451 4.4.1",
			"lan.example: 10.0.0.1 is private (RFC 1918), which egress.allow_private does not allow",
		},
		{"private addresses only, and allowed", lax, "lan.example", "[fd00::1 10.0.0.1]", ""},
		{"private addresses are left out, mapped ones too", strict, "split.example", "[192.0.2.90]", ""},
		{
			"no host has the address zero", lax, "zeroaddr.example", "451 4.4.1",
			"zeroaddr.example: 0.0.0.0 is unspecified (RFC 1122 section 3.2.1.3)",
		},
		{"a host that does not exist", strict, "nowhere.example", "451 4.4.4", "no such domain"},
		{"the DNS fails", strict, "sick.example", "451 4.4.3", "SERVFAIL"},
		{"a literal", strict, "[192.0.2.5]", "[192.0.2.5]", ""},
		{"an IPv6 literal", strict, "[IPv6:2001:db8::5]", "[2001:db8::5]", ""},
		{"a private literal", strict, "[127.0.0.1]", "451 4.4.1", "127.0.0.1 is on loopback"},
		{"a private literal, allowed", lax, "[127.0.0.1]", "[127.0.0.1]", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addrs, err := tt.w.Addrs(t.Context(), tt.host)
			got := fmt.Sprint(addrs)
			if err != nil {
				got = text(Set{}, err)
			}
			if got != tt.want || err != nil && !strings.Contains(err.Error(), tt.cause) {
				t.Errorf("got %s (%v), want %s (%s)", got, err, tt.want, tt.cause)
			}
		})
	}
}

// TestFinder_OwnAddrs: an address of this node is never connected to, whatever else is allowed, and one for
// documentation is no public one.
func TestFinder_OwnAddrs(t *testing.T) {
	own := newWorld(t, Config{AllowPrivate: true, SelfAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	if got, err := own.Addrs(t.Context(), "lan.example"); fmt.Sprint(got) != "[fd00::1]" || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	strict := newWorld(t, Config{})
	strict.cfg.examples = false
	if got, err := strict.Addrs(t.Context(), "[192.0.2.5]"); err == nil ||
		!strings.Contains(err.Error(), documentation) {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestFinder_FixedAddrs: fixed addresses are not filtered.
func TestFinder_FixedAddrs(t *testing.T) {
	w := newWorld(t, Config{})
	for host, want := range map[string]string{
		"lan.example":        "[fd00::1 10.0.0.1]",
		"100.64.0.7":         "[100.64.0.7]",
		"fd00::7":            "[fd00::7]",
		"fe80::7%eth0":       "[fe80::7%eth0]",
		"[IPv6:fd00::7]":     "[fd00::7]",
		"[10.0.0.7]":         "[10.0.0.7]",
		"localhost":          "[::1 127.0.0.1]",
		"LOCALHOST.":         "[::1 127.0.0.1]",
		"::ffff:192.168.0.1": "[192.168.0.1]",
	} {
		if got, err := w.FixedAddrs(t.Context(), host); fmt.Sprint(got) != want || err != nil {
			t.Errorf("%s: got %v, %v; want %s", host, got, err, want)
		}
	}
	if _, err := w.FixedAddrs(t.Context(), "nowhere.example"); text(Set{}, err) != "451 4.4.4" {
		t.Errorf("got %v", err)
	}
}

// TestKindOf: networks that are not public.
func TestKindOf(t *testing.T) {
	for addr, want := range map[string]string{
		"8.8.8.8": "", "2a00:1450::1": "", "192.0.1.255": "", "192.0.3.0": "", "198.17.255.255": "", "198.20.0.0": "",
		"2001:1::1": "", "2001:200::1": "", "2001:db7::1": "", "64:ff9a::1": "",
		"192.0.2.1": documentation, "198.51.100.9": documentation, "203.0.113.255": documentation,
		"2001:db8::1": documentation, "3fff:fff::1": documentation,
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
		"2002:808:808::1": "", "::10.0.0.1": "private (RFC 1918)",
	} {
		if kind, never := kindOf(netip.MustParseAddr(addr)); kind != want || never {
			t.Errorf("%s: got %q, %v; want %q", addr, kind, never, want)
		}
	}
	for _, addr := range []string{
		"0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "224.0.0.1", "239.1.1.1", "255.255.255.255", "ff02::1",
		"64:ff9b::", "240.0.0.1", "254.255.255.255", "2002:f000:1::", "100::1", "100:0:0:1::1", "2001:10::1",
		"2001:2f::1",
	} {
		if kind, never := kindOf(netip.MustParseAddr(addr)); kind == "" || !never {
			t.Errorf("%s: got %q, %v; want never", addr, kind, never)
		}
	}
}
