package wire

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/millrace/millrace/router/leaf/network"
)

// A holder is a connection of a stranger that takes memory, at one look.
type holder struct {
	c        *conn
	octets   int64
	networks [3]netip.Prefix // the widest first
	rate     float64         // of the message's octets a second; of one that may give way
}

// slowness are the rates, in octets a second, that part the messages which may give way: all that are below one of them
// go before any that is not, whatever their networks take.
var slowness = [...]float64{1 << 10, 4 << 10, 16 << 10, 64 << 10}

// fast is the tier of messages that are below none of slowness, or were not waited for long enough to tell.
const fast = len(slowness)

// tier returns which of slowness the message is below, the first one, or fast.
func (h *holder) tier() int {
	for i, below := range slowness {
		if h.rate < below {
			return i
		}
	}
	return fast
}

// A crowd is the messages of one network and one tier that may give way.
type crowd struct {
	octets  int64    // of those that have not given way
	yielded int      // messages of yields that have
	yields  []holder // of the heaviest network inside of this one first, and there the slowest first
}

// isStranger reports whether the connection takes memory of its networks' share. That of a proxy that does not name its
// client does.
func (s *seat) isStranger() bool { return s.standing == Stranger || s.unnamed }

// networks returns the networks of the seat's client, the widest first, and zero ones behind them.
func (s *seat) networks() (all [3]netip.Prefix) {
	nested := network.Nested(s.client)
	for i, n := range nested {
		all[len(nested)-1-i] = n
	}
	return all
}

// look weighs the networks by what their strangers take. If the budget is taken, it has messages give way.
func (m *Memory) look() {
	var all []holder
	for _, s := range m.servers {
		all = s.appendHolders(all)
	}
	weights := make(map[netip.Prefix]int64, len(m.weights))
	for i := range all {
		for _, n := range all[i].networks {
			if n.IsValid() {
				weights[n] += all[i].octets
			}
		}
	}
	m.weights = weights
	tiers, leaving := m.tiers(all)
	m.leaving = leaving
	// What leaves is free in a moment, so that others need not give way for it as well.
	used := m.inUse.Load() - leaving
	if used < m.Budget-m.Budget/fullPart {
		return
	}
	for i := range tiers[:fast] {
		used -= m.relieve(tiers[i], used-(m.Budget-m.Budget/freePart))
	}
	m.relieve(tiers[fast], used-(m.Budget-m.Budget/fullPart))
}

// appendHolders appends the strangers' connections that take memory.
func (s *Server) appendHolders(all []holder) []holder {
	from := len(all)
	for _, c := range s.all() {
		if n := c.held.Load(); n > 0 {
			all = append(all, holder{c: c, octets: n})
		}
	}
	places := s.cfg.Places
	places.mu.Lock()
	defer places.mu.Unlock()
	strangers := all[:from]
	for _, h := range all[from:] {
		if at := &h.c.seat; at.isStranger() {
			h.networks = at.networks()
			strangers = append(strangers, h)
		}
	}
	return strangers
}

// relieve has messages of one tier give way until they take need octets less, or none is left that may: of the network
// whose messages of the tier take most, weighed anew after each. It returns what they took.
func (m *Memory) relieve(crowds []crowd, need int64) (relieved int64) {
	for relieved < need && len(crowds) > 0 {
		heaviest := 0
		for i := range crowds {
			if crowds[i].octets > crowds[heaviest].octets {
				heaviest = i
			}
		}
		c := &crowds[heaviest]
		h := &c.yields[c.yielded]
		c.yielded++
		c.octets -= h.octets
		if h.c.life.giveWay(held, h.c.srv.now()) {
			m.gaveWay.Add(1)
			relieved += h.octets
		}
		if c.yielded == len(c.yields) {
			crowds[heaviest] = crowds[len(crowds)-1]
			crowds = crowds[:len(crowds)-1]
		}
	}
	m.leaving += relieved
	return relieved
}

// tiers returns the messages that may give way, by how slow they are and by network, and the octets of those that have
// and still take memory.
func (m *Memory) tiers(all []holder) (tiers [fast + 1][]crowd, leaving int64) {
	type place struct {
		tier    int
		network netip.Prefix
	}
	at := make(map[place]int)
	for _, h := range all {
		rate, giving := h.c.life.rate(h.c.srv.now())
		if giving == hasYielded {
			leaving += h.octets
		}
		if giving != mayYield {
			continue
		}
		h.rate = rate
		key := place{h.tier(), h.networks[0]}
		crowds := &tiers[key.tier]
		i, ok := at[key]
		if !ok {
			i = len(*crowds)
			at[key] = i
			*crowds = append(*crowds, crowd{})
		}
		(*crowds)[i].octets += h.octets
		(*crowds)[i].yields = append((*crowds)[i].yields, h)
	}
	for _, crowds := range tiers {
		for i := range crowds {
			slices.SortFunc(crowds[i].yields, m.order)
		}
	}
	return tiers, leaving
}

// order orders the messages of a network and tier by which of them is to end first.
func (m *Memory) order(a, b holder) int {
	return cmp.Or(
		cmp.Compare(m.weights[b.networks[1]], m.weights[a.networks[1]]),
		cmp.Compare(m.weights[b.networks[2]], m.weights[a.networks[2]]),
		cmp.Compare(a.rate, b.rate),
		cmp.Compare(b.octets, a.octets),
	)
}
