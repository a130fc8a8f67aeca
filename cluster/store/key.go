package store

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/millrace/millrace/router/leaf/network"
)

// plain returns an address in its one form: IPv4-mapped addresses become IPv4, and zones are dropped.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// maxKeyPart is the length in octets up to which a name is part of a key as it is. A longer name is hashed.
const maxKeyPart = 128

// A keyring makes the keys of Redis. A key consists of the prefix, the group in braces, the kind, and the names that
// distinguish keys of a kind. A Redis Cluster assigns a key to a slot by the text in the first braces, so that keys of
// one group are in one slot.
type keyring struct{ prefix string }

// The kinds of keys.
const (
	kindRate       = "r"
	kindLists      = "d"
	kindKarma      = "k"
	kindSenders    = "kd"
	kindVote       = "v"
	kindSenderVote = "vd"
	kindKnownGood  = "wd"
	kindGrey       = "g"
	kindMark       = "m"
	kindLedger     = "o"
	kindTLSPolicy  = "t"
	kindShelf      = "s"
)

// key returns the key of a kind in a group.
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
		if len(p) > maxKeyPart {
			p = digest(p)
		}
		b.WriteString(p)
	}
	return b.String()
}

// group returns the text in the braces for a name from outside. Names with braces, which would end the group early, are
// hashed, and so is the empty name, for which Redis would use the whole key.
func group(name string) string {
	if name == "" || len(name) > maxKeyPart || strings.ContainsAny(name, "{}") {
		return digest(name)
	}
	return name
}

// clientGroup returns the group of a client's keys, which is its network.
func clientGroup(a netip.Addr) string { return network.Of(a).Addr().String() }

// owner returns the prefix whose karma is that of an address: itself, for IPv6 its /64. The owner of a /64 has all of
// it, and would have a new address for each message.
func owner(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return network.Host(a)
	}
	return network.Of(a)
}

// karmaKey returns the key of an address's karma.
func (k keyring) karmaKey(group string, a netip.Addr) string {
	return k.key(group, kindKarma, owner(a).Addr().String())
}

// digest returns the SHA-256 of s in hexadecimal.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
