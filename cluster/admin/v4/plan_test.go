package v4

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millrace/millrace/cluster/account"
)

// TestAPI_Plan: a plan says what would change, and changes nothing.
func TestAPI_Plan(t *testing.T) {
	w := newWorld(t, t.TempDir())
	const path = "/email/routing/rules/plan"
	workerRule := func(to string) string { return literalRule(to, `{"type":"worker","value":["w"]}`) }
	add := func(pattern, target, source, owner string) {
		t.Helper()
		if _, err := w.account.AddRule(t.Context(), account.TokenFile(), account.Rule{
			Pattern: pattern, Target: target, Enabled: true, Source: source, Owner: owner,
		}); err != nil {
			t.Fatal(err)
		}
	}
	add("mine@example.com", "drop", "wrangler", "tag")
	add("gone@example.com", "drop", "wrangler", "tag")
	add("foreign@example.com", "x@x.example", "api", "")
	add("@example.org", "drop", "wrangler", "tag")
	body := fmt.Sprintf(`{"owner_worker_tag":"tag","rules":[%s,%s,%s],`+
		`"catch_all_rules":[{"target":"*@example.com","rule":%s}]}`,
		workerRule("new@example.com"), workerRule("mine@example.com"), workerRule("Foreign@example.com"),
		`{"matchers":[{"type":"all"}],"actions":[{"type":"worker","value":["w"]}]}`)
	before := w.text
	var got struct{ Zones []zonePlan }
	w.ok("POST", accountPath+path, body, &got)
	var lines []string
	for _, z := range got.Zones {
		for _, c := range z.Changes {
			remote := ""
			if c.Remote != nil {
				remote = " " + c.Remote.Source + " " + c.Remote.Owner
			}
			lines = append(lines, z.Name+" "+c.Type+" "+c.Target+remote)
		}
	}
	want := []string{
		"example.com added new@example.com", "example.com updated mine@example.com wrangler tag",
		"example.com conflict Foreign@example.com api ", "example.com added *@example.com",
		"example.com deleted gone@example.com wrangler tag", "example.org deleted *@example.org wrangler tag",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
	if w.text != before {
		t.Error("it changed something")
	}
	w.ok("POST", accountPath+path, `{"owner_worker_tag":"other","rules":[],"catch_all_rules":[]}`, &got)
	if len(got.Zones) != 0 {
		t.Errorf("got %+v", got)
	}
	w.fails("POST", accountPath+path, `{"rules":[`+workerRule("a@unknown.example")+`]}`, 400, 2030)
	w.fails("POST", accountPath+path, `{"catch_all_rules":[{"target":"x"}]}`, 400, 2030)
	w.fails("POST", accountPath+path, `{"rules":[{}]}`, 400, 2030)
}
