package migrate

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A parameter is a line of main.cf.
type parameter struct {
	value string
	file  string
	line  int
}

// A mainCF is what main.cf says. What it leaves out has Postfix's default.
type mainCF struct {
	set map[string]parameter
	dir string // of the file, for names of files that are relative
}

// maxCF bounds a file that is read: the largest tables in use have a few million lines.
const maxCF = 512 << 20

// readMainCF reads files as Postfix reads one: later lines win.
func readMainCF(names []string) (*mainCF, error) {
	cf := &mainCF{set: make(map[string]parameter), dir: filepath.Dir(names[0])}
	for _, name := range names {
		text, err := readFile(name)
		if err != nil {
			return nil, err
		}
		for _, l := range logicalLines(text) {
			key, value, ok := strings.Cut(l.text, "=")
			key = strings.TrimSpace(key)
			if !ok || key == "" || strings.ContainsAny(key, " \t") {
				return nil, fmt.Errorf("%s:%d: is no line of main.cf: write name = value", name, l.number)
			}
			cf.set[key] = parameter{strings.Join(strings.Fields(value), " "), name, l.number}
		}
	}
	return cf, cf.readOrigin()
}

// readOrigin reads the file that myorigin names, as Debian's Postfix has it: its first line is the value.
func (cf *mainCF) readOrigin() error {
	p := cf.set["myorigin"]
	file := cf.value("myorigin")
	if !strings.HasPrefix(file, "/") {
		return nil
	}
	text, err := readFile(file)
	if err != nil {
		return fmt.Errorf("%s:%d: myorigin: %w", p.file, p.line, err)
	}
	p.value, _, _ = strings.Cut(text, "\n")
	p.value = strings.TrimSpace(p.value)
	cf.set["myorigin"] = p
	return nil
}

// readOctets reads a file whole.
func readOctets(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is no file of text", name)
	case info.Size() > maxCF:
		return nil, fmt.Errorf("%s: has more than %d octets", name, maxCF)
	}
	return os.ReadFile(name)
}

// readFile reads a file of text.
func readFile(name string) (string, error) {
	text, err := readOctets(name)
	if err != nil {
		return "", err
	}
	for number, line := range bytes.Split(text, []byte("\n")) {
		if bytes.ContainsFunc(bytes.TrimSuffix(line, []byte("\r")), isControl) {
			return "", fmt.Errorf("%s:%d: has a control character: this is no file of text", name, number+1)
		}
	}
	return string(text), nil
}

// isControl reports whether r is a control character that no line of text has.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// A logical is a line with those that continue it.
type logical struct {
	text   string
	number int // of its first line
}

// logicalLines parts a text as Postfix does: a line that begins with a blank continues the one before it, also behind
// comments and empty lines, which count for nothing.
func logicalLines(text string) (all []logical) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, " \t\r\n")
		trimmed := strings.TrimLeft(line, " \t")
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case len(trimmed) < len(line) && len(all) > 0:
			all[len(all)-1].text += " " + trimmed
		default:
			all = append(all, logical{trimmed, number})
		}
	}
	return all
}

// defaults are those of Postfix 3.7 that matter here, at compatibility_level 2 or more.
var defaults = map[string]string{
	"append_at_myorigin":    "yes",
	"local_transport":       "local:$myhostname",
	"message_size_limit":    "10240000",
	"mydestination":         "$myhostname, localhost.$mydomain, localhost",
	"myorigin":              "$myhostname",
	"queue_directory":       "/var/spool/postfix",
	"relay_transport":       "relay",
	"default_transport":     "smtp",
	"virtual_alias_domains": "$virtual_alias_maps",
	"virtual_transport":     "virtual",
}

// maxDepth bounds how often the value of one parameter names another.
const maxDepth = 20

// value returns what a parameter is, with the names of others replaced.
func (cf *mainCF) value(name string) string { return cf.expand(cf.raw(name), 0) }

// raw returns a parameter as it is written.
func (cf *mainCF) raw(name string) string {
	if p, ok := cf.set[name]; ok {
		return p.value
	}
	if name == "mydomain" {
		host := cf.raw("myhostname")
		if _, domain, ok := strings.Cut(host, "."); ok {
			return domain
		}
		return "localdomain"
	}
	return defaults[name]
}

// isSet reports whether a parameter stands in the file with a value.
func (cf *mainCF) isSet(name string) bool { return cf.set[name].value != "" }

// expand replaces $name, ${name}, $(name), ${name?text} and ${name:text}.
func (cf *mainCF) expand(s string, depth int) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		b.WriteString(before)
		if !found || depth > maxDepth {
			return b.String()
		}
		if strings.HasPrefix(rest, "$") {
			b.WriteByte('$')
			s = rest[1:]
			continue
		}
		var name string
		name, s = cutName(rest)
		b.WriteString(cf.expand(cf.one(name), depth+1))
	}
}

// cutName parts what stands behind a dollar sign into the name, without its brackets, and the rest.
func cutName(s string) (name, rest string) {
	if s != "" && (s[0] == '{' || s[0] == '(') {
		closing := map[byte]byte{'{': '}', '(': ')'}[s[0]]
		depth := 0
		for i := range len(s) {
			switch s[i] {
			case s[0]:
				depth++
			case closing:
				if depth--; depth == 0 {
					return s[1:i], s[i+1:]
				}
			}
		}
		return s[1:], ""
	}
	end := 0
	for end < len(s) && (s[end] == '_' || s[end] >= '0' && s[end] <= '9' || s[end] >= 'A' && s[end] <= 'Z' ||
		s[end] >= 'a' && s[end] <= 'z') {
		end++
	}
	return s[:end], s[end:]
}

// one returns what a name between brackets stands for.
func (cf *mainCF) one(name string) string {
	at := strings.IndexAny(name, "?:")
	if at < 0 {
		return cf.raw(name)
	}
	set := cf.raw(strings.TrimSpace(name[:at])) != ""
	text := strings.TrimSpace(name[at+1:])
	if yes, no, ok := strings.Cut(text, "}:{"); ok && name[at] == '?' {
		if set {
			return strings.TrimPrefix(yes, "{")
		}
		return strings.TrimSuffix(no, "}")
	}
	if set == (name[at] == '?') {
		return strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}")
	}
	return ""
}

// list returns the words of a parameter, which commas and blanks part. A word in braces is one.
func (cf *mainCF) list(name string) []string { return words(cf.value(name)) }

// words parts a text at commas and blanks outside of braces.
func words(s string) (all []string) {
	depth, start := 0, 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) {
			switch s[i] {
			case '{':
				depth++
				continue
			case '}':
				depth--
				continue
			case ',', ' ', '\t':
				if depth > 0 {
					continue
				}
			default:
				continue
			}
		}
		if i > start {
			all = append(all, s[start:i])
		}
		start = i + 1
	}
	return all
}

// path returns the name of a file that main.cf names.
func (cf *mainCF) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(cf.dir, name)
}
