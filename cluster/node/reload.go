package node

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/config"
)

// reloads is what a node knows of changes that its reloads do not bring.
type reloads struct {
	running sync.Mutex               // held by Reload
	read    map[string][32]byte      // digests of the files that are read at the start alone, by key
	waiting atomic.Pointer[[]string] // keys whose change takes a restart; nil: none is known
	last    atomic.Pointer[admin.Reload]
	keys    atomic.Pointer[[]admin.Date] // when the files of keys were written that are in use
}

// begin notes that the files were read at the start.
func (r *reloads) begin(c *config.Config) {
	keys := keyDates(c)
	r.keys.Store(&keys)
	r.last.Store(&admin.Reload{Success: time.Now()})
}

// state returns what became of reloads.
func (r *reloads) state() admin.Reload {
	s := *r.last.Load()
	if waiting := r.waiting.Load(); waiting != nil {
		s.Waiting = len(*waiting)
	}
	return s
}

// ended notes what became of a reload that began at begun. The caller holds running.
func (r *reloads) ended(c *config.Config, begun time.Time, err error) {
	s := *r.last.Load()
	s.LastFailed, s.Took = err != nil, time.Since(begun)
	if err != nil {
		s.Failed++
	} else {
		s.Done++
		s.Success = time.Now()
		keys := keyDates(c)
		r.keys.Store(&keys)
	}
	r.last.Store(&s)
}

// keyDates returns when the files of keys were written. One that cannot be looked at is left out: what needs it fails
// by itself.
func keyDates(c *config.Config) (dates []admin.Date) {
	date := func(use, name string, file config.File) {
		if info, err := os.Stat(string(file)); file != "" && err == nil {
			dates = append(dates, admin.Date{Use: use, Name: name, At: info.ModTime()})
		}
	}
	date("secret", "", c.SecretFile)
	if c.SRS != nil {
		date("srs", c.SRS.Domain, c.SRS.KeyFile)
	}
	if c.TLS != nil {
		date("client", "", c.TLS.Key)
	}
	if c.Cluster != nil {
		date("cluster", "", c.Cluster.KeyFile)
		date("cluster certificate", "", c.Cluster.TLS.Key)
	}
	if a := c.ARC; a.Seals() {
		date("arc", a.Domain+" "+a.Selector, a.KeyFile)
	}
	if d := c.DKIM; d != nil {
		for _, s := range append(slices.Clone(d.Relay), d.Domains...) {
			date("dkim", s.Domain+" "+s.Selector, s.KeyFile)
		}
	}
	return dates
}

// Reload reads rules, SRS keys, signing keys, certificates, authorities of clients and hosts, credentials, users, the
// limits of Sites and reactions, the secrets of receivers of events, and the keys of gossip anew. If anything is wrong
// with any of them, or with the configuration file, nothing changes, and the error names the file and the line. Mail
// under way is not affected. The values of the configuration file, and files that are read at the start alone, change
// with a restart only: the log and /readyz name the keys. What a reload waits for, files that are being written and
// Redis, ends with ctx.
func (n *Node) Reload(ctx context.Context) error {
	n.reloads.running.Lock()
	defer n.reloads.running.Unlock()
	begun := time.Now()
	changed, err := n.cfg.Changes()
	if err == nil {
		err = n.reload(ctx)
	}
	n.reloads.ended(n.cfg, begun, err)
	if err != nil {
		n.log.say(slog.LevelError, "reload failed, nothing changed", "cause", err.Error())
		return err
	}
	rules := n.rules.router
	waiting := append(changed, n.reloads.otherFiles(n.cfg)...)
	n.reloads.waiting.Store(&waiting)
	if len(waiting) > 0 {
		n.log.say(slog.LevelWarn, "reloaded, and what changed in these keys takes a restart", "keys",
			strings.Join(waiting, ", "), "rules", rules.Len(), "domains", rules.Domains())
		return nil
	}
	n.log.say(slog.LevelInfo, "reloaded", "rules", rules.Len(), "domains", rules.Domains(), "set",
		rules.Label())
	return nil
}

// ready reports to /readyz which changes wait for a restart. The node is ready with them.
func (r *reloads) ready() (bool, string) {
	waiting := r.waiting.Load()
	if waiting == nil || len(*waiting) == 0 {
		return true, ""
	}
	return true, "changed since the start, takes a restart: " + strings.Join(*waiting, ", ")
}

// otherFiles returns the keys of files that are read at the start alone and have changed since.
func (r *reloads) otherFiles(c *config.Config) (keys []string) {
	now := digests(c)
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if now[key] != r.read[key] {
			keys = append(keys, key+" (the file)")
		}
	}
	return keys
}

// digests returns digests of the files that are read at the start alone. One that cannot be read counts as empty: what
// needs it fails by itself.
func digests(c *config.Config) map[string][32]byte {
	files := map[string]config.File{"secret_file": c.SecretFile}
	if c.Admin != nil {
		files["admin.token_file"] = c.Admin.TokenFile
	}
	if c.Score != nil {
		files["score.allow_file"], files["score.block_file"] = c.Score.AllowFile, c.Score.BlockFile
	}
	out := make(map[string][32]byte)
	for key, file := range files {
		if file != "" {
			text, _ := os.ReadFile(string(file))
			out[key] = sha256.Sum256(text)
		}
	}
	return out
}

// reload reads all files before it changes anything. It swaps the rules last, because they fail most often, and
// restores the credentials when they do.
func (n *Node) reload(ctx context.Context) error {
	c, f := n.cfg, n.parts.files
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
	if err := checkVias(c, logins); err != nil {
		return err
	}
	keyring, err := readKeyring(c)
	if err != nil {
		return err
	}
	cluster, err := readClusterFiles(c)
	if err != nil {
		return err
	}
	trusted, err := readAuthorities(c)
	if err != nil {
		return err
	}
	shown, err := readOwnCertificates(c)
	if err != nil {
		return err
	}
	believed, err := readHostAuthorities(c)
	if err != nil {
		return err
	}
	sites, err := readSiteFiles(c)
	if err != nil {
		return err
	}
	secrets, err := readReceiverSecrets(c)
	if err != nil {
		return err
	}
	asking, err := readHookSecrets(c)
	if err != nil {
		return err
	}
	people, err := readUsers(c)
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
	f.authorities.Store(trusted)
	f.shown.Store(shown)
	f.believed.Store(believed)
	f.sites.Store(sites)
	n.events.teller.useSecrets(secrets)
	f.hookSecrets.Store(&asking)
	n.parts.useUsers(people)
	n.relay.UseSites(sites.providers, sites.reactions)
	n.members.moved() // a Site may have another number of owners
	f.certificate.use(handshake)
	keyring = f.bind(keyring, func(key string, why error) {
		n.log.say(slog.LevelWarn, goSigns, "key", key, "cause", why)
	})
	if err := useKeyring(c, n.parts.auth, keyring); err != nil {
		return err
	}
	return n.dns.keys.replace(keyring)
}
