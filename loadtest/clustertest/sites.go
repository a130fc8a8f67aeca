package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/millrace/millrace/loadtest/fleet"
)

// The sessions that Sites of the sites file may have.
const (
	bigSessions  = 10
	wideSessions = 8
)

// suffix sends to domains whose MX hosts all have other names below one name of a provider.
func suffix(ctx context.Context, t *trial) (string, error) {
	d := t.lab.big
	l := &fleet.Load{
		Name: t.tag("big"), Addrs: fleet.Only(t.ring.Balancer), Clients: 4 * bigSessions, Messages: 4 * bigDomains,
		Forward: func(i int) string { return fmt.Sprintf("b@d%d.big.test", i%bigDomains) },
	}
	n := fleet.Count(l.Run(ctx), d)
	c := d.Counts()
	owners, sites := t.owning(ctx, "big"), t.naming(ctx, "big")
	figures := fmt.Sprintf("%s\n%d domains with as many MX hosts are %d Site with %d owner; %d connections, %d of "+
		"them at once at most (limit %d)",
		n, bigDomains, sites, owners, c.Connections, c.Peak, bigSessions)
	err := n.Err()
	if c.Peak > bigSessions {
		err = errors.Join(err, errors.New("more connections than the Site's limit"))
	}
	if sites != 1 || owners != 1 {
		err = errors.Join(err, errors.New("want one Site with one owner"))
	}
	return figures, err
}

// naming counts the Sites that nodes know whose name has a part.
func (t *trial) naming(ctx context.Context, part string) int {
	names := make(map[string]bool)
	for _, m := range t.ring.Nodes {
		s, err := t.ring.Status(ctx, m)
		if err != nil {
			return -1
		}
		for _, site := range s.Sites {
			if strings.Contains(string(site.Site), part) {
				names[string(site.Site)] = true
			}
		}
	}
	return len(names)
}

// spread sends to a Site with two owners, which share its limit.
func spread(ctx context.Context, t *trial) (string, error) {
	d := t.lab.wide
	l := &fleet.Load{
		Name: t.tag("wide"), Addrs: fleet.Only(t.ring.Balancer), Clients: 4 * wideSessions, Messages: 15 * wideDomains,
		Forward: func(i int) string { return fmt.Sprintf("b@d%d.wide.test", i%wideDomains) },
	}
	n := fleet.Count(l.Run(ctx), d)
	c := d.Counts()
	nodes, strayed := make(map[string]int), 0
	of := make(map[string]string) // the node that served a domain, by its address
	for _, m := range d.Messages() {
		host, _, _ := strings.Cut(m.Client, ":")
		_, domain, _ := strings.Cut(m.Forwards[0], "@")
		nodes[host]++
		if before, known := of[domain]; known && before != host {
			strayed++
		}
		of[domain] = host
	}
	var each []string
	for _, n := range nodes {
		each = append(each, fmt.Sprint(n))
	}
	figures := fmt.Sprintf("%s\n%d owners delivered %s messages, each domain's by one of them but for %d; %d "+
		"connections, %d of them at once at most (limit %d)",
		n, len(nodes), strings.Join(each, " and "), strayed, c.Connections, c.Peak, wideSessions)
	err := n.Err()
	if len(nodes) != 2 || strayed > 0 {
		err = errors.Join(err, errors.New("want two owners, and one for each domain"))
	}
	if c.Peak > wideSessions {
		err = errors.Join(err, errors.New("more connections than the Site's limit"))
	}
	return figures, err
}
