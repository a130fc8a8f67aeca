package ascii

import (
	"strings"
	"testing"
	"unicode"
)

// TestClasses compares each class with the standard library's over all octets.
func TestClasses(t *testing.T) {
	for i := range 256 {
		c, r := byte(i), rune(i)
		below := i < unicode.MaxASCII+1
		for _, class := range []struct {
			name      string
			got, want bool
		}{
			{"IsDigit", IsDigit(c), below && unicode.IsDigit(r)},
			{"IsAlpha", IsAlpha(c), below && unicode.IsLetter(r)},
			{"IsLetDig", IsLetDig(c), below && (unicode.IsLetter(r) || unicode.IsDigit(r))},
			{"IsWSP", IsWSP(c), strings.ContainsRune(" \t", r)},
			{"IsFWS", IsFWS(c), strings.ContainsRune(" \t\r\n", r)},
			{"Is", Is([]byte{'a', c}), below},
			{"Lower", Lower(c) != c, below && unicode.IsUpper(r)},
		} {
			if class.got != class.want {
				t.Errorf("%s(%#x) = %v", class.name, c, class.got)
			}
		}
	}
}

func TestFold(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "abc": "abc", "aBC.Example": "abc.example", "ÄÖ-X@[": "ÄÖ-x@[",
	} {
		if got := Fold(in); got != want {
			t.Errorf("Fold(%q) = %q, want %q", in, got, want)
		}
	}
	lower := "already.lower.example"
	if n := testing.AllocsPerRun(100, func() { Fold(lower) }); n != 0 {
		t.Errorf("Fold of folded text allocates %v times", n)
	}
}

func TestAppendFold(t *testing.T) {
	if got := string(AppendFold([]byte("X"), "aBC.ÄÖ@[")); got != "Xabc.ÄÖ@[" {
		t.Errorf("got %q", got)
	}
}

func TestEqualFold(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"", "", true}, {"aB.9", "Ab.9", true}, {"a", "ab", false}, {"a", "b", false}, {"K", "\u212a", false},
		{"ä", "Ä", false}, {"@", "`", false},
	} {
		if got := EqualFold(tt.a, tt.b); got != tt.want {
			t.Errorf("EqualFold(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}
