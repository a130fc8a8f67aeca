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

// A decoder fills a struct from YAML and keeps every complaint with its place. yaml's own decoder does not do: it
// cannot
// refuse an unknown key of a Node, and ${ENV} has to be expanded after YAML is parsed and before values get their
// types.
type decoder struct {
	locations
	dir      string // the folder that relative file names count from
	env      func(string) (string, bool)
	problems Problems
	spoiled  []string // fields that there is no use to complain about again
}

// decode reads data into the struct that v points to. Fields whose key is absent keep their values, the defaults. It
// reports false if the file is no YAML at all, or one of another shape.
func (d *decoder) decode(data []byte, v any) bool {
	d.places, d.written = map[string]position{"": {1, 1}}, make(map[string]string)
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		d.add("", "the file is empty")
		return false
	}
	if err == nil && dec.Decode(&second) == nil {
		d.problems = append(d.problems, d.problemAt(position{second.Line, 1}, "", "one document to a file"))
		return false
	}
	if err == nil && doc.Content[0].Kind == yaml.MappingNode {
		d.value(doc.Content[0], reflect.ValueOf(v).Elem(), "")
		return true
	}
	d.problems = append(d.problems, d.syntaxProblem(string(data), err))
	return false
}

// add adds a complaint about a field.
func (d *decoder) add(field, message string) {
	d.problems = append(d.problems, d.Problem(field, message))
	d.spoil(field)
}

// spoil notes that further complaints about a field would follow from one that there is.
func (d *decoder) spoil(field string) { d.spoiled = append(d.spoiled, field) }

// follows reports whether a complaint about a field follows from one that there is.
func (d *decoder) follows(field string) bool {
	return slices.ContainsFunc(d.spoiled, func(s string) bool { return covers(s, field) })
}

var textType = reflect.TypeFor[encoding.TextUnmarshaler]()

// value decodes n into v by the type of v. field is the path of keys that complaints name.
func (d *decoder) value(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if _, ok := d.places[field]; !ok || n.Kind == yaml.ScalarNode {
		d.places[field] = position{n.Line, n.Column}
	}
	if n.ShortTag() == "!!null" {
		d.add(field, "has no value; what belongs to it is indented")
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
		d.add(field, "want keys and values, not "+shapeOf(n))
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := position{key.Line, key.Column}
		name := strings.TrimPrefix(field+"."+key.Value, ".")
		if first, twice := seen[key.Value]; twice {
			d.problems = append(d.problems, d.problemAt(at, name, fmt.Sprintf("stands on line %d already", first)))
			continue
		}
		seen[key.Value] = key.Line
		member, ok := memberFor(v, key.Value)
		if !ok {
			d.unknown(at, v, field, key.Value)
			continue
		}
		d.places[name] = at // a value of one line has a nearer place
		d.value(n.Content[i+1], member, name)
	}
}

// unknown adds a complaint about a key that a section does not have.
func (d *decoder) unknown(at position, v reflect.Value, field, key string) {
	name := strings.TrimPrefix(field+"."+key, ".")
	why := "; there are " + strings.Join(keysOf(v.Type()), ", ")
	if meant := keyMeant(v.Type(), key); meant != "" {
		why = "; did you mean " + meant
		d.spoil(strings.TrimPrefix(field+"."+meant, "."))
		d.spoil(meant)
	}
	d.problems = append(d.problems, d.problemAt(at, name, "no such key"+why))
	d.spoil(name)
}

// keysOf returns the keys of a section.
func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("yaml"); tag != "" && tag != "-" {
			keys = append(keys, tag)
		}
	}
	return keys
}

// shapeOf returns what a node is in words.
func shapeOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return "one value" // which is not repeated: it may be a password
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

// list decodes a sequence into a slice.
func (d *decoder) list(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.SequenceNode {
		d.add(field, listWanted(n, v.Type().Elem().Kind() == reflect.Struct && hasKeys(v.Type().Elem())))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", field, i))
	}
}

// listWanted returns the complaint about a value where a list stands, of sections or of values.
func listWanted(n *yaml.Node, sections bool) string {
	switch {
	case sections && n.Kind == yaml.ScalarNode:
		return "want a list of keys and values: a line that begins with a dash for each"
	case n.Kind == yaml.MappingNode:
		return "want a list, not keys: put a dash and a blank in front of the first key"
	case strings.Contains(n.Value, ","):
		return "want a list, not " + strconv.Quote(n.Value) + ": brackets stand around the parts, each in quotes"
	}
	return "want a list, not " + strconv.Quote(n.Value) + ": write [" + strconv.Quote(n.Value) + "]"
}

// table fills a map from names to values, of a mapping whose keys are not fixed.
func (d *decoder) table(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		d.add(field, "want keys and values, not "+shapeOf(n))
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		path := field + "[" + name + "]" // in brackets, because a name may hold dots
		if v.MapIndex(reflect.ValueOf(name)).IsValid() {
			at := position{n.Content[i].Line, n.Content[i].Column}
			d.problems = append(d.problems, d.problemAt(at, path, "stands there already"))
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
		if text != "true" && text != "false" {
			d.add(field, fmt.Sprintf("%q is neither true nor false%s", text, switchMeant(text)))
			return
		}
		v.SetBool(text == "true")
	case reflect.Int:
		i, err := strconv.Atoi(text)
		if err == nil && len(text) > 1 && text[0] == '0' { // eight or ten, by who reads it
			d.add(field, fmt.Sprintf("%q begins with a zero: write %d", text, i))
			return
		}
		if err != nil {
			d.add(field, fmt.Sprintf("%q is not a whole number%s", text, numberMeant(text)))
			return
		}
		v.SetInt(int64(i))
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			d.add(field, fmt.Sprintf("%q is not a number%s", text, shareMeant(text)))
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
		d.add(field, "want one value, not "+shapeOf(n))
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
	if text != n.Value {
		d.written[field] = n.Value
	}
	if ok && text == n.Value && strings.Contains(text, "${") {
		d.add(field, "has a ${ that is no ${NAME} of letters, digits and underscores")
		return "", false
	}
	return text, ok
}
