package node

import (
	"context"
	"log/slog"
	"time"
)

// Reload reads rules, SRS keys, signing keys, certificates, credentials, the limits of Sites and reactions, and the
// keys of gossip anew. If anything is wrong with any of them, or with the configuration file, nothing changes, and the
// error names the file and the line. Mail under way is not affected. The contents of the configuration file, and the
// keys that are derived from secret_file or from what replaces it, change with a restart only. What a reload waits for,
// files that are being written and Redis, ends with ctx.
func (n *Node) Reload(ctx context.Context) error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	err := n.reload(ctx)
	if err != nil {
		n.log.say(slog.LevelError, "reload failed, nothing changed", "cause", err.Error())
		return err
	}
	if n.cfg.Edited() {
		n.log.say(slog.LevelWarn,
			"the configuration file has changed: what it says takes a restart; the files it names were read anew")
	}
	rules := n.rules.router
	n.log.say(slog.LevelInfo, "reloaded", "rules", rules.Len(), "domains", rules.Domains())
	return nil
}

// reload reads all files before it changes anything. It swaps the rules last, because they fail most often, and
// restores the credentials when they do.
func (n *Node) reload(ctx context.Context) error {
	c, f := n.cfg, n.parts.files
	if err := c.Revalidate(); err != nil {
		return err
	}
	handshake := f.certificate.current.Load()
	if c.TLS != nil {
		var err error
		if handshake, err = f.certificate.load(time.Now()); err != nil {
			return c.WithLine("", "tls.cert", err)
		}
	}
	logins, err := readCredentials(c.Egress.CredentialsFile)
	if err != nil {
		return c.WithLine("", "egress.credentials_file", err)
	}
	keyring, err := readKeyring(c)
	if err != nil {
		return err
	}
	cluster, err := readClusterFiles(c)
	if err != nil {
		return err
	}
	sites, err := readSiteFiles(c)
	if err != nil {
		return err
	}
	old := f.credentials.Swap(&logins) // the rules are checked against them
	if err := n.rules.reload(ctx); err != nil {
		f.credentials.Store(old)
		return c.WithLine("", "routes", err)
	}
	if err := n.members.reload(cluster, &f.certificate); err != nil {
		return c.WithLine("", "cluster", err)
	}
	f.sites.Store(sites)
	n.relay.UseSites(sites.providers, sites.reactions)
	n.members.moved() // a Site may have another number of owners
	f.certificate.use(handshake)
	return useKeyring(c, n.parts.auth, keyring)
}
