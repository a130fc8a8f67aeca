package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/printable"
)

type routeVerbs struct {
	Add    routeAddVerb    `cmd:"" help:"@route_add"`
	Rm     routeRmVerb     `cmd:"" name:"rm" help:"@route_rm"`
	List   routeListVerb   `cmd:"" help:"@route_list"`
	Import routeImportVerb `cmd:"" help:"@route_import"`
	Export routeExportVerb `cmd:"" help:"@route_export"`
	Plan   routePlanVerb   `cmd:"" help:"@route_plan"`
	Apply  routeApplyVerb  `cmd:"" help:"@route_apply"`
	Replay routeReplayVerb `cmd:"" help:"@route_replay"`
}

type (
	routeAddVerb struct {
		nodeFlags
		Owner string   `placeholder:"TAG" help:"@route_owner_add"`
		Line  []string `arg:"" placeholder:"LINE" help:"@route_line"`
	}
	routeRmVerb struct {
		nodeFlags
		Owner string   `placeholder:"TAG" help:"@route_owner_rm"`
		Which []string `arg:"" placeholder:"PATTERN" help:"@route_which"`
	}
	routeListVerb struct {
		nodeFlags
		jsonFlag
		Owner  string `placeholder:"TAG" help:"@route_owner_of"`
		Domain string `placeholder:"DOMAIN" help:"@route_domain"`
	}
	routeImportVerb struct {
		nodeFlags
		jsonFlag
		Owner string `placeholder:"TAG" help:"@route_owner_add"`
		File  string `arg:"" help:"@route_import_in"`
	}
	routeExportVerb struct {
		nodeFlags
		Owner  string `placeholder:"TAG" help:"@route_owner_of"`
		Domain string `placeholder:"DOMAIN" help:"@route_domain"`
		Out    string `placeholder:"FILE" help:"@route_export_out"`
	}
)

const (
	// routeTimeout bounds what a node needs for a change of many rules, which it checks with all others and shares.
	routeTimeout = 6 * time.Minute
	// maxRoutes bounds the answer in octets: a plan says of each rule what it was and what it is to be.
	maxRoutes = 1 << 30
)

// A wishFile is what plan --out writes, and what requests to the node say.
type wishFile struct {
	Plan    int    `json:"millrace_plan,omitempty"` // the version of the form
	Owner   string `json:"owner"`
	Version string `json:"version,omitempty"`
	Keep    bool   `json:"keep,omitempty"`
	Adopt   bool   `json:"adopt,omitempty"`
	Rules   string `json:"rules"`
	Since   string `json:"since,omitempty"`
}

// planMark begins a file of plan --out. No line of rules begins so.
const planMark = `{"millrace_plan":`

// ask sends a wish to a node.
func (a *adminAPI) ask(what string, w wishFile, into any) error {
	w.Plan = 0
	body, err := json.Marshal(&w)
	if err != nil {
		return err
	}
	return a.answer(nodeRequest{method: http.MethodPost, path: "/api/v1/" + what, body: body}, into)
}

// answer sends a request about rules and reads the answer.
func (a *adminAPI) answer(ask nodeRequest, into any) error {
	ask.most, ask.octets = routeTimeout, maxRoutes
	answer, err := a.tell(context.Background(), ask)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	return nil
}

func (v *routeAddVerb) run(s streams) int {
	a, err := v.api()
	if err != nil {
		return fail(s, err)
	}
	line := strings.Join(v.Line, " ")
	if strings.ContainsAny(line, "\r\n") {
		return fail(s, usageError{errors.New("one rule is one line; import reads many")})
	}
	var p account.Plan
	if err := a.ask("apply", wishFile{Owner: v.Owner, Keep: true, Rules: line}, &p); err != nil {
		return fail(s, err)
	}
	printDone(s.out, &p)
	return exitOK
}

func (v *routeRmVerb) run(s streams) int {
	a, err := v.api()
	if err != nil {
		return fail(s, err)
	}
	all, err := a.rules()
	if err != nil {
		return fail(s, err)
	}
	which := strings.Join(v.Which, " ")
	for i := range all.Rules {
		r := &all.Rules[i]
		if r.ID != which && r.Pattern != which && (r.Pattern[0] == '/' || !ascii.EqualFold(r.Pattern, which)) {
			continue
		}
		if r.Owner != v.Owner {
			return fail(s, fmt.Errorf("%s is of the owner %q, by %s: --owner says whose it is",
				printable.Text(r.Pattern), printable.Text(r.Owner), printable.Text(r.Source)))
		}
		var old admin.Route
		if err := a.answer(nodeRequest{method: http.MethodDelete, path: "/api/v1/routes/" + r.ID}, &old); err != nil {
			return fail(s, err)
		}
		fmt.Fprintf(s.out, "- %s\n", lineOf(&old))
		return exitOK
	}
	for _, f := range all.Files {
		if f.Pattern != "" && ascii.EqualFold(f.Pattern, which) {
			return fail(s, fmt.Errorf("%s stands at %s:%d, which no command changes", printable.Text(f.Pattern),
				printable.Text(f.File), f.Line))
		}
	}
	return fail(s, fmt.Errorf("there is no rule %q", which))
}

// allRules are what a node answers of all rules.
type allRules struct {
	Rules []admin.Route      `json:"rules"`
	Files []account.FileRule `json:"files"`
}

// rules asks a node for all rules.
func (a *adminAPI) rules() (all allRules, err error) {
	err = a.answer(nodeRequest{method: http.MethodGet, path: "/api/v1/rules"}, &all)
	return all, err
}

// only leaves the rules of an owner and of a domain, all for "".
func (a *allRules) only(owner, domain string) {
	kept := allRules{Rules: []admin.Route{}, Files: []account.FileRule{}}
	for _, r := range a.Rules {
		if (owner == "" || r.Owner == owner) && (domain == "" || ascii.EqualFold(r.Domain, domain)) {
			kept.Rules = append(kept.Rules, r)
		}
	}
	for _, f := range a.Files {
		of := f.Pattern[strings.LastIndexAny(f.Pattern, "@ ")+1:]
		if owner == "" && (domain == "" || ascii.EqualFold(of, domain)) {
			kept.Files = append(kept.Files, f)
		}
	}
	*a = kept
}

// rulesOf asks a node for the rules of an owner and of a domain, all for "".
func (f *nodeFlags) rulesOf(owner, domain string) (allRules, error) {
	a, err := f.api()
	if err != nil {
		return allRules{}, err
	}
	all, err := a.rules()
	all.only(owner, domain)
	return all, err
}

func (v *routeListVerb) run(s streams) int {
	all, err := v.rulesOf(v.Owner, v.Domain)
	if err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, all)
		return exitOK
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tBY\tOWNER\tSTATE")
	for _, f := range all.Files {
		fmt.Fprintf(t, "%s\t%s:%d\t\tin force\n", printable.Text(f.Text), printable.Text(f.File), f.Line)
	}
	for i := range all.Rules {
		r := &all.Rules[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", lineOf(r), printable.Text(r.Source), printable.Text(r.Owner), stateOf(r))
	}
	if err := t.Flush(); err != nil {
		return fail(s, err)
	}
	return exitOK
}

// lineOf returns the line of a rule.
func lineOf(r *admin.Route) string {
	return printable.Text(strings.TrimSpace(r.Pattern + "  " + r.Target))
}

// stateOf says whether a rule is in force, and why it is not.
func stateOf(r *admin.Route) string {
	switch {
	case r.InForce:
		return "in force"
	case !r.Enabled:
		return "not enabled"
	case r.Why != "":
		return printable.Text(r.Why)
	case len(r.Pending) > 0:
		return "not verified: " + printable.Text(strings.Join(r.Pending, " "))
	}
	return "its domain is not enabled"
}

func (v *routeExportVerb) run(s streams) int {
	all, err := v.rulesOf(v.Owner, v.Domain)
	if err != nil {
		return fail(s, err)
	}
	var b strings.Builder
	for i := range all.Rules {
		r := &all.Rules[i]
		if !r.Enabled {
			b.WriteString("# not enabled: ")
		}
		b.WriteString(strings.TrimSpace(r.Pattern+"  "+r.Target) + "\n")
	}
	if v.Out != "" {
		err = writeNew(v.Out, []byte(b.String()))
	} else {
		_, err = io.WriteString(s.out, b.String())
	}
	if err != nil {
		return fail(s, err)
	}
	return exitOK
}

func (v *routeImportVerb) run(s streams) int {
	a, err := v.api()
	if err != nil {
		return fail(s, err)
	}
	w, err := readWish(s, v.File)
	if err != nil {
		return fail(s, err)
	}
	if w.Version != "" {
		return fail(s, usageError{errors.New("a plan is carried out by route apply")})
	}
	w.Owner, w.Keep = v.Owner, true
	return a.carryOut(s, w, v.JSON)
}

// readWish reads a text of rules, or a plan.
func readWish(s streams, name string) (w wishFile, err error) {
	var text []byte
	if name == "-" {
		text, err = io.ReadAll(s.in)
	} else {
		text, err = os.ReadFile(name)
	}
	if err != nil {
		return w, err
	}
	if !strings.HasPrefix(string(text), planMark) {
		w.Rules = string(text)
		return w, nil
	}
	if err := json.Unmarshal(text, &w); err != nil || w.Plan != 1 || w.Version == "" {
		return w, fmt.Errorf("%s: is no plan of this version: plan again", name)
	}
	return w, nil
}
