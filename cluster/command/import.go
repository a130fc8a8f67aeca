package command

import (
	"fmt"
	"os"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/cluster/node"
)

type importVerbs struct {
	Postfix      importPostfixVerb      `cmd:"" help:"@import_postfix"`
	Cloudflare   importCloudflareVerb   `cmd:"" help:"@import_cloudflare"`
	ImprovMX     importImprovMXVerb     `cmd:"" name:"improvmx" help:"@import_improvmx"`
	Addy         importAddyVerb         `cmd:"" help:"@import_addy"`
	ForwardEmail importForwardEmailVerb `cmd:"" name:"forward-email" help:"@import_forward_email"`
}

// converted is what each import has besides its source: where the result goes.
type converted struct {
	Out string `placeholder:"DIR" help:"@import_out"`
	jsonFlag
}

type importPostfixVerb struct {
	Files []string `arg:"" placeholder:"MAIN.CF" help:"main.cf; of several files later lines win."`
	converted
}

func (v *importPostfixVerb) run(s streams) int {
	r, err := migrate.Postfix(v.Files)
	return v.show(s, r, err)
}

// show prints a result, or writes it to a folder and checks it there.
func (v *converted) show(s streams, r *migrate.Result, err error) int {
	if err != nil {
		return fail(s, err)
	}
	if v.Out == "" {
		v.print(s, r)
		return exitOK
	}
	if err := v.write(s, r); err != nil {
		return fail(s, err)
	}
	return exitOK
}

// print prints the result without writing it.
func (v *converted) print(s streams, r *migrate.Result) {
	if v.JSON {
		printJSON(s.out, map[string]any{"config": r.Config, "rules": r.Rules, "notes": r.Notes})
		return
	}
	fmt.Fprintf(s.out, "# %s\n%s\n# routes.txt\n%s", configName, r.Config, r.Rules)
	printNotes(s, r.Notes)
}

// printNotes prints what an administrator should know.
func printNotes(s streams, notes []migrate.Note) {
	for _, n := range notes {
		at := ""
		if n.File != "" {
			at = n.File + ": "
		}
		if n.Line > 0 {
			at = fmt.Sprintf("%s:%d: ", n.File, n.Line)
		}
		if n.Field != "" {
			at += n.Field + ": "
		}
		fmt.Fprintf(s.err, "note: %s%s\n", at, n.Text)
	}
}

// write writes the result to a folder and checks it there.
func (v *converted) write(s streams, r *migrate.Result) error {
	f := folder{dir: v.Out, group: -1}
	if err := os.MkdirAll(v.Out, 0o755); err != nil {
		return err
	}
	for _, out := range []struct{ name, text string }{{configName, r.Config}, {"routes.txt", r.Rules}} {
		if f.has(out.name) {
			return fmt.Errorf("--out: %s exists and is kept", f.path(out.name))
		}
		if err := f.write(out.name, publicMode, func() ([]byte, error) { return []byte(out.text), nil }); err != nil {
			return err
		}
	}
	cfg, err := config.Load(f.path(configName))
	if err != nil {
		return err
	}
	warnings, err := node.Check(cfg, nil)
	if v.JSON {
		printJSON(s.out, map[string]any{
			"files": f.files, "notes": r.Notes, "findings": findingsOf("warning", warnings),
		})
		return err
	}
	f.print(s.out)
	printNotes(s, r.Notes)
	for _, w := range warnings {
		fmt.Fprintf(s.err, "warning: %s\n", w)
	}
	return err
}
