package cluster

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/fnv"
	"math"
	"slices"
	"strings"

	"github.com/millrace/millrace/cluster/ring"
	"github.com/millrace/millrace/router/mail"
)

// A Member is a node as other nodes see it.
type Member struct {
	Name     string
	Boot     string  // distinguishes the lives of a node and is greater for a later life
	Gossip   string  // the address and port for gossip
	Peer     string  // the address and port of the hop
	Weight   float64 // of its share; 0 means 1
	Draining bool    // it owns no Site any more
	Out      bool    // it owns no Site until it reaches one, unless no node has weight
	Protocol int     // the newest version of the hop that it speaks
	Version  string  // of the program
}

// life returns memberlist's name of the node, which is unique for each life of it: the process from start to end.
func (m Member) life() string { return m.Name + "." + m.Boot }

// Protocol is the newest version of the hop between nodes that this program speaks.
const Protocol = 1

// A meta is the metadata of a node in gossip. Its keys are short because it is limited to 512 octets. An older version
// of this program ignores what a later one adds.
type meta struct {
	Format   int     `json:"f"`
	Peer     string  `json:"p"`
	Weight   float64 `json:"w,omitempty"`
	Draining bool    `json:"d,omitempty"`
	Protocol int     `json:"x"`
	Version  string  `json:"v,omitempty"`
	Out      bool    `json:"o,omitempty"` // the weight is next to nothing then, for nodes of before
}

// maxMeta is memberlist's bound on the metadata in octets.
const maxMeta = 512

var errMeta = errors.New("says nothing of itself that can be read")

// parseMember reads the metadata of a node. The name has the form NAME.BOOT.
func parseMember(name string, data []byte) (Member, error) {
	at := strings.LastIndexByte(name, '.')
	if at <= 0 || len(data) > maxMeta {
		return Member{}, errMeta
	}
	var m meta
	if err := json.Unmarshal(data, &m); err != nil {
		return Member{}, errors.Join(errMeta, err)
	}
	if m.Format < 1 || m.Weight < 0 || m.Weight > 1000 || m.Peer == "" {
		return Member{}, errMeta
	}
	if m.Out {
		m.Weight /= noWeight
	}
	return Member{
		Name: name[:at], Boot: name[at+1:], Peer: m.Peer, Weight: m.Weight, Draining: m.Draining, Protocol: m.Protocol,
		Version: m.Version, Out: m.Out,
	}, nil
}

// A view is all members at one time. It is never changed.
type view struct {
	members []Member // by name, one for each
	owners  []ring.Member
	version uint64
}

// newView returns the view of members. Of two lives of a node it has the later one: the death of the other one was not
// noticed yet.
func newView(all []Member) *view {
	slices.SortFunc(all, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Boot, a.Boot))
	})
	v := &view{members: slices.CompactFunc(all, func(a, b Member) bool { return a.Name == b.Name })}
	h := fnv.New64a()
	none := !slices.ContainsFunc(v.members, func(m Member) bool { return !m.Draining && !m.Out })
	for _, m := range v.members {
		if m.Draining || m.Out && !none {
			continue
		}
		v.owners = append(v.owners, ring.Member{Name: m.Name, Weight: m.Weight})
		h.Write([]byte(m.Name))
		h.Write([]byte{0})
		var w [8]byte
		binary.BigEndian.PutUint64(w[:], math.Float64bits(max(m.Weight, 0)))
		h.Write(w[:])
	}
	v.version = h.Sum64()
	return v
}

// ownersOf returns the owners of a Site with a spread.
func (v *view) ownersOf(site mail.Site, spread int) []string {
	return ring.Owners(v.owners, site, max(1, spread))
}

// find returns the member with a name, and false if there is none.
func (v *view) find(name string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(v.members, name, func(m Member, n string) int { return cmp.Compare(m.Name, n) })
	if !ok {
		return Member{}, false
	}
	return v.members[i], true
}
