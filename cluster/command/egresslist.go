package command

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/router/leaf/network"
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
	list := migrate.NewEgress(hostname, addrs, time.Now())
	switch v.Format {
	case "json":
		printJSON(s.out, list)
	case "postfix":
		fmt.Fprint(s.out, list.Postfix())
	case "nftables":
		fmt.Fprint(s.out, list.NFTables())
	case "spf":
		fmt.Fprint(s.out, list.SPF())
	default:
		fmt.Fprint(s.out, list.Text())
	}
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
		found := publicOf(cfg.Egress.Addresses)
		if len(found) == 0 {
			found = publicOf(cfg.Egress.SourceAddrs())
		}
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

// publicOf returns the addresses of a list that others see. Those for documentation count as such.
func publicOf(texts []string) (all []netip.Addr) {
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		if kind, _ := network.Special(a); kind == "" || kind == network.Documentation {
			all = append(all, a)
		}
	}
	return all
}
