package account

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/mail"
)

// A world is what an Account lives in: the file of rules, and a Router that refuses patterns of the other files.
type world struct {
	*Account
	text   string
	files  map[string]bool // patterns of the administrator
	log    bytes.Buffer
	events []mail.Event
	now    time.Time
}

// clashes is the error of lines that the Router refuses.
type clashes []Fault

func (clashes) Error() string { return "clash" }

// accept is the Router.
func (w *world) accept(text string) error {
	var wrong clashes
	n := 0
	for line := range strings.Lines(text) {
		n++
		if pattern, _, _ := strings.Cut(line, " "); line[0] != '#' && w.files[pattern] {
			wrong = append(wrong, Fault{n, "the same pattern stands at routes.txt:1"})
		}
	}
	if wrong == nil {
		return nil
	}
	return wrong
}

func faultsOf(err error) ([]Fault, bool) {
	var c clashes
	is := errors.As(err, &c)
	return c, is
}

func (w *world) rulesFile() Rules {
	return Rules{
		Text: func() string { return w.text },
		Try:  w.accept,
		Change: func(_ context.Context, edit func(string) (string, error)) error {
			text, err := edit(w.text)
			if err == nil {
				err = w.accept(text)
			}
			if err == nil {
				w.text = text
			}
			return err
		},
		Faults: faultsOf,
	}
}

func isName(s string) (string, bool) {
	s = ascii.Fold(s)
	return s, s != "" && !strings.ContainsAny(s, " *@\"")
}

func newWorld(t *testing.T, folder string) *world {
	t.Helper()
	w := &world{files: map[string]bool{}, now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	w.open(t, folder)
	return w
}

// open makes the Account of a world anew, as after a restart.
func (w *world) open(t *testing.T, folder string) {
	t.Helper()
	var err error
	w.Account, err = New(Config{
		State: folder, Rules: w.rulesFile(), Token: []byte("of the configuration"), ALabels: isName,
		Log: slog.New(slog.NewTextHandler(&w.log, nil)), Now: w.tick,
		Emit: func(e mail.Event) { w.events = append(w.events, e) },
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tick is a clock that goes on by a second with each reading.
func (w *world) tick() time.Time {
	w.now = w.now.Add(time.Second)
	return w.now
}

func (w *world) add(t *testing.T, p Principal, pattern, target string) Rule {
	t.Helper()
	r, err := w.AddRule(t.Context(), p, Rule{Pattern: pattern, Target: target, Enabled: true})
	if err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	return r
}

// kindOf returns the kind and the code of an error; 255 for none.
func kindOf(err error) (Kind, int) {
	var e *Error
	if !errors.As(err, &e) {
		return 255, 0
	}
	return e.Kind, e.Code
}

func owner(domains ...string) Principal {
	return Principal{ID: "o", Name: "an owner", Role: Owner, Domains: domains}
}
