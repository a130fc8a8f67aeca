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

// TestReplaceAddresses: a balancer that is tried has the configuration that an operator has, but for its addresses.
func TestReplaceAddresses(t *testing.T) {
	base := "listen smtp\n\tbind :25\n\tbalance leastconn\n\tserver a 10.0.0.11:2526\n\tserver b 10.0.0.12:2526\n"
	got, err := replaceAddresses(base, "127.0.0.1:26", []string{"server x 127.0.0.1:27", "server y 127.0.0.1:28"})
	want := "listen smtp\n\tbind 127.0.0.1:26\n\tbalance leastconn\n\tserver x 127.0.0.1:27\n\tserver y 127.0.0.1:28\n"
	if err != nil || got != want {
		t.Errorf("%v, got\n%swant\n%s", err, got, want)
	}
	if _, err := replaceAddresses("listen smtp\n", "127.0.0.1:26", nil); err == nil {
		t.Error("a file without addresses was taken")
	}
}
