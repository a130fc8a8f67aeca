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

// A Member is a node as the others see it.
type Member struct {
	Name     string
	Boot     string  // of this life of the node, greater for a later one
	Gossip   string  // address and port
	Peer     string  // address and port of the hop between nodes
	Weight   float64 // of its share; 0 means 1
	Draining bool    // it owns nothing any more
	Protocol int     // the newest version of the hop that it speaks
	Version  string  // of the program
}

// life names one life of the node, as memberlist does.
func (m Member) life() string { return m.Name + "." + m.Boot }

// Protocol is the newest version of the hop between nodes that this program speaks.
const Protocol = 1

// A meta is what a node says of itself by gossip. Keys are short because there is room for 512 octets, and what a later
// version adds is passed over by an older one.
type meta struct {
	Format   int     `json:"f"`
	Peer     string  `json:"p"`
	Weight   float64 `json:"w,omitempty"`
	Draining bool    `json:"d,omitempty"`
	Protocol int     `json:"x"`
	Version  string  `json:"v,omitempty"`
}

// maxMeta is memberlist's bound on what a node says of itself, in octets.
const maxMeta = 512

var errMeta = errors.New("says nothing of itself that can be read")

// parseMember reads what a node says. Its name is NAME.BOOT.
func parseMember(name string, said []byte) (Member, error) {
	at := strings.LastIndexByte(name, '.')
	if at <= 0 || len(said) > maxMeta {
		return Member{}, errMeta
	}
	var m meta
	if err := json.Unmarshal(said, &m); err != nil {
		return Member{}, errors.Join(errMeta, err)
	}
	if m.Format < 1 || m.Weight < 0 || m.Weight > 1000 || m.Peer == "" {
		return Member{}, errMeta
	}
	return Member{
		Name: name[:at], Boot: name[at+1:], Peer: m.Peer, Weight: m.Weight, Draining: m.Draining, Protocol: m.Protocol,
		Version: m.Version,
	}, nil
}

// A view is all members at one moment. It is never changed.
type view struct {
	members []Member // by name, one for each
	owners  []ring.Member
	version uint64
}

// newView keeps of two lives of one node the later one: the other is not yet known to be dead.
func newView(all []Member) *view {
	slices.SortFunc(all, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Boot, a.Boot))
	})
	v := &view{members: slices.CompactFunc(all, func(a, b Member) bool { return a.Name == b.Name })}
	h := fnv.New64a()
	for _, m := range v.members {
		if m.Draining {
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

// owning gives the owners of a Site.
func (v *view) owning(site mail.Site, spread int) []string {
	return ring.Owners(v.owners, site, max(1, spread))
}

func (v *view) find(name string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(v.members, name, func(m Member, n string) int { return cmp.Compare(m.Name, n) })
	if !ok {
		return Member{}, false
	}
	return v.members[i], true
}
