package feedback

import (
	"net/netip"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/lru"
	"github.com/millrace/millrace/router/mail"
)

const (
	// evidenceFor is how long one client's word counts, and how long an accepted recipient speaks against it.
	evidenceFor = 10 * time.Minute
	// witnesses is how many client networks with as many reverse-path domains must have met a reply before others feel
	// it, and how many recipient domains before all of a Site does.
	witnesses = 3
	// evidenceCache bounds the Sites and pairs for which clients' words are kept.
	evidenceCache = 8192
	// mostSightings bounds the words kept for each of these, and mostOfNetwork those of one client network.
	mostSightings, mostOfNetwork = 8, 2
)

// A subject is what evidence is gathered about: one kind of reply, at a Site or at the pair of it and a recipient
// domain.
type subject struct {
	site   mail.Site
	domain string // "" for the whole Site
	user   string // whose AUTH is refused; no client has a part in that
	kind   Kind   // Nothing for a refusal of us
}

// A sighting is a client that met the reply.
type sighting struct {
	network     netip.Prefix // its /24 or /48
	reverse     string       // domain of the reverse-path
	domain      string       // of the recipient
	first, last time.Time
}

// Evidence is what clients met. The zero value is none.
type evidence struct {
	met   []sighting
	step  int       // how often others were put off for it
	until time.Time // the last time
}

// A casebook keeps the evidence of all Sites. It is safe for concurrent use. Only refusals touch it.
type casebook struct {
	mu    sync.Mutex
	cases *lru.Cache[subject, evidence]
}

func newCasebook() *casebook { return &casebook{cases: lru.New[subject, evidence](evidenceCache)} }

// A proof is what the evidence about a subject comes to.
type proof struct {
	witnessed bool      // by enough networks with enough reverse-path domains
	domains   int       // recipient domains that met it
	since     time.Time // the first of those that count
	second    bool      // the client's network met it with a second reverse-path domain
}

// note adds a client's word and returns what there is now.
func (c *casebook) note(s subject, by sighting, now time.Time) proof {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, _ := c.cases.Get(s)
	e.met = withSighting(e.met, by, now)
	c.cases.Put(s, e, 1)
	p := proof{witnessed: isWitnessed(e.met), since: now}
	var domains [mostSightings]string
	for i := range e.met {
		m := &e.met[i]
		if m.first.Before(p.since) {
			p.since = m.first
		}
		p.second = p.second || m.network == by.network && m.reverse != by.reverse
		isNew := true
		for _, d := range domains[:p.domains] {
			isNew = isNew && d != m.domain
		}
		if isNew {
			domains[p.domains] = m.domain
			p.domains++
		}
	}
	return p
}

// withSighting returns the sightings that still count, with one more. One network keeps few of them, so that a crowd
// behind it pushes out no other; of all, the oldest makes room.
func withSighting(met []sighting, by sighting, now time.Time) []sighting {
	kept := make([]sighting, 0, min(len(met)+1, mostSightings))
	by.first, by.last = now, now
	ofNetwork, oldest, oldestOf := 0, -1, -1
	for _, m := range met {
		if now.Sub(m.last) >= evidenceFor {
			continue
		}
		if m.network == by.network && m.reverse == by.reverse && m.domain == by.domain {
			by.first = m.first
			continue
		}
		kept = append(kept, m)
		at := len(kept) - 1
		if oldest < 0 || m.last.Before(kept[oldest].last) {
			oldest = at
		}
		if m.network == by.network {
			if ofNetwork++; oldestOf < 0 || m.last.Before(kept[oldestOf].last) {
				oldestOf = at
			}
		}
	}
	switch {
	case ofNetwork >= mostOfNetwork:
		kept[oldestOf] = by
	case len(kept) >= mostSightings:
		kept[oldest] = by
	default:
		kept = append(kept, by)
	}
	return kept
}

// isWitnessed reports whether three of the sightings are of three networks with three reverse-path domains.
func isWitnessed(met []sighting) bool {
	differ := func(a, b *sighting) bool { return a.network != b.network && a.reverse != b.reverse }
	for i := range met {
		for j := range i {
			for k := range j {
				if differ(&met[i], &met[j]) && differ(&met[i], &met[k]) && differ(&met[j], &met[k]) {
					return true
				}
			}
		}
	}
	return false
}

// The first and the longest time for which a reply puts others off.
const (
	offFirst = time.Second
	offMost  = 60 * time.Second
)

// putOff returns until when the subject is to be left alone now: twice as long as the last time, at most offMost.
func (c *casebook) putOff(s subject, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, _ := c.cases.Get(s)
	if now.Before(e.until) {
		return e.until
	}
	if now.Sub(e.until) > offMost {
		e.step = 0
	}
	d := offMost
	if e.step < 6 {
		d = offFirst << e.step
	}
	e.step++
	e.until = now.Add(min(d, offMost))
	c.cases.Put(s, e, 1)
	return e.until
}
