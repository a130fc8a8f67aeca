package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/loadtest/fleet"
)

// A ledger is the truth about the messages of a trial: each has an id, which stands in its Subject and at the beginning
// of its reverse-path, where the logs of the nodes have it too.
type ledger struct {
	sent      []fleet.Sent
	killed    map[string]bool // addresses of nodes that could not count what they had under way
	delivered map[string]int  // copies
	doubted   map[string]int  // how often nodes counted that a copy may be
	alone     map[string]int  // how often one node alone remembered, because the store did not answer
	balancer  string          // the address at which a node cannot know what became of its reply; "": there is none
	kills     []*kill
	traces    traces
}

func newLedger() ledger {
	return ledger{
		killed: make(map[string]bool), delivered: make(map[string]int), doubted: make(map[string]int),
		alone: make(map[string]int), traces: newTraces(),
	}
}

// send enters what clients sent and what they were told.
func (l *ledger) send(all []fleet.Sent) { l.sent = append(l.sent, all...) }

// close enters what came to the destinations and what the nodes counted.
func (l *ledger) close(s *fleet.Stage) error {
	for _, m := range s.Delivered() {
		l.delivered[fleet.ID(m.Octets)]++
		l.traces.arrived(m.Octets)
	}
	for _, m := range s.Fleet.Nodes {
		if err := l.read(m.Log()); err != nil {
			return err
		}
	}
	return nil
}

// A logLine is what is read of a line of a log.
type logLine struct {
	Time    time.Time
	Msg     string
	Trace   string
	Reverse string
	Reason  string
	Reply   string
	InDoubt bool `json:"in_doubt"`
	MS      struct{ All *float64 }
}

// The reasons of events that say what the ledger did.
const (
	deliveredAgain  = "delivered again, in doubt"
	deliveredBefore = "delivered before"
	onlyThisNode    = "only this node remembers the delivery"
)

// read takes from a log the messages that were in doubt, and those whose client may not know that they were accepted.
func (l *ledger) read(log string) error {
	file, err := os.Open(log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	ids := make(map[string]string) // by trace
	var unread, alone []string     // traces
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line logLine
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue // a panic, or half a line of a node that was killed
		}
		l.traces.read(&line)
		id, _, _ := strings.Cut(line.Reverse, "@")
		if line.Msg == "unread" {
			unread = append(unread, line.Trace)
			continue
		}
		if line.Reason == onlyThisNode {
			alone = append(alone, line.Trace)
		}
		if id != "" {
			ids[line.Trace] = id
		}
		if line.InDoubt || line.Reason == deliveredAgain {
			l.doubted[id]++
		}
	}
	for _, trace := range unread {
		l.doubted[ids[trace]]++
	}
	for _, trace := range alone {
		l.alone[ids[trace]]++
	}
	return lines.Err()
}

// A balance is the ledger's sum.
type balance struct {
	messages, lost, refused, unsent int
	copies                          int // second ones
	counted                         int // of these, which a node counted
	killed                          int // of these, whose node was killed with them under way
	behind                          int // of these, whose client was cut off behind a balancer
	doubts                          int // how many a node counted
	deferred                        int // messages that were not accepted at the first attempt
	slowest                         time.Duration
	example                         string
}

// balance compares the sets.
func (l *ledger) balance() balance {
	var b balance
	for _, n := range l.doubted {
		b.doubts += n
	}
	for _, m := range l.sent {
		b.messages++
		if m.Retries > 0 {
			b.deferred++
		}
		b.slowest = max(b.slowest, m.Took)
		n := l.delivered[m.ID]
		switch {
		case m.Refused != "":
			b.refused++
			b.example = m.ID + " is refused: " + m.Refused
		case !m.Accepted:
			b.unsent++
			b.example = m.ID + " is never accepted: " + m.Last
		case n == 0:
			b.lost++
			b.example = m.ID + " is lost"
		}
		more := max(0, n-1)
		b.copies += more
		counted := min(more, l.doubted[m.ID])
		b.counted += counted
		for _, addr := range m.DoubtAt {
			switch {
			case more == counted:
			case l.killed[addr]:
				b.killed++
				more--
			case l.balancer == addr:
				b.behind++
				more--
			}
		}
		if more > counted {
			b.example = fmt.Sprintf("%s came %d times: in doubt at %v, %q", m.ID, n, m.DoubtAt, m.Last)
		}
	}
	return b
}

// broken is what must never be.
func (b balance) broken() (all []string) {
	if b.messages == 0 {
		all = append(all, "no message was sent")
	}
	if b.lost > 0 {
		all = append(all, fmt.Sprintf("%d messages were acknowledged and are lost", b.lost))
	}
	if n := b.copies - b.counted - b.killed - b.behind; n > 0 {
		all = append(all, fmt.Sprintf("%d second copies that no node counted", n))
	}
	if b.refused+b.unsent > 0 {
		all = append(all, fmt.Sprintf("%d messages were refused and %d never accepted", b.refused, b.unsent))
	}
	if len(all) > 0 && b.example != "" {
		all = append(all, b.example)
	}
	return all
}

// String tells the sums.
func (b balance) String() string {
	s := fmt.Sprintf("%d messages, %d lost, %d second copies", b.messages, b.lost, b.copies)
	if b.copies > 0 {
		s += fmt.Sprintf(" (%d counted", b.counted)
		if b.killed > 0 {
			s += fmt.Sprintf(", %d with a killed node", b.killed)
		}
		if b.behind > 0 {
			s += fmt.Sprintf(", %d behind a balancer", b.behind)
		}
		s += ")"
	}
	return s + fmt.Sprintf(", %d in doubt, %.1f %% deferred, slowest %.1f s", b.doubts,
		100*float64(b.deferred)/float64(max(1, b.messages)), b.slowest.Seconds())
}
