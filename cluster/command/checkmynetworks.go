package command

import (
	"fmt"
	"net/netip"

	"github.com/millrace/millrace/cluster/migrate"
)

type checkMynetworksVerb struct {
	File   string       `arg:"" placeholder:"FILE" help:"@mynetworks_file"`
	Config []string     `short:"c" name:"config" placeholder:"FILE" help:"@egress_config"`
	IP     []netip.Addr `name:"ip" placeholder:"ADDRESS" help:"@egress_ip"`
	jsonFlag
}

func (v *checkMynetworksVerb) run(s streams) int {
	_, addrs, err := egressOf(v.Config, v.IP)
	if err != nil {
		return fail(s, err)
	}
	findings, err := migrate.CheckNetworks(v.File, addrs)
	if err != nil {
		return fail(s, err)
	}
	wrong := false
	for _, f := range findings {
		wrong = wrong || f.Severity == migrate.NetworkError
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"valid": !wrong, "findings": findings})
	} else {
		for _, f := range findings {
			fmt.Fprintf(s.out, "%s: %s\n", f.Severity, f)
		}
	}
	if wrong {
		return exitError
	}
	if !v.JSON {
		fmt.Fprintf(s.out, "%s: all our addresses are let in\n", v.File)
	}
	return exitOK
}
