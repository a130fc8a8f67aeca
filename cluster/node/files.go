package node

import (
	"os"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/message/auth"
	"github.com/millrace/millrace/router"
	"github.com/millrace/millrace/router/mail"
)

// files are what a node reads besides its configuration.
type files struct {
	cfg         *config.Config
	secret      secret
	certificate certificate
	credentials atomic.Pointer[credentials]
	sites       atomic.Pointer[siteFiles]
	token       []byte // of the admin server; nil: the configuration names no file of it
	rules       *router.Router
	keyring     auth.Keyring
}

// readFiles reads everything that the configuration names but the keys and certificates of the cluster. With
// sharedRules, the router begins empty, because the nodes share the rules in Redis. The error is Problems.
func readFiles(c *config.Config, sharedRules bool) (*files, error) {
	f := &files{cfg: c, certificate: certificate{cfg: c.TLS, hostname: c.Hostname}}
	var err error
	if c.Cluster != nil {
		tickets, err := readSecret(c.Cluster.KeyFile)
		if err != nil {
			return nil, c.WithLine("", "cluster.key_file", err)
		}
		f.certificate.tickets.Store(&tickets)
	}
	var handshake *handshakes
	if handshake, err = f.certificate.load(time.Now()); err != nil {
		return nil, c.WithLine("", "tls.cert", err)
	}
	f.certificate.use(handshake)
	logins, err := readCredentials(c.Egress.CredentialsFile)
	if err != nil {
		return nil, c.WithLine("", "egress.credentials_file", err)
	}
	f.credentials.Store(&logins)
	sites, err := readSiteFiles(c)
	if err != nil {
		return nil, err
	}
	f.sites.Store(sites)
	if c.Admin != nil && c.Admin.TokenFile != "" {
		data, err := os.ReadFile(string(c.Admin.TokenFile))
		if err != nil {
			return nil, c.WithLine("", "admin.token_file", err)
		}
		f.token = admin.ParseToken(data)
	}
	if f.keyring, err = readKeyring(c); err != nil {
		return nil, err
	}
	if f.rules, err = f.makeRouter(sharedRules); err != nil {
		return nil, c.WithLine("", "routes", err)
	}
	// The secret comes last: if it is a file of SRS keys, the router has checked it with more care.
	if f.secret, err = loadSecret(c); err != nil {
		return nil, c.WithLine("", "secret_file", err)
	}
	return f, nil
}

// password returns the password of a login at a next hop. It reports false if the credentials file lacks it.
func (f *files) password(user, host string, port uint16) (string, bool) {
	return f.credentials.Load().password(user, host, port)
}

// makeRouter makes the router of the rules files. With sharedRules it begins empty.
func (f *files) makeRouter(sharedRules bool) (*router.Router, error) {
	c := f.cfg
	var postmaster mail.Path
	if c.Postmaster != "" {
		postmaster, _ = mail.ParsePath(c.Postmaster, true) // Validate has checked it
	}
	cfg := router.Config{
		Paths:      []string{string(c.Routes)},
		Text:       c.Rules,
		Hostname:   c.Hostname,
		Postmaster: postmaster,
		HasCredentials: func(user, host string, port uint16) bool {
			_, ok := f.password(user, host, port)
			return ok
		},
		LocalAddrs: c.LocalAddrs(),
		Empty:      sharedRules,
	}
	if c.SRS != nil {
		cfg.SRSDomain = c.SRS.Domain
		cfg.SRSKeys = func() ([][]byte, error) { return srsKeys(c) }
	}
	return router.New(cfg)
}
