package model

import "fmt"

// A deed is what leads from one world to another.
type deed string

const (
	sends        deed = "client sends"
	cutBefore    deed = "client cut before the end"
	cutBehind    deed = "client cut behind the end"
	cutReply     deed = "client cut before it reads"
	claims       deed = "claim"
	claimsBlind  deed = "store not asked"
	claimsDeaf   deed = "store does not answer to a claim"
	accepts      deed = "destination accepts"
	defers       deed = "destination defers"
	refuses      deed = "destination refuses"
	breaksOff    deed = "destination lost"
	breaksBehind deed = "destination accepts and is lost"
	losesAnswer  deed = "answer lost"
	settles      deed = "settle"
	settlesBlind deed = "store not told"
	settlesDeaf  deed = "store does not answer"
	reads        deed = "client reads"
	readsOn      deed = "client reads and goes on"
	removes      deed = "removed"
	sendsOnce    deed = "removed, and sent once more"
	replicates   deed = "replicated"
	failsOver    deed = "failover"
	empties      deed = "store emptied"
	leaseEnds    deed = "lease over"
	standsStill  deed = "node stands still, lease over"
	isKilled     deed = "node killed"
)

// An edge leads to a world.
type edge struct {
	to     world
	chance bool // nothing makes it happen: something goes wrong, or a recipient happens to be put off
	deed   deed
	at     int   // the attempt that does it, the entry whose lease ends, or the node that is killed; else 0
	mask   uint8 // the recipients that it is sent to, or the attempts whose message arrives
}

// String says what happens.
func (e *edge) String() string { return fmt.Sprintf("%s (%d, %b)", e.deed, e.at, e.mask) }

// edges returns what can happen in a world.
func (m *model) edges(w *world, out []edge) []edge {
	e := &edges{model: m, w: w, out: out}
	for c := range uint8(m.clients) {
		e.begin(c)
	}
	for i := range w.attempts {
		e.attempt(i)
	}
	e.store()
	for node := range uint8(m.nodes) {
		e.crash(node)
	}
	return e.out
}

type edges struct {
	*model
	w   *world
	out []edge
}

// add adds what change makes of the world.
func (e *edges) add(d deed, at int, change func(*world)) *edge {
	to := *e.w
	change(&to)
	if !e.named {
		to = to.canonical()
	}
	e.out = append(e.out, edge{to: to, deed: d, at: at})
	return &e.out[len(e.out)-1]
}

// fault is add for something that goes wrong. It does nothing once all that may go wrong has.
func (e *edges) fault(d deed, at int, change func(*world)) {
	if e.w.faults > 0 {
		e.add(d, at, func(w *world) {
			w.faults--
			change(w)
		}).chance = true
	}
}
