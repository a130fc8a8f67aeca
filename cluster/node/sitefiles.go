package node

import (
	"fmt"
	"os"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/mx"
	"github.com/millrace/millrace/router/mail"
)

// siteFiles are the limits of Sites and the reactions to replies: those that are compiled in, and the administrator's
// own files over them. They are immutable.
type siteFiles struct {
	providers *mx.Providers
	reactions *feedback.Table
}

// readSiteFiles reads egress.sites_file and egress.reactions_file, if the configuration names them. The error is
// Problems.
func readSiteFiles(c *config.Config) (*siteFiles, error) {
	f := &siteFiles{providers: mx.ShippedProviders(), reactions: feedback.Shipped()}
	if file := string(c.Egress.SitesFile); file != "" {
		text, err := os.ReadFile(file)
		if err == nil {
			f.providers, err = f.providers.Over(file, string(text))
		}
		if err != nil {
			return nil, c.WithLine("", "egress.sites_file", err)
		}
	}
	if file := string(c.Egress.ReactionsFile); file != "" {
		own, err := readReactions(file, f.providers)
		if err != nil {
			return nil, c.WithLine("", "egress.reactions_file", err)
		}
		f.reactions = own.Before(f.reactions)
	}
	return f, nil
}

// readReactions reads the administrator's reactions. Each Site in it has to be a name that a Site can have.
func readReactions(file string, providers *mx.Providers) (*feedback.Table, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	own, err := feedback.Parse(file, string(text))
	if err != nil {
		return nil, err
	}
	for site, location := range own.Sites {
		called, err := providers.Name(string(site))
		if err == nil && called != site {
			err = fmt.Errorf("the name of Site %s is %s", site, called)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", location, err)
		}
	}
	return own, nil
}

// spread returns how many nodes own a Site.
func (f *files) spread(site mail.Site) int { return f.sites.Load().providers.Limits(site).Spread }
