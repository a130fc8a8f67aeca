// Package router decides where mail goes.
//
// It owns the table of rules in force. It answers from memory, and swaps the whole table when the files are read anew
// or the caller brings rules from elsewhere. It refuses to know what a rule means, which package rules does, and knows
// no network: it does not look up MX hosts, open sessions or judge clients.
//
// Invariants: Route is safe for concurrent use, takes no lock and never sees half a reload. A reload that fails changes
// nothing.
package router

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
	"github.com/millrace/millrace/router/srs"
)

// A Config has what a Router needs. Its zero value hosts no domain and relays for trusted clients only.
type Config struct {
	// Paths are rules files, or folders of files *.txt which are read in the order of their names.
	Paths []string
	// Hostname is this host's own name; it may be empty.
	Hostname string
	// Text are rules without a file. They are read instead of Paths, whose first is their name in errors then.
	Text string
	// SRSDomain is the domain of rewritten reverse-paths; it may be empty.
	SRSDomain string
	// SRSKeys returns the keys of SRSDomain, current first, as srs.Config has them. New and each Reload call it, and
	// return its error. nil disables rewriting, and opening what was rewritten.
	SRSKeys func() ([][]byte, error)
	// Postmaster takes the mail that RFC 5321 section 4.5.1 says must be taken. It is required as soon as a domain is
	// hosted. In a domain of ours it needs a rule that takes it to a next hop.
	Postmaster mail.Path
	// HasCredentials reports whether there is a password for user at host and port. nil means that there is none.
	HasCredentials func(user, host string, port uint16) bool
	// CheckHook is that of rules.Config.
	CheckHook func(hook string) error
	// FanOut is the most next hops at a time that one recipient may have, 0 for one.
	FanOut int
	// MessageSize is that of rules.Config.
	MessageSize int64
	// LocalAddrs are the addresses that this node listens on. No next hop may be one of them.
	LocalAddrs []netip.AddrPort
	// Now is the clock by which rewritten reverse-paths expire, and the grace after a reload. nil means time.Now.
	Now func() time.Time
	// Meant is the name of a file that is changed by requests and not by hand. What only a change of it takes away is
	// refused for good at once, and it may take away the last rule. "" for none.
	Meant string
	// CheckMeant returns what is wrong with the text of that file, as Prepare does. nil: the rules alone say it.
	CheckMeant func(text string) error
	// Empty makes New read nothing. Until the first rules are in force, Route answers 451 4.3.0 to every query.
	Empty bool
}

// Validate checks the fields by themselves, not the files. It returns a *mail.FieldError, or nil.
func (c Config) Validate() error {
	if c.Hostname != "" && !mail.IsDomain(c.Hostname) {
		return &mail.FieldError{Field: "hostname", Reason: strconv.Quote(c.Hostname) + " is no domain name"}
	}
	if c.SRSDomain != "" && !mail.IsDomain(c.SRSDomain) {
		return &mail.FieldError{Field: "srs.domain", Reason: strconv.Quote(c.SRSDomain) + " is no domain name"}
	}
	if c.SRSDomain == "" && c.SRSKeys != nil {
		return &mail.FieldError{Field: "srs.domain", Reason: "is required"}
	}
	if c.Postmaster.IsNull() {
		return nil
	}
	if p, err := mail.ParsePath(c.Postmaster.String(), true); err != nil || p != c.Postmaster || p.Domain == "" {
		return &mail.FieldError{
			Field: "postmaster", Reason: strconv.Quote(c.Postmaster.String()) + " is no address with a domain",
		}
	}
	return nil
}

// ReasonNoRules is the reason of a Refusal before the first rules came, as it is counted.
const ReasonNoRules = "no rules yet"

// A Router answers where mail goes.
type Router struct {
	cfg     Config
	reloads atomic.Uint64 // that have begun
	current atomic.Pointer[version]
}

// A version is a table with the SRS keys of its time.
type version struct {
	*rules.Table
	srs    *srs.Rewriter // nil disables rewriting
	number uint64        // see Router.Version
	label  string        // see Router.Label
	digest string        // "" before the first rules
	reload uint64        // the reload that read it

	withdrawn atomic.Pointer[[]withdrawn] // the sets before it, the newest first, or nil
}

// New makes a Router and reads the rules, unless Config.Empty is set. The error is a *mail.FieldError for the Config, a
// *rules.Errors with file and line for the rules, or that of reading the files.
func New(cfg Config) (*Router, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Router{cfg: cfg}
	r.current.Store(&version{Table: &rules.Table{}})
	if cfg.Empty {
		return r, nil
	}
	if err := r.Reload(context.Background()); err != nil { // it waits for nothing before the first rules
		return nil, err
	}
	return r, nil
}

// errNoRules prevents that a file which is being written, or which a full disk truncated, refuses all mail.
var errNoRules = errors.New("the rules that are read now are none at all, and those in force are kept; to host " +
	"nothing, start anew")

// Reload reads all files and keys anew and swaps the table. On an error, which is as that of New, the old table stays
// in force. A file that changed within the last second, or while it is read, is read again a second later, at most four
// times; ctx ends that wait, and so the reload. Of reloads that overlap, the one that began last wins. It replaces any
// rules in force, so that a caller whose rules come from elsewhere uses Read and Prepare instead.
func (r *Router) Reload(ctx context.Context) error {
	reload := r.reloads.Add(1)
	table, err := r.load(ctx)
	if err != nil {
		return err
	}
	next, err := r.versionOf(table)
	if err != nil {
		return err
	}
	r.swap(next, reload, true)
	return nil
}

// Read returns the names and the texts of the files that the Config names, read anew as Reload does. It does not parse
// them. The error is that of reading, or of ctx.
func (r *Router) Read(ctx context.Context) (iter.Seq2[string, string], error) {
	if r.cfg.Text != "" {
		return func(yield func(name, text string) bool) { yield(r.name(), r.cfg.Text) }, nil
	}
	var files []rules.File
	err := r.settled(ctx, func() (err error) {
		files, err = rules.Read(r.cfg.Paths)
		return err
	})
	if err != nil {
		return nil, err
	}
	return func(yield func(name, text string) bool) {
		for _, f := range files {
			if !yield(f.Name, f.Text) {
				return
			}
		}
	}, nil
}

// Prepare makes a table of files of the caller, with the present keys. It returns a function that puts it in force as
// version number. Until that is called nothing changes. The error is as that of New. It is an error if files have no
// rule and those in force do.
func (r *Router) Prepare(number uint64, files iter.Seq2[string, string]) (use func(), err error) {
	reload := r.reloads.Add(1)
	var list []rules.File
	for name, text := range files {
		if name == r.cfg.Meant && r.cfg.CheckMeant != nil {
			if err := r.cfg.CheckMeant(text); err != nil {
				return nil, err
			}
		}
		list = append(list, rules.File{Name: name, Text: text})
	}
	table, err := rules.Make(list, r.rulesConfig())
	if err != nil {
		return nil, err
	}
	next, err := r.versionOf(table)
	if err != nil {
		return nil, err
	}
	if next.number = number; number > 0 {
		next.label = "version " + strconv.FormatUint(number, 10)
	}
	return func() { r.swap(next, reload, false) }, nil
}

// Trial returns a Router of its own with other rules, of files as Prepare takes them, and no memory of those before.
// nil stands for the rules in force. The error is as that of Prepare.
func (r *Router) Trial(files iter.Seq2[string, string]) (*Router, error) {
	table := r.current.Load().Table
	if files != nil {
		var list []rules.File
		for name, text := range files {
			list = append(list, rules.File{Name: name, Text: text})
		}
		var err error
		if table, err = rules.Make(list, r.rulesConfig()); err != nil {
			return nil, err
		}
	}
	v, err := r.versionOf(table)
	if err != nil {
		return nil, err
	}
	trial := &Router{cfg: r.cfg}
	trial.current.Store(v)
	return trial, nil
}

// versionOf makes a version of a table that may replace the one in force.
func (r *Router) versionOf(table *rules.Table) (*version, error) {
	if old := r.current.Load(); old.Len() > 0 && table.Len() == 0 && !r.isMeant(old.Table, table) {
		return nil, errNoRules
	}
	rewriter, err := r.rewriter()
	if err != nil {
		return nil, err
	}
	sum := digest(table)
	return &version{Table: table, srs: rewriter, digest: sum, label: "files " + sum[:labelDigits]}, nil
}

// swap puts a version in force, unless a reload that began later did so. With count the version has the number after
// that of the one before.
func (r *Router) swap(next *version, reload uint64, count bool) {
	next.reload = reload
	for {
		old := r.current.Load()
		if old.reload > reload {
			return
		}
		if count {
			next.number = old.number + 1
		}
		next.replaces(old, r.cfg.now(), r.isMeant(old.Table, next.Table))
		if r.current.CompareAndSwap(old, next) {
			return
		}
	}
}

// digest returns the digest of the names and the texts of the files. It does not depend on their folder.
func digest(t *rules.Table) string {
	sum := sha256.New()
	for name, text := range t.Files() {
		fmt.Fprintf(sum, "file %d %q\n", len(text), filepath.Base(name))
		io.WriteString(sum, text) // writing to a hash does not fail
		io.WriteString(sum, "\n")
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// load reads the rules of the Config.
func (r *Router) load(ctx context.Context) (table *rules.Table, err error) {
	if r.cfg.Text == "" {
		err = r.settled(ctx, func() (err error) {
			table, err = rules.Load(r.cfg.Paths, r.rulesConfig())
			return err
		})
		return table, err
	}
	return rules.Parse(r.name(), strings.NewReader(r.cfg.Text), r.rulesConfig())
}

func (r *Router) rulesConfig() rules.Config {
	return rules.Config{
		Postmaster:     r.cfg.Postmaster,
		Own:            r.own(),
		Local:          r.cfg.LocalAddrs,
		HasCredentials: r.cfg.HasCredentials,
		CheckHook:      r.cfg.CheckHook,
		FanOut:         r.cfg.FanOut,
		MessageSize:    r.cfg.MessageSize,
		Now:            r.cfg.now,
	}
}

// name returns the name of Config.Text in errors.
func (r *Router) name() string {
	if len(r.cfg.Paths) == 0 {
		return ""
	}
	return r.cfg.Paths[0]
}

// own returns the names of this system itself.
func (r *Router) own() []string {
	var names []string
	for _, name := range []string{r.cfg.Hostname, r.cfg.SRSDomain} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Route returns the routes of mail for q.Forward, each with its reverse-path, or with Rewrite set, in which case
// Rewrite returns that. The paths in the routes are shared and not to be changed. The error is a *mail.Refusal. If a
// rule decided, errors.As finds an error with a method MailRule() mail.Rule in it.
//
//	before the first rules (Config.Empty)          451 4.3.0, reason ReasonNoRules
//	no rule for the address, in a hosted domain    550 5.1.1, reason "no such user"
//	not our domain, and the client is not trusted  550 5.7.1, reason "relaying denied"
//	a local part that reads as a route             550 5.1.3, reason "routed local part"
//	reject and tempfail rules                      as they say, reason "rule"
//	more next hops at a time than Config.FanOut    451 4.3.0, reason "several next hops"
//	aliases that never end                         554 5.4.6, reason "alias loop"
//	the rules of the last ten minutes took it      451 4.3.0, reason mail.ReasonWithdrawn
//
// Mail with the null reverse-path to a reverse-path that was rewritten here goes to the original one, with any rules.
// Its Route is Alone and has Rates, and has Reports set where the address opens to reports alone. Other answers to a
// recipient of that form are 550 5.7.1 with one text and the reasons ReasonSRSSyntax, ReasonSRSForged,
// ReasonSRSExpired, ReasonSRSClosed, ReasonSRSNotNull and ReasonSRSOurs.
func (r *Router) Route(q mail.Query) ([]mail.Route, error) {
	return r.route(q, nil)
}

// Explain is Route, and returns what was tried, step by step.
func (r *Router) Explain(q mail.Query) (steps []string, routes []mail.Route, err error) {
	var s rules.Steps
	routes, err = r.route(q, &s)
	return s.List, routes, err
}

// Hosted reports whether domain, in any case and as U-labels or A-labels, is hosted here.
func (r *Router) Hosted(domain string) bool { return r.current.Load().Hosted(domain) }

// HostedNames returns the names of hosted domains in their order, at most so many.
func (r *Router) HostedNames(most int) []string { return r.current.Load().HostedNames(most) }

// HasNextHop reports whether a rule in force names a fixed next hop.
func (r *Router) HasNextHop(h mail.NextHop) bool { return r.current.Load().HasNextHop(h) }

// Len returns the number of rules in force, domain lines not counted.
func (r *Router) Len() int { return r.current.Load().Len() }

// Domains returns the number of hosted domains.
func (r *Router) Domains() int { return r.current.Load().Domains() }

// Version returns the number of the rules in force: the number that Prepare was called with, or after Reload a count
// from 1. It is 0 before the first rules.
func (r *Router) Version() uint64 { return r.current.Load().number }

// Digest returns the SHA-256 over the names of the files, without their folder, and their texts, in hexadecimal. It is
// the same on every node that runs the same rules, and "" before the first rules.
func (r *Router) Digest() string { return r.current.Load().digest }

// labelDigits is how many digits of its digest name a set of files.
const labelDigits = 12

// Label names the rules in force for the log: "version" and the number that Prepare was called with, or "files" and the
// beginning of the digest. It is "" before the first rules.
func (r *Router) Label() string { return r.current.Load().label }

// Ready reports whether a table is in force, which may be empty. It is false before the first rules of Config.Empty.
func (r *Router) Ready() bool { return r.current.Load().digest != "" }

// Files returns the names and the texts of the files in force.
func (r *Router) Files() iter.Seq2[string, string] { return r.current.Load().Files() }

// NextHops returns the fixed next hops that rules name, each once, in no order.
func (r *Router) NextHops() iter.Seq2[mail.NextHop, rules.Comers] { return r.current.Load().NextHops() }

// Warnings returns warnings about lines that load but may not do what they seem to do. The slice is shared and not to
// be changed.
func (r *Router) Warnings() []rules.Warning { return r.current.Load().Warnings() }

// Needs returns what the rules want of the node.
func (r *Router) Needs() rules.Needs { return r.current.Load().Needs() }
