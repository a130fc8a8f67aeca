package word

import (
	"slices"
	"strings"
	"testing"
)

// TestFields: columns count characters, and a word that is part of one before it is found behind that.
func TestFields(t *testing.T) {
	got := Fields("  ab\tb  ü b \n")
	if want := []Word{{"ab", 2, 3}, {"b", 5, 6}, {"ü", 8, 9}, {"b", 11, 11}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// FuzzFields: the words are those of strings.Fields, in the order of their columns.
func FuzzFields(f *testing.F) {
	f.Add(" a b\x00 \xff\xfe  \u00a0c")
	f.Fuzz(func(t *testing.T, line string) {
		last := 0
		var texts []string
		for _, w := range Fields(line) {
			if w.Column <= last {
				t.Errorf("%q: column %d behind %d", line, w.Column, last)
			}
			last = w.Column
			texts = append(texts, w.Text)
		}
		if want := strings.Fields(line); !slices.Equal(texts, want) {
			t.Errorf("%q: got %q, want %q", line, texts, want)
		}
	})
}
