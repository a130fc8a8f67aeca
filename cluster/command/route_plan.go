package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/router/leaf/printable"
)

// exitDiffers is the exit code of plan with --exit-code if something differs.
const exitDiffers = 3

// wishFlags say what the rules are to be.
type wishFlags struct {
	nodeFlags
	jsonFlag
	Owner string `placeholder:"TAG" help:"@route_owner"`
	Adopt bool   `help:"@route_adopt"`
	File  string `arg:"" help:"@route_file"`
}

type (
	routePlanVerb struct {
		wishFlags
		Out      string `placeholder:"PLAN" help:"@route_out"`
		ExitCode bool   `name:"exit-code" help:"@route_exit_code"`
	}
	routeApplyVerb  struct{ wishFlags }
	routeReplayVerb struct {
		wishFlags
		Since string `default:"24h" placeholder:"TIME" help:"@route_since"`
	}
)

// read reads the wish that the flags name.
func (v *wishFlags) read(s streams) (a *adminAPI, w wishFile, err error) {
	if a, err = v.api(); err != nil {
		return nil, w, err
	}
	if w, err = readWish(s, v.File); err != nil {
		return nil, w, err
	}
	switch {
	case w.Version != "" && (v.Owner != "" && v.Owner != w.Owner || v.Adopt && !w.Adopt):
		return nil, w, usageError{
			errors.New("a plan says whose it is and whether it adopts: leave --owner and --adopt out"),
		}
	case w.Version == "" && v.Owner == "":
		return nil, w, usageError{errors.New("--owner is required: the tag of those rules that the file has all of")}
	case w.Version == "":
		w.Owner, w.Adopt = v.Owner, v.Adopt
	}
	return a, w, nil
}

func (v *routePlanVerb) run(s streams) int {
	a, w, err := v.read(s)
	if err != nil {
		return fail(s, err)
	}
	var p account.Plan
	if err := a.ask("plan", w, &p); err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, p)
	} else {
		printPlan(s.out, &p, v.File)
	}
	if clashes := p.Clashes(); len(clashes) > 0 {
		return fail(s, fmt.Errorf("%d rules clash with what is there, so nothing of this can be applied", len(clashes)))
	}
	if v.Out != "" {
		w.Plan, w.Version = 1, p.Version
		text, err := json.Marshal(&w)
		if err == nil {
			err = writeNew(v.Out, append(text, '\n'))
		}
		if err != nil {
			return fail(s, err)
		}
	}
	if v.ExitCode && len(p.Changes) > 0 {
		return exitDiffers
	}
	return exitOK
}

func (v *routeApplyVerb) run(s streams) int {
	a, w, err := v.read(s)
	if err != nil {
		return fail(s, err)
	}
	return a.carryOut(s, w, v.JSON)
}

// carryOut makes a wish come true and prints what changed. If it cannot be, all is printed that it clashes with.
func (a *adminAPI) carryOut(s streams, w wishFile, asJSON bool) int {
	var p account.Plan
	if w.Version == "" {
		if err := a.ask("plan", w, &p); err != nil {
			return fail(s, err)
		}
		if clashes := p.Clashes(); len(clashes) > 0 {
			p.Changes = clashes
			printPlan(s.err, &p, "")
			return fail(s, fmt.Errorf("%d rules clash with what is there, so nothing was changed", len(clashes)))
		}
		w.Version = p.Version
	}
	if err := a.ask("apply", w, &p); err != nil {
		return fail(s, err)
	}
	if asJSON {
		printJSON(s.out, p)
		return exitOK
	}
	printDone(s.out, &p)
	return exitOK
}

// printDone prints what was changed.
func printDone(w io.Writer, p *account.Plan) {
	if len(p.Changes) == 0 {
		fmt.Fprintf(w, "Nothing to change: %d rules are as wished.\n", p.Same)
		return
	}
	printChanges(w, p, "")
	fmt.Fprintf(w, "Done: %s.\n", counted(p, "added", "changed", "removed"))
}

// printPlan prints what would be changed.
func printPlan(w io.Writer, p *account.Plan, file string) {
	printChanges(w, p, file)
	if len(p.Changes) == 0 {
		fmt.Fprintf(w, "Nothing to change: %d rules are as wished.\n", p.Same)
		return
	}
	fmt.Fprintf(w, "Plan for the owner %q: %s.\n", printable.Text(p.Owner),
		counted(p, "to add", "to change", "to remove"))
}

// printChanges prints the changes of a plan as a diff. file is the name of the text, "" for none.
func printChanges(w io.Writer, p *account.Plan, file string) {
	for i := range p.Changes {
		c := &p.Changes[i]
		if c.What == account.Clash {
			at := ""
			if file != "" && c.Line > 0 {
				at = fmt.Sprintf("%s:%d: ", file, c.Line)
			}
			fmt.Fprintf(w, "! %s%s: %s\n", at, printable.Text(c.Pattern), printable.Text(c.Why))
			if c.Before != "" {
				fmt.Fprintf(w, "    there  %s\n", printable.Text(c.Before))
			}
			fmt.Fprintf(w, "    wished %s\n", printable.Text(c.After))
			continue
		}
		note := ""
		if c.Why != "" {
			note = "   # " + printable.Text(c.Why)
		}
		if c.What == account.Adopted {
			note = "   # adopted"
		}
		if c.Before != "" {
			fmt.Fprintf(w, "- %s\n", printable.Text(c.Before))
		}
		if c.After != "" {
			fmt.Fprintf(w, "+ %s%s\n", printable.Text(c.After), note)
		}
	}
}

// counted says how many changes of each kind there are, in the words of its caller.
func counted(p *account.Plan, add, change, remove string) string {
	n := make(map[string]int)
	for i := range p.Changes {
		n[p.Changes[i].What]++
	}
	text := fmt.Sprintf("%d %s, %d %s, %d %s, %d as they are", n[account.Add], add,
		n[account.Alter]+n[account.Adopted], change, n[account.Remove], remove, p.Same)
	if n[account.Clash] > 0 {
		text += fmt.Sprintf(", %d that clash", n[account.Clash])
	}
	return text
}

func (v *routeReplayVerb) run(s streams) int {
	a, w, err := v.read(s)
	if err != nil {
		return fail(s, err)
	}
	w.Since = v.Since
	var r node.Replay
	if err := a.ask("replay", w, &r); err != nil {
		return fail(s, err)
	}
	if v.JSON {
		printJSON(s.out, r)
		return exitOK
	}
	printReplay(s.out, &r)
	return exitOK
}

// printReplay prints what differs, the most frequent first.
func printReplay(w io.Writer, r *node.Replay) {
	for i := range r.Groups {
		g := &r.Groups[i]
		fmt.Fprintf(w, "%d × %s\n", g.Messages, printable.Text(g.To))
		fmt.Fprintf(w, "    - %s\n    + %s\n", printable.Text(g.Before), printable.Text(g.After))
		if g.Refused > 0 {
			fmt.Fprintf(w, "    # %d of them were refused before rules were asked, or put off\n", g.Refused)
		}
	}
	if r.More > 0 {
		fmt.Fprintf(w, "# %d more messages differ, to other recipients\n", r.More)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "# %s\n", printable.Text(note))
	}
	fmt.Fprintf(w, "Since %s: %d messages, %d differ, %d are as before", r.Since.UTC().Format(time.RFC3339), r.Messages,
		r.Differ, r.Same)
	if r.Unknown > 0 {
		fmt.Fprintf(w, ", %d cannot be compared", r.Unknown)
	}
	fmt.Fprintln(w, ".")
}
