package config

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/mail"
)

// ScoreConfig returns the section score, which has to be present, as package score takes it, without store, lists,
// limits and resolver. It reads the files of score.allow_file and score.block_file. The error is Problems.
func (c *Config) ScoreConfig() (score.Config, error) {
	s := c.Score
	cfg := score.Config{
		Hostnames: []string{c.Hostname, c.AuthservID},
		OwnAddrs:  c.ownAddrs(),
		Deadline:  time.Duration(s.Deadline),
		Defer:     s.Defer,
		Reject:    s.Reject,
		Tarpit:    time.Duration(s.Tarpit),
		Greet:     time.Duration(s.Greet),
		RejectAt:  s.RejectAt,
		Weights:   s.Weights,
		Private:   s.Private,
	}
	if mail.IsDomain(c.Egress.Helo) {
		cfg.Hostnames = append(cfg.Hostnames, c.Egress.Helo)
	}
	if g := s.Greylist; g != nil {
		cfg.Grey = score.Band{From: g.From, To: g.To}
	}
	allow, problems := c.entries("score.allow", s.Allow, s.AllowFile)
	block, more := c.entries("score.block", s.Block, s.BlockFile)
	cfg.Allow, cfg.Block = allow, block
	if problems = append(problems, more...); len(problems) > 0 {
		return cfg, problems
	}
	return cfg, nil
}

// entries parses the clients of a list: the lines that stand in the configuration, then those of a file, if file is not
// empty. field is the key of the lines.
func (c *Config) entries(field string, lines []string, file File) ([]score.Entry, Problems) {
	var out []score.Entry
	var problems Problems
	for i, line := range lines {
		at := fmt.Sprintf("%s[%d]", field, i)
		e, err := score.ParseEntry(line)
		if err != nil {
			problems = append(problems, c.Problem(at, err.Error()))
			continue
		}
		e.Location = fmt.Sprintf("%s:%d", c.file, c.position(at).line)
		out = append(out, e)
	}
	if file == "" {
		return out, problems
	}
	f, err := os.Open(string(file))
	if err != nil {
		return out, append(problems, c.fileProblems(field+"_file", err)...)
	}
	entries, err := score.ParseEntries(string(file), f)
	f.Close()
	if err != nil {
		problems = append(problems, c.fileProblems(field+"_file", err)...)
	}
	return append(out, entries...), problems
}

// ownAddrs returns the addresses that belong to this node: those it listens on and those it sends from.
func (c *Config) ownAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range c.LocalAddrs() {
		if !a.Addr().IsUnspecified() && !a.Addr().IsLoopback() {
			out = append(out, a.Addr())
		}
	}
	for _, s := range c.Egress.Source {
		out = append(out, s.Addr)
	}
	return out
}

// DNSLists returns the DNS lists of the section. The error is mail.Faults whose fields count from the section.
func (s *Score) DNSLists() ([]dnsbl.List, error) {
	var wrong mail.Faults
	out := make([]dnsbl.List, len(s.Lists))
	for i, l := range s.Lists {
		if _, err := netip.ParseAddr(l.Zone); err == nil {
			wrong.Add(fmt.Sprintf("lists[%d].zone", i), l.Zone+" is an address, and a list has a zone in the DNS")
		}
		out[i] = dnsbl.List{Zone: l.Zone, Name: l.Name, Weight: l.Weight, Unchecked: l.Unchecked}
		switch l.Of {
		case "", "address":
		case "domain":
			out[i].Kind = dnsbl.Domains
		default:
			wrong.Add(fmt.Sprintf("lists[%d].of", i), fmt.Sprintf("%q is neither address nor domain", l.Of))
		}
		for match, weight := range l.Codes {
			out[i].Codes = append(out[i].Codes, dnsbl.Code{Match: match, Weight: weight})
		}
	}
	return out, append(wrong, dnsbl.Faults(out)...).Err()
}
