package account

import (
	"testing"
)

// TestAccount_Unkept: without a folder everything can be read, and nothing changed.
func TestAccount_Unkept(t *testing.T) {
	w := newWorld(t, "")
	_, err := w.AddRule(t.Context(), TokenFile(), Rule{Pattern: "a@example.com", Target: "drop"})
	_, err2 := w.AddDestination(t.Context(), TokenFile(), "a@x.example")
	_, _, err3 := w.AddToken(t.Context(), TokenFile(), Token{Name: "x", Role: ReadOnly})
	for _, err := range []error{err, err2, err3} {
		if kind, code := kindOf(err); kind != Unkept || code != CodeUnkept {
			t.Errorf("%v", err)
		}
	}
	if list, err := w.Rules(TokenFile()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
