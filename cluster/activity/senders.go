package activity

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// A Sender is one that sent to an address.
type Sender struct {
	From      string    `json:"from"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Messages  int       `json:"messages"` // rows, whatever became of them
	Delivered int       `json:"delivered"`
}

// Senders are those who sent to an address, the newest of them first.
type Senders struct {
	To      string   `json:"to"`
	Senders []Sender `json:"senders"`
	More    bool     `json:"more,omitempty"` // there are more than are listed
	Nodes   []Kept   `json:"nodes"`          // that were asked
}

// maxSenders bounds those that are listed.
const maxSenders = 200

// Senders returns who sent to the address q.To, of this node's rows that are wanted.
func (l *Log) Senders(q Query) Senders {
	f := l.filter(&q)
	all := make(map[string]*Sender)
	for p := range l.newest(f.before) {
		r := p.unpack()
		if f.ended(&r) {
			break
		}
		if r.From == "" || !f.wants(&r) {
			continue
		}
		from := strings.ToLower(r.From)
		s := all[from]
		if s == nil {
			s = &Sender{From: r.From, Last: r.At}
			all[from] = s
		}
		s.First = r.At
		s.Messages++
		if r.Status == Delivered {
			s.Delivered++
		}
	}
	out := Senders{To: q.To, Nodes: []Kept{l.kept()}}
	for _, s := range all {
		out.Senders = append(out.Senders, *s)
	}
	out.sort()
	out.fit()
	return out
}

// fit leaves out what makes the answer to another node too long.
func (s *Senders) fit() {
	octets := 0
	for i := range s.Senders {
		written, _ := json.Marshal(&s.Senders[i]) // a Sender has nothing that cannot be written
		if octets += len(written); octets > maxAnswer {
			s.Senders, s.More = s.Senders[:i], true
			return
		}
	}
}

// sort puts the newest first, and leaves out what is too much.
func (s *Senders) sort() {
	slices.SortFunc(s.Senders, func(a, b Sender) int {
		return cmp.Or(b.First.Compare(a.First), cmp.Compare(a.From, b.From))
	})
	if len(s.Senders) > maxSenders {
		s.Senders, s.More = s.Senders[:maxSenders], true
	}
}

// mergeSenders returns the senders of several nodes.
func mergeSenders(to string, parts []Senders) Senders {
	out := Senders{To: to, Senders: []Sender{}}
	at := make(map[string]int)
	for _, part := range parts {
		out.More = out.More || part.More
		out.Nodes = append(out.Nodes, part.Nodes...)
		for _, s := range part.Senders {
			from := strings.ToLower(s.From)
			i, ok := at[from]
			if !ok {
				at[from] = len(out.Senders)
				out.Senders = append(out.Senders, s)
				continue
			}
			have := &out.Senders[i]
			have.Messages += s.Messages
			have.Delivered += s.Delivered
			if s.First.Before(have.First) {
				have.First = s.First
			}
			if s.Last.After(have.Last) {
				have.Last = s.Last
			}
		}
	}
	out.sort()
	return out
}
