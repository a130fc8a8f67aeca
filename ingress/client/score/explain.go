package score

import (
	"cmp"
	"slices"
)

// A SignalState is the outcome of a signal.
type SignalState uint8

// The states of a Signal.
const (
	Skipped SignalState = iota // it was not asked: what it needs is not known or not configured
	Silent                     // it adds nothing to the score
	Unheard                    // it could not be known in time
	Spoke                      // it adds its weight to the score
)

// String returns the state in a word.
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
	Would  float64 // its configured weight; 0 for DNS lists, which have their own, and a factor for karma
	Text   string  // the answer, or why it was not asked
}

// Explain returns every signal there is, with its answer and what it added, in a fixed order. A signal that spoke more
// than once, as several lists do, has as many lines. The caller calls it after Verdict. Only a Score that Scorer.Look
// made has the answers of silent signals.
func (k *Score) Explain() []Signal {
	q := &k.inquiry
	q.mu.Lock()
	defer q.mu.Unlock()
	lines := make([]Signal, 0, signals+4)
	for sig := range signal(signals) {
		info := &catalogue[sig]
		before := len(lines)
		for _, st := range q.stages {
			for _, r := range st.reasons {
				if r.Name == info.name {
					lines = append(lines, Signal{
						Name: info.name, State: Spoke, Weight: r.Weight, Would: q.s.weights[sig],
						Text: q.withLocation(sig, r.Text),
					})
				}
			}
		}
		if sig == sigKarma {
			if line, spoke := q.explainKarma(); spoke {
				lines = append(lines, line)
			}
		}
		if len(lines) == before {
			lines = append(lines, k.silent(sig))
		}
		// The order does not depend on which list answered first.
		slices.SortFunc(lines[before:], func(a, b Signal) int {
			return cmp.Or(cmp.Compare(b.Weight, a.Weight), cmp.Compare(a.Text, b.Text))
		})
	}
	return lines
}

// The locations of the entries that spoke are kept in the explanation under bits that are no sources.
const (
	locationOfAllow source = 1 << 14
	locationOfBlock source = 1 << 15
)

// withLocation returns the text of a signal, with the location of the entry if it comes from one. The caller holds mu.
func (q *inquiry) withLocation(sig signal, text string) string {
	location := ""
	switch sig {
	case sigAllow:
		location = q.explanation[locationOfAllow]
	case sigBlock:
		location = q.explanation[locationOfBlock]
	}
	if location == "" {
		return text
	}
	return text + " (" + location + ")"
}

// silent returns the line of a signal that did not speak at a stage. The caller holds inquiry.mu.
func (k *Score) silent(sig signal) Signal {
	q, info := &k.inquiry, &catalogue[sig]
	line := Signal{Name: info.name, Would: q.s.weights[sig]}
	if sig == sigEarlyTalker {
		line.State, line.Text = Silent, "did not speak before it was greeted"
		if k.talked {
			line.State, line.Weight, line.Text = Spoke, line.Would, talkedText
		}
		return line
	}
	for from := source(1); from <= lastSource; from <<= 1 {
		if info.from&from == 0 {
			continue
		}
		at := stepOf(from)
		if slices.ContainsFunc(q.stages[at].unheard, func(name string) bool {
			return isUnheard(name, from.unheard())
		}) {
			line.State, line.Text = Unheard, "could not be known in time"
			return line
		}
		if seen := q.explanation[from]; seen != "" {
			line.State, line.Text = Silent, seen
		} else if line.Text == "" {
			line.Text = q.whyNotAsked(at)
		}
	}
	return line
}

// isUnheard reports whether name is that of the source, or of one list of it.
func isUnheard(name, source string) bool {
	return name == source || len(name) > len(source) && name[:len(source)] == source && name[len(source)] == ' '
}

// stepOf returns the step of a source. Entries belong to every step.
func stepOf(from source) step {
	switch from {
	case fromHelo, fromHeloAddrs, fromHeloLists:
		return atHelo
	case fromMX, fromSPF, fromSenderLists:
		return atMail
	}
	return atConnect
}

// whyNotAsked returns why the sources of a step have no answer. The caller holds mu.
func (q *inquiry) whyNotAsked(at step) string {
	switch {
	case q.stages[atConnect].final:
		return "not asked: an entry about the address has decided"
	case !q.stages[at].begun && at == atHelo:
		return "no name in EHLO was given"
	case !q.stages[at].begun && at == atMail:
		return "no reverse-path was given"
	case at == atConnect && !q.addr.IsValid():
		return "the client's address is not known"
	}
	return "not asked"
}
