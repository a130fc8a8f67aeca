package fleet

import (
	"strings"
	"testing"
)

// TestReplaceSections: what a fleet says of a section takes the place of what a file says.
func TestReplaceSections(t *testing.T) {
	base := "hostname: old\n# about listen\nlisten:\n  - {addr: \":25\"}\n# more of it\nscore:\n  defer: 6\n" +
		"log: {level: info}\n"
	got := replaceSections(base, "hostname: new\nlisten:\n  - {addr: \"127.0.0.1:25\"}\n")
	for _, want := range []string{"score:\n  defer: 6\nlog: {level: info}\n", "\nhostname: new\n", "127.0.0.1:25"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	for _, none := range []string{"old", "\":25\""} {
		if strings.Contains(got, none) {
			t.Errorf("has %q:\n%s", none, got)
		}
	}
}
