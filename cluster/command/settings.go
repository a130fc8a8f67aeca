package command

import (
	"fmt"
	"text/tabwriter"

	"github.com/millrace/millrace/cluster/config"
)

type configVerbs struct {
	Show configShowVerb `cmd:"" help:"@config_show"`
}

type configShowVerb struct {
	configFlag
	Effective bool `help:"@config_effective"`
	jsonFlag
}

func (v *configShowVerb) run(s streams) int {
	cfg, err := config.Load(v.Config)
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitError
	}
	shown := []config.Setting{}
	for _, one := range cfg.Settings() {
		if v.Effective || one.Origin != config.ByDefault {
			shown = append(shown, one)
		}
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"version": readBuild().Version, "file": cfg.Source(), "settings": shown})
		return exitOK
	}
	fmt.Fprintf(s.out, "# millrace %s, %s\n", readBuild().Version, cfg.Source())
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, one := range shown {
		value := one.Value
		if value == "" {
			value = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", one.Key, value, one.Origin)
	}
	if err := t.Flush(); err != nil {
		return fail(s, err)
	}
	return exitOK
}
