package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/account/verify"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/routes"
	"github.com/millrace/millrace/router"
	"github.com/millrace/millrace/router/mail"
)

// rulesReload bounds how long a reload waits for Redis to take changed rules.
const rulesReload = 30 * time.Second

// A ruleSet is the rules of a node, and where they come from.
type ruleSet struct {
	router *router.Router
	shared *routes.Routes // nil: the rules files are the rules, and those that the API made
	state  string         // the folder of those; "" for none
	log    *slog.Logger
	host   string // the name of this node

	// account has the API's rules changed; nil: the configuration has no section admin.
	account  *account.Account
	proved   *atomic.Pointer[account.Account] // account, for those who need no other
	verifier *verify.Verifier                 // has owners of destinations asked; nil like account
	changing chan struct{}                    // holds a value while the rules of this node alone are changed
}

// Rules say which rules are in force, and where they come from.
type Rules struct {
	Version uint64 `json:"version"` // of the shared rules; 0: files of this node that are not shared, or not yet
	Digest  string `json:"digest"`  // the same on all nodes that run the same rules; "" without any
	Origin  string `json:"origin"`  // redis, state folder or files; "" without any
	Trouble string `json:"trouble,omitempty"`
	Rules   int    `json:"rules"`
	Domains int    `json:"domains"`
}

// A RulesFile is a file of rules.
type RulesFile struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// ShowRules returns the rules that a node with this configuration would run if it started now, and with Redis those
// that the nodes run that follow it. Nothing is changed, here or in Redis.
func ShowRules(ctx context.Context, c *config.Config) (Rules, []RulesFile, error) {
	f, err := readFiles(c, c.SharesRules())
	if err != nil {
		return Rules{}, nil, err
	}
	p, err := build(f, hooks{})
	if err != nil {
		return Rules{}, nil, err
	}
	defer p.close()
	shown, err := p.takeRules(ctx)
	if err != nil {
		return Rules{}, nil, err
	}
	var files []RulesFile
	for name, text := range f.rules.Files() {
		files = append(files, RulesFile{name, text})
	}
	return shown, files, nil
}

// takeRules puts the rules in force that the node would run which these are the parts of, if it started now.
func (p *parts) takeRules(ctx context.Context) (Rules, error) {
	r := p.files.rules
	found := routes.Found{Origin: routes.FromFiles, Digest: r.Digest()}
	if p.cfg.SharesRules() {
		var err error
		found, err = routes.Look(ctx, routes.Config{
			Router: r, Store: p.store, State: string(p.cfg.State), API: p.files.api.text, Faults: faultsOfRules,
		})
		if err != nil {
			return Rules{}, p.cfg.WithLine("", "routes", err)
		}
	}
	return Rules{
		Version: found.Version, Digest: found.Digest, Origin: found.Origin, Trouble: found.Trouble,
		Rules: r.Len(), Domains: r.Domains(),
	}, nil
}

// share fetches the rules that all nodes share, and follows them. It waits a few seconds for a Redis that does not
// answer.
func (r *ruleSet) share(p *parts, emit func(mail.Event), log *slog.Logger, ends *cleanups) error {
	shared, err := routes.New(routes.Config{
		Router: r.router, Store: p.store, State: string(p.cfg.State), Emit: emit, Log: log,
		API: p.files.api.text, Faults: faultsOfRules,
	})
	if err != nil {
		return p.cfg.WithLine("", "state", err)
	}
	ends.add("routes", func(context.Context) error { return shared.Close() })
	if err := shared.Start(context.Background()); err != nil {
		return p.cfg.WithLine("", "routes", err)
	}
	r.shared = shared
	return nil
}

// reload takes over what changed in the rules files, and notes it in the audit.
func (r *ruleSet) reload(ctx context.Context) error {
	before, digest := r.heldFiles()
	err := r.readAnew(ctx)
	if err == nil {
		r.recordReload(ctx, before, digest)
	}
	return err
}

// readAnew takes over what changed in the rules files.
func (r *ruleSet) readAnew(ctx context.Context) error {
	if r.shared == nil {
		return r.reloadFiles(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, rulesReload)
	defer cancel()
	return r.shared.Reload(ctx)
}

// version returns the version of the shared rules, 0 for rules of files.
func (r *ruleSet) version() uint64 {
	if r.shared == nil {
		return 0
	}
	return r.shared.Version()
}

// inForce returns the rules that the node runs.
func (r *ruleSet) inForce() Rules {
	out := Rules{
		Origin: routes.FromFiles, Digest: r.router.Digest(), Rules: r.router.Len(), Domains: r.router.Domains(),
	}
	if r.shared == nil {
		return out
	}
	out.Version, out.Origin = r.shared.Version(), routes.FromRedis
	if ready, why := r.shared.Ready(); why != "" {
		if out.Trouble = why; !ready {
			out.Origin = ""
		}
	}
	return out
}

// staleWait bounds the look at files that are perhaps being written.
const staleWait = 3 * time.Second

// isStale reports whether rules files have another text than the node runs. Shared rules have no files, nor have files
// that cannot be read a text.
func (r *ruleSet) isStale(ctx context.Context) bool {
	if r.shared != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, staleWait)
	defer cancel()
	files, err := r.router.Read(ctx)
	return err == nil && !maps.Equal(maps.Collect(files), maps.Collect(withAPIRules(r.router.Files(), "")))
}

// ready reports to /readyz whether the node has rules, and how many.
func (r *ruleSet) ready() (bool, string) {
	detail := fmt.Sprintf("%d rules, %d domains", r.router.Len(), r.router.Domains())
	if r.shared == nil {
		return true, detail
	}
	ready, why := r.shared.Ready()
	detail += fmt.Sprintf(", version %d", r.shared.Version())
	if why != "" {
		detail += "; " + why
	}
	return ready, detail
}
