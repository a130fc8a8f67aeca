package score

import (
	"cmp"
	"slices"
)

// A SignalState says what came of a signal.
type SignalState uint8

// The states of a Signal.
const (
	Skipped SignalState = iota // nobody asked: what it needs was not given or is not configured
	Silent                     // it has nothing to say
	Unheard                    // it could not be known in time
	Spoke                      // it counts in the score
)

// String gives the state in a word.
func (s SignalState) String() string {
	switch s {
	case Silent:
		return "silent"
	case Unheard:
		return "unheard"
	case Spoke:
		return "spoke"
	}
	return "skipped"
}

// A Signal is one line of an explanation.
type Signal struct {
	Name   string
	State  SignalState
	Weight float64 // what it added to the score; 0 unless State is Spoke
	Would  float64 // what it would have added; 0 for DNS lists, whose weights are theirs, and a factor for karma
	Text   string  // what was seen or why it was not asked
}

// Explain gives every signal there is, with what it saw and added, in a fixed order; one that spoke more than once, as
// several lists do, stands there as often. It is to be called after Verdict. What silent signals saw is told only by a
// Score that Scorer.Look made.
func (k *Score) Explain() []Signal {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := make([]Signal, 0, signals+4)
	for sig := range signal(signals) {
		is := &catalogue[sig]
		before := len(lines)
		for _, st := range k.stages {
			for _, r := range st.reasons {
				if r.Name == is.name {
					lines = append(lines,
						Signal{
							Name: is.name, State: Spoke, Weight: r.Weight, Would: k.s.weights[sig],
							Text: k.placed(sig, r.Text),
						})
				}
			}
		}
		if len(lines) == before {
			lines = append(lines, k.silent(sig))
		}
		// The order does not tell which list answered first.
		slices.SortFunc(lines[before:], func(a, b Signal) int {
			return cmp.Or(cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Text, b.Text))
		})
	}
	return lines
}

// Where the entry that spoke stands is kept among the facts, under what is no source.
const (
	placeOfAllow source = 1 << 14
	placeOfBlock source = 1 << 15
)

// placed adds to what an entry says where the entry stands. The caller holds mu.
func (k *Score) placed(sig signal, text string) string {
	by := ""
	switch sig {
	case sigAllow:
		by = k.facts[placeOfAllow]
	case sigBlock:
		by = k.facts[placeOfBlock]
	}
	if by == "" {
		return text
	}
	return text + " (" + by + ")"
}

// silent tells why a signal said nothing. The caller holds mu.
func (k *Score) silent(sig signal) Signal {
	is := &catalogue[sig]
	line := Signal{Name: is.name, Would: k.s.weights[sig]}
	if sig == sigEarlyTalker {
		line.State, line.Text = Silent, "did not speak before it was greeted"
		if k.talked {
			line.State, line.Weight, line.Text = Spoke, line.Would, talkedText
		}
		return line
	}
	for from := source(1); from <= fromSenderLists; from <<= 1 {
		if is.from&from == 0 {
			continue
		}
		at := stepOf(from)
		if slices.ContainsFunc(k.stages[at].unheard, func(what string) bool {
			return isUnheard(what, from.unheard())
		}) {
			line.State, line.Text = Unheard, "could not be known in time"
			return line
		}
		if fact := k.facts[from]; fact != "" {
			line.State, line.Text = Silent, fact
		} else if line.Text == "" {
			line.Text = k.unasked(at)
		}
	}
	return line
}

// isUnheard tells whether what is source, or one list of it.
func isUnheard(what, source string) bool {
	return what == source || len(what) > len(source) && what[:len(source)] == source && what[len(source)] == ' '
}

// stepOf is where a source belongs. Entries are of every step.
func stepOf(from source) step {
	switch from {
	case fromHelo, fromHeloAddrs, fromHeloLists:
		return atHelo
	case fromMX, fromSPF, fromSenderLists:
		return atMail
	}
	return atConnect
}

// unasked tells why the sources of a step have nothing. The caller holds mu.
func (k *Score) unasked(at step) string {
	switch {
	case k.stages[atConnect].final:
		return "not asked: an entry about the address has decided"
	case !k.stages[at].begun && at == atHelo:
		return "no name in EHLO was given"
	case !k.stages[at].begun && at == atMail:
		return "no reverse-path was given"
	case at == atConnect && !k.addr.IsValid():
		return "the client's address is not known"
	}
	return "not asked"
}
