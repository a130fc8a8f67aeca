package model

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/ingress/message/once"
)

// A Word is what was seen of the end of an attempt.
type Word uint8

// The words.
const (
	Unclaimed Word = iota // it ended before the end of data
	Took                  // the client was told 2yz, of the copy that this attempt delivered
	Before                // it was told 2yz, because an attempt before has delivered the message
	Waits                 // it was told that another attempt is under way
	PutOff                // it was told another 4yz
	Refused               // it was told 5yz
	Doubtful              // it was told 4yz, and the message may have been delivered
	Silent                // nothing: its node was killed
)

// An Attempt is what was seen of one attempt of a client to send a message to one recipient.
type Attempt struct {
	Name       string
	Start, End time.Time // what its node did of it lies between
	Word       Word
	Copy       bool // the destination has a copy of it
	Again      bool // its node counted that it delivers again, in doubt
	Read       bool // its client has read a 2yz
}

// A Kill is a time in which a node was killed.
type Kill struct{ From, To time.Time }

// ErrCrowded says that more attempts at one message were under way at a time than a world has.
var ErrCrowded = errors.New("too many attempts at a time")

// mostSeen bounds the attempts at one message that are looked at, so that a place can name each.
const mostSeen = 1 << 14

// Explain looks for a path through the worlds of the model that attempts at one message are, by the ledger as it is.
// Nothing may go wrong on it but what was seen to: the store forgets nothing and answers, and a node ends in one of
// the kills alone. A lease ends by the clock. The error says what no path leads to.
func Explain(attempts []Attempt, kills []Kill) error { return explain(sound(), attempts, kills) }

func explain(r rules, attempts []Attempt, kills []Kill) error {
	if len(attempts) > mostSeen {
		return ErrCrowded
	}
	t := &explainer{
		model:    model{rules: r, clients: 1, recipients: 1, attempts: maxAttempts, nodes: maxAttempts, named: true},
		attempts: attempts, kills: kills,
	}
	here := map[spot]struct{}{t.first(): {}}
	for _, m := range moments(attempts) {
		t.spread(here, m.at)
		next := make(map[spot]struct{}, len(here))
		crowded := false
		for p := range here {
			if m.ends {
				t.end(p, m.attempt, next)
			} else if !t.start(p, m.attempt, next) {
				crowded = true
			}
		}
		a := &attempts[m.attempt]
		switch {
		case len(next) > 0:
			here = next
		case crowded:
			return ErrCrowded
		default:
			return fmt.Errorf("no path of the model leads to the end of attempt %s at %s: %s", a.Name,
				a.End.Format("15:04:05.000000"), a)
		}
	}
	return nil
}

// String says what was seen of an attempt.
func (a *Attempt) String() string {
	s := [...]string{
		"ended before the end of data", "took it", "had it before", "waits", "put off", "refused", "in doubt",
		"no word",
	}[a.Word]
	for _, also := range []struct {
		is   bool
		what string
	}{{a.Copy, "a copy"}, {a.Again, "delivered again"}, {a.Read, "read"}} {
		if also.is {
			s += ", " + also.what
		}
	}
	return s
}

// A moment is when an attempt starts or ends.
type moment struct {
	at      time.Time
	attempt int
	ends    bool
}

// moments returns those of all attempts in their order.
func moments(attempts []Attempt) []moment {
	var all []moment
	for i := range attempts {
		all = append(all, moment{attempts[i].Start, i, false}, moment{attempts[i].End, i, true})
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.at.Compare(b.at) })
	return all
}

// An explainer looks for the paths.
type explainer struct {
	model
	attempts []Attempt
	kills    []Kill
}

// A spot is a world, with the attempts that were seen which those of the world are.
type spot struct {
	world world
	seen  [maxAttempts]int16 // -1: none
	made  [maxAttempts]bool  // the copy was made
	ended [maxAttempts]bool  // its client was told that it is in doubt, and the node at the destination goes on
	names [16]int16          // by the id of an attempt, which may stand in an entry still
}

func (t *explainer) first() spot {
	p := spot{world: t.model.first()}
	for i := range p.seen {
		p.seen[i] = -1
	}
	return p
}

// start begins an attempt and reports whether there is room for it.
func (t *explainer) start(p spot, seen int, out map[spot]struct{}) bool {
	for i := range p.seen {
		a := &p.world.attempts[i]
		if p.seen[i] >= 0 || a.step != free {
			continue
		}
		id := p.world.unused()
		if int(id) >= len(p.names) {
			return false
		}
		*a = attempt{step: received, node: uint8(i), mask: 1, id: id} // each has a node: one is killed at a time
		p.seen[i], p.names[id] = int16(seen), int16(seen)
		out[p] = struct{}{}
		return true
	}
	return false
}

// end ends an attempt where the world has it ended as it was seen.
func (t *explainer) end(p spot, seen int, out map[spot]struct{}) {
	i := slices.Index(p.seen[:], int16(seen))
	a, was := &p.world.attempts[i], &t.attempts[seen]
	if was.Word == Doubtful && a.isUnderWay() {
		on := p
		on.ended[i], on.world.attempts[i].gone = true, true
		out[on] = struct{}{}
	}
	if p.made[i] != was.Copy {
		return
	}
	switch {
	case a.step == free: // it was cut or killed, which it was seen to be
	case a.step != settled || was.Word == Silent || was.Word == Unclaimed || a.reply != was.Word.answer():
		return
	case was.Read:
		on := p
		on.seen[i], on.made[i] = -1, false
		on.world.attempts[i].step, on.world.attempts[i].gone = read, true
		out[on] = struct{}{}
	}
	p.seen[i], p.made[i] = -1, false
	if a.step == settled {
		t.vanish(&p.world, i)
	}
	out[p] = struct{}{}
}

// answer returns the class of the reply.
func (w Word) answer() answer {
	switch w {
	case Took, Before:
		return accepted
	case Refused:
		return refused
	}
	return deferred
}

// spread adds the places that can be reached until a time by what was not seen.
func (t *explainer) spread(here map[spot]struct{}, until time.Time) {
	queue := make([]spot, 0, len(here))
	for p := range here {
		queue = append(queue, p)
	}
	var out []edge
	for len(queue) > 0 {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		w := p.world
		w.faults = 1 // of what may go wrong, allows says enough
		out = t.edges(&w, out[:0])
		for n := range out {
			e := &out[n]
			if !t.allows(&p, e, until) {
				continue
			}
			next := p
			next.world = e.to
			next.world.faults = 0
			if e.deed == accepts || e.deed == breaksBehind || e.deed == isKilled && e.mask != 0 {
				next.made[e.at] = true
			}
			if !t.leave(&next) {
				continue
			}
			if _, ok := here[next]; !ok {
				here[next] = struct{}{}
				queue = append(queue, next)
			}
		}
	}
}

// leave takes the attempts out of a place whose node went on and has come to an end. It reports whether they ended as
// they were seen to.
func (t *explainer) leave(p *spot) bool {
	for i := range p.ended {
		if !p.ended[i] || p.world.attempts[i].step != free {
			continue
		}
		if p.made[i] != t.attempts[p.seen[i]].Copy {
			return false
		}
		p.seen[i], p.made[i], p.ended[i] = -1, false, false
	}
	return true
}

// allows reports whether what happens at a place fits what was seen until then.
func (t *explainer) allows(p *spot, e *edge, until time.Time) bool {
	switch e.deed {
	case leaseEnds, standsStill:
		of := &t.attempts[p.names[p.world.primary[e.at].holder]]
		return !until.Before(of.Start.Add(once.Lease))
	case removes:
		return true
	case sends, sendsOnce, cutBehind, cutReply, claimsBlind, claimsDeaf, settlesBlind, settlesDeaf, reads, readsOn,
		replicates, failsOver, empties:
		return false // start and end do, or it was seen not to happen
	}
	if p.seen[e.at] < 0 {
		return false
	}
	was := &t.attempts[p.seen[e.at]]
	silent, doubtful := was.Word == Silent, was.Word == Doubtful
	switch e.deed {
	case cutBefore:
		return silent || !was.Copy && !was.Again &&
			(was.Word == Unclaimed || was.Word == PutOff || was.Word == Refused)
	case claims:
		return t.mayClaim(p, e.at, was)
	case accepts:
		return was.Copy && (silent || doubtful || was.Word == Took)
	case defers:
		return !was.Copy && (silent || was.Word == PutOff)
	case refuses:
		return !was.Copy && (silent || was.Word == Refused)
	case breaksOff:
		return !was.Copy && doubtful
	case breaksBehind:
		return was.Copy && doubtful
	case losesAnswer:
		return doubtful
	case isKilled:
		if p.world.attempts[e.at].step == claimed && (e.mask != 0) != was.Copy {
			return false
		}
		return (silent || doubtful) && t.killed(was)
	}
	return true
}

// mayClaim reports whether what the ledger says to a claim is what the attempt was seen to do.
func (t *explainer) mayClaim(p *spot, i int, was *Attempt) bool {
	a := &p.world.attempts[i]
	_, action := t.next(p.world.primary[t.key(&p.world, a, 0)].full(), t.claiming(a))
	switch was.Word {
	case Silent:
		return true
	case Unclaimed:
		return false
	case Before:
		return action == once.Repeat
	case Waits:
		return action == once.Wait
	}
	return (action == once.Deliver || action == once.Again) && (action == once.Again) == was.Again
}

// killed reports whether a node was killed in the time of an attempt.
func (t *explainer) killed(a *Attempt) bool {
	return slices.ContainsFunc(t.kills, func(k Kill) bool { return !k.To.Before(a.Start) && !k.From.After(a.End) })
}
