package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A decoder fills a struct from YAML and keeps every complaint with its line. yaml's own decoder does not do: it cannot
// refuse an unknown key of a Node, and ${ENV} has to be expanded after YAML is parsed and before values get their
// types.
type decoder struct {
	locations
	dir      string // the folder that relative file names count from
	env      func(string) (string, bool)
	problems Problems
}

// decode reads data into the struct that v points to. Fields whose key is absent keep their values, the defaults.
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

// syntaxProblem returns an error of the YAML scanner as a Problem. The scanner has the line only in its text.
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

// add adds a complaint about a field.
func (d *decoder) add(field, message string) {
	d.problems = append(d.problems, d.Problem(field, message))
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// value decodes n into v by the type of v. field is the path of keys that complaints name.
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
	case reflect.PointerTo(t).Implements(textType) && (n.Kind != yaml.MappingNode || !hasKeys(t)):
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

// hasKeys reports whether a type is a struct with keys, which may be written as one word as well.
func hasKeys(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	return slices.ContainsFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool {
		tag := f.Tag.Get("yaml")
		return tag != "" && tag != "-"
	})
}

// mapping decodes a mapping into a struct. Unknown and repeated keys are Problems.
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

// memberFor returns the field of a struct whose yaml tag is key.
func memberFor(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag == key && tag != "" && tag != "-" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// suggestion returns the key that was probably meant, or a list of the keys that exist, as the end of a complaint.
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

// list decodes a sequence into a slice.
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

// table fills a map from names to values, of a mapping whose keys are not fixed.
func (d *decoder) table(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		d.add(field, "want keys and values")
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		path := field + "[" + name + "]" // in brackets, because a name may hold dots
		if v.MapIndex(reflect.ValueOf(name)).IsValid() {
			d.problems = append(d.problems,
				Problem{File: d.file, Line: n.Content[i].Line, Field: path, Message: "stands there already"})
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(n.Content[i+1], item, path)
		v.SetMapIndex(reflect.ValueOf(name), item)
	}
}

// plain decodes a scalar into a string, bool, int or float64. A relative File is joined to the folder of the
// configuration file.
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
		if err != nil || math.IsNaN(f) {
			d.add(field, fmt.Sprintf("%q is not a number", text))
			return
		}
		v.SetFloat(f)
	default:
		panic("config: no decoder for " + v.Type().String()) // a bug in our own structs, found by the first test
	}
}

var envPattern = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// scalar returns the text of a scalar with every ${NAME} replaced by that variable of the environment. The value of a
// variable is never parsed as YAML. It reports false, and adds a Problem, if n is no scalar or a variable is not set.
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
