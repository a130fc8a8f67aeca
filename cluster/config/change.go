package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Changes reads and validates the file that c was loaded from once more. It changes nothing, and returns the keys whose
// values differ from those of c, in the order of the sections; none for a Config of Parse. The error is as that of
// Load.
func (c *Config) Changes() ([]string, error) {
	if !c.loaded {
		return nil, nil
	}
	now, err := Load(c.file)
	if err != nil {
		return nil, err
	}
	return changed(reflect.ValueOf(*c), reflect.ValueOf(*now), ""), nil
}

// changed returns the keys of two values of one type that differ. A list of another length, and a section that is there
// in one of the two alone, is one key.
func changed(a, b reflect.Value, key string) (keys []string) {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				return []string{key}
			}
			return nil
		}
		return changed(a.Elem(), b.Elem(), key)
	case reflect.Struct:
		if !hasKeys(a.Type()) { // a rate, a network
			break
		}
		for i := range a.NumField() {
			tag := a.Type().Field(i).Tag.Get("yaml")
			if tag == "" || tag == "-" {
				continue
			}
			keys = append(keys, changed(a.Field(i), b.Field(i), strings.TrimPrefix(key+"."+tag, "."))...)
		}
		return keys
	case reflect.Slice:
		if a.Len() != b.Len() {
			return []string{key}
		}
		for i := range a.Len() {
			keys = append(keys, changed(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", key, i))...)
		}
		return keys
	case reflect.Map:
		return changedEntries(a.Interface(), b.Interface(), key)
	}
	if a.Interface() != b.Interface() {
		return []string{key}
	}
	return nil
}

// changedEntries returns the entries of two maps from names to numbers that differ.
func changedEntries(a, b any, key string) (keys []string) {
	before, _ := a.(map[string]float64)
	after, _ := b.(map[string]float64)
	all := maps.Clone(before)
	if all == nil {
		all = make(map[string]float64)
	}
	maps.Copy(all, after)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		was, had := before[name]
		is, has := after[name]
		if had != has || was != is {
			keys = append(keys, key+"["+name+"]")
		}
	}
	return keys
}
