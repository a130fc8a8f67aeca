package tlspolicy

import (
	"strings"
	"testing"
	"time"
)

// TestParseRecord: one record that begins with the version and has an id names a policy.
func TestParseRecord(t *testing.T) {
	for _, c := range []struct {
		name    string
		records []string
		id      string // "" for no policy
	}{
		{"plain", []string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z"},
		{"without the last semicolon", []string{"v=STSv1; id=1"}, "1"},
		{"without blanks", []string{"v=STSv1;id=1;"}, "1"},
		{"with blanks around", []string{"v=STSv1 ;  id=1 ; "}, "1"},
		{"with other fields", []string{"v=STSv1; a=b; id=1; c=d"}, "1"},
		{"beside others", []string{"v=spf1 -all", "v=STSv1; id=1"}, "1"},
		{"none", nil, ""},
		{"two", []string{"v=STSv1; id=1", "v=STSv1; id=2"}, ""},
		{"of a later version", []string{"v=STSv12; id=1"}, ""},
		{"in another case", []string{"V=STSv1; id=1"}, ""},
		{"without an id", []string{"v=STSv1;"}, ""},
		{"with the version alone", []string{"v=STSv1"}, ""},
		{"with an empty id", []string{"v=STSv1; id=;"}, ""},
		{"with two ids", []string{"v=STSv1; id=1; id=2"}, ""},
		{"with an id of signs", []string{"v=STSv1; id=1-2"}, ""},
		{"with an id that is too long", []string{"v=STSv1; id=" + strings.Repeat("1", 33)}, ""},
		{"with what is no field", []string{"v=STSv1; id=1; x"}, ""},
	} {
		if id, ok := parseRecord(c.records); id != c.id && ok || ok != (c.id != "") {
			t.Errorf("%s: got %q, %t", c.name, id, ok)
		}
	}
}

// TestParsePolicy: a policy has a version, a mode, hosts and an age, in lines that end by CRLF or LF.
func TestParsePolicy(t *testing.T) {
	const good = "version: STSv1\nmode: enforce\nmx: mx1.one.test\nmx: *.two.test\nmax_age: 604800\n"
	for _, c := range []struct {
		name, text string
		mode       stsMode
		age        time.Duration
		hosts      int
		ok         bool
	}{
		{"plain", good, stsEnforce, 604800 * time.Second, 2, true},
		{"with CRLF", strings.ReplaceAll(good, "\n", "\r\n"), stsEnforce, 604800 * time.Second, 2, true},
		{"without the last line end", strings.TrimSpace(good), stsEnforce, 604800 * time.Second, 2, true},
		{"with empty lines", good + "\n \n", stsEnforce, 604800 * time.Second, 2, true},
		{"with other fields", good + "x: y\n", stsEnforce, 604800 * time.Second, 2, true},
		{"testing", strings.Replace(good, "enforce", "testing", 1), stsTesting, 604800 * time.Second, 2, true},
		{"none, without hosts", "version: STSv1\nmode: none\nmax_age: 1\n", stsNone, time.Second, 0, true},
		{"with an age of 0", strings.Replace(good, "604800", "0", 1), stsEnforce, 0, 2, true},
		{"with the greatest age", strings.Replace(good, "604800", "31557600", 1), stsEnforce, longestAge, 2, true},
		{"with a greater age", strings.Replace(good, "604800", "31557601", 1), stsEnforce, longestAge, 2, true},
		{"with an age beyond numbers", strings.Replace(good, "604800", strings.Repeat("9", 99), 1), stsEnforce,
			longestAge, 2, true},
		{"with a second mode", good + "mode: none\n", stsEnforce, 604800 * time.Second, 2, true},
		{"with a negative age", strings.Replace(good, "604800", "-1", 1), 0, 0, 0, false},
		{"without an age", strings.Replace(good, "max_age", "age", 1), 0, 0, 0, false},
		{"with another version", strings.Replace(good, "STSv1", "STSv2", 1), 0, 0, 0, false},
		{"with another mode", strings.Replace(good, "enforce", "Enforce", 1), 0, 0, 0, false},
		{"without hosts", "version: STSv1\nmode: enforce\nmax_age: 1\n", 0, 0, 0, false},
		{"with a host that is none", good + "mx: *.*.test\n", 0, 0, 0, false},
		{"with a line that is no field", good + "x\n", 0, 0, 0, false},
		{"a page", "<html>\n<title>a: b</title>\n</html>\n", 0, 0, 0, false},
		{"empty", "", 0, 0, 0, false},
	} {
		p, err := parsePolicy(c.text)
		if (err == nil) != c.ok || err == nil && (p.mode != c.mode || p.age != c.age || len(p.patterns) != c.hosts) {
			t.Errorf("%s: got %+v, %v", c.name, p, err)
		}
	}
}

// TestStsPolicy_Matches: a wildcard stands for one label, and only there.
func TestStsPolicy_Matches(t *testing.T) {
	p, err := parsePolicy("version: STSv1\nmode: enforce\nmx: mx1.One.test\nmx: *.two.test\nmax_age: 1\n")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"mx1.one.test": true, "mx2.one.test": false, "one.test": false, "a.two.test": true, "two.test": false,
		"a.b.two.test": false, "atwo.test": false, "": false, "[192.0.2.1]": false,
	} {
		if p.matches(host) != want {
			t.Errorf("%q: got %t", host, !want)
		}
	}
}

// FuzzParsePolicy: no text of a policy breaks the reader, and what it takes can be asked for hosts.
func FuzzParsePolicy(f *testing.F) {
	f.Add("version: STSv1\nmode: enforce\nmx: mx1.one.test\nmx: *.two.test\nmax_age: 604800\n", "mx1.one.test")
	f.Add("version: STSv1\r\nmode: none\r\nmax_age: 0\r\n", "")
	f.Fuzz(func(t *testing.T, text, host string) {
		p, err := parsePolicy(text)
		if err != nil {
			return
		}
		if p.age < 0 || p.age > longestAge || p.mode != stsNone && len(p.patterns) == 0 {
			t.Errorf("took %+v", p)
		}
		p.matches(host)
	})
}

// FuzzParseRecord: no record breaks the reader, and an id is one.
func FuzzParseRecord(f *testing.F) {
	f.Add("v=STSv1; id=20160831085700Z;", "v=spf1 -all")
	f.Fuzz(func(t *testing.T, a, b string) {
		if id, ok := parseRecord([]string{a, b}); ok && !isID(id) {
			t.Errorf("took %q", id)
		}
	})
}
