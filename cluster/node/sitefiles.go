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
// Problems, those of both.
func readSiteFiles(c *config.Config) (*siteFiles, error) {
	f := &siteFiles{providers: mx.ShippedProviders(), reactions: feedback.Shipped()}
	var wrong config.Problems
	providers := f.providers // nil if nothing is known of them
	if file := string(c.Egress.SitesFile); file != "" {
		text, err := os.ReadFile(file)
		if err == nil {
			providers, err = f.providers.Over(file, string(text))
		}
		if err != nil {
			providers, wrong = nil, wrong.Join(c.WithLine("", "egress.sites_file", err))
		} else {
			f.providers = providers
		}
	}
	if file := string(c.Egress.ReactionsFile); file != "" {
		own, err := readReactions(file, providers)
		if err != nil {
			wrong = wrong.Join(c.WithLine("", "egress.reactions_file", err))
		} else {
			f.reactions = own.Before(f.reactions)
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return f, nil
}

// readReactions reads the administrator's reactions. Each Site in it has to be a name that a Site can have, which is
// not looked at without providers.
func readReactions(file string, providers *mx.Providers) (*feedback.Table, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	own, err := feedback.Parse(file, string(text))
	if err != nil {
		return nil, err
	}
	if providers == nil {
		return own, nil
	}
	return own, own.CheckSites(file, func(site mail.Site) error {
		called, err := providers.Name(string(site))
		if err == nil && called != site {
			err = fmt.Errorf("the name of Site %s is %s", site, called)
		}
		return err
	})
}

// spread returns how many nodes own a Site.
func (f *files) spread(site mail.Site) int { return f.sites.Load().providers.Limits(site).Spread }
