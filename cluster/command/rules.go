package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
)

type rulesVerbs struct {
	Show rulesShowVerb `cmd:"" help:"@rules_show"`
}

type rulesShowVerb struct {
	configFlag
	jsonFlag
}

func (v *rulesShowVerb) run(s streams) int {
	cfg, err := config.Load(v.Config)
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitError
	}
	shown, files, err := node.ShowRules(context.Background(), cfg)
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitError
	}
	if v.JSON {
		printJSON(s.out, struct {
			node.Rules
			Files []node.RulesFile `json:"files"`
		}{shown, files})
	} else {
		printRules(s.out, shown, files)
	}
	if shown.Digest == "" {
		return fail(s, errors.New("there are no rules that this node can run: "+shown.Trouble))
	}
	if shown.Trouble != "" {
		fmt.Fprintln(s.err, "warning: other nodes may have other rules:", shown.Trouble)
	}
	return exitOK
}

// printRules prints rules as a file of rules, with comments about what they are.
func printRules(w io.Writer, r node.Rules, files []node.RulesFile) {
	if r.Digest == "" {
		return
	}
	fmt.Fprintf(w, "# %s; %d rules, %d domains\n", rulesLine(r), r.Rules, r.Domains)
	for _, f := range files {
		fmt.Fprintf(w, "# file %s\n%s", f.Name, f.Text)
		if !strings.HasSuffix(f.Text, "\n") {
			fmt.Fprintln(w)
		}
	}
}

// rulesLine returns version and origin of rules.
func rulesLine(r node.Rules) string {
	switch {
	case r.Digest == "":
		return "no rules that this node can run"
	case r.Version > 0:
		return fmt.Sprintf("version %d of the shared rules, of the %s, digest %.12s", r.Version, r.Origin, r.Digest)
	}
	return fmt.Sprintf("the %s of this node, digest %.12s", r.Origin, r.Digest)
}
