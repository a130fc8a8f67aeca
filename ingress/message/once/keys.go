package once

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"net/netip"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// keySize is the length of the two keys that are made of each key of a Keys.
const keySize = 32

// macSize is how much of a MAC is kept, in octets.
const macSize = 16

// Keys are the keys under which the ledger knows messages, recipients and their senders. They are safe for concurrent
// use.
type Keys struct {
	keys    []key
	digests sync.Pool // of *Digest
}

// A key makes the MACs under one key.
type key struct {
	macs *sync.Pool // of *mac
}

// A mac makes MACs, one after another.
type mac struct {
	hash  hash.Hash
	parts []byte
}

// NewKeys returns the Keys of secrets, the current one first. Secrets have at least 16 octets.
func NewKeys(secrets [][]byte) *Keys {
	k := &Keys{}
	var octets [][]byte
	for _, secret := range secrets {
		derive := func(label string) []byte {
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(label))
			return mac.Sum(nil)[:keySize]
		}
		name := derive("names")
		k.keys = append(k.keys, key{&sync.Pool{New: func() any { return &mac{hash: hmac.New(sha256.New, name)} }}})
		octets = append(octets, derive("octets"))
	}
	k.digests.New = func() any { return newDigest(octets) }
	return k
}

// Begin returns the Digest of a message with this reverse-path, as its client wrote it. Nothing of it was read yet.
func (k *Keys) Begin(reverse mail.Path) *Digest {
	d := k.digests.Get().(*Digest)
	d.keys, d.reverse = k, reverse
	return d
}

// A Recipient is a recipient as its client wrote it, with its target: what becomes of the mail for it.
type Recipient struct {
	Forward mail.Path
	Target  string
}

// A Sender is what the client of a message showed of itself.
type Sender struct {
	User   string     // that it authenticated as, "" for none
	SPF    string     // a domain for which SPF passes, "" for none
	Name   string     // the organisational domain of its name in the DNS, which leads back to it; "" for none
	Client netip.Addr // zero if it is not known
}

// identities returns those that the sender shows, the domain for which SPF passes first.
func (s *Sender) identities() []string {
	all := make([]string, 0, 4)
	if s.SPF != "" {
		all = append(all, "spf "+strings.ToLower(s.SPF))
	}
	if s.User != "" {
		all = append(all, "user "+s.User)
	}
	if s.Name != "" {
		all = append(all, "name "+strings.ToLower(s.Name))
	}
	if s.Client.IsValid() {
		var room [64]byte
		all = append(all, string(network.Widest(s.Client).AppendTo(append(room[:0], "net "...))))
	}
	return all
}

// Attempt ends the message and returns the names of its entries: nil if its sender showed nothing of itself.
func (d *Digest) Attempt(id mail.TraceID, s *Sender, recipients []Recipient) *mail.Attempt {
	d.end()
	identities := s.identities()
	if len(identities) == 0 {
		return nil
	}
	a := &mail.Attempt{
		ID: id, Proved: s.SPF != "", Brief: d.isBrief(), Keys: make([]mail.LedgerKeys, 0, len(d.keys.keys)),
	}
	reverse := d.reverse.String()
	for i := range d.keys.keys {
		var sums [2 * keySize]byte
		digest := d.sums[i].same.Sum(sums[:0])
		if d.countsAll() {
			digest = d.sums[i].section.Sum(digest)
		}
		k := &d.keys.keys[i]
		names := mail.LedgerKeys{Message: k.mac("message", reverse, string(digest))}
		names.Recipients = make([][]string, len(recipients))
		for n, r := range recipients {
			fields, forward := make([]string, len(identities)), r.Forward.String()
			for j, identity := range identities {
				fields[j] = k.mac("recipient", forward, r.Target, identity)
			}
			names.Recipients[n] = fields
		}
		a.Keys = append(a.Keys, names)
	}
	return a
}

// mac returns the MAC of parts, in hexadecimal digits. No other parts have the same.
func (k *key) mac(parts ...string) string {
	m := k.macs.Get().(*mac)
	defer k.macs.Put(m)
	b := m.parts[:0]
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	m.hash.Reset()
	m.hash.Write(b)
	m.parts = m.hash.Sum(b[:0])
	var digits [2 * macSize]byte
	hex.Encode(digits[:], m.parts[:macSize])
	return string(digits[:])
}
