package migrate

import (
	"fmt"
	"strings"
)

// An entry is a line of a table.
type entry struct {
	key, value string
	file       string
	line       int
}

// at returns where an entry stands.
func (e *entry) at() string {
	if e.line == 0 {
		return e.file
	}
	return fmt.Sprintf("%s:%d", e.file, e.line)
}

// A pattern is a line of a table of regular expressions. Its key is the expression without its slashes.
type pattern entry

// A table is the tables that one parameter names, in their order: the first that has a key counts.
type table struct {
	entries  map[string]*entry
	order    []*entry
	patterns []pattern
	all      *entry // of static: every key has this value
	unread   bool   // there is more than what was read
}

// textTypes are the types of tables that are made of a file of text, or are one.
var textTypes = map[string]bool{
	"hash": true, "texthash": true, "lmdb": true, "btree": true, "cdb": true, "dbm": true, "sdbm": true,
}

// table reads the tables that a parameter names. What cannot be read is a note.
func (c *conversion) table(name string) *table {
	t := &table{entries: make(map[string]*entry)}
	for _, word := range c.cf.list(name) {
		if err := c.addTable(t, word); err != nil {
			c.note(name, err.Error())
			t.unread = true
		}
	}
	aliases := name == "virtual_alias_maps"
	switch {
	case len(t.patterns) > 0 && !aliases:
		c.note(name, unreadPatterns)
		t.unread = true
	case t.all != nil && (aliases || name == "alias_maps"):
		c.note(name, t.all.file+" is of every address: write what it means as a rule of each domain")
		t.unread = true
	}
	return t
}

// unreadPatterns is what is to be done about expressions of other tables than those of aliases.
const unreadPatterns = "expressions of this table are not read: write out what they match"

// addTable adds the table that a word such as hash:/etc/postfix/virtual names.
func (c *conversion) addTable(t *table, word string) error {
	kind, file, ok := strings.Cut(strings.TrimPrefix(word, "proxy:"), ":")
	if !ok {
		kind, file = "hash", word
	}
	switch {
	case textTypes[kind]:
		return c.addText(t, c.cf.path(file))
	case kind == "regexp" || kind == "pcre":
		return c.addPatterns(t, kind, c.cf.path(file))
	case kind == "inline":
		return t.addInline(file)
	case kind == "static":
		if t.all == nil {
			t.all = &entry{value: strings.Trim(file, "{}"), file: word}
		}
		return nil
	}
	return fmt.Errorf("%s: a table of the type %s is not read: write it as text where it can be listed, as in "+
		"postmap -s %s > FILE, and name texthash:FILE", word, kind, word)
}

// add adds an entry unless its key is there.
func (t *table) add(e entry) {
	e.key = strings.ToLower(e.key)
	if t.entries[e.key] != nil || t.all != nil {
		return
	}
	t.entries[e.key] = &e
	t.order = append(t.order, &e)
}

// addText adds the table of a file of text.
func (c *conversion) addText(t *table, file string) error {
	text, err := readFile(file)
	if err != nil {
		return err
	}
	for _, l := range logicalLines(text) {
		key, value := cutKey(l.text)
		t.add(entry{key, value, file, l.number})
	}
	return nil
}

// cutKey parts a line of a table at the first blank outside of quotes.
func cutKey(line string) (key, value string) {
	quoted := false
	for i := range len(line) {
		switch line[i] {
		case '"':
			quoted = !quoted
		case ' ', '\t':
			if !quoted {
				return line[:i], strings.TrimSpace(line[i:])
			}
		}
	}
	return line, ""
}

// addInline adds the table of inline:{ key=value, { key = text with blanks } }.
func (t *table) addInline(text string) error {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "{") || !strings.HasSuffix(text, "}") {
		return fmt.Errorf("inline:%s: stands without braces", text)
	}
	for _, word := range words(text[1 : len(text)-1]) {
		word = strings.TrimSpace(strings.Trim(word, "{}"))
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			return fmt.Errorf("inline: %q is not key=value", word)
		}
		t.add(entry{strings.TrimSpace(key), strings.TrimSpace(value), "inline", 0})
	}
	return nil
}

// addPatterns adds a table of regular expressions.
func (c *conversion) addPatterns(t *table, kind, file string) error {
	text, err := readFile(file)
	if err != nil {
		return err
	}
	conditions := 0
	for _, l := range logicalLines(text) {
		why := ""
		end := strings.LastIndexByte(cutRule(l.text), '/')
		switch word := strings.ToLower(l.text); {
		case strings.HasPrefix(word, "endif"):
			conditions--
			continue
		case strings.HasPrefix(word, "if"):
			conditions++
			continue
		case conditions > 0:
			why = "stands between if and endif, which rules have not: write it by hand"
		case l.text[0] != '/' || end < 1:
			why = "only lines of the form /pattern/ result are read of a table of type " + kind
		case l.text[end+1:] != strings.TrimLeft(l.text[end+1:], "imxuADEOSUX"):
			why = "has flags, which expressions of rules have not: write it by hand"
		}
		if why != "" {
			c.noteAt(file, l.number, why)
			t.unread = true
			continue
		}
		_, value := cutKey(l.text[end+1:])
		t.patterns = append(t.patterns, pattern{l.text[1:end], value, file, l.number})
	}
	return nil
}

// cutRule returns the pattern of a line with its slashes and flags: what stands before the first blank behind a slash
// that ends it.
func cutRule(line string) string {
	for i := 1; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '/':
			rest := strings.IndexAny(line[i:], " \t")
			if rest < 0 {
				return line
			}
			return line[:i+rest]
		}
	}
	return line
}
