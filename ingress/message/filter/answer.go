package filter

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// An Action is what is to become of a message, the better ones first: of several filters the worst counts. A message
// that one filter wants forgotten and another one put off comes again, and is forgotten then.
type Action uint8

// The actions.
const (
	Accept   Action = iota
	Discard         // the client is told 250, and the message goes nowhere
	Tempfail        // 4yz
	Reject          // 5yz
)

// String returns the action's name in lower case.
func (a Action) String() string { return [...]string{"accept", "discard", "tempfail", "reject"}[a] }

// An Answer is what one filter says of a message. The zero Answer accepts it.
type Answer struct {
	Action     Action
	Reply      mail.Reply // of Tempfail and Reject, in the filter's own words; zero if it has none
	Fields     []byte     // fields to add, as they stand above a message
	Quarantine string     // why the message is to be kept apart; "" if it is not
	Score      float64
	Scored     bool     // Score was said
	Symbols    string   // what the filter found, by names
	Changes    []string // what else it asked for, each by its name: none is made
}

// refuse notes a change that is not made.
func (a *Answer) refuse(change string) {
	if len(a.Changes) < maxChanges {
		a.Changes = append(a.Changes, change)
	}
}

// maxChanges bounds the changes of one filter that are named.
const maxChanges = 64

// A Decision is what all filters together say of a message.
type Decision struct {
	Action   Action
	Refusal  *mail.Refusal   // of Tempfail and Reject; else nil
	Reason   string          // of an Action that is not Accept: names the filter
	Fields   []byte          // fields to add, in the order of the filters
	Filtered []mail.Filtered // what each said
}

// Clean reports whether a filter accepts the message, and none wants it kept apart.
func (d *Decision) Clean() (clean bool) {
	for i := range d.Filtered {
		switch d.Filtered[i].Result {
		case "quarantine":
			return false
		case "accept":
			clean = true
		}
	}
	return clean
}

// An opinion is what came of one filter.
type opinion struct {
	filter *Filter
	answer Answer
	failed error // why there is no answer
	took   time.Duration
}

// decide returns what opinions on the message of e come to: the worst action, and of several that are equally bad the
// first one's.
func decide(all []opinion, e *Envelope) Decision {
	var d Decision
	for i := range all {
		o := &all[i]
		a := o.settled(e)
		d.Filtered = append(d.Filtered, o.filtered(&a))
		if len(d.Fields)+len(a.Fields) <= maxFields {
			d.Fields = append(d.Fields, a.Fields...)
		}
		if a.Action <= d.Action {
			continue
		}
		d.Action, d.Reason = a.Action, "filter: "+o.filter.cfg.Name
		d.Refusal = nil
		if a.Action >= Tempfail {
			d.Refusal = &mail.Refusal{Reply: a.Reply, Reason: d.Reason, Cause: o.failed}
		}
	}
	return d
}

// maxFields bounds the octets that filters together may add to a message.
const maxFields = 16 << 10

// settled returns the answer that stands for an opinion: that of the filter, with what the configuration makes of
// silence and of quarantine, and a reply of its class for a refusal.
func (o *opinion) settled(e *Envelope) Answer {
	a := o.answer
	a.Fields, a.Changes = slices.Clip(a.Fields), slices.Clip(a.Changes)
	if o.failed != nil {
		a = Answer{}
		if o.filter.cfg.Late == LateTempfail {
			a.Action = Tempfail
			a.Reply = Unexamined("", nil).Reply
		}
		return a
	}
	if a.Quarantine != "" && o.filter.cfg.Quarantine == QuarantineReject && a.Action < Reject {
		a.Action, a.Reply = Reject, mail.Reply{}
	}
	if a.Quarantine != "" && a.Action < Tempfail {
		f := fields{answer: &a, envelope: e}
		f.add("X-Quarantine", o.filter.cfg.Name+": "+oneLine(a.Quarantine))
	}
	switch {
	case a.Action == Tempfail && a.Reply.Class() != 4:
		a.Reply = mail.NewReply(451, 7, 1, "A content filter puts this message off, try again later")
	case a.Action == Reject && a.Reply.Class() != 5:
		a.Reply = mail.NewReply(550, 7, 1, "A content filter refuses this message")
	}
	return a
}

// Unexamined returns the refusal of a message, or of a recipient, that filters cannot be asked about now.
func Unexamined(reason string, cause error) *mail.Refusal {
	reply := mail.NewReply(451, 7, 1, "This message could not be examined now, try again later")
	return &mail.Refusal{Reply: reply, Reason: reason, Cause: cause}
}

// filtered returns an opinion as events have it. a is what stands for it.
func (o *opinion) filtered(a *Answer) mail.Filtered {
	f := mail.Filtered{
		Name: o.filter.cfg.Name, Result: a.Action.String(), Score: o.answer.Score, Scored: o.answer.Scored,
		Symbols: o.answer.Symbols, Changes: a.Changes, Took: o.took, Cause: o.failed,
	}
	switch {
	case o.failed != nil:
		f.Result = "late"
	case o.answer.Quarantine != "":
		f.Result = "quarantine"
	}
	return f
}

// maxSymbols bounds the symbols that are named.
const maxSymbols = 20

// A symbol is something that a filter found, and what it counts.
type symbol struct {
	name  string
	score float64
}

// namesOf returns symbols by name, those that count most in front. What they were found in is part of the message and
// is left out.
func namesOf(all []symbol) string {
	slices.SortFunc(all, func(a, b symbol) int {
		return cmp.Or(cmp.Compare(max(b.score, -b.score), max(a.score, -a.score)), cmp.Compare(a.name, b.name))
	})
	var names []string
	for _, s := range all[:min(len(all), maxSymbols)] {
		names = append(names, s.name)
	}
	return strings.Join(names, " ")
}
