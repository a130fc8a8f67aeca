package node

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Problem is one thing wrong with a configuration, with its place.
type Problem struct {
	File    string
	Line    int    // 0: no line of the file is to blame
	Field   string // such as "listen[0].addr"; "" when the file is not even YAML
	Message string
	Cause   error // what Message was made of, when there was an error; may be nil
}

// String gives "file:line: field: message".
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			b.WriteString(":" + strconv.Itoa(p.Line))
		}
		b.WriteString(": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all that is wrong with a configuration, as one error.
type Problems []Problem

// Error gives one problem a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the causes of those that have one.
func (p Problems) Unwrap() []error {
	var causes []error
	for i := range p {
		if p[i].Cause != nil {
			causes = append(causes, p[i].Cause)
		}
	}
	return causes
}

// places knows on which line of which file each field of a configuration stands.
type places struct {
	file  string
	lines map[string]int
}

// line gives the line of a field or, when it is absent, of the nearest section around it.
func (p places) line(field string) int {
	for field != "" {
		if n, ok := p.lines[field]; ok {
			return n
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return p.lines[""]
}

func (p places) problem(field, message string) Problem {
	return Problem{File: p.file, Line: p.line(field), Field: field, Message: message}
}

// A decoder fills a struct from YAML and keeps every complaint with its line. It is ours, because yaml's own decoder
// cannot refuse an unknown key of a Node, and because ${ENV} is to be expanded after the parse and before the types.
type decoder struct {
	places
	dir      string // what relative names of files count from
	env      func(string) (string, bool)
	problems Problems
}

// decode reads data into the struct that v points to, which holds the defaults.
func (d *decoder) decode(data []byte, v any) {
	d.lines = map[string]int{"": 1}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		d.add("", "the file is empty")
		return
	}
	if err == nil && dec.Decode(&second) == nil {
		d.problems = append(d.problems, Problem{File: d.file, Line: second.Line, Message: "one document to a file"})
		return
	}
	if err != nil {
		d.problems = append(d.problems, syntaxProblem(d.file, err))
		return
	}
	d.value(doc.Content[0], reflect.ValueOf(v).Elem(), "")
}

var yamlErrorLine = regexp.MustCompile(`line (\d+): `)

// syntaxProblem takes the line out of an error of the YAML scanner, which has it in its text alone.
func syntaxProblem(file string, err error) Problem {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	p := Problem{File: file, Line: 1}
	if m := yamlErrorLine.FindStringSubmatchIndex(message); m != nil {
		p.Line, _ = strconv.Atoi(message[m[2]:m[3]])
		message = message[:m[0]] + message[m[1]:]
	}
	p.Message = message
	return p
}

func (d *decoder) add(field, message string) {
	d.problems = append(d.problems, d.problem(field, message))
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

func (d *decoder) value(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if field != "" {
		d.lines[field] = n.Line
	}
	if n.ShortTag() == "!!null" {
		d.add(field, "has no value")
		return
	}
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		d.value(n, v.Elem(), field)
	case reflect.PointerTo(t).Implements(textType):
		if text, ok := d.scalar(n, field); ok {
			if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
				d.add(field, err.Error())
			}
		}
	case t.Kind() == reflect.Struct:
		d.mapping(n, v, field)
	case t.Kind() == reflect.Slice:
		d.list(n, v, field)
	case t.Kind() == reflect.Map:
		d.table(n, v, field)
	default:
		d.plain(n, v, field)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		d.add(field, "want keys and values")
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		name := strings.TrimPrefix(field+"."+key.Value, ".")
		if first, twice := seen[key.Value]; twice {
			d.problems = append(d.problems,
				Problem{
					File: d.file, Line: key.Line, Field: name, Message: fmt.Sprintf("stands on line %d already", first),
				})
			continue
		}
		seen[key.Value] = key.Line
		member, ok := memberFor(v, key.Value)
		if !ok {
			d.problems = append(d.problems,
				Problem{File: d.file, Line: key.Line, Field: name, Message: "no such key" + suggestion(v, key.Value)})
			continue
		}
		d.value(n.Content[i+1], member, name)
	}
}

// memberFor finds the member of a struct that the yaml tag names.
func memberFor(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag == key && tag != "" && tag != "-" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// suggestion lists the keys that exist, because a key that is not one is a slip of the pen.
func suggestion(v reflect.Value, key string) string {
	var keys []string
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag.Get("yaml")
		if tag == "" || tag == "-" {
			continue
		}
		if strings.EqualFold(strings.ReplaceAll(tag, "_", ""), strings.NewReplacer("_", "", "-", "").Replace(key)) {
			return "; did you mean " + tag
		}
		keys = append(keys, tag)
	}
	return "; there are " + strings.Join(keys, ", ")
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.SequenceNode {
		d.add(field, "want a list: [a, b]")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", field, i))
	}
}

// table fills a map from names to values.
func (d *decoder) table(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		d.add(field, "want keys and values")
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		at := field + "[" + name + "]" // a name may hold dots
		if v.MapIndex(reflect.ValueOf(name)).IsValid() {
			d.problems = append(d.problems,
				Problem{File: d.file, Line: n.Content[i].Line, Field: at, Message: "stands there already"})
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(n.Content[i+1], item, at)
		v.SetMapIndex(reflect.ValueOf(name), item)
	}
}

func (d *decoder) plain(n *yaml.Node, v reflect.Value, field string) {
	text, ok := d.scalar(n, field)
	if !ok {
		return
	}
	switch v.Kind() {
	case reflect.String:
		if v.Type() == reflect.TypeFor[File]() && text != "" && !filepath.IsAbs(text) {
			text = filepath.Join(d.dir, text)
		}
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil || (text != "true" && text != "false") {
			d.add(field, fmt.Sprintf("%q is neither true nor false", text))
			return
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.Atoi(text)
		if err != nil {
			d.add(field, fmt.Sprintf("%q is not a whole number", text))
			return
		}
		v.SetInt(int64(i))
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f != f {
			d.add(field, fmt.Sprintf("%q is not a number", text))
			return
		}
		v.SetFloat(f)
	default:
		panic("node: no decoder for " + v.Type().String()) // a slip in our own structs, found by the first test
	}
}

var envPattern = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// scalar gives the text of a scalar with every ${NAME} replaced by that variable of the environment. What a variable
// holds is a value and never YAML.
func (d *decoder) scalar(n *yaml.Node, field string) (string, bool) {
	if n.Kind != yaml.ScalarNode {
		d.add(field, "want one value")
		return "", false
	}
	ok := true
	text := envPattern.ReplaceAllStringFunc(n.Value, func(m string) string {
		value, set := d.env(m[2 : len(m)-1])
		if !set {
			d.add(field, "the environment has no "+m[2:len(m)-1])
			ok = false
		}
		return value
	})
	return text, ok
}
