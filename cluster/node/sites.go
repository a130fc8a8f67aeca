package node

import (
	"fmt"
	"os"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// A siteMaterial is how Sites are spoken to: what is shipped, and what the operator's own files say over it. It is
// immutable.
type siteMaterial struct {
	providers *mx.Providers
	reactions *feedback.Table
}

// loadSites reads egress.sites_file and egress.reactions_file, if the configuration names them. The error is Problems.
func (c *Config) loadSites() (*siteMaterial, error) {
	m := &siteMaterial{providers: mx.ShippedProviders(), reactions: feedback.Shipped()}
	if file := string(c.Egress.SitesFile); file != "" {
		text, err := os.ReadFile(file)
		if err == nil {
			m.providers, err = m.providers.Over(file, string(text))
		}
		if err != nil {
			return nil, c.place("", "egress.sites_file", err)
		}
	}
	if file := string(c.Egress.ReactionsFile); file != "" {
		own, err := readReactions(file, m.providers)
		if err != nil {
			return nil, c.place("", "egress.reactions_file", err)
		}
		m.reactions = own.Before(m.reactions)
	}
	return m, nil
}

// readReactions reads rules for Sites that there can be.
func readReactions(file string, providers *mx.Providers) (*feedback.Table, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	own, err := feedback.Parse(file, string(text))
	if err != nil {
		return nil, err
	}
	for site, at := range own.Sites {
		called, err := providers.Name(string(site))
		if err == nil && called != site {
			err = fmt.Errorf("the name of Site %s is %s", site, called)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
	}
	return own, nil
}

// useSites makes later mail keep to m.
func (n *Node) useSites(m *siteMaterial) {
	n.material.sites.Store(m)
	n.relay.UseSites(m.providers, m.reactions)
	n.moved() // a Site may have another number of owners
}

// spread is how many nodes own a Site.
func (n *Node) spread(site mail.Site) int {
	return n.material.sites.Load().providers.Limits(site).Spread
}
