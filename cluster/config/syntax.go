package config

import (
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// syntaxProblem returns the complaint about a text that is no YAML, or not keys and values. err is what the library
// says, or nil. Its line is that of a context that may begin far above, and it has no column, so that the text is read
// once more here for what people write wrongly. The library's line and words stand for what is not found so.
func (d *decoder) syntaxProblem(text string, err error) Problem {
	if p, ok := misread(text); ok {
		return d.problemAt(p.at, "", p.why)
	}
	if err == nil {
		return d.problemAt(position{1, 1}, "", "want keys and values: hostname: mx1.example.net")
	}
	message, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if m := yamlErrorLine.FindStringSubmatchIndex(message); m != nil {
		line, _ = strconv.Atoi(message[m[2]:m[3]])
		message = message[:m[0]] + message[m[1]:]
	}
	return d.problemAt(position{line, 1}, "", "this is no YAML near here: "+message)
}

var yamlErrorLine = regexp.MustCompile(`line (\d+): `)

// A misreading is what is wrong with a text, and where.
type misreading struct {
	at  position
	why string
}

// A reader of YAML goes through the lines of a text that the library refused.
type reader struct {
	line    int // that is read, from 1
	text    string
	opened  []bracket // that wait for their other half
	indents []indent  // of the sections around
	found   *misreading
}

type bracket struct {
	at   position
	sign byte
}

// An indent is the column where the lines of a section begin, from 0.
type indent struct {
	column int
	list   bool // of dashes
	filled bool // the last key of it has a value on its line
}

// misread returns the first thing that is wrong with a text that is no YAML.
func misread(text string) (misreading, bool) {
	text = strings.TrimPrefix(text, "\ufeff")
	r := &reader{}
	if r.signs(text); r.found != nil {
		return *r.found, true
	}
	for line := range strings.SplitSeq(text, "\n") {
		r.line++
		r.text = strings.TrimRight(line, "\r")
		if r.readLine(); r.found != nil {
			return *r.found, true
		}
	}
	if n := len(r.opened); n > 0 {
		b := r.opened[n-1]
		return misreading{b.at, "this " + string(b.sign) + " is not closed by " + closing[b.sign]}, true
	}
	return misreading{}, false
}

var closing = map[byte]string{'[': "]", '{': "}"}

// fail notes what is wrong at an offset of the line, unless something before it is.
func (r *reader) fail(offset int, why string) {
	if r.found == nil {
		r.found = &misreading{position{r.line, utf8.RuneCountInString(r.text[:offset]) + 1}, why}
	}
}

// signs finds octets that no text in UTF-8 has.
func (r *reader) signs(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		r.line++
		r.text = line
		for i, c := range line {
			switch {
			case c == utf8.RuneError && !strings.HasPrefix(line[i:], "\ufffd"):
				r.fail(i, "this is not UTF-8: save the file as UTF-8")
			case c < ' ' && c != '\t' && c != '\r', c >= 0x7f && c < 0xa0:
				r.fail(i, "this is a control character ("+strconv.QuoteRune(c)+")")
			}
		}
	}
	r.line = 0
}

// readLine reads one line.
func (r *reader) readLine() {
	content := strings.TrimLeft(r.text, " \t")
	start := len(r.text) - len(content)
	if content == "" || content[0] == '#' {
		return
	}
	if tab := strings.IndexByte(r.text[:start], '\t'); tab >= 0 {
		r.fail(tab, "this line is indented with a tab: write blanks")
		return
	}
	if len(r.opened) > 0 {
		r.flow(start, len(r.text))
		return
	}
	for _, sign := range []string{"//", ";", "/*", "--"} {
		if strings.HasPrefix(content, sign) && !strings.HasPrefix(content, "---") {
			r.fail(start, "a comment begins with #")
			return
		}
	}
	if content[0] == '[' && start == 0 {
		r.fail(start, "a section has no brackets: write its name with a colon, and indent what belongs to it")
		return
	}
	for strings.HasPrefix(content, "- ") || content == "-" {
		r.indent(start, true)
		content = strings.TrimLeft(content[1:], " ")
		start = len(r.text) - len(content)
	}
	if content != "" && r.found == nil {
		r.entry(start)
	}
}

// indent compares where a line begins with the sections around it.
func (r *reader) indent(column int, list bool) {
	for len(r.indents) > 0 && r.indents[len(r.indents)-1].column > column {
		r.indents = r.indents[:len(r.indents)-1]
	}
	if n := len(r.indents); n > 0 {
		last := r.indents[n-1]
		switch {
		case last.column == column && last.list == list:
			return
		case last.column == column && last.list:
			if n > 1 && r.indents[n-2].column == column { // the list of a key stands as far left as the key
				r.indents = r.indents[:n-1]
				return
			}
			r.fail(column, "this key stands among the dashes of a list: indent it as the keys behind a dash")
			return
		case last.column == column && last.filled:
			r.fail(column, "this dash stands among keys: a list belongs to a key without a value")
			return
		case last.column < column && last.filled && !list:
			r.fail(column, "this line is indented more than the key above, which has a value already")
			return
		}
	}
	r.indents = append(r.indents, indent{column: column, list: list})
}

// entry reads a key and its value, or an element of a list, from an offset on.
func (r *reader) entry(start int) {
	key, value, ok := r.cutKey(start)
	switch {
	case ok:
		r.indent(start, false)
		if n := len(r.indents); n > 0 {
			r.indents[n-1].filled = r.text[value:] != "" && r.text[value] != '#'
		}
		r.value(value, true)
	case r.found == nil && len(r.indents) > 0 && r.indents[len(r.indents)-1].list:
		r.value(start, false)
	case r.found == nil:
		r.fail(start, keyFault(key))
	}
}

// cutKey returns the key that a line has from start on, and the offset of its value.
func (r *reader) cutKey(start int) (key string, value int, ok bool) {
	rest := r.text[start:]
	from := 0
	if rest[0] == '"' || rest[0] == '\'' {
		n := r.quoted(start)
		if n < 0 {
			return "", 0, false
		}
		from = n - start
	} else if strings.ContainsRune("[{", rune(rest[0])) {
		return "", 0, false
	}
	for i := from; i < len(rest); i++ {
		switch {
		case rest[i] == '#' && i > 0 && rest[i-1] == ' ':
			return strings.TrimRight(rest[:i], " "), 0, false
		case rest[i] == ':' && (i+1 == len(rest) || rest[i+1] == ' ' || rest[i+1] == '\t'):
			value = start + i + 1
			return rest[:i], value + len(r.text[value:]) - len(strings.TrimLeft(r.text[value:], " \t")), true
		}
	}
	return rest, 0, false
}

// keyFault returns what is wrong with a line that has no key. It repeats words that are keys alone: any other may be a
// password, or a part of one.
func keyFault(text string) string {
	name, _, colon := strings.Cut(text, ":")
	left, _, equals := strings.Cut(text, "=")
	left = strings.TrimSpace(left)
	word, _, blank := strings.Cut(text, " ")
	switch {
	case equals && !strings.ContainsAny(left, " :"):
		return "a colon and a blank part a key from its value, as in " + exampleKey(left) + ": value"
	case colon && !strings.Contains(name, " "):
		return "a blank stands behind the colon, as in " + exampleKey(name) + ": value"
	case blank:
		return "a colon stands behind a key, as in " + exampleKey(word) + ": value"
	}
	return "this is no key: a key has a colon behind it"
}

// exampleKey returns a word if it is a key, of ours or of another program, and else one that stands for it.
func exampleKey(word string) string {
	if otherKeys[word] != "" || len(elsewhere(reflect.TypeFor[Config](), "", word)) > 0 {
		return word
	}
	return "key"
}

// value reads a value from an offset to the end of the line. behindKey reports that it is that of a key.
func (r *reader) value(start int, behindKey bool) {
	rest := r.text[start:]
	if rest == "" || r.found != nil {
		return
	}
	end := len(r.text)
	switch c := rest[0]; {
	case c == '"' || c == '\'':
		if n := r.quoted(start); n >= 0 {
			tail := strings.TrimLeft(r.text[n:], " ")
			if tail != "" && tail[0] != '#' {
				r.fail(len(r.text)-len(tail), "nothing stands behind the closing quote but a comment")
			}
		}
	case c == '[' && strings.Contains(rest, "]:"):
		address, _, _ := strings.Cut(rest, " ")
		r.fail(start, "an address in brackets stands in quotes: "+strconv.Quote(address))
	case c == '[' || c == '{':
		end = r.flow(start, end)
		if tail := strings.TrimLeft(r.text[end:], " "); r.found == nil && tail != "" && tail[0] != '#' {
			r.fail(start, "a value that begins with "+string(c)+" stands in quotes")
		}
	default:
		r.plain(start, rest, behindKey)
	}
}

// plain reads a value without quotes.
func (r *reader) plain(start int, rest string, behindKey bool) {
	if strings.ContainsRune("@`%*&!|>", rune(rest[0])) && !(strings.ContainsRune("|>",
		rune(rest[0])) && len(rest) < 4) {
		r.fail(start, "a value that begins with "+rest[:1]+" stands in quotes")
		return
	}
	if n := strings.Index(rest, " #"); n >= 0 {
		rest = rest[:n]
	}
	if n := strings.Index(rest, ": "); n >= 0 && behindKey {
		r.fail(start+n, "a value with a colon and a blank in it stands in quotes")
	}
}

// quoted returns the offset behind a text in quotes, or -1.
func (r *reader) quoted(start int) int {
	quote := r.text[start]
	for i := start + 1; i < len(r.text); i++ {
		switch {
		case r.text[i] == '\\' && quote == '"':
			if i+1 < len(r.text) && !strings.ContainsRune("0abtnvfre \"/\\N_LPxuU", rune(r.text[i+1])) {
				r.fail(i, `a backslash in double quotes is written \\, or stands in single ones`)
				return -1
			}
			i++
		case r.text[i] == quote && quote == '\'' && i+1 < len(r.text) && r.text[i+1] == '\'':
			i++
		case r.text[i] == quote:
			return i + 1
		}
	}
	r.fail(start, "this quote is not closed on its line")
	return -1
}

// flow reads what stands in brackets from an offset on, up to end, and returns where the last bracket was closed, or
// end.
func (r *reader) flow(start, end int) int {
	fresh := true // a value or a key may begin
	for i := start; i < end && r.found == nil; i++ {
		switch c := r.text[i]; {
		case c == '#' && (i == 0 || r.text[i-1] == ' '):
			return end
		case (c == '"' || c == '\'') && fresh:
			n := r.quoted(i)
			if n < 0 {
				return end
			}
			i, fresh = n-1, false
		case (c == '[' || c == '{') && fresh:
			r.opened = append(r.opened, bracket{position{r.line, utf8.RuneCountInString(r.text[:i]) + 1}, c})
		case c == ']' || c == '}':
			last := r.opened[len(r.opened)-1]
			if closing[last.sign] != string(c) {
				r.fail(i, "here "+closing[last.sign]+" is needed, for the "+string(last.sign)+" on line "+
					strconv.Itoa(last.at.line))
				return end
			}
			if r.opened = r.opened[:len(r.opened)-1]; len(r.opened) == 0 {
				return i + 1
			}
			fresh = false
		case c == ',', c == ':' && !fresh && i+1 < end && r.text[i+1] == ' ':
			fresh = true
		case fresh && strings.ContainsRune("@`%*&:", rune(c)):
			r.fail(i, "a value that begins with "+string(c)+" stands in quotes")
		case c != ' ' && c != '\t':
			fresh = false
		}
	}
	return end
}
