package mx

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/leaf/network"
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
	if got, err := own.Addrs(t.Context(), "[IPv6:64:ff9b::a00:1]"); err == nil {
		t.Errorf("by a translator: got %v", got)
	}
	strict := newWorld(t, Config{})
	strict.cfg.examples = false
	if got, err := strict.Addrs(t.Context(), "[192.0.2.5]"); err == nil ||
		!strings.Contains(err.Error(), network.Documentation) {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestFinder_FixedAddrsPublic: a host of another, who may point its name anywhere, has public addresses alone, also
// where MX hosts may have others.
func TestFinder_FixedAddrsPublic(t *testing.T) {
	w := newWorld(t, Config{AllowPrivate: true, Public: func(host string) bool { return host == "lan.example" }})
	if got, err := w.FixedAddrs(t.Context(), "lan.example"); text(Set{}, err) != "451 4.4.1" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, host := range []string{"10.0.0.7", "localhost"} {
		if got, err := w.FixedAddrs(t.Context(), host); err != nil || len(got) == 0 {
			t.Errorf("%s, which the administrator wrote down: %v, %v", host, got, err)
		}
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
