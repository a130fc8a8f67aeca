package report

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Nodes are the nodes of a cluster with what each of them counted. With a Keeper it is kept where all of them find it,
// once a minute; without one they ask each other.
type Nodes struct {
	Counts *Counts
	Name   string          // of this node
	Boot   string          // tells this run of it from others
	Others func() []string // the other nodes; nil: there are none
	// Ask asks another node, which answers with Answer.
	Ask    func(ctx context.Context, node string, question []byte) ([]byte, error)
	Keeper Keeper

	mu    sync.Mutex
	seen  map[string]int64            // the day that a node was a member last, without a Keeper
	heard map[Subject]map[string]bool // the readers that another node says it told, without a Keeper
}

// A Keeper keeps texts under names, those of one name for two days. The zero Keeper keeps nothing.
type Keeper struct {
	Keep func(ctx context.Context, name string, fields map[string]string) (ok bool)
	Load func(ctx context.Context, name string) (fields map[string]string, ok bool)
}

// askWithin is how long another node has for its answer.
const askWithin = 10 * time.Second

// The names of what is kept: of a day, its domains and the nodes that count; of a domain, what each node counted, and
// who was told.
func (s *Subject) name() string { return fmt.Sprintf("%d %s %s", s.Begins, s.Kind, s.Domain) }

func nameOfDay(begins int64) string { return fmt.Sprintf("%d", begins) }

const (
	fieldNode   = "node "   // the run of a node: open or done
	fieldDomain = "domain " // a kind and a domain
	fieldPart   = "part "   // the run of a node: its Part
	fieldTold   = "told "   // a URI
	stateOpen   = "open"
	stateDone   = "done"
)

// flush keeps what has changed, and says of a day that is over, or that ends for this node, that nothing of it is
// missing.
func (n *Nodes) flush(ctx context.Context, ending bool) {
	if n.Keeper.Keep == nil {
		n.note()
		return
	}
	missing := make(map[int64]bool)
	for _, what := range n.Counts.changes() {
		s := Subject{what.kind, what.domain, what.begins}
		if missing[what.begins] || !n.keep(ctx, &s) {
			missing[what.begins] = true // the next flush comes: this one waits for nothing more
			n.Counts.changed(what)
		}
	}
	today := dayOf(n.Counts.now())
	yesterday := today - int64(dayLong/time.Second)
	for _, begins := range []int64{today, yesterday} {
		if begins == yesterday && n.Counts.began.Unix() >= today {
			continue
		}
		state := stateOpen
		if !missing[begins] && (ending || begins < today) {
			state = stateDone
		}
		n.Keeper.Keep(ctx, nameOfDay(begins), map[string]string{fieldNode + n.Boot: state})
	}
}

// keep keeps what was counted here of a domain.
func (n *Nodes) keep(ctx context.Context, s *Subject) bool {
	p := n.Counts.Part(s.Kind, s.Begins, s.Domain)
	if p == nil {
		return true
	}
	text, err := json.Marshal(p)
	return err == nil && n.Keeper.Keep(ctx, s.name(), map[string]string{fieldPart + n.Boot: string(text)}) &&
		n.Keeper.Keep(ctx, nameOfDay(s.Begins), map[string]string{fieldDomain + s.Kind.String() + " " + s.Domain: ""})
}

// note notes which nodes there are, so that one that is lost is missed.
func (n *Nodes) note() {
	if n.Others == nil {
		return
	}
	today := dayOf(n.Counts.now())
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen == nil {
		n.seen = make(map[string]int64)
	}
	for _, node := range n.Others() {
		n.seen[node] = today
	}
	yesterday := today - int64(dayLong/time.Second)
	maps.DeleteFunc(n.seen, func(_ string, last int64) bool { return last < yesterday })
	maps.DeleteFunc(n.heard, func(s Subject, _ map[string]bool) bool { return s.Begins < yesterday })
}

// reached says that a reader was told of a report, so that a node which sends the reports of the domain from now on
// does not send it again.
func (n *Nodes) reached(ctx context.Context, s *Subject, uri string) {
	if n.Keeper.Keep != nil {
		n.Keeper.Keep(ctx, s.name(), map[string]string{fieldTold + uri: ""})
		return
	}
	n.ask(ctx, question{s.Kind, s.Begins, s.Domain, uri})
}

// hear notes that another node told a reader.
func (n *Nodes) hear(s Subject, uri string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.heard == nil {
		n.heard = make(map[Subject]map[string]bool)
	}
	if n.heard[s] == nil && len(n.heard) < int(kinds)*mostDomains {
		n.heard[s] = make(map[string]bool)
	}
	if of := n.heard[s]; of != nil && len(of) < mostReaders {
		of[uri] = true
	}
}

// A question is what one node asks another one.
type question struct {
	Kind   Kind   `json:"report_kind"`
	Begins int64  `json:"report_begins"`
	Domain string `json:"report_domain,omitempty"` // "" for the domains of the day
	Reader string `json:"report_reader,omitempty"` // a reader that was told, which is no question
}

// An answer is that to a question.
type answer struct {
	Knows   bool     `json:"report"` // the node understands the question, and counts
	Began   int64    `json:"began"`  // to count
	Domains []string `json:"domains,omitempty"`
	Part    *Part    `json:"part,omitempty"`
}

// Answer answers another node's question. It reports false for a question that is none of reports.
func (n *Nodes) Answer(content []byte) ([]byte, bool) {
	var q question
	if err := json.Unmarshal(content, &q); err != nil || q.Begins == 0 || q.Kind >= kinds {
		return nil, false
	}
	a := answer{Knows: n != nil}
	if n != nil {
		a.Began = n.Counts.began.Unix()
		switch {
		case q.Reader != "":
			n.hear(Subject{q.Kind, q.Domain, q.Begins}, q.Reader)
		case q.Domain == "":
			a.Domains = n.Counts.Domains(q.Kind, q.Begins)
		default:
			a.Part = n.Counts.Part(q.Kind, q.Begins, q.Domain)
		}
	}
	out, err := json.Marshal(a)
	return out, err == nil
}

// ask asks all other nodes at a time. Those that do not answer are missing.
func (n *Nodes) ask(ctx context.Context, q question) (answers []answer, missing []string) {
	if n.Others == nil {
		return nil, nil
	}
	content, err := json.Marshal(q)
	if err != nil {
		return nil, n.Others()
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, node := range n.Others() {
		asking.Go(func() { // ends with ctx
			text, err := n.Ask(ctx, node, content)
			var a answer
			mu.Lock()
			defer mu.Unlock()
			if err != nil || json.Unmarshal(text, &a) != nil || !a.Knows {
				missing = append(missing, node)
				return
			}
			answers = append(answers, a)
		})
	}
	asking.Wait()
	slices.Sort(missing)
	return answers, missing
}

// lostSince returns the nodes that were there on a day or since, and are no more.
func (n *Nodes) lostSince(begins int64) (lost []string) {
	if n.Others == nil {
		return nil
	}
	there := n.Others()
	n.mu.Lock()
	defer n.mu.Unlock()
	for node, last := range n.seen {
		if last >= begins && !slices.Contains(there, node) {
			lost = append(lost, node)
		}
	}
	slices.Sort(lost)
	return lost
}

// Domains returns the domains of which any node counted something on a day. ok is false if the others are not known.
func (n *Nodes) Domains(ctx context.Context, k Kind, begins int64) (names []string, ok bool) {
	names = n.Counts.Domains(k, begins)
	if n.Keeper.Load != nil {
		fields, ok := n.Keeper.Load(ctx, nameOfDay(begins))
		for field := range fields {
			if name, found := strings.CutPrefix(field, fieldDomain+k.String()+" "); found && isName(name) {
				names = append(names, name)
			}
		}
		return distinct(names), ok
	}
	answers, _ := n.ask(ctx, question{Kind: k, Begins: begins})
	for _, a := range answers {
		for _, name := range a.Domains {
			if isName(name) {
				names = append(names, name)
			}
		}
	}
	return distinct(names), true
}

// distinct returns names in order, each once, at most mostDomains of them.
func distinct(names []string) []string {
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), mostDomains)]
}

// A gathered is what all nodes counted of a domain.
type gathered struct {
	part  *Part // nil: nothing
	notes []string
	done  map[string]bool // the readers that were told already
}

// gather returns what all nodes counted of a domain. ok is false if that is not known now.
func (n *Nodes) gather(ctx context.Context, s *Subject) (g gathered, ok bool) {
	own := n.Counts.Part(s.Kind, s.Begins, s.Domain)
	g.part = &Part{}
	if own != nil {
		g.part.add(own)
	}
	if n.Keeper.Load != nil {
		ok = n.gatherKept(ctx, s, &g)
	} else {
		n.gatherAsked(ctx, s, &g)
		ok = true
	}
	if len(g.part.Rows) == 0 {
		g.part = nil
		return g, ok
	}
	g.part.sort()
	return g, ok
}

// gatherKept adds what other runs kept.
func (n *Nodes) gatherKept(ctx context.Context, s *Subject, g *gathered) bool {
	nodes, ok := n.Keeper.Load(ctx, nameOfDay(s.Begins))
	if !ok {
		return false
	}
	fields, ok := n.Keeper.Load(ctx, s.name())
	if !ok {
		return false
	}
	unread := 0
	g.done = make(map[string]bool)
	for field, text := range fields {
		if uri, is := strings.CutPrefix(field, fieldTold); is {
			g.done[uri] = true
		}
		boot, is := strings.CutPrefix(field, fieldPart)
		if !is || boot == n.Boot {
			continue
		}
		var p Part
		if json.Unmarshal([]byte(text), &p) != nil {
			unread++
			continue
		}
		g.part.add(&p)
	}
	for field, state := range nodes {
		boot, is := strings.CutPrefix(field, fieldNode)
		if is && boot != n.Boot && state != stateDone {
			unread++
		}
	}
	if unread > 0 && s.Begins < dayOf(n.Counts.now()) {
		g.notes = append(g.notes, fmt.Sprintf("partial: the last counts of %d nodes are missing", unread))
	}
	return true
}

// gatherAsked adds what other nodes answer.
func (n *Nodes) gatherAsked(ctx context.Context, s *Subject, g *gathered) {
	answers, missing := n.ask(ctx, question{Kind: s.Kind, Begins: s.Begins, Domain: s.Domain})
	n.mu.Lock()
	g.done = maps.Clone(n.heard[*s])
	n.mu.Unlock()
	late := 0
	if n.Counts.began.Unix() > s.Begins {
		late++
	}
	for _, a := range answers {
		if a.Part != nil {
			g.part.add(a.Part)
		}
		if a.Began > s.Begins {
			late++
		}
	}
	missing = append(missing, n.lostSince(s.Begins)...)
	if len(missing) > 0 {
		g.notes = append(g.notes, fmt.Sprintf("partial: the counts of %d nodes are missing", len(missing)))
	}
	if late > 0 {
		g.notes = append(g.notes, fmt.Sprintf("partial: %d nodes began to count within the day", late))
	}
}
