package account

import (
	"fmt"
	"strings"
	"testing"
)

// TestDestinations: a rule takes no mail while a target of it is not verified, and none when one is removed.
func TestDestinations(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	me := owner("example.com")
	d, err := w.AddDestination(t.Context(), me, "me@home.example")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.AddDestination(t.Context(), me, "me@HOME.example"); err != nil || again.ID != d.ID {
		t.Errorf("added twice: %+v, %v", again, err)
	}
	r := w.add(t, me, "info@example.com", "try me@home.example, alias@example.com")
	inForce := func() bool { return strings.Contains(w.text, "\ninfo@example.com") }
	if !r.Enabled || len(r.Pending) != 1 || inForce() {
		t.Errorf("before: %+v\n%s", r, w.text)
	}
	verify := func(d *Destination) error {
		d.Verified, d.How = &w.now, "link"
		return nil
	}
	_, err = w.ChangeDestination(t.Context(), me, d.ID, verify)
	if kind, _ := kindOf(err); kind != Forbidden || inForce() {
		t.Errorf("verified by its owner: %v", err)
	}
	if _, err := w.ChangeDestination(t.Context(), owner("other.example"), d.ID, verify); err == nil {
		t.Error("another one changed it")
	}
	if _, err := w.ChangeDestination(t.Context(), Node("link"), d.ID, verify); err != nil || !inForce() {
		t.Errorf("%v\n%s", err, w.text)
	}
	w.open(t, folder)
	if _, disabled, err := w.RemoveDestination(t.Context(), me, d.ID); err != nil || len(disabled) != 1 || inForce() {
		t.Errorf("%+v, %v\n%s", disabled, err, w.text)
	}
	if got, err := w.Rule(me, r.ID); err != nil || got.Enabled || len(got.Scope) != 1 {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
	if !strings.Contains(w.log.String(), "level=WARN msg=\"a rule was disabled") {
		t.Error("the log does not say it")
	}
	if len(w.events) != 1 || w.events[0].Reason != ReasonDisabled || w.events[0].Rule.Pattern != r.Pattern {
		t.Errorf("the events are %+v", w.events)
	}
}

// TestDestinations_Unknown: an owner's rule waits for a target that is no destination. One who has all domains may
// write what a rules file may, and what comes later takes nothing away.
func TestDestinations_Unknown(t *testing.T) {
	w := newWorld(t, t.TempDir())
	r := w.add(t, owner("example.com"), "/(.+)/@example.com", "$1@far.example, smtp://10.0.0.1:25")
	if len(r.Pending) != 2 {
		t.Errorf("an owner's: %+v", r)
	}
	r = w.add(t, TokenFile(), "all@example.com", "b@far.example mixed=reject")
	if _, err := w.AddDestination(t.Context(), owner("example.com"), "b@far.example"); err != nil {
		t.Fatal(err)
	}
	w.add(t, TokenFile(), "more@example.com", "drop")
	if got, err := w.Rule(TokenFile(), r.ID); err != nil || !got.InForce() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestDestinations_Behind: a destination is seen behind a condition or an option too, and what a reply says is none. An
// owner may write neither in front, nor have routes in local parts kept.
func TestDestinations_Behind(t *testing.T) {
	w := newWorld(t, t.TempDir())
	d, err := w.AddDestination(t.Context(), TokenFile(), "c@far.example")
	if err != nil {
		t.Fatal(err)
	}
	for i, target := range []string{
		"enabled=yes c@far.example", "if spf=pass network=192.0.2.0/24,2001:db8::/32 c@FAR.example",
		"try b@x.example, c@far.example",
	} {
		if r := w.add(t, TokenFile(), fmt.Sprintf("a%d@example.com", i), target); len(r.Pending) != 1 {
			t.Errorf("%s: %+v", target, r)
		}
	}
	if r := w.add(t, TokenFile(), "reply@example.com", "reject 550 Write to c@far.example"); len(r.Pending) != 0 {
		t.Errorf("%+v", r)
	}
	for _, target := range []string{"enabled=yes c@far.example", "if spf=pass drop", "c@far.example routing=keep"} {
		_, err := w.AddRule(t.Context(), owner("example.com"), Rule{Pattern: "x@example.com", Target: target})
		if kind, _ := kindOf(err); kind != Forbidden {
			t.Errorf("an owner's %s: %v", target, err)
		}
	}
	if _, disabled, err := w.RemoveDestination(t.Context(), TokenFile(), d.ID); err != nil || len(disabled) != 3 {
		t.Errorf("%+v, %v", disabled, err)
	}
}

// TestDestinations_Woken: a rule that waited, and that the Router refuses once its destination is verified, is left out
// alone: the link is taken, and the rules of others can be changed.
func TestDestinations_Woken(t *testing.T) {
	folder := t.TempDir()
	w := newWorld(t, folder)
	me := owner("example.com")
	d, err := w.AddDestination(t.Context(), me, "me@home.example")
	if err != nil {
		t.Fatal(err)
	}
	bad := w.add(t, me, "bad@example.com", "me@home.example")
	good := w.add(t, me, "good@example.com", "me@home.example")
	w.files["bad@example.com"] = true
	if _, err := w.ChangeDestination(t.Context(), Node("link"), d.ID, func(d *Destination) error {
		d.Verified, d.How = &w.now, "link"
		return nil
	}); err != nil {
		t.Errorf("verified: %v", err)
	}
	w.add(t, owner("other.example"), "a@other.example", "b@other.example")
	w.open(t, folder)
	for _, c := range []struct {
		id      string
		inForce bool
		why     string
	}{{bad.ID, false, "the same pattern stands at routes.txt:1"}, {good.ID, true, ""}} {
		r, err := w.Rule(me, c.id)
		if err != nil || r.InForce() != c.inForce || r.Off != c.why || len(r.Pending) > 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if !strings.Contains(w.log.String(), "a rule of the API is not in force") {
		t.Error("the log does not say it")
	}
	_, err = w.SetRule(t.Context(), me, bad.ID, Rule{Pattern: bad.Pattern, Target: "me@home.example", Enabled: true})
	if kind, code := kindOf(err); kind != Refused || code != CodeClash {
		t.Errorf("written anew: %v", err)
	}
}

// TestDestinations_OfSeveral: a destination for several domains is changed and removed by one who has all of them, and
// seen by others.
func TestDestinations_OfSeveral(t *testing.T) {
	w := newWorld(t, t.TempDir())
	both, one := owner("example.com", "other.example"), owner("other.example")
	d, err := w.AddDestination(t.Context(), both, "me@home.example")
	if err != nil {
		t.Fatal(err)
	}
	r := w.add(t, both, "info@example.com", "me@home.example")
	if _, err := w.Destination(one, d.ID); err != nil {
		t.Errorf("seen: %v", err)
	}
	_, err = w.ChangeDestination(t.Context(), one, d.ID, func(d *Destination) error { d.Verified = nil; return nil })
	if kind, _ := kindOf(err); kind != Forbidden {
		t.Errorf("changed: %v", err)
	}
	_, _, err = w.RemoveDestination(t.Context(), one, d.ID)
	if kind, _ := kindOf(err); kind != Forbidden {
		t.Errorf("removed: %v", err)
	}
	if r, err := w.Rule(both, r.ID); err != nil || !r.Enabled {
		t.Errorf("%+v, %v", r, err)
	}
	if _, _, err := w.RemoveDestination(t.Context(), both, d.ID); err != nil {
		t.Errorf("removed by one who has both: %v", err)
	}
}
