package account

import (
	"log/slog"
	"strings"
	"testing"
)

// TestAudit_Owners: an owner sees what was changed in its domains and nothing of others, not even of a rule that an
// operator moved from one domain to another; an admin sees all.
func TestAudit_Owners(t *testing.T) {
	w := newWorld(t, t.TempDir())
	moved := w.add(t, TokenFile(), "secret@one.example", "hidden@mailbox.example")
	moved.Pattern, moved.Target = "info@two.example", "public@mailbox.example"
	if _, err := w.SetRule(t.Context(), TokenFile(), moved.ID, moved); err != nil {
		t.Fatal(err)
	}
	w.add(t, TokenFile(), "info@three.example", "drop")
	if _, _, err := w.AddToken(t.Context(), TokenFile(), Token{Name: "x", Role: ReadOnly}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		who  Principal
		want string
	}{
		{owner("one.example"), "rule.remove rule.add"}, {owner("two.example"), "rule.add"},
		{owner("three.example"), "rule.add"}, {owner("four.example"), ""},
		{TokenFile(), "token.add rule.add rule.add rule.remove rule.add"},
	} {
		list, err := w.Audit(c.who, 100)
		if err != nil {
			t.Fatal(err)
		}
		var what []string
		for _, e := range list {
			what = append(what, e.What)
			for _, domain := range []string{"one.example", "two.example", "three.example"} {
				if text := string(e.Before) + string(e.After); strings.Contains(text, domain) && !c.who.Covers(domain) {
					t.Errorf("the owner of %s is shown %s", c.who.Domains, text)
				}
			}
		}
		if got := strings.Join(what, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.who.Domains, got, c.want)
		}
	}
	if _, err := w.Audit(Principal{Role: ReadOnly, Domains: []string{"one.example"}}, 100); err == nil {
		t.Error("one who only looks sees the audit")
	}
}

// TestAudit_HookURL: the URL of a hook may be a secret, and the log of a change does not have it.
func TestAudit_HookURL(t *testing.T) {
	for _, target := range []string{
		"hook https://h.example/s3cret?a=s3cret&b=s3cret", `hook  "https://h.example/s3cret,s3cret" a@b.example`,
		"if spf=pass hook HTTPS://s3cret@h.example/ a@b.example",
	} {
		var out strings.Builder
		rule := Rule{Pattern: "info@one.example", Target: target}
		e := Entry{What: "rule.change", Before: recordOf(rule), After: recordOf(rule)}
		logEntry(slog.New(slog.NewTextHandler(&out, nil)), e)
		if got := out.String(); strings.Contains(got, "s3cret") || !strings.Contains(got, "info@one.example") {
			t.Errorf("%s: the log has %s", target, got)
		}
	}
}
