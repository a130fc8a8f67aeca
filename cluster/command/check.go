package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
)

type checkVerb struct {
	configFlag
	Connect bool `help:"@check_connect"`
	jsonFlag
}

// A finding is a Problem as a program reads it.
type finding struct {
	Severity string `json:"severity"` // "error" or "warning"
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Field    string `json:"field,omitempty"`
	Message  string `json:"message"`
}

func (v *checkVerb) run(s streams) int {
	var warnings []config.Problem
	cfg, err := config.Inspect(v.Config)
	problems := problemsOf(err)
	if cfg != nil {
		warnings, err = node.Check(cfg, problems)
		problems = problemsOf(err)
	}
	var trials []node.Trial
	if v.Connect && len(problems) == 0 {
		if trials, err = node.Connect(context.Background(), cfg); err != nil {
			problems = problemsOf(err)
		}
		for _, t := range trials {
			if !t.OK {
				problems = append(problems, cfg.Problem(t.Field, t.What+": "+t.Why))
			}
		}
	}
	if v.JSON {
		printFindings(s.out, problems, warnings, trials)
	} else {
		for _, t := range trials {
			if t.OK {
				fmt.Fprintf(s.out, "%s: %s: works\n", t.Field, t.What)
			}
		}
		for _, w := range warnings {
			fmt.Fprintf(s.err, "warning: %s\n", w)
		}
		for _, p := range problems {
			fmt.Fprintln(s.err, p)
		}
	}
	if len(problems) > 0 {
		return exitError
	}
	if !v.JSON {
		fmt.Fprintf(s.out, "%s: valid\n", v.Config)
	}
	return exitOK
}

// problemsOf returns any error as Problems, nil for nil.
func problemsOf(err error) config.Problems {
	var p config.Problems
	if err == nil || errors.As(err, &p) {
		return p
	}
	return config.Problems{{Message: err.Error()}}
}

// findingsOf returns Problems as a program reads them.
func findingsOf(severity string, problems []config.Problem) []finding {
	list := []finding{}
	for _, p := range problems {
		list = append(list, finding{severity, p.File, p.Line, p.Column, p.Field, p.Message})
	}
	return list
}

// printFindings prints the result of check for a program.
func printFindings(w io.Writer, problems, warnings []config.Problem, trials []node.Trial) {
	list := append(findingsOf("error", problems), findingsOf("warning", warnings)...)
	out := map[string]any{"valid": len(problems) == 0, "findings": list}
	if trials != nil {
		out["trials"] = trials
	}
	printJSON(w, out)
}

// printJSON prints a value for a program, indented.
func printJSON(w io.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // fails only when the reader has gone
}
