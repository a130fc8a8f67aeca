package command

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/router/leaf/domain"
)

type dkimRotateVerb struct {
	configFlag
	Domain string `required:"" placeholder:"DOMAIN" help:"The signing domain, d=, whose keys are changed."`
	jsonFlag

	now func() time.Time // of tests; nil means time.Now
}

// overlap is how long a record stays after its key is out of use: mail that waits in queues is verified as late as
// this.
const overlap = 14 * 24 * time.Hour

// A generation is a key of the domain that signs, as the configuration has it.
type generation struct {
	section string // "relay" or "domains"
	config.Signer
	public crypto.PublicKey
}

// algorithm returns what the key signs with.
func (g *generation) algorithm() dkim.Algorithm {
	if _, ok := g.public.(interface{ Size() int }); ok { // of RSA keys alone
		return dkim.RSASHA256
	}
	return dkim.Ed25519SHA256
}

func (v *dkimRotateVerb) run(s streams) int {
	if err := v.rotate(s); err != nil {
		return fail(s, err)
	}
	return exitOK
}

func (v *dkimRotateVerb) rotate(s streams) error {
	cfg, err := config.Load(v.Config)
	if err != nil {
		return err
	}
	if v.Domain, err = aName("--domain", v.Domain); err != nil {
		return err
	}
	all, err := v.generations(cfg)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%s has no key in dkim.relay or dkim.domains", v.Domain)
	}
	var old, next []generation
	for i := range all {
		if j := laterKey(all, i); j >= 0 {
			old, next = append(old, all[i]), append(next, all[j])
		}
	}
	if len(next) > 0 {
		return v.goOn(s, cfg, old, next)
	}
	return v.begin(s, all)
}

// generations returns the keys of the domain in their order.
func (v *dkimRotateVerb) generations(cfg *config.Config) (all []generation, err error) {
	if cfg.DKIM == nil {
		return nil, nil
	}
	for _, list := range []struct {
		section string
		signers []config.Signer
	}{{"relay", cfg.DKIM.Relay}, {"domains", cfg.DKIM.Domains}} {
		for _, one := range list.signers {
			if domain.Canonical(one.Domain) != domain.Canonical(v.Domain) {
				continue
			}
			text, err := os.ReadFile(string(one.KeyFile))
			if err != nil {
				return nil, err
			}
			key, err := dkim.ParseKey(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", one.KeyFile, err)
			}
			all = append(all, generation{list.section, one, key.Public()})
		}
	}
	return all, nil
}

// laterKey returns the index of the key that stands behind another of its kind and section, -1 if there is none.
func laterKey(all []generation, i int) int {
	for j := i + 1; j < len(all); j++ {
		if all[j].section == all[i].section && all[j].algorithm() == all[i].algorithm() {
			return j
		}
	}
	return -1
}

// begin makes a key beside each that there is.
func (v *dkimRotateVerb) begin(s streams, all []generation) error {
	now := time.Now
	if v.now != nil {
		now = v.now
	}
	var made []published
	lines := make(map[string]string)
	files := make(map[string]bool)
	for _, g := range all {
		kind := map[dkim.Algorithm]string{dkim.RSASHA256: "rsa", dkim.Ed25519SHA256: "ed"}[g.algorithm()]
		selector := kind + now().UTC().Format("20060102")
		if selector == g.Selector {
			return fmt.Errorf("%s was made today: change keys at most once a day", g.Selector)
		}
		file := filepath.Join(filepath.Dir(string(g.KeyFile)), "dkim-"+v.Domain+"-"+selector+".pem")
		if !files[file] { // both sections may have the key
			p, err := v.makeLike(g, selector, file)
			if err != nil {
				return err
			}
			made = append(made, *p)
			files[file] = true
		}
		lines[g.section] += fmt.Sprintf("    - {domain: %s, selector: %s, key_file: %s}\n", v.Domain, selector, file)
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"made": made, "add": lines})
		return nil
	}
	fmt.Fprintln(s.out, "; 1. Publish the new records. The old ones stay.")
	for _, p := range made {
		fmt.Fprintf(s.out, "%s. IN TXT ( %s )\n", p.Name, dkim.ZoneText(p.Record))
	}
	fmt.Fprintf(s.out, "\n# 2. Add to %s, behind the old keys, and restart:\ndkim:\n", v.Config)
	for _, section := range []string{"relay", "domains"} {
		if lines[section] != "" {
			fmt.Fprintf(s.out, "  %s:\n%s", section, lines[section])
		}
	}
	fmt.Fprintln(s.out, "\n# 3. Run this again. It says when the old keys may go: the new ones sign once their "+
		"records are seen.")
	return nil
}

// makeLike makes a key of the kind of another one, which the same users may read.
func (v *dkimRotateVerb) makeLike(g generation, selector, file string) (*published, error) {
	bits := signingBits
	if size, ok := g.public.(interface{ Size() int }); ok {
		bits = max(bits, 8*size.Size())
	}
	key, err := dkim.GenerateKey(g.algorithm(), bits)
	if err != nil {
		return nil, err
	}
	text, err := dkim.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	record, err := dkim.KeyRecord(key.Public())
	if err != nil {
		return nil, err
	}
	if err := create(file, secretMode, text); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists: a change of keys was begun today. Add it to the configuration, or "+
			"remove it", file)
	} else if err != nil {
		return nil, err
	}
	if info, err := os.Stat(string(g.KeyFile)); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			// As another user than root this may fail; then the file is its maker's, as each new key is.
			_ = os.Chown(file, int(stat.Uid), int(stat.Gid))
		}
		_ = os.Chmod(file, info.Mode().Perm()&groupMode)
	}
	return &published{
		Name: dkim.KeyName(selector, v.Domain), Record: record, Strings: dkim.RecordStrings(record), KeyFile: file,
	}, nil
}

// goOn says what is to be done with keys of which there are two.
func (v *dkimRotateVerb) goOn(s streams, cfg *config.Config, old, next []generation) error {
	resolver, err := dns.New(dns.Config{Servers: cfg.DNS.Servers})
	if err != nil {
		return err
	}
	defer resolver.Close()
	ctx, cancel := context.WithTimeout(context.Background(), applyTime)
	defer cancel()
	now := time.Now
	if v.now != nil {
		now = v.now
	}
	type state struct {
		Old     string `json:"old"`
		New     string `json:"new"`
		IsThere bool   `json:"published"`
		Do      string `json:"do"`
	}
	var states []state
	for i := range next {
		name := dkim.KeyName(next[i].Selector, v.Domain)
		texts, _, err := resolver.LookupTXT(ctx, name)
		if err != nil && !dns.NotFound(err) {
			return fmt.Errorf("%w: it is not known whether the new key is published, so leave both", err)
		}
		st := state{Old: old[i].Selector, New: next[i].Selector}
		for _, t := range texts {
			st.IsThere = st.IsThere || dkim.Publishes(t, next[i].public)
		}
		st.Do = fmt.Sprintf("publish %s: %s signs until it is seen", name, old[i].Selector)
		if st.IsThere {
			st.Do = fmt.Sprintf("remove %s from %s and restart; its record may go on %s", old[i].Selector, v.Config,
				now().UTC().Add(overlap).Format(time.DateOnly))
		}
		states = append(states, st)
	}
	if v.JSON {
		printJSON(s.out, map[string]any{"keys": states})
		return nil
	}
	for _, st := range states {
		fmt.Fprintf(s.out, "%s -> %s: %s\n", st.Old, st.New, st.Do)
	}
	return nil
}
