package routes

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/account"
)

// TestSet_Split: the API's file is parted from a set and put back behind the others, and a file of the administrator
// with its name gets another one.
func TestSet_Split(t *testing.T) {
	s := setOf(set{{"/etc/a.txt", "a"}, {"/etc/" + account.RulesName, "b"}}.all()).with("c")
	if len(s) != 3 || s[1].name != account.RulesName+"~2" || s[2] != (file{account.RulesName, "c"}) {
		t.Fatalf("%v", s)
	}
	own, api := s.split()
	if len(own) != 2 || api != "c" {
		t.Errorf("%v, %q", own, api)
	}
	if again, api := own.split(); len(again) != 2 || api != "" || len(own.with("")) != 2 {
		t.Errorf("%v, %q", again, api)
	}
}

// made returns the text of the API's rules for patterns.
func made(t *testing.T, patterns ...string) string {
	t.Helper()
	var list []account.Rule
	for _, p := range patterns {
		list = append(list, account.Rule{ID: account.NewID(), Pattern: p, Target: "x", Enabled: true})
	}
	text, _, err := account.Render(list)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// refused returns the lines that a table refused of the API's rules.
func refused(err error) []account.Fault {
	if at, ok := strings.CutPrefix(err.Error(), account.RulesName+":"); ok {
		number, _, _ := strings.Cut(at, ":")
		line, _ := strconv.Atoi(number)
		return []account.Fault{{Line: line, Reason: err.Error()}}
	}
	return nil
}

// TestChange: what the API of one node changes is on all; a reload of changed files keeps it, with the comments of the
// files, and leaves out of it what these have; and an error changes nothing.
func TestChange(t *testing.T) {
	server := newServer(t)
	faults := func(c *Config) { c.Faults = refused }
	a := start(t, server.addr, "# one\na@h x\n", faults)
	b := start(t, server.addr, "# one\na@h x\n", faults)
	api := made(t, "m@h", "n@h")
	if err := a.Change(t.Context(), func(string) (string, error) { return api, nil }); err != nil {
		t.Fatal(err)
	}
	b.runs(t, 2, "# one\na@h x\n"+api)
	same := func(old string) (string, error) { return old, nil }
	if err := b.Change(t.Context(), same); err != nil || b.Version() != 2 {
		t.Errorf("a change of nothing: %v, version %d", err, b.Version())
	}
	wrong := errors.New("wrong")
	for _, c := range []struct {
		text string
		err  error
		want string
	}{{"", wrong, "wrong"}, {api + "bad@h x\n", nil, "bad line"}, {api + "a@h y\n", nil, "bad line"}} {
		err := b.Change(t.Context(), func(string) (string, error) { return c.text, c.err })
		if err == nil || !strings.Contains(err.Error(), c.want) || b.Version() != 2 {
			t.Errorf("%v, version %d", err, b.Version())
		}
	}
	if err := a.reload(t, "# two\na@h x\n# three\nb@h x\n"); err != nil {
		t.Fatal(err)
	}
	b.runs(t, 3, "# two\na@h x\n# three\nb@h x\n"+api)
	if err := a.reload(t, "# two\na@h x\nN@h y\n"); err != nil {
		t.Fatal(err)
	}
	agree(t, a, b)
	if text := b.table.text(); !strings.HasPrefix(text, "# two\na@h x\nN@h y\n#") || strings.Contains(text, "\nn@h") ||
		!strings.Contains(text, "\nm@h") || !a.log.Has("the rules files win") {
		t.Errorf("%s\n%s", text, a.log)
	}
	if err := a.reload(t, "# two\na@h x\n"); err != nil {
		t.Fatal(err)
	}
	agree(t, a, b)
	if text := b.table.text(); !strings.Contains(text, "\nn@h") {
		t.Errorf("it is not back: %s", text)
	}
	a.stop()
	err := a.Change(t.Context(), func(string) (string, error) { return "", nil })
	if !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestChange_Race: changes of two nodes at a time are all there.
func TestChange_Race(t *testing.T) {
	server := newServer(t)
	nodes := []*node{start(t, server.addr, "a@h x\n"), start(t, server.addr, "a@h x\n")}
	done := make(chan error)
	for i, n := range nodes {
		go func() {
			var errs []error
			for j := range 10 {
				errs = append(errs, n.Change(t.Context(), func(old string) (string, error) {
					return old + fmt.Sprintf("c%d-%d@h x\n", i, j), nil
				}))
			}
			done <- errors.Join(errs...)
		}()
	}
	for range nodes {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	agree(t, nodes...)
	if n := strings.Count(nodes[0].table.text(), "\n"); n != 21 {
		t.Errorf("%d lines, want 21: %s", n, nodes[0].table.text())
	}
}

// TestChange_First: what the API of a node made while it did not share its rules is shared with its files, the first
// time, and is in force without Redis.
func TestChange_First(t *testing.T) {
	server := newServer(t)
	api := made(t, "m@h")
	a := start(t, server.addr, "a@h x\n", func(c *Config) { c.API = api })
	b := start(t, server.addr, "b@h x\n")
	b.runs(t, 1, "a@h x\n"+api)
	server.kill()
	c := start(t, server.addr, "a@h x\n", func(c *Config) { c.API = api })
	c.runs(t, 0, "a@h x\n"+api)
	if err := c.reload(t, "a@h y\n"); err != nil {
		t.Fatal(err)
	}
	c.runs(t, 0, "a@h y\n"+api)
	a.runs(t, 1, "a@h x\n"+api)
}
