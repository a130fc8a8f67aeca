package store

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
)

// network is the unit in which clients are known besides their address: /24 for IPv4, /64 for IPv6.
func network(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // the zero Prefix for the zero Addr
	return p
}

// plain is the one form of an address: an IPv4 address is not in IPv6, and there is no zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// longestPart is the most octets of a name that stand in a key as they are. A longer one is hashed.
const longestPart = 128

// A keyring makes the keys of Redis: prefix, group in braces, kind, and what tells keys of a kind apart. Redis Cluster
// places a key by what is in the first braces, so keys of one group lie together.
type keyring struct{ prefix string }

// The kinds of keys.
const (
	kindRate  = "r"
	kindLists = "d"
	kindKarma = "k"
	kindVote  = "v"
	kindKnown = "w"
	kindGrey  = "g"
	kindMark  = "m"
)

func (k keyring) key(group, kind string, parts ...string) string {
	n := len(k.prefix) + len(group) + len(kind) + 4
	for _, p := range parts {
		n += len(p) + 1
	}
	var b strings.Builder
	b.Grow(n)
	b.WriteString(k.prefix)
	b.WriteString(":{")
	b.WriteString(group)
	b.WriteString("}:")
	b.WriteString(kind)
	for _, p := range parts {
		b.WriteByte(':')
		if len(p) > longestPart {
			p = digest(p)
		}
		b.WriteString(p)
	}
	return b.String()
}

// group gives what stands in the braces for a foreign name. Braces in it would end it early, and nothing at all would
// mean the whole key.
func group(name string) string {
	if name == "" || len(name) > longestPart || strings.ContainsAny(name, "{}") {
		return digest(name)
	}
	return name
}

// clientGroup is the group of what is known of a client.
func clientGroup(a netip.Addr) string { return network(a).Addr().String() }

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
