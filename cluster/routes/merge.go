package routes

import (
	"slices"
	"strconv"
	"strings"
)

// A ConflictError says which lines of the files cannot be merged into the shared rules.
type ConflictError struct {
	Version uint64 // of the shared rules
	Lines   []ConflictLine
	More    int // lines that are not listed
}

// A ConflictLine is a line of a file that cannot be merged.
type ConflictLine struct {
	File   string
	Line   int // of the statement, or before it was removed; from 1
	Reason string
}

// maxConflicts bounds the lines that a ConflictError lists.
const maxConflicts = 20

// Error returns a line for each ConflictLine, in the form file:line: reason.
func (e *ConflictError) Error() string {
	var b strings.Builder
	for i, l := range e.Lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(l.File + ":" + strconv.Itoa(l.Line) + ": " + l.Reason)
	}
	if e.More > 0 {
		b.WriteString("\nand " + strconv.Itoa(e.More) + " more")
	}
	return b.String()
}

// A merging is a three-way merge in progress: the changes of the files from base to ours are made to theirs.
type merging struct {
	base, ours, theirs set
	paths              []string // the names that this node has for the files of ours
	version            uint64   // of theirs

	before   map[string]baseStatement // the statements of base, by subject
	current  map[string]string        // those of theirs
	edits    map[string]string        // what subjects of theirs become; "" removes one
	top      map[string][]string
	behind   map[string][]string // statements that come behind the one of a subject
	ahead    map[string][]string
	groups   map[string]bool // of ordered statements, that ours touched
	conflict ConflictError
}

// A baseStatement is a statement of base.
type baseStatement struct {
	text  string
	same  bool // ours has it as well
	there bool // ours has one about the same
}

// merge returns theirs with the changes from base to ours. The error is a *ConflictError.
func merge(base, ours, theirs set, paths []string, version uint64) (set, error) {
	m := &merging{base: base, ours: ours, theirs: theirs, paths: paths, version: version,
		before: map[string]baseStatement{}, current: map[string]string{}, edits: map[string]string{},
		top:    map[string][]string{},
		behind: map[string][]string{}, ahead: map[string][]string{}, groups: map[string]bool{}}
	m.conflict.Version = version
	if !m.compare() {
		return theirs, nil
	}
	for _, f := range theirs {
		for s := range statements(f.text) {
			m.current[subject(s.text)] = s.text
		}
	}
	m.change()
	merged := m.apply()
	m.checkOrder(merged)
	if len(m.conflict.Lines) > 0 {
		return nil, &m.conflict
	}
	return merged, nil
}

// compare notes which statements of base are unchanged in ours, and which groups of ordered ones ours changed. It
// reports whether ours changed anything.
func (m *merging) compare() bool {
	old, now := make(map[string][]string), make(map[string][]string) // the ordered statements of each group
	for _, f := range m.base {
		for s := range statements(f.text) {
			m.before[subject(s.text)] = baseStatement{text: s.text}
			noteOrdered(old, s.text)
		}
	}
	same, added := 0, false
	for _, f := range m.ours {
		for s := range statements(f.text) {
			noteOrdered(now, s.text)
			k := subject(s.text)
			b, ok := m.before[k]
			if !ok {
				added = true
				continue
			}
			b.there, b.same = true, b.text == s.text
			m.before[k] = b
			if b.same {
				same++
			}
		}
	}
	for group, list := range now {
		if !slices.Equal(list, old[group]) {
			m.groups[group] = true
		}
	}
	return added || same < len(m.before) || len(m.groups) > 0
}

// noteOrdered appends the subject of an ordered statement to those of its group.
func noteOrdered(groups map[string][]string, s string) {
	if group := ordered(s); group != "" {
		groups[group] = append(groups[group], subject(s))
	}
}

// change divides the changes into edits and insertions.
func (m *merging) change() {
	for i, f := range m.ours {
		last := ""                           // the subject of the last statement that theirs has as well
		lastOf := make(map[string]string)    // the same for the ordered statements of each group
		waiting := make(map[string][]string) // ordered statements without one of their group before them
		for s := range statements(f.text) {
			k, group := subject(s.text), ordered(s.text)
			their, shared := m.current[k]
			old, had := m.before[k]
			switch {
			case old.same || their == s.text:
			case shared && had && their == old.text:
				m.edits[k] = s.text
			case shared || had:
				m.addConflict(m.paths[i], s, k, their)
				shared = false
			case group != "" && lastOf[group] != "":
				m.behind[lastOf[group]] = append(m.behind[lastOf[group]], s.text)
			case group != "":
				waiting[group] = append(waiting[group], s.text)
			default:
				m.insert(f.name, last, s.text)
			}
			if !shared {
				continue
			}
			last = k
			if group != "" {
				m.ahead[k] = append(m.ahead[k], waiting[group]...)
				delete(waiting, group)
				lastOf[group] = k
			}
		}
		left := make(map[string]bool) // those of groups that theirs does not have
		for _, list := range waiting {
			for _, text := range list {
				left[text] = true
			}
		}
		for s := range statements(f.text) {
			if left[s.text] {
				m.insert(f.name, last, s.text)
			}
		}
	}
	m.remove()
}

// insert inserts a statement behind the one whose subject is last, or at the top of its file if last is empty.
func (m *merging) insert(name, last, text string) {
	if last == "" {
		m.top[name] = append(m.top[name], text)
		return
	}
	m.behind[last] = append(m.behind[last], text)
}

// remove removes the statements of base that ours does not have any more.
func (m *merging) remove() {
	for _, f := range m.base {
		for s := range statements(f.text) {
			k := subject(s.text)
			their, shared := m.current[k]
			if !shared || m.before[k].there {
				continue
			}
			if their != s.text {
				m.addConflict(f.name, s, k, their)
				continue
			}
			m.edits[k] = ""
		}
	}
}

// addConflict notes a statement that both sides changed.
func (m *merging) addConflict(path string, s line, k, their string) {
	says := "does not have it any more"
	if their != "" {
		says = "says " + quote(their)
	}
	m.fail(path, s.number,
		quote(k)+" was changed here, and version "+strconv.FormatUint(m.version, 10)+" of the shared rules "+says)
}

// fail adds a line to the conflict.
func (m *merging) fail(path string, number int, reason string) {
	if len(m.conflict.Lines) == maxConflicts {
		m.conflict.More++
		return
	}
	m.conflict.Lines = append(m.conflict.Lines, ConflictLine{path, number, reason})
}

// quote returns s quoted for an error, shortened to 120 octets.
func quote(s string) string {
	const limit = 120
	if len(s) > limit {
		return strconv.Quote(s[:limit]) + "..."
	}
	return strconv.Quote(s)
}

// apply returns theirs with the edits and the insertions. Files that only ours has are last.
func (m *merging) apply() set {
	var out set
	for _, f := range m.theirs {
		w := writer{}
		w.put(m.top[f.name]...)
		delete(m.top, f.name)
		for _, whole := range lines(f.text) {
			s := statement(whole)
			if s == "" {
				w.keep(whole)
				continue
			}
			k := subject(s)
			w.put(m.ahead[k]...)
			switch text, edited := m.edits[k]; {
			case !edited:
				w.keep(whole)
			case text != "":
				w.put(text)
			}
			w.put(m.behind[k]...)
		}
		out = append(out, file{f.name, w.String()})
	}
	for _, f := range m.ours {
		if texts := m.top[f.name]; len(texts) > 0 {
			w := writer{}
			w.put(texts...)
			out = append(out, file{f.name, w.String()})
		}
	}
	return out
}

// A writer writes lines. It ends a line before it writes the next one.
type writer struct {
	strings.Builder
	open bool // the last line has no line feed
}

// keep writes a line with its end.
func (w *writer) keep(whole string) {
	w.end()
	w.WriteString(whole)
	w.open = !strings.HasSuffix(whole, "\n")
}

// put writes lines without their ends.
func (w *writer) put(texts ...string) {
	for _, s := range texts {
		w.end()
		w.WriteString(s + "\n")
	}
}

// end ends the last line.
func (w *writer) end() {
	if w.open {
		w.WriteByte('\n')
		w.open = false
	}
}

// checkOrder adds a conflict for each group of ordered statements that ours changed, if their order in merged is not
// that of ours.
func (m *merging) checkOrder(merged set) {
	if len(m.groups) == 0 {
		return
	}
	got := make(map[string][]string)
	for _, f := range merged {
		for s := range statements(f.text) {
			noteOrdered(got, s.text)
		}
	}
	position := make(map[string]int) // in merged, from 1
	for group := range m.groups {
		for i, k := range got[group] {
			position[k] = i + 1
		}
	}
	last := make(map[string]int)
	for i, f := range m.ours {
		for s := range statements(f.text) {
			group := ordered(s.text)
			at := position[subject(s.text)]
			if group == "" || at == 0 {
				continue
			}
			if at < last[group] {
				what := "regexes of " + group
				if strings.Contains(group, "@") {
					what = "lines of " + group
				}
				m.fail(m.paths[i], s.number,
					"the "+what+" stand in another order in version "+strconv.FormatUint(m.version, 10)+
						" of the shared rules, and were changed here")
				delete(m.groups, group)
				for _, k := range got[group] { // one line for each group
					delete(position, k)
				}
			}
			last[group] = max(last[group], at)
		}
	}
}
