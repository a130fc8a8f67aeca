package account

import (
	"testing"
)

// TestPrincipal_Domains: who is for some domains sees and changes what is of these, and nothing else is there.
func TestPrincipal_Domains(t *testing.T) {
	w := newWorld(t, t.TempDir())
	theirs := w.add(t, TokenFile(), "info@other.example", "a@x.example")
	mine := w.add(t, owner("example.com"), "info@sub.example.com", "drop")
	reader := Principal{ID: "r", Role: ReadOnly, Domains: []string{"example.com"}}
	for _, p := range []Principal{owner("example.com"), reader} {
		list, err := w.Rules(p)
		if err != nil || len(list) != 1 || list[0].ID != mine.ID {
			t.Errorf("%s sees %+v, %v", p.Role, list, err)
		}
	}
	set := func(p Principal, id, pattern, target string) error {
		_, err := w.SetRule(t.Context(), p, id, Rule{Pattern: pattern, Target: target, Enabled: true})
		return err
	}
	remove := func(p Principal, id string) error {
		_, err := w.RemoveRule(t.Context(), p, id)
		return err
	}
	for _, c := range []struct {
		name string
		err  error
		want Kind
	}{
		{"another's rule", set(owner("example.com"), theirs.ID, "x@example.com", "drop"), Missing},
		{"another's rule removed", remove(owner("example.com"), theirs.ID), Missing},
		{"taken to another's domain", set(owner("example.com"), mine.ID, "x@other.example", "drop"), Forbidden},
		{"a domain whose end is the same", set(owner("ample.com"), mine.ID, "x@example.com", "drop"), Missing},
		{"the defaults of all", set(owner("example.com"), mine.ID, "domain *", "dmarc=off"), Forbidden},
		{
			"a proxy", set(owner("example.com"), mine.ID, "x@example.com", "smtp://h.example via=socks5://10.0.0.1"),
			Forbidden,
		},
		{
			"a domain for another's",
			set(owner("example.com"), mine.ID, "domain example.com", "alias_of=other.example"),
			Forbidden,
		},
		{"a reader", set(reader, mine.ID, "x@example.com", "drop"), Forbidden},
		{"a reader removes", remove(reader, mine.ID), Forbidden},
		{"who may nothing", set(Principal{}, mine.ID, "x@example.com", "drop"), Forbidden},
	} {
		if kind, _ := kindOf(c.err); kind != c.want {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	if list, err := w.Rules(TokenFile()); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if seen, err := w.Audit(owner("other.example"), 100); err != nil || len(seen) != 1 || seen[0].About != theirs.ID {
		t.Errorf("the audit: %+v, %v", seen, err)
	}
}
