package cluster

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/millrace/millrace/cluster/ring"
	"github.com/millrace/millrace/router/mail"
)

// A Waiver says that a node leaves a Site to the others for now: it reached no host there, and another node did.
type Waiver struct {
	Site  mail.Site `json:"s"`
	Node  string    `json:"n"` // the node that leaves the Site to others
	By    string    `json:"b"` // the node that says so
	At    time.Time `json:"a"` // when; of two for a Site and a node the later one holds
	Until time.Time `json:"u"` // when Node is to try again; At if it reaches the Site
}

const (
	// firstWaiver is how long a node leaves a Site to others; it doubles each time it fails again, up to longestWaiver.
	firstWaiver   = time.Minute
	longestWaiver = 30 * time.Minute
	// maxWaivers bounds the number of waivers.
	maxWaivers = 512
)

// ended reports whether the node reaches the Site again.
func (w *Waiver) ended() bool { return !w.Until.After(w.At) }

// holds reports whether the node leaves the Site to others now.
func (w *Waiver) holds(now time.Time) bool { return now.Before(w.Until) }

// forgotten reports whether nothing depends on the waiver any more. One that is over is remembered for as long again,
// so that the next failure doubles it.
func (w *Waiver) forgotten(now time.Time) bool {
	return now.After(w.Until.Add(max(w.Until.Sub(w.At), keepResumed)))
}

// A learnt is a Waiver and when this node learnt of it.
type learnt struct {
	Waiver
	at time.Time
}

// settles reports whether the Site has changed its owner for the waiver so lately that the other nodes may not have
// noticed, at its beginning or its end.
func (l *learnt) settles(now time.Time) bool {
	begun, over := now.Sub(l.at), now.Sub(l.Until)
	return begun < settling || over >= 0 && over < settling
}

// waivers are those of all nodes. Its methods are safe for concurrent use. Without any, a look costs one atomic load.
type waivers struct {
	cfg   Config
	queue *memberlist.TransmitLimitedQueue // of what is to be sent

	sites atomic.Pointer[map[mail.Site][]learnt] // nil if there are none; what is published is never changed
	mine  atomic.Bool                            // one of them is of this node
	mu    sync.Mutex                             // held by those that change sites; not across calls of the Config

	reached   reachedSites
	succeeded atomic.Bool // this node has reached a Site that it had left to others
	phase     atomic.Int64
}

func newWaivers(cfg Config, queue *memberlist.TransmitLimitedQueue) *waivers {
	return &waivers{cfg: cfg, queue: queue}
}

// of returns the waivers of a Site.
func (w *waivers) of(site mail.Site) []learnt {
	sites := w.sites.Load()
	if sites == nil {
		return nil
	}
	return (*sites)[site]
}

// candidates returns the members of a view that may own a Site: without those that leave it to others, unless all do,
// and with one that has no weight where it is to try that Site again.
func (w *waivers) candidates(v *view, site mail.Site) []ring.Member {
	list := w.of(site)
	if list == nil {
		return v.owners
	}
	now := w.cfg.Now()
	out := slices.Clone(v.owners)
	for i := range list {
		l := &list[i]
		named := func(m ring.Member) bool { return m.Name == l.Node }
		if l.holds(now) {
			out = slices.DeleteFunc(out, named)
			continue
		}
		m, ok := v.find(l.Node)
		if ok && m.Out && !m.Draining && !l.ended() && !slices.ContainsFunc(out, named) {
			out = append(out, ring.Member{Name: m.Name, Weight: m.Weight})
		}
	}
	if len(out) == 0 {
		return v.owners
	}
	return out
}

// ownersOf returns the owners of a Site with a spread.
func (w *waivers) ownersOf(v *view, site mail.Site, spread int) []string {
	return ring.Owners(w.candidates(v, site), site, max(1, spread))
}

// settles reports whether a Site has changed its owner lately for a waiver.
func (w *waivers) settles(site mail.Site) bool {
	list := w.of(site)
	if list == nil {
		return false
	}
	now := w.cfg.Now()
	return slices.ContainsFunc(list, func(l learnt) bool { return l.settles(now) })
}

// Unable says that a node, or this one if it is "", reached no host of a Site, and that another one did. The node
// leaves the Site to others.
func (w *waivers) Unable(site mail.Site, node string) {
	now := w.cfg.Now()
	node = cmp.Or(node, w.cfg.Name)
	period := firstWaiver
	for _, l := range w.of(site) {
		switch {
		case l.Node != node:
		case l.holds(now):
			return // which is known
		case !l.ended():
			period = min(2*l.Until.Sub(l.At), longestWaiver)
		}
	}
	w.spread(Waiver{Site: site, Node: node, By: w.cfg.Name, At: now, Until: now.Add(period)})
}

// Reached says that a Site took a recipient from this node. If it had left the Site to others, it does not any more.
func (w *waivers) Reached(site mail.Site) {
	now := w.cfg.Now()
	w.reached.note(site, now)
	if !w.mine.Load() {
		return
	}
	for _, l := range w.of(site) {
		if l.Node == w.cfg.Name && !l.ended() && now.After(l.At) {
			w.succeeded.Store(true)
			w.spread(Waiver{Site: site, Node: l.Node, By: l.Node, At: now, Until: now})
			return
		}
	}
}

// own returns the Sites that this node leaves to others, or is to try again.
func (w *waivers) own() (list []learnt) {
	sites := w.sites.Load()
	if sites == nil || !w.mine.Load() {
		return nil
	}
	for _, of := range *sites {
		for _, l := range of {
			if l.Node == w.cfg.Name && !l.ended() {
				list = append(list, l)
			}
		}
	}
	return list
}

// resume ends all waivers of this node.
func (w *waivers) resume() {
	now := w.cfg.Now()
	for _, l := range w.own() {
		w.spread(Waiver{Site: l.Site, Node: l.Node, By: l.Node, At: now, Until: now})
	}
}

// spread keeps a waiver and sends it to all nodes.
func (w *waivers) spread(x Waiver) {
	if w.keep(x) {
		b, _ := json.Marshal(said{Waiver: &x}) // cannot fail for strings and times
		w.queue.QueueBroadcast(waiverBroadcast{x.Site, x.Node, b})
	}
}

// keep keeps a waiver of any node and reports whether it is news. It ignores one that is out of bounds.
func (w *waivers) keep(x Waiver) bool {
	now := w.cfg.Now()
	if x.Site == "" || x.Node == "" || len(x.Site) > maxText || len(x.Node) > maxText || len(x.By) > maxText {
		return false
	}
	if x.At.After(now.Add(clockSlack)) || x.Until.Sub(x.At) > longestWaiver || x.forgotten(now) {
		return false
	}
	if !w.put(learnt{x, now}) {
		return false
	}
	w.cfg.Changed()
	return true
}

// put publishes a waiver and reports whether it is news.
func (w *waivers) put(x learnt) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, n := w.copyLocked(x.at)
	list := next[x.Site]
	i := slices.IndexFunc(list, func(l learnt) bool { return l.Node == x.Node })
	switch {
	case i >= 0 && !x.At.After(list[i].At), i < 0 && n >= maxWaivers:
		return false
	case i >= 0:
		list = slices.Clone(list)
		list[i] = x
	default:
		list = append(slices.Clip(list), x)
	}
	next[x.Site] = list
	w.publishLocked(next)
	return true
}

// copyLocked returns a copy without what is to be forgotten, and how many waivers it has. mu is held.
func (w *waivers) copyLocked(now time.Time) (next map[mail.Site][]learnt, n int) {
	next = make(map[mail.Site][]learnt)
	if sites := w.sites.Load(); sites != nil {
		maps.Copy(next, *sites)
	}
	for site, list := range next {
		if slices.ContainsFunc(list, func(l learnt) bool { return l.forgotten(now) }) {
			list = slices.DeleteFunc(slices.Clone(list), func(l learnt) bool { return l.forgotten(now) })
			next[site] = list
		}
		if len(list) == 0 {
			delete(next, site)
		}
		n += len(list)
	}
	return next, n
}

// publishLocked replaces all waivers. mu is held.
func (w *waivers) publishLocked(next map[mail.Site][]learnt) {
	mine := false
	for _, list := range next {
		mine = mine || slices.ContainsFunc(list, func(l learnt) bool { return l.Node == w.cfg.Name })
	}
	if len(next) == 0 {
		w.sites.Store(nil)
	} else {
		w.sites.Store(&next)
	}
	w.mine.Store(mine)
}

// forget removes waivers that were over long ago.
func (w *waivers) forget() {
	if w.sites.Load() == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	next, _ := w.copyLocked(w.cfg.Now())
	w.publishLocked(next)
}

// passed reports whether time has changed what follows from the waivers since it was called last.
func (w *waivers) passed() bool {
	var phase int64
	if sites := w.sites.Load(); sites != nil {
		now := w.cfg.Now()
		for _, list := range *sites {
			for i := range list {
				phase += 2
				if list[i].holds(now) {
					phase += 1 << 16
				}
				if list[i].settles(now) {
					phase += 1 << 32
				}
			}
		}
	}
	return w.phase.Swap(phase) != phase
}

// A said is what a node says to others of Sites: one Suspension, or one Waiver, which a node of before takes for a
// Suspension of no Site, and ignores.
type said struct {
	Waiver *Waiver `json:"w,omitempty"`
}

// receive keeps a waiver that another node sent, and sends it on if it is news. It reports whether b is a waiver.
func (w *waivers) receive(b []byte) bool {
	var x said
	if len(b) > 6*maxText || json.Unmarshal(b, &x) != nil || x.Waiver == nil {
		return false
	}
	if w.keep(*x.Waiver) {
		w.queue.QueueBroadcast(waiverBroadcast{x.Waiver.Site, x.Waiver.Node, append([]byte(nil), b...)})
	}
	return true
}

// all returns what receive and merge read.
func (w *waivers) all() (all []any) {
	if sites := w.sites.Load(); sites != nil {
		for _, list := range *sites {
			for i := range list {
				all = append(all, said{Waiver: &list[i].Waiver})
			}
		}
	}
	return all
}

// A waiverBroadcast is a waiver that is to be sent. A later one of the same Site and node replaces it. Its methods are
// those of memberlist.Broadcast.
type waiverBroadcast struct {
	site mail.Site
	node string
	b    []byte
}

// Invalidates reports whether this broadcast replaces b.
func (n waiverBroadcast) Invalidates(b memberlist.Broadcast) bool {
	o, ok := b.(waiverBroadcast)
	return ok && o.site == n.site && o.node == n.node
}

// Message returns the octets to send.
func (n waiverBroadcast) Message() []byte { return n.b }

// Finished does nothing.
func (n waiverBroadcast) Finished() {}

// reachedSites are when Sites took a recipient from this node. If two Sites share a slot, the slot holds the later one.
// It has no lock, because each recipient is noted.
type reachedSites struct {
	slots [1024]atomic.Uint64 // 32 bits of a hash of the Site, and seconds
}

func (r *reachedSites) slot(site mail.Site) (slot *atomic.Uint64, hash uint64) {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(site) {
		h = (h ^ uint64(site[i])) * 1099511628211
	}
	return &r.slots[h%uint64(len(r.slots))], h &^ (1<<32 - 1)
}

func (r *reachedSites) note(site mail.Site, now time.Time) {
	slot, hash := r.slot(site)
	if v := hash | uint64(uint32(now.Unix())); slot.Load() != v {
		slot.Store(v)
	}
}

// isSince reports whether a Site was reached at a time or later, to the second.
func (r *reachedSites) isSince(site mail.Site, at time.Time) bool {
	slot, hash := r.slot(site)
	v := slot.Load()
	return v&^(1<<32-1) == hash && int32(uint32(v)-uint32(at.Unix())) >= 0 && v != 0
}

// count returns how many Sites were reached at a time or later.
func (r *reachedSites) count(at time.Time) (n int) {
	for i := range r.slots {
		if v := r.slots[i].Load(); v != 0 && int32(uint32(v)-uint32(at.Unix())) >= 0 {
			n++
		}
	}
	return n
}
