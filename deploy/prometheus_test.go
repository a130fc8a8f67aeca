package deploy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
)

// undocumented are the metrics in a text that docs/operate.md does not name.
func undocumented(t *testing.T, text string) (missing []string) {
	t.Helper()
	doc, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, name := range regexp.MustCompile(`\bmillrace_[a-z_]+`).FindAllString(text, -1) {
		if !strings.Contains(string(doc), "`"+name+"`") &&
			!strings.Contains(string(doc), "`"+parts.ReplaceAllString(name, "")+"`") {
			missing = append(missing, name)
		}
	}
	return missing
}

// TestAlerts_Documented: the rules name no metric that is not there. What fires them is tested with whole nodes.
func TestAlerts_Documented(t *testing.T) {
	text, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if missing := undocumented(t, string(text)); len(missing) > 0 {
		t.Errorf("%v", missing)
	}
}

// TestDashboard: the dashboard is as Grafana reads it, no panel is twice or over another, and Prometheus understands
// each of its queries.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title, UID string
		Panels     []struct {
			ID          int
			Type, Title string
			Description string
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if missing := undocumented(t, string(text)); len(missing) > 0 {
		t.Errorf("not documented: %v", missing)
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	ids, places, queries := make(map[int]bool), make(map[[2]int]bool), 0
	for _, p := range board.Panels {
		at := [2]int{p.GridPos.X, p.GridPos.Y}
		if ids[p.ID] || places[at] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d, %q, at %v", p.ID, p.Title, at)
		}
		ids[p.ID], places[at] = true, true
		if p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("%q says or shows nothing", p.Title)
		}
		for _, q := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(q.Expr)
			fmt.Fprintf(&rules, "  - record: dashboard:query%d\n    expr: >-\n      %s\n", queries, expr)
			queries++
		}
	}
	if board.Title == "" || board.UID == "" || queries < 40 {
		t.Errorf("%q has %d queries", board.Title, queries)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(file string) (string, error) {
		out, err := extern.Find(t, "promtool").Command(t.Context(), "check", "rules", file).CombinedOutput()
		return string(out), err
	}
	if out, err := check(file); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	broken := strings.Replace(rules.String(), "sum by (outcome)", "sum by outcome", 1)
	if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := check(file); err == nil {
		t.Error("a mistake in a query goes unnoticed")
	}
}
