package config

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A Setting is the value of one key.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`  // "" is the empty value, and what stands for a section that is left out
	Origin string `json:"origin"` // file:line:column, or "default"
}

// ByDefault is the origin of what the file does not set.
const ByDefault = "default"

// Settings returns the settings in force, in the order of the sections. A secret is never among them: a value that
// comes from the environment stands there as it is written, and of URLs and of the zones of lists what may be a secret
// is left out.
func (c *Config) Settings() []Setting {
	s := settings{places: c.locations}
	if c.Score != nil {
		for i, l := range c.Score.Lists {
			if l.Name != "" { // it stands for a zone that holds a secret
				s.secret = append(s.secret, fmt.Sprintf("score.lists[%d].zone", i))
			}
		}
	}
	s.add(reflect.ValueOf(*c), "")
	return s.list
}

// settings are those that were found so far.
type settings struct {
	places locations
	secret []string // keys whose values are not shown
	list   []Setting
}

// add adds what a value holds whose key it is.
func (s *settings) add(v reflect.Value, key string) {
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		s.put(key, "")
	case v.Kind() == reflect.Pointer:
		s.add(v.Elem(), key)
	case v.Kind() == reflect.Struct && hasKeys(v.Type()):
		for i := range v.NumField() {
			tag := v.Type().Field(i).Tag.Get("yaml")
			if tag != "" && tag != "-" {
				s.add(v.Field(i), strings.TrimPrefix(key+"."+tag, "."))
			}
		}
	case (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0:
		s.put(key, "")
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			s.add(v.Index(i), fmt.Sprintf("%s[%d]", key, i))
		}
	case v.Kind() == reflect.Map:
		names := make([]string, 0, v.Len())
		for _, name := range v.MapKeys() {
			names = append(names, name.String())
		}
		slices.Sort(names)
		for _, name := range names {
			s.add(v.MapIndex(reflect.ValueOf(name)), key+"["+name+"]")
		}
	default:
		s.put(key, valueText(v))
	}
}

// put adds a setting without what may be a secret of it.
func (s *settings) put(key, value string) {
	out := Setting{Key: key, Value: value, Origin: ByDefault}
	if at, ok := s.places.places[key]; ok {
		out.Origin = fmt.Sprintf("%s:%d:%d", s.places.file, at.line, at.column)
	}
	written, fromEnv := s.places.written[key]
	switch {
	case fromEnv:
		out.Value = written
	case slices.Contains(s.secret, key):
		out.Value = hidden
	default:
		out.Value = withoutSecret(key, value)
	}
	s.list = append(s.list, out)
}

// valueText returns a value as it is written in a configuration.
func valueText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case Rate:
		if x == (Rate{}) {
			return ""
		}
		return strconv.Itoa(x.Count) + "/" + written(x.Per)
	case Network:
		return x.String()
	case fmt.Stringer:
		return x.String()
	}
	return fmt.Sprint(v.Interface())
}

// hidden stands for what may be a secret.
const hidden = "(not shown)"

// withoutSecret returns a value without what may be a secret of it: a URL may have a password, or a token in its path.
func withoutSecret(key, value string) string {
	scheme, _, isURL := strings.Cut(value, "://")
	if !isURL || key == "score.url" || key == "public.url" { // those two strangers are told
		return value
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" {
		return scheme + "://" + hidden
	}
	out := scheme + "://"
	if u.User != nil {
		out += hidden + "@"
	}
	out += u.Host
	if database := strings.Trim(u.Path, "/0123456789") == "" && len(u.Path) <= 4; database && u.RawQuery == "" {
		return out + u.Path
	}
	return out + "/" + hidden
}
