// Package router decides where mail goes: it holds the table of rules that is in force, answers from memory and swaps
// the whole table when the files are read anew, or when somebody brings rules that come from elsewhere.
//
// It owns no rule's meaning, which is package rules', and knows no network: it does not look up MX hosts, open sessions
// or judge clients. Route is safe for concurrent use, takes no lock and never sees half a reload; a reload that fails
// changes nothing.
package router

import (
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

// A Config is what a Router needs. Its zero value hosts no domain and relays for trusted clients only.
type Config struct {
	// Paths are rules files, or folders of files *.txt which are read in the order of their names.
	Paths []string
	// Hostname is this host's own name; it may be empty.
	Hostname string
	// Text are rules that stand in no file: they are read instead of Paths, whose first is then what errors call them.
	Text string
	// SRSDomain is the domain of rewritten reverse-paths; it may be empty.
	SRSDomain string
	// SRSKeys gives the keys of SRSDomain, current first, as srs.Config has them. New and each Reload call it, and pass
	// its error on. Nil: no reverse-path is rewritten, and none that was is opened.
	SRSKeys func() ([][]byte, error)
	// Postmaster takes the mail that RFC 5321 section 4.5.1 says must be taken. It is needed as soon as a domain is
	// hosted, and in a domain of ours only where a rule takes it to a next hop.
	Postmaster mail.Path
	// HasCredentials reports whether there is a password for user at host and port. Nil: there is none.
	HasCredentials func(user, host string, port uint16) bool
	// LocalAddrs are the addresses this node listens on, which no next hop may be.
	LocalAddrs []netip.AddrPort
	// Now is the clock by which rewritten reverse-paths expire; nil means time.Now.
	Now func() time.Time
	// Empty makes New read nothing: until the first rules are used, Route answers 451 4.3.0 to whatever it is asked.
	Empty bool
}

// Validate looks at the fields by themselves, not at the files. The error is a *mail.FieldError.
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

// ReasonNoRules is the reason of a Refusal while there have been no rules yet, as it is counted.
const ReasonNoRules = "no rules yet"

// A Router answers where mail goes.
type Router struct {
	cfg     Config
	reloads atomic.Uint64 // begun so far
	current atomic.Pointer[version]
}

// A version is a table, with the SRS keys of its time, and its place among those that were in force.
type version struct {
	*rules.Table
	srs    *srs.Rewriter // nil: nothing is rewritten
	number uint64
	digest string // "": there were no rules yet
	reload uint64 // the reload that read it
}

// New reads the rules, unless the Config says Empty. The error is a *mail.FieldError for the Config, a *rules.Errors
// with file and line for the rules, or that of reading the files.
func New(cfg Config) (*Router, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Router{cfg: cfg}
	r.current.Store(&version{Table: &rules.Table{}})
	if cfg.Empty {
		return r, nil
	}
	if err := r.Reload(); err != nil {
		return nil, err
	}
	return r, nil
}

// errNoRules keeps a file that is being written, or that a full disk cut off, from refusing all mail.
var errNoRules = errors.New("the rules that are read now are none at all, and those in force are kept; to host " +
	"nothing, start anew")

// Reload reads all files and keys anew and swaps the table. On an error, which is as that of New, the old one stays in
// force. Of reloads that overlap, the one that began last wins. It takes the place of whatever is in force: where the
// rules come from elsewhere, Read and Prepare do.
func (r *Router) Reload() error {
	reload := r.reloads.Add(1)
	table, err := r.load()
	if err != nil {
		return err
	}
	next, err := r.fill(table)
	if err != nil {
		return err
	}
	r.swap(next, reload, true)
	return nil
}

// Read gives the names and the texts of the files that the Config names, read anew, and makes nothing of them. The
// error is that of reading.
func (r *Router) Read() (iter.Seq2[string, string], error) {
	if r.cfg.Text != "" {
		return func(yield func(name, text string) bool) { yield(r.name(), r.cfg.Text) }, nil
	}
	files, err := rules.Read(r.cfg.Paths)
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

// Prepare makes a table of files that somebody brings, with the keys as they are now, and gives what puts it in force,
// as version number; until that is called nothing changes. The error is as that of New. Rules that are none at all do
// not take the place of rules.
func (r *Router) Prepare(number uint64, files iter.Seq2[string, string]) (use func(), err error) {
	reload := r.reloads.Add(1)
	var list []rules.File
	for name, text := range files {
		list = append(list, rules.File{Name: name, Text: text})
	}
	table, err := rules.Make(list, r.rulesConfig())
	if err != nil {
		return nil, err
	}
	next, err := r.fill(table)
	if err != nil {
		return nil, err
	}
	next.number = number
	return func() { r.swap(next, reload, false) }, nil
}

// fill makes a version of a table that may take the place of the one in force.
func (r *Router) fill(table *rules.Table) (*version, error) {
	if r.current.Load().Len() > 0 && table.Len() == 0 {
		return nil, errNoRules
	}
	rewriter, err := r.rewriter()
	if err != nil {
		return nil, err
	}
	return &version{Table: table, srs: rewriter, digest: digest(table)}, nil
}

// swap puts a version in force, unless a reload that began later has done so. A version that counts gets the number
// after the one before it.
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
		if r.current.CompareAndSwap(old, next) {
			return
		}
	}
}

// digest is the same wherever the files have the same names and texts, wherever their folder lies.
func digest(t *rules.Table) string {
	sum := sha256.New()
	for name, text := range t.Files() {
		fmt.Fprintf(sum, "file %d %q\n", len(text), filepath.Base(name))
		io.WriteString(sum, text) // a hash takes all
		io.WriteString(sum, "\n")
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (r *Router) load() (*rules.Table, error) {
	if r.cfg.Text == "" {
		return rules.Load(r.cfg.Paths, r.rulesConfig())
	}
	return rules.Parse(r.name(), strings.NewReader(r.cfg.Text), r.rulesConfig())
}

func (r *Router) rulesConfig() rules.Config {
	return rules.Config{
		Postmaster:     r.cfg.Postmaster,
		Own:            r.own(),
		Local:          r.cfg.LocalAddrs,
		HasCredentials: r.cfg.HasCredentials,
	}
}

// name is what errors call the Config's Text.
func (r *Router) name() string {
	if len(r.cfg.Paths) == 0 {
		return ""
	}
	return r.cfg.Paths[0]
}

func (r *Router) own() []string {
	var names []string
	for _, name := range []string{r.cfg.Hostname, r.cfg.SRSDomain} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Route gives the ways that mail for q.Forward takes, with the reverse-path that each of them wants. The paths in the
// routes are shared and not to be changed. The error is a *mail.Refusal; where a rule decided, errors.As finds one in
// it with a method MailRule() mail.Rule.
//
//	no rules have come yet (Config.Empty)          451 4.3.0, reason ReasonNoRules
//	no rule for the address, in a hosted domain    550 5.1.1, reason "no such user"
//	not our domain, and the client is not trusted  550 5.7.1, reason "relaying denied"
//	a local part that reads as a route             550 5.1.3, reason "routed local part"
//	reject and tempfail rules                      as they say, reason "rule"
//	several next hops, or failover                 451 4.3.0, reason "several next hops"
//	aliases that never end                         554 5.4.6, reason "alias loop"
//
// Mail to a reverse-path that was rewritten here goes to the original one, whatever the rules say of it, if it has the
// null reverse-path itself. Its Route is Alone and has a Rate. Other answers to such a recipient are 550 5.7.1 with the
// reasons ReasonSRSSyntax, ReasonSRSForged, ReasonSRSExpired and ReasonSRSNotNull, and 554 5.4.6 with ReasonSRSOurs.
func (r *Router) Route(q mail.Query) ([]mail.Route, error) {
	return r.current.Load().route(q, nil)
}

// Explain is Route and tells, step by step, what was tried.
func (r *Router) Explain(q mail.Query) (steps []string, routes []mail.Route, err error) {
	var s rules.Steps
	routes, err = r.current.Load().route(q, &s)
	return s.List, routes, err
}

// Hosted reports whether domain, in any case and as U-labels or A-labels, is hosted here.
func (r *Router) Hosted(domain string) bool { return r.current.Load().Hosted(domain) }

// Len is the number of rules in force, domain lines not counted.
func (r *Router) Len() int { return r.current.Load().Len() }

// Domains is the number of hosted domains.
func (r *Router) Domains() int { return r.current.Load().Domains() }

// Version is the number of the rules in force: what Prepare was told, or with Reload a count from 1.
func (r *Router) Version() uint64 { return r.current.Load().number }

// Digest tells rules apart by what they say: it is the SHA-256 over the names of the files, without their folder, and
// their texts, in hexadecimal. It is the same on every node that runs the same rules, and "" while there are none yet.
func (r *Router) Digest() string { return r.current.Load().digest }

// Ready reports whether there have been rules, be they none at all, since New.
func (r *Router) Ready() bool { return r.current.Load().digest != "" }

// Files gives the names and the texts of the files in force.
func (r *Router) Files() iter.Seq2[string, string] { return r.current.Load().Files() }

// Warnings are about lines that load but may not do what they look like, as "file:line: reason".
func (r *Router) Warnings() []string {
	list := r.current.Load().Warnings()
	texts := make([]string, len(list))
	for i, w := range list {
		texts[i] = w.String()
	}
	return texts
}

// NeedsSRS names the first rule that wants the reverse-path rewritten; the zero Rule means that none does.
func (r *Router) NeedsSRS() mail.Rule { return r.current.Load().NeedsSRS() }

// NeedsSeal names the first rule that wants messages sealed; the zero Rule means that none does.
func (r *Router) NeedsSeal() mail.Rule { return r.current.Load().NeedsSeal() }
