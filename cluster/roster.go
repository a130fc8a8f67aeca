package cluster

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/ring"
)

// A roster is the members as this node sees them, and the shares that follow from them.
type roster struct {
	cfg    Config
	boot   string // of this node
	view   atomic.Pointer[view]
	shares atomic.Pointer[presence]

	mu       sync.Mutex              // guards what follows; not held across calls of the Config
	alive    map[string]*memberState // by Member.life
	died     map[string]time.Time    // nodes that died without leaving, with the time of that
	before   *view                   // the last view that was in force for settling before the present changes
	changed  time.Time               // when the ring changed last
	draining bool                    // this node drains
	out      bool                    // this node has no weight
}

// A memberState is a member and when this node heard from it.
type memberState struct {
	Member
	joined   time.Time // when it was first seen, or answered again after a silence
	answered time.Time // the last ping that it answered
}

func newRoster(cfg Config, boot string) *roster {
	r := &roster{cfg: cfg, boot: boot, alive: make(map[string]*memberState), died: make(map[string]time.Time)}
	r.before = newView(nil)
	r.view.Store(r.before)
	r.rebuild()
	return r
}

// stable returns the number of members and of nodes that died recently, at least 1.
func (r *roster) stable() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(1, len(r.view.Load().members)+len(r.died))
}

// lastJoined returns when a node joined; see Cluster.LastJoined.
func (r *roster) lastJoined(node string) time.Time {
	m, ok := r.view.Load().find(node)
	if !ok {
		return time.Time{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.alive[m.life()]; s != nil {
		return s.joined
	}
	return time.Time{}
}

// hasAddr reports whether a member gossips at an address.
func (r *roster) hasAddr(a netip.AddrPort) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.alive {
		if m.Gossip == a.String() {
			return true
		}
	}
	return false
}

// add adds a member or replaces it, and reports whether it is new.
func (r *roster) add(m Member) (isNew bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.alive[m.life()]
	if isNew = s == nil; isNew {
		now := r.cfg.Now()
		s = &memberState{joined: now, answered: now}
		r.alive[m.life()] = s
	}
	s.Member = m
	delete(r.died, m.Name)
	r.rebuildLocked()
	return isNew
}

// remove removes the member with a life. It returns the member, whether it died without leaving, and false if there was
// no such member.
func (r *roster) remove(life string) (m Member, died, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.alive[life]
	if s == nil {
		return Member{}, false, false
	}
	delete(r.alive, life)
	died = !s.Draining // a node that leaves drains first: memberlist does not distinguish leaving and dying here
	if died && !r.hasLife(s.Name) {
		r.died[s.Name] = r.cfg.Now()
	}
	r.rebuildLocked()
	return s.Member, died, true
}

// hasLife reports whether any life of a node is a member. mu is held.
func (r *roster) hasLife(node string) bool {
	for _, m := range r.alive {
		if m.Name == node {
			return true
		}
	}
	return false
}

// answered notes that a member answered a ping. It reports whether that ends a silence.
func (r *roster) answered(m Member) (again bool) {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.alive[m.life()]
	if s == nil {
		return false
	}
	if again = now.Sub(s.answered) >= silentAfter; again {
		s.joined = now
	}
	s.answered = now
	return again
}

// drain notes that this node drains, and reports false if it did already.
func (r *roster) drain() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return false
	}
	r.draining = true
	r.rebuildLocked()
	return true
}

// isOut reports whether this node has no weight.
func (r *roster) isOut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out
}

// setOut takes this node's weight or restores it. It reports whether that changed anything.
func (r *roster) setOut(out bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out == out {
		return false
	}
	r.out = out
	r.rebuildLocked()
	return true
}

// othersOwn reports whether another node has weight.
func (r *roster) othersOwn() bool {
	return slices.ContainsFunc(r.view.Load().owners, func(m ring.Member) bool { return m.Name != r.cfg.Name })
}

// forget removes nodes that died long ago.
func (r *roster) forget() {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, t := range r.died {
		if now.Sub(t) > stableFor {
			delete(r.died, name)
		}
	}
}

// rebuild makes a new view and new shares.
func (r *roster) rebuild() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rebuildLocked()
}

// rebuildLocked is rebuild with mu held.
func (r *roster) rebuildLocked() {
	members := make([]Member, 0, len(r.alive))
	for _, s := range r.alive {
		m := s.Member
		if m.Name == r.cfg.Name && m.Boot == r.boot {
			m.Draining, m.Out = r.draining, r.out
		}
		members = append(members, m)
	}
	now, old, next := r.cfg.Now(), r.view.Load(), newView(members)
	if old.version != next.version {
		if now.Sub(r.changed) >= settling {
			r.before = old
		}
		r.changed = now
	}
	r.view.Store(next)
	r.countLocked(now)
}

// meta returns the metadata of this node.
func (r *roster) meta(limit int) []byte {
	r.mu.Lock()
	m := meta{
		Format: 1, Peer: r.cfg.Peer, Weight: r.cfg.Weight, Draining: r.draining, Protocol: Protocol,
		Version: r.cfg.Version, Out: r.out,
	}
	if r.out {
		m.Weight = cmp.Or(m.Weight, 1) * noWeight
	}
	r.mu.Unlock()
	b, err := json.Marshal(m)
	if err != nil || len(b) > limit {
		panic("cluster: what a node says of itself is too long") // Validate bounds each part
	}
	return b
}

// countPresent counts the present nodes and reports whether the shares changed.
func (r *roster) countPresent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.countLocked(r.cfg.Now())
}

// countLocked is countPresent with mu held.
func (r *roster) countLocked(now time.Time) bool {
	v := r.view.Load()
	p := presence{view: v, stable: max(1, len(v.members)+len(r.died))}
	if now.Sub(r.changed) < settling {
		p.before = r.before
	}
	for _, m := range v.members {
		if m.Name == r.cfg.Name || !m.Draining && r.isPresent(m, now) {
			p.present++
		}
	}
	p.present = max(1, p.present)
	old := r.shares.Swap(&p)
	return old == nil || *old != p
}

// isPresent reports whether a member has settled and is not silent. mu is held.
func (r *roster) isPresent(m Member, now time.Time) bool {
	s := r.alive[m.life()]
	return s != nil && now.Sub(s.joined) >= settling && now.Sub(s.answered) < silentAfter
}
