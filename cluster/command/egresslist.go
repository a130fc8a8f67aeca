package command

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/router/leaf/printable"
)

type egressListVerb struct {
	Config  []string     `short:"c" name:"config" placeholder:"FILE" help:"@egress_config"`
	IP      []netip.Addr `name:"ip" placeholder:"ADDRESS" help:"@egress_ip"`
	Cluster bool         `help:"@egress_cluster"`
	Format  string       `enum:"text,json,postfix,nftables,spf" default:"text" help:"@egress_format"`
}

func (v *egressListVerb) run(s streams) int {
	hostname, addrs, err := v.addrs()
	if err != nil {
		return fail(s, err)
	}
	text, _ := migrate.NewEgress(hostname, addrs, time.Now()).In(v.Format) // which the flag has checked
	fmt.Fprint(s.out, text)
	return exitOK
}

// addrs returns the addresses to print, and the name of the first node.
func (v *egressListVerb) addrs() (hostname string, addrs []netip.Addr, err error) {
	if !v.Cluster {
		return egressOf(v.Config, v.IP)
	}
	if len(v.Config) != 1 {
		return "", nil, usageError{errors.New("--cluster needs one -c: of the node that is asked for all of them")}
	}
	ask := checkupFlags{configFlag: configFlag{v.Config[0]}}
	answer, err := ask.answer(node.CheckAddresses, node.CheckQuestion{})
	if err != nil {
		return "", nil, err
	}
	addrs = append(addrs, v.IP...)
	for _, n := range answer.Nodes {
		if !n.OK || len(n.Addresses) == 0 { // a list that lacks a node keeps its mail out
			return "", nil, fmt.Errorf("%s: %s", cmp.Or(n.Node, "this node"),
				printable.Text(strings.Join(n.Says, "; ")))
		}
		addrs = append(addrs, n.Addresses...)
	}
	cfg, err := config.Load(v.Config[0])
	if err != nil {
		return "", nil, err
	}
	return cfg.Hostname, addrs, nil
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
