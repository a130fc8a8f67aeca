package command

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/migrate"
)

type egressListVerb struct {
	Config []string     `short:"c" name:"config" placeholder:"FILE" help:"${egress_config}"`
	IP     []netip.Addr `name:"ip" placeholder:"ADDRESS" help:"${egress_ip}"`
	Format string       `enum:"text,json,postfix,nftables,spf" default:"text" help:"${egress_format}"`
}

func (v *egressListVerb) run(s streams) int {
	hostname, addrs, err := egressOf(v.Config, v.IP)
	if err != nil {
		return fail(s, err)
	}
	text, _ := migrate.NewEgress(hostname, addrs, time.Now()).In(v.Format) // which the flag has checked
	fmt.Fprint(s.out, text)
	return exitOK
}

// egressOf returns the addresses that mail of nodes with these configurations comes from, and the name of the first
// node: what egress.addresses says, else egress.source where that is public, else those of this host. more are added.
func egressOf(files []string, more []netip.Addr) (hostname string, addrs []netip.Addr, err error) {
	addrs = append(addrs, more...)
	for _, file := range files {
		cfg, err := config.Load(file)
		if err != nil {
			return "", nil, err
		}
		if hostname == "" {
			hostname = cfg.Hostname
		}
		found := cfg.EgressAddrs()
		if len(found) == 0 && len(files) == 1 && len(more) == 0 {
			found = publicAddrs()
		}
		if len(found) == 0 && len(more) == 0 {
			return "", nil, fmt.Errorf("%s: says no public address that mail comes from: egress.addresses, or "+
				"--ip, names it",
				file)
		}
		addrs = append(addrs, found...)
	}
	if len(addrs) == 0 {
		return "", nil, usageError{errors.New("-c or --ip is required: where mail comes from")}
	}
	if hostname == "" {
		hostname = "these nodes"
	}
	return hostname, addrs, nil
}
