package activity

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// Nodes are the nodes of a cluster with their logs. The zero Ask stands for a node without a cluster.
type Nodes struct {
	Log    *Log // of this node; nil: it keeps none
	Name   string
	Others func() []string // the other nodes; nil: there are none
	// Ask asks another node, which answers with Answer.
	Ask func(ctx context.Context, node string, question []byte) ([]byte, error)
}

// askWithin is how long another node has for its answer.
const askWithin = 5 * time.Second

// A question is what one node asks another one.
type question struct {
	Find    *Query `json:"find_activity,omitempty"`
	Senders *Query `json:"senders_activity,omitempty"`
}

// An answer is that to a question.
type answer struct {
	Knows   bool     `json:"activity"` // the node understands the question
	Page    *Page    `json:"page,omitempty"`
	Senders *Senders `json:"senders,omitempty"`
}

var (
	errOff   = errors.New("keeps no activity log")
	errOlder = errors.New("runs an older version, which has no activity log")
)

// Find returns the rows of all nodes that are wanted, as many as a page takes.
func (n *Nodes) Find(ctx context.Context, q Query) Page {
	q.Limit = min(cmp.Or(max(q.Limit, 0), DefaultLimit), MaxLimit)
	pages := each(ctx, n, question{Find: &q}, q.Node, func(a *answer) *Page { return a.Page },
		func(k Kept) Page { return Page{Nodes: []Kept{k}} })
	return merge(q.Limit, pages)
}

// Senders returns who sent to the address q.To.
func (n *Nodes) Senders(ctx context.Context, q Query) Senders {
	parts := each(ctx, n, question{Senders: &q}, q.Node, func(a *answer) *Senders { return a.Senders },
		func(k Kept) Senders { return Senders{Nodes: []Kept{k}} })
	return mergeSenders(q.To, parts)
}

// each returns what all nodes answer, this one first, or one of them if only is its name. What failed makes the answer
// of a node that did not answer.
func each[T any](
	ctx context.Context, n *Nodes, q question, only string, part func(*answer) *T, failed func(Kept) T,
) []T {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var others []string
	if n.Others != nil {
		others = n.Others()
	}
	out := make([]T, 1+len(others))
	skip := make([]bool, len(out))
	var asking sync.WaitGroup
	for i, node := range append([]string{n.Name}, others...) {
		if skip[i] = only != "" && only != node; skip[i] {
			continue
		}
		asking.Go(func() { // ends with ctx
			a, err := n.ask(ctx, node, i == 0, &q)
			if err == nil && part(a) == nil {
				err = errOff
			}
			if err != nil {
				out[i] = failed(Kept{Node: node, Failed: err.Error()})
				return
			}
			out[i] = *part(a)
		})
	}
	asking.Wait()
	var asked []T
	for i := range out {
		if !skip[i] {
			asked = append(asked, out[i])
		}
	}
	return asked
}

// ask asks one node.
func (n *Nodes) ask(ctx context.Context, node string, here bool, q *question) (*answer, error) {
	if here {
		return n.answer(q), nil
	}
	content, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	if content, err = n.Ask(ctx, node, content); err != nil {
		return nil, err
	}
	var a answer
	if err := json.Unmarshal(content, &a); err != nil || !a.Knows {
		return nil, errOlder
	}
	a.settle(node)
	return &a, nil
}

// settle has all of an answer be of the node that was asked, whatever it says.
func (a *answer) settle(node string) {
	if a.Page != nil {
		for i := range a.Page.Rows {
			a.Page.Rows[i].Node = node
		}
		a.Page.Nodes = ofNode(a.Page.Nodes, node)
	}
	if a.Senders != nil {
		a.Senders.Nodes = ofNode(a.Senders.Nodes, node)
	}
}

// ofNode returns what a node says of itself.
func ofNode(kept []Kept, node string) []Kept {
	if len(kept) == 0 {
		return []Kept{{Node: node}}
	}
	kept[0].Node = node
	return kept[:1]
}

// answer answers for this node.
func (n *Nodes) answer(q *question) *answer {
	a := &answer{Knows: true}
	switch {
	case n.Log == nil:
	case q.Find != nil:
		page := n.Log.Find(*q.Find)
		a.Page = &page
	case q.Senders != nil:
		senders := n.Log.Senders(*q.Senders)
		a.Senders = &senders
	}
	return a
}

// Answer answers another node's question. It reports false for a question that is none of the log.
func (n *Nodes) Answer(content []byte) ([]byte, bool) {
	var q question
	if err := json.Unmarshal(content, &q); err != nil || q.Find == nil && q.Senders == nil {
		return nil, false
	}
	out, err := json.Marshal(n.answer(&q))
	return out, err == nil
}
