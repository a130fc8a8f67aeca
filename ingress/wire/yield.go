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

// A crowd is the messages of one network that may give way.
type crowd struct {
	octets  int64    // of all the network's holders
	yielded int      // messages of yields that have given way
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
	m.weights, m.leaving = weights, 0
	if used := m.inUse.Load(); used >= m.Budget-m.Budget/fullPart {
		m.relieve(all, used-(m.Budget-m.Budget/freePart))
	}
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

// relieve has messages give way until they take need octets less, or none is left that may: of the network that takes
// most, whose weight shrinks with each.
func (m *Memory) relieve(all []holder, need int64) {
	crowds := m.crowds(all)
	for need > 0 && len(crowds) > 0 {
		heaviest := 0
		for i := range crowds {
			if crowds[i].octets > crowds[heaviest].octets {
				heaviest = i
			}
		}
		c := &crowds[heaviest]
		h := &c.yields[c.yielded]
		c.yielded++
		if h.c.life.giveWay(held, h.c.srv.now()) {
			m.gaveWay.Add(1)
			m.leaving += h.octets
			need -= h.octets
			c.octets -= h.octets
		}
		if c.yielded == len(c.yields) {
			crowds[heaviest] = crowds[len(crowds)-1]
			crowds = crowds[:len(crowds)-1]
		}
	}
}

// crowds returns the networks whose messages may give way.
func (m *Memory) crowds(all []holder) (crowds []crowd) {
	at := make(map[netip.Prefix]int)
	for _, h := range all {
		rate, may := h.c.life.rate(h.c.srv.now())
		if !may {
			continue
		}
		h.rate = rate
		i, ok := at[h.networks[0]]
		if !ok {
			i = len(crowds)
			at[h.networks[0]] = i
			crowds = append(crowds, crowd{octets: m.weights[h.networks[0]]})
		}
		crowds[i].yields = append(crowds[i].yields, h)
	}
	for i := range crowds {
		slices.SortFunc(crowds[i].yields, func(a, b holder) int {
			return cmp.Or(
				cmp.Compare(m.weights[b.networks[1]], m.weights[a.networks[1]]),
				cmp.Compare(m.weights[b.networks[2]], m.weights[a.networks[2]]),
				cmp.Compare(a.rate, b.rate),
				cmp.Compare(b.octets, a.octets),
			)
		})
	}
	return crowds
}
