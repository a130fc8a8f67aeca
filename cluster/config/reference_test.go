package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The tables of docs/configuration.md have a row for each key. Keys, types and defaults are those of the code: WRITE=1
// (make docs) writes them, and a row for each key that has none. What a key means is written in the row by hand.

const referencePage = "../../docs/configuration.md"

// typeWords are the words for the types of keys, the usual one first. What is not here is a text, whose form a word of
// the page names.
var typeWords = map[reflect.Type][]string{
	reflect.TypeFor[Duration]():           {"duration"},
	reflect.TypeFor[Size]():               {"size"},
	reflect.TypeFor[Rate]():               {"rate"},
	reflect.TypeFor[Rates]():              {"`none`"},
	reflect.TypeFor[int]():                {"number", "port"},
	reflect.TypeFor[float64]():            {"number", "number from 0 to 1"},
	reflect.TypeFor[bool]():               {"true, false"},
	reflect.TypeFor[File]():               {"file", "folder", "file or folder"},
	reflect.TypeFor[[]Network]():          {"networks"},
	reflect.TypeFor[map[string]float64](): {"numbers by name"},
	reflect.TypeFor[NetworkLimits]():      {"`/24`, `/56`, `/48`"},
}

// A referenceKey is a key of the configuration. Of a list of sections "[]" stands for each of them.
type referenceKey struct {
	key    string
	typ    reflect.Type
	isList bool // of sections, whose keys follow: it may have a row
}

// referenceKeys returns all keys of a section and of what lies below it.
func referenceKeys(section reflect.Type, path string) (keys []referenceKey) {
	for i := range section.NumField() {
		f := section.Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		key, t := path+tag, f.Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch {
		case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && hasKeys(t.Elem()):
			keys = append(keys, referenceKey{key, t, true})
			keys = append(keys, referenceKeys(t.Elem(), key+"[].")...)
		case t.Kind() == reflect.Struct && hasKeys(t) && t != reflect.TypeFor[NetworkLimits]():
			keys = append(keys, referenceKey{key, t, true})
			keys = append(keys, referenceKeys(t, key+".")...)
		default:
			keys = append(keys, referenceKey{key, t, false})
		}
	}
	return keys
}

// inForce returns the values of the keys that a configuration with all sections leaves out, as they are written. A zero
// value is not among them: what holds then is the default of the package that does the work.
func inForce(t *testing.T) map[string]string {
	t.Helper()
	const sections = smallest + "srs: {domain: srs.example.net, key_file: file}\nadmin: {}\n" +
		"score: {greylist: {from: 4, to: 6}}\nredis: {url: \"redis://127.0.0.1\"}\ntls: {cert: file, key: file}\n" +
		"postmaster: ops@elsewhere.example\n"
	c, err := parse(configFile(t), []byte(sections), "", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	c.Events = &Events{}
	c.Events.setDefaults()
	c.Activity = &Activity{}
	c.Activity.setDefaults(func(string) bool { return false })
	values := make(map[string]string)
	for _, s := range c.Settings() {
		zero := strings.Contains(" 0 0s {0 0s} ", " "+s.Value+" ") || s.Value == ""
		if s.Origin == ByDefault && !zero && !strings.Contains(s.Key, "[") {
			values[s.Key] = s.Value
		}
	}
	if values["limits.line"] != "1MiB" || values["score.deadline"] != "1s" || values["events.queue"] != "10000" {
		t.Fatalf("the defaults are not all there: %v", values)
	}
	return values
}

// TestReference: each key has one row, with its type and its default.
func TestReference(t *testing.T) {
	content, err := os.ReadFile(filepath.FromSlash(referencePage))
	if err != nil {
		t.Fatal(err)
	}
	r := reference{keys: referenceKeys(reflect.TypeFor[Config](), ""), defaults: inForce(t), rows: make(map[string]int)}
	if len(r.keys) < 120 {
		t.Errorf("only %d keys were found", len(r.keys))
	}
	page := r.read(string(content))
	for _, k := range r.keys {
		if n := r.rows[k.key]; n != 1 && (n != 0 || !k.isList) {
			r.fail("%s has %d rows", k.key, n)
		}
	}
	if page != string(content) && os.Getenv("WRITE") != "" {
		if err := os.WriteFile(filepath.FromSlash(referencePage), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, finding := range r.findings {
		t.Error(finding)
	}
	if len(r.findings) > 0 {
		t.Log("docs/configuration.md is not what the code has: make docs writes types and defaults; write a row for " +
			"each new key into the table of its section")
	}
}

// A reference goes through the page.
type reference struct {
	keys     []referenceKey
	defaults map[string]string
	rows     map[string]int // of a key
	findings []string
}

func (r *reference) fail(format string, args ...any) {
	r.findings = append(r.findings, fmt.Sprintf(format, args...))
}

var (
	sectionHeading = regexp.MustCompile("^### `([a-z_]+)`$")
	firstKey       = regexp.MustCompile("^`([^`]+)`$")
)

// read reads the tables, and returns the page with the types and defaults of the code.
func (r *reference) read(page string) string {
	var b strings.Builder
	section, table := "", false
	for line := range strings.Lines(page) {
		text := strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(text, "#"):
			section = ""
			if m := sectionHeading.FindStringSubmatch(text); m != nil {
				section = m[1]
			}
		case strings.HasPrefix(text, "| Key | Type | Default |"):
			table = true
		case !strings.HasPrefix(text, "|"):
			table = false
		case table && !strings.HasPrefix(text, "|---"):
			line = r.row(section, text) + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// row reads a row of a section, and returns it as it has to be.
func (r *reference) row(section, text string) string {
	cells := strings.Split(strings.Trim(text, "|"), " | ")
	m := firstKey.FindStringSubmatch(strings.TrimSpace(cells[0]))
	if m == nil || len(cells) < 4 {
		r.fail("%q: want one key in the first cell, and what it means in the last", text)
		return text
	}
	if len(strings.TrimSpace(cells[len(cells)-1])) < 3 {
		r.fail("%s: the row does not say what it means", m[1])
	}
	k, ok := r.find(section, m[1])
	if !ok {
		r.fail("%s is no key", m[1])
		return text
	}
	r.rows[k.key]++
	if words := typeWords[k.typ]; len(words) > 0 && !slices.Contains(words, cells[1]) {
		r.fail("%s: the type is %q, want %q", k.key, cells[1], words[0])
		cells[1] = words[0]
	}
	value, ok := r.defaults[k.key]
	if want := "`" + value + "`"; ok && !k.isList && !r.isSame(strings.Trim(cells[2], "`"), value) {
		r.fail("%s: the default is %q, want %q", k.key, cells[2], want)
		cells[2] = want
	}
	return "|" + strings.Join(cells, " | ") + "|"
}

// isSame reports whether a default is written as the value in force, or in another way that means it.
func (r *reference) isSame(written, value string) bool {
	a, err := time.ParseDuration(written)
	b, err2 := time.ParseDuration(value)
	return written == value || err == nil && err2 == nil && a == b ||
		written == "hostname" && value == r.defaults["authserv_id"]
}

// find returns the key that a row is about. In the table of a section its name may be left out.
func (r *reference) find(section, name string) (referenceKey, bool) {
	for _, key := range []string{section + "[]." + name, section + "." + name, name} {
		i := slices.IndexFunc(r.keys, func(k referenceKey) bool { return k.key == key })
		if i >= 0 {
			return r.keys[i], true
		}
	}
	return referenceKey{}, false
}

// TestReference_Bite: a row of another type, with another default, of no key and without a meaning is found.
func TestReference_Bite(t *testing.T) {
	r := reference{
		keys:     referenceKeys(reflect.TypeFor[Config](), ""),
		defaults: map[string]string{"limits.line": "1MiB"}, rows: make(map[string]int),
	}
	got := r.read("### `limits`\n\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n" +
		"| `limits.line` | number | `2MiB` | the most of a line |\n| `limits.lines` | size | `1MiB` | no key |\n" +
		"| `recipients` | number | `100` |  |\n")
	if !strings.Contains(got, "| `limits.line` | size | `1MiB` | the most of a line |") {
		t.Errorf("got %s", got)
	}
	if len(r.findings) != 4 {
		t.Errorf("got %d findings, want 4: %q", len(r.findings), r.findings)
	}
}
