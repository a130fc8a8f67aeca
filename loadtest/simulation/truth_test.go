package simulation

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A pair is a message, by its reverse-path, and one of its recipients.
type pair struct{ reverse, forward string }

// A rarity is something that is to be reached, or the simulation has shown nothing of it.
type rarity int

const (
	killed    rarity = iota // a node
	hopped                  // a transaction at another node
	repeats                 // an answer was repeated
	waits                   // a client was put off because of a live lease
	again                   // a message was delivered again in doubt
	second                  // a second copy was delivered
	opens                   // a message began again for some of its recipients
	splits                  // a message was refused because some recipients have it
	renews                  // a lease was renewed
	lost                    // an attempt had no answer
	removes                 // an entry was removed
	unguarded               // the store could not be asked or heard
	forgotten               // the store forgot all
	impatient               // a client gave up before its answer came
	chunks                  // a retry came by BDAT
	otherNode               // a retry came to another node
	fromHere                // the node of the client delivered what its owner did not
	longWait                // an answer came after the destination was waited for for minutes
	fans                    // a message went to several next hops at a time
	differs                 // its outcomes differed
	rarities
)

var rarityNames = [rarities]string{
	"node killed", "hop", "answer repeated", "put off by a live lease", "delivered again in doubt", "second copy",
	"begun again for some", "split", "lease renewed", "no answer", "removed", "store not heard", "store emptied",
	"client gave up", "retried by BDAT", "retried at another node", "delivered from here", "answered after minutes",
	"several next hops", "outcomes differ",
}

// A heard is what the ledger heard of one message.
type heard struct {
	claims map[claim]bool // recipients that were claimed, and whether it is known what became of them
	doubt  bool           // one of them ended without an answer
	again  int            // recipients that counted as in doubt
	excuse bool           // the store could not be asked or heard, or has forgotten
}

// A claim is what an attempt holds of a recipient, by its name in the ledger.
type claim struct {
	by mail.TraceID
	of string
}

// truth is what happened, whatever the ledger holds.
type truth struct {
	rare    [rarities]int
	traces  map[mail.TraceID]string // reverse-paths
	heard   map[string]*heard       // by the name of the message in the ledger
	names   map[string]string       // of these, by reverse-path
	refused map[pair]bool           // by the destination for good
	dots    map[string]int          // ends of data by reverse-path
	broken  []string                // what must not happen
	log     []string
}

func newTruth() truth {
	return truth{
		traces: make(map[mail.TraceID]string), heard: make(map[string]*heard), names: make(map[string]string),
		refused: make(map[pair]bool), dots: make(map[string]int),
	}
}

func (t *truth) of(message string) *heard {
	if t.heard[message] == nil {
		t.heard[message] = &heard{claims: make(map[claim]bool)}
	}
	return t.heard[message]
}

// saw takes what a node reported.
func (t *truth) saw(e *mail.Event) {
	if !e.Reverse.IsNull() {
		t.traces[e.Trace] = e.Reverse.String()
	}
	if e.Kind == mail.Anomaly {
		t.log = append(t.log, fmt.Sprintf("             %x: %s %v %v", e.Trace[:2], e.Reason, e.Reply, e.Cause))
	}
	if e.Kind == mail.Anomaly && strings.HasSuffix(e.Reason, "delivered from here") {
		t.rare[fromHere]++
	}
	if e.Ends && len(e.Legs) > 1 {
		t.rare[fans]++
	}
	if e.Took[mail.StageCommit] > time.Minute && e.Reply.Class() == 2 {
		t.rare[longWait]++
	}
}

// reach counts a rarity.
func (w *world) reach(r rarity) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.truth.rare[r]++
}

// say notes what happened, for a run that fails.
func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.truth.log = append(w.truth.log,
		fmt.Sprintf("%12s ", time.Since(w.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// ids are the trace ids in what was noted.
var ids = regexp.MustCompile(`id=[0-9a-f]+|claims for [0-9a-f]+|^ +[0-9a-f]{4}:`)

// heardIn returns what was noted, without trace ids, which are random.
func (t *truth) heardIn() []string {
	out := make([]string, len(t.log))
	for i, l := range t.log {
		out[i] = ids.ReplaceAllString(l, "")
	}
	return out
}

// breaks notes what must not happen.
func (w *world) breaks(format string, args ...any) {
	w.say("BROKEN: "+format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.truth.broken = append(w.truth.broken, fmt.Sprintf(format, args...))
}

// note takes an event that is about to reach a store.
func (f *far) note(keys []mail.LedgerKeys, v mail.LedgerEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	of := f.truth.of(keys[0].Message)
	switch v.Kind {
	case mail.LedgerTook, mail.LedgerRefused, mail.LedgerLost:
		for _, fields := range keys[0].Recipients {
			of.claims[claim{v.Holder, fields[0]}] = true
		}
	}
	switch v.Kind {
	case mail.LedgerLost:
		of.doubt = true
		f.truth.rare[lost]++
	case mail.LedgerRenewed:
		f.truth.rare[renews]++
	case mail.LedgerRead:
		f.truth.rare[removes]++
	}
}

// excuse notes that the store cannot speak for a message.
func (w *world) excuse(keys []mail.LedgerKeys, why rarity) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.truth.of(keys[0].Message).excuse = true
	w.truth.rare[why]++
}

// claimed takes what an attempt is heard to do.
func (n *node) claimed(a *mail.Attempt, answer *mail.LedgerAnswer, whole bool) {
	n.say("%s claims for %x: open %v", n.name, a.ID[:2], answer.Open)
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &n.truth
	name := a.Keys[0].Message
	t.names[t.traces[a.ID]] = name
	of := t.of(name)
	for _, i := range answer.Open {
		if !answer.Outcomes[i].Again {
			continue
		}
		t.rare[again]++
		of.again++
		pending := false
		for c, known := range of.claims {
			pending = pending || !known && c.by != a.ID && c.of == a.Keys[0].Recipients[i][0]
		}
		if !pending && !of.doubt && !of.excuse {
			t.broken = append(t.broken, "counts as in doubt what is not")
		}
	}
	repeated := 0
	for i := range answer.Outcomes {
		if o := &answer.Outcomes[i]; o.Reply.Class() == 2 {
			repeated++
		} else if strings.Contains(o.Reply.Text, "in progress") {
			t.rare[waits]++
			return
		}
	}
	switch {
	case repeated > 0 && len(answer.Open) > 0:
		t.rare[opens]++
	case repeated > 0 && repeated < len(answer.Outcomes) && !whole:
		t.rare[splits]++
	case repeated > 0:
		t.rare[repeats]++
	}
	for _, i := range answer.Open {
		of.claims[claim{a.ID, a.Keys[0].Recipients[i][0]}] = false
	}
}
