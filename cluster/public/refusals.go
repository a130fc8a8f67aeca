package public

import (
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

const (
	// keptFor is how long a refusal is remembered: a sender that is put off writes its bounce after five days.
	keptFor = 7 * 24 * time.Hour
	// crowds and crowdSize bound what is remembered. The refusals of a client network are in one crowd, where they
	// push out the oldest: a client that has itself refused without end has its own forgotten and few of others.
	crowds, crowdSize = 2048, 48
)

// A From says which words a refusal is made of.
type From uint8

// The values of From.
const (
	FromNode        From = iota // this relay's own
	FromDestination             // those of the server that the message was to go to
	FromRule                    // those that the owner of the address, or the administrator, wrote in a rule
)

// A Refused is what is remembered of one refusal. It holds no address, no host and no text from outside.
type Refused struct {
	At    time.Time `json:"at"` // to the minute
	Stage string    `json:"stage"`
	Code  int       `json:"code"`
	// Enhanced has the class of Code.
	Enhanced mail.EnhancedCode `json:"enhanced"`
	From     From              `json:"from"`
	Row      string            `json:"row"` // of the table of replies; "" if it has none for this reply
}

// A memo is a Refused as it is kept.
type memo struct {
	id       mail.TraceID
	minute   int64 // since 1970
	code     uint16
	enhanced mail.EnhancedCode
	row      int16 // -1 for none
	stage    stage
	from     From
}

// A stage is where in its dialogue a client was refused.
type stage uint8

// stages are the names of the stages, in their order: what is none of the others is a command.
var stages = [...]string{"command", "connect", "auth", "mail", "rcpt", "data"}

func stageOf(verb string) stage {
	switch {
	case verb == "CONNECT":
		return 1
	case verb == "MAIL":
		return 3
	case verb == "RCPT":
		return 4
	case verb == "DATA":
		return 5
	case len(verb) >= 4 && verb[:4] == "AUTH":
		return 2
	}
	return 0
}

// Refusals remember why clients were refused, by the ids of the replies, for a bounded time and number. Its methods are
// safe for concurrent use, and those of a nil *Refusals remember nothing.
type Refusals struct {
	now    func() time.Time
	table  *table
	seed   maphash.Seed
	crowds [crowds]crowd
}

// A crowd is a ring of memos, the next one to be overwritten at next. It takes no memory before its first one.
type crowd struct {
	mu    sync.Mutex
	memos []memo
	next  int
}

// NewRefusals returns Refusals that have nothing to remember yet. now is nil for time.Now.
func NewRefusals(now func() time.Time) (*Refusals, error) {
	t, err := readTable()
	if err != nil {
		return nil, err
	}
	if now == nil {
		now = time.Now
	}
	return &Refusals{now: now, table: t, seed: maphash.MakeSeed()}, nil
}

// See remembers the refusal that an event tells of, if it tells of one.
func (f *Refusals) See(e *mail.Event) {
	if f == nil || e.Reply.Class() < 4 || e.Trace.IsZero() {
		return
	}
	m := memo{
		id: e.Trace, minute: e.Time.Unix() / 60, code: uint16(e.Reply.Code), enhanced: e.Reply.Enhanced,
		stage: stageOf(e.Verb), from: fromOf(e), row: int16(f.table.find(e.Reply)),
	}
	if m.row >= 0 && m.from == FromRule {
		m.from = FromNode // the words that a rule has without a text of its own
	}
	c := &f.crowds[maphash.Comparable(f.seed, network.Widest(e.Client))%crowds]
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.memos {
		if had := c.memos[i]; had.id == m.id {
			had.minute = m.minute
			if had == m {
				return // another recipient of the transaction, or the event that ends it
			}
		}
	}
	if len(c.memos) < crowdSize {
		c.memos = append(c.memos, m)
		return
	}
	c.memos[c.next] = m
	c.next = (c.next + 1) % crowdSize
}

// fromOf returns whose words a refusal has.
func fromOf(e *mail.Event) From {
	r, found := errors.AsType[*mail.Refusal](e.Cause)
	switch {
	case found && r.Host != "", !found && e.Ends && e.Host != "":
		return FromDestination
	case e.Reason == mail.ReasonRule, e.Reason == mail.ReasonHook:
		return FromRule
	}
	return FromNode
}

// maxFound bounds the refusals of one id that are shown: a transaction may have a hundred recipients.
const maxFound = 8

// Find returns the refusals with an id, in the order in which they were said.
func (f *Refusals) Find(id mail.TraceID) (found []Refused) {
	if f == nil {
		return nil
	}
	oldest := f.now().Add(-keptFor).Unix() / 60
	for i := range f.crowds {
		c := &f.crowds[i]
		c.mu.Lock()
		for j := range c.memos {
			m := &c.memos[(c.next+j)%len(c.memos)]
			if m.id == id && m.minute >= oldest && len(found) < maxFound {
				found = append(found, f.refused(m))
			}
		}
		c.mu.Unlock()
		if len(found) > 0 {
			break // an id is of one client
		}
	}
	return found
}

// refused returns what a memo means.
func (f *Refusals) refused(m *memo) Refused {
	r := Refused{
		At: time.Unix(m.minute*60, 0).UTC(), Stage: stages[m.stage], Code: int(m.code), Enhanced: m.enhanced,
		From: m.from,
	}
	if m.row >= 0 {
		r.Row = f.table.rows[m.row].reply
	}
	return r
}

// Merge returns what several nodes remember of one id, in order.
func Merge(all ...[]Refused) []Refused {
	found := slices.Concat(all...)
	slices.SortStableFunc(found, func(a, b Refused) int { return a.At.Compare(b.At) })
	return found[:min(len(found), maxFound)]
}
