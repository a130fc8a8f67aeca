package node

import (
	"os"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/hook"
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
	receivers   atomic.Pointer[[][]hook.Secret] // the secrets of each receiver of events
	hookSecrets atomic.Pointer[[]hook.Secret]   // that questions to hooks are signed with
	token       []byte                          // of the admin server; nil: the configuration names no file of it
	users       users
	rules       *router.Router
	api         apiRules
	vias        []mail.NextHop // see viasOf
	authorities atomic.Pointer[authorities]
	shown       atomic.Pointer[ownCertificates]
	believed    atomic.Pointer[hostAuthorities]
	keyring     auth.Keyring
	signing     atomic.Pointer[map[string]int] // keys that sign now, by what signs with them
}

// readFiles reads everything that the configuration names but the keys and certificates of the cluster. With
// sharedRules, the router begins empty, because the nodes share the rules in Redis. The error is Problems, all of them;
// what could be read is returned beside it.
func readFiles(c *config.Config, sharedRules bool) (*files, error) {
	f := &files{cfg: c, certificate: certificate{cfg: c.TLS, hostname: c.Hostname}, vias: viasOf(c)}
	var wrong config.Problems
	if c.Cluster != nil {
		tickets, err := readSecret(c.Cluster.KeyFile)
		wrong = wrong.Join(c.WithLine("", "cluster.key_file", err))
		if err == nil {
			f.certificate.tickets.Store(&tickets)
		}
	}
	if handshake, err := f.certificate.load(time.Now()); err != nil {
		wrong = wrong.Join(c.WithLine("", "tls.cert", err))
	} else {
		f.certificate.use(handshake)
	}
	logins, err := readCredentials(c.Egress.CredentialsFile)
	wrong = wrong.Join(c.WithLine("", "egress.credentials_file", err))
	if err == nil {
		f.credentials.Store(&logins)
		wrong = wrong.Join(checkVias(c, logins))
	}
	trusted, err := readAuthorities(c)
	wrong = wrong.Join(err)
	f.authorities.Store(trusted)
	shown, err := readOwnCertificates(c)
	wrong = wrong.Join(err)
	f.shown.Store(shown)
	believed, err := readHostAuthorities(c)
	wrong = wrong.Join(err)
	f.believed.Store(believed)
	sites, err := readSiteFiles(c)
	wrong = wrong.Join(err)
	f.sites.Store(sites)
	secrets, err := readReceiverSecrets(c)
	wrong = wrong.Join(err)
	f.receivers.Store(&secrets)
	asking, err := readHookSecrets(c)
	wrong = wrong.Join(err)
	f.hookSecrets.Store(&asking)
	wrong = wrong.Join(f.readToken())
	f.users, err = readUsers(c)
	wrong = wrong.Join(err)
	f.keyring, err = readKeyring(c)
	wrong = wrong.Join(err)
	f.rules, err = f.makeRouter(sharedRules)
	wrong = wrong.Join(c.WithLine("", "routes", err))
	if err == nil {
		wrong = wrong.Join(c.WithLine("", "state", f.addAPIRules(sharedRules)))
	}
	// The secret comes last: if it is a file of SRS keys, the router has checked it with more care.
	if f.secret, err = loadSecret(c); len(wrong) == 0 || c.SecretFile != "" {
		wrong = wrong.Join(c.WithLine("", "secret_file", err))
	}
	if len(wrong) > 0 {
		return f, wrong
	}
	return f, nil
}

// readToken reads the token of the admin server, if the configuration names a file of it.
func (f *files) readToken() error {
	if f.cfg.Admin == nil || f.cfg.Admin.TokenFile == "" {
		return nil
	}
	data, err := os.ReadFile(string(f.cfg.Admin.TokenFile))
	if err != nil {
		return f.cfg.WithLine("", "admin.token_file", err)
	}
	f.token = admin.ParseToken(data)
	if why := secretFault(string(f.token)); why != "" {
		wrong := mail.LineErrors{File: string(f.cfg.Admin.TokenFile)}
		wrong.Add(1, 1, why)
		return f.cfg.WithLine("", "admin.token_file", wrong.Err())
	}
	return nil
}

// password returns the password of a login at a next hop. It reports false if the credentials file lacks it.
func (f *files) password(user, host string, port uint16) (string, bool) {
	return f.credentials.Load().password(user, host, port)
}

// domainOr returns name, or "" if it is no domain name: the rules are checked although there is a complaint about it.
func domainOr(name string) string {
	if mail.IsDomain(name) {
		return name
	}
	return ""
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
		Hostname:   domainOr(c.Hostname),
		Postmaster: postmaster,
		HasCredentials: func(user, host string, port uint16) bool {
			if f.credentials.Load() == nil { // there is a complaint about the file, which is enough
				return true
			}
			_, ok := f.password(user, host, port)
			return ok
		},
		LocalAddrs:  c.LocalAddrs(),
		MessageSize: int64(c.Limits.MessageSize),
		CheckHook:   c.Hooks.Check,
		Meant:       account.RulesName,
		CheckMeant:  func(text string) error { return checkOwners(c, text) },
		Empty:       sharedRules,
	}
	if c.Once {
		cfg.FanOut = c.Limits.FanOut
	}
	if c.SRS != nil && domainOr(c.SRS.Domain) != "" {
		cfg.SRSDomain = c.SRS.Domain
		cfg.SRSKeys = func() ([][]byte, error) { return srsKeys(c) }
	}
	return router.New(cfg)
}
