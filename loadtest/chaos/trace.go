package main

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/proveledger/model"
)

// traces are what nodes, destination and clients saw of the attempts at each message, to be held to the model of the
// ledger.
type traces struct {
	attempts map[string]*traced // by trace
	copies   map[string]string  // the message of a copy, by trace
	kills    []killedAt
}

// A traced is an attempt, and of which message.
type traced struct {
	model.Attempt
	id    string
	ended bool // a line says how
	alone bool // one node alone remembers it, so that the model says nothing of it
}

// A killedAt is when a node was killed, with its address.
type killedAt struct {
	addr string
	model.Kill
}

// goesOn is how long what a node had under way with another one may go on when it was killed.
const goesOn = 5 * time.Second

// unwritten is how long before it was killed a node had said what its log does not have.
const unwritten = 100 * time.Millisecond

func newTraces() traces {
	return traces{attempts: make(map[string]*traced), copies: make(map[string]string)}
}

func (t *traces) of(trace string) *traced {
	a := t.attempts[trace]
	if a == nil {
		a = &traced{Attempt: model.Attempt{Name: trace}}
		t.attempts[trace] = a
	}
	return a
}

// received has the trace in our Received field, which is the first.
var received = regexp.MustCompile(`(?m)^\tby \S+ with \S+ id ([0-9a-f]{32})\r?$`)

// arrived enters a copy.
func (t *traces) arrived(octets []byte) {
	if m := received.FindSubmatch(octets[:min(len(octets), 2000)]); m != nil {
		t.copies[string(m[1])] = fleet.ID(octets)
	}
}

// read enters a line of a log.
func (t *traces) read(l *logLine) {
	if l.Trace == "" {
		return
	}
	switch l.Reason {
	case deliveredAgain:
		t.of(l.Trace).Again = true
	case deliveredBefore:
		t.of(l.Trace).Word = model.Before
	case onlyThisNode:
		t.of(l.Trace).alone = true
	}
	if l.MS.All == nil {
		return // it does not end an attempt
	}
	a := t.of(l.Trace)
	a.id, _, _ = strings.Cut(l.Reverse, "@")
	a.ended = true
	a.End = l.Time
	a.Start = l.Time.Add(-time.Duration(*l.MS.All * float64(time.Millisecond))).Add(-time.Millisecond)
	if a.Word != model.Before {
		a.Word = wordOf(l)
	}
}

// wordOf returns how an attempt ended.
func wordOf(l *logLine) model.Word {
	switch {
	case l.Msg == "relayed":
		return model.Took
	case l.InDoubt:
		return model.Doubtful
	case l.Msg == "refused":
		return model.Refused
	case strings.Contains(l.Reply, "previous attempt is still in progress"):
		return model.Waits
	case l.Msg == "deferred":
		return model.PutOff
	}
	return model.Unclaimed
}

// explained is how many messages are a path of the model, and what is wrong with the first that is not.
type explained struct {
	messages, attempts int
	alone, crowded     int // messages of which the model says nothing
	wrong              int
	example            string
}

// explain holds each message to the model.
func (t *traces) explain(sent []fleet.Sent) (e explained) {
	of := make(map[string][]*traced)
	for trace, a := range t.attempts {
		_, a.Copy = t.copies[trace]
		if a.ended {
			of[a.id] = append(of[a.id], a)
		}
	}
	silent := make(map[string]int) // copies of attempts whose node said nothing
	for trace, id := range t.copies {
		if a := t.attempts[trace]; a == nil || !a.ended {
			silent[id]++
		}
	}
	kills := make([]model.Kill, len(t.kills))
	for i := range t.kills {
		kills[i] = t.kills[i].Kill
	}
	for i := range sent {
		m := &sent[i]
		attempts, alone := t.attemptsAt(m, of[m.ID], silent[m.ID])
		if alone {
			e.alone++
			continue
		}
		e.messages++
		e.attempts += len(attempts)
		switch err := model.Explain(attempts, kills); {
		case errors.Is(err, model.ErrCrowded):
			e.messages--
			e.crowded++
		case err != nil:
			e.wrong++
			e.example = m.ID + ": " + err.Error()
		}
	}
	return e
}

// attemptsAt returns all attempts at a message, those included of which a node that was killed has said nothing, and
// whether one node alone remembers one of them.
func (t *traces) attemptsAt(m *fleet.Sent, said []*traced, silent int) (all []model.Attempt, alone bool) {
	for _, a := range said {
		all, alone = append(all, a.Attempt), alone || a.alone
	}
	slices.SortFunc(all, func(a, b model.Attempt) int { return a.End.Compare(b.End) })
	for i := len(all) - 1; i >= 0 && m.Accepted; i-- {
		if w := all[i].Word; w == model.Took || w == model.Before { // what it read was the last
			all[i].Read = true
			break
		}
	}
	for _, k := range t.kills {
		if silent <= 0 && !slices.Contains(m.DoubtAt, k.addr) {
			continue
		}
		if !m.Begun.After(k.To) && !m.Begun.Add(m.Took+unwritten).Before(k.From) {
			all = append(all, model.Attempt{
				Name: "at " + k.addr, Start: m.Begun, End: k.To.Add(goesOn), Word: model.Silent, Copy: silent > 0,
			})
			silent--
		}
	}
	for ; silent > 0; silent-- { // of no attempt: there is no path to it
		all = append(all, model.Attempt{
			Name: "of a copy", Start: m.Begun, End: m.Begun.Add(m.Took), Word: model.Unclaimed, Copy: true,
		})
	}
	return all, alone
}

// tracesHold wants that what was seen of each message is a path of the model of the ledger.
func tracesHold(t *trial) {
	e := t.ledger.traces.explain(t.ledger.sent)
	t.tell("%d attempts at %d messages are paths of the model; of %d it says nothing, as one node alone remembers "+
		"them, and %d had too many attempts at a time", e.attempts, e.messages-e.wrong, e.alone, e.crowded)
	if e.wrong > 0 || e.messages == 0 {
		t.harmed("%d of %d messages are no path of the model of the ledger: %s", e.wrong, e.messages, e.example)
	}
}
