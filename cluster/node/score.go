package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/greylist"
	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/mail"
)

// A scoring is all that judges clients.
type scoring struct {
	lists    *dnsbl.Set
	limits   *rate.Limits
	scorer   *score.Scorer
	greylist *greylist.Policy // nil without a grey band
}

// limitOf returns a rate of the configuration as package rate takes it.
func limitOf(r Rate) rate.Limit { return rate.Limit{Count: r.Count, Per: r.Per} }

// newScoring makes what judges clients, of the section score. key makes the names of addresses in the store. The error
// is Problems.
func (c *Config) newScoring(st *store.Store, r *dns.Resolver, key []byte,
	changed func(zone string, healthy bool, why string)) (*scoring, error) {
	s := c.Score
	lists, err := s.lists()
	if err != nil {
		return nil, c.place("score.", "score.lists", err)
	}
	out := &scoring{}
	if out.lists, err = dnsbl.New(dnsbl.Config{
		Lists: lists, Store: st, Resolver: r.Plain(), Private: s.Private, Changed: changed,
	}); err != nil {
		return nil, c.place("score.", "score.lists", err)
	}
	rates := s.Rates
	if out.limits, err = rate.New(rate.Config{
		Key:                key,
		ClientConnections:  limitOf(rates.Client),
		NetworkConnections: limitOf(rates.Network),
		ClientMessages:     limitOf(rates.Messages),
		NetworkMessages:    limitOf(rates.NetworkMessages),
		ClientRecipients:   limitOf(rates.Recipients),
		ClientRefused:      limitOf(rates.Refused),
		SenderMessages:     limitOf(rates.Sender),
		RecipientMessages:  limitOf(rates.Recipient),
		DomainMessages:     limitOf(rates.Domain),
	}); err != nil {
		return nil, c.place("score.rates.", "score.rates", err)
	}
	if g := s.Greylist; g != nil {
		if out.greylist, err = greylist.New(greylist.Config{
			Key: key, Delay: time.Duration(g.Delay), Window: time.Duration(g.Window), Keep: time.Duration(g.Keep),
		}); err != nil {
			return nil, c.place("score.greylist.", "score.greylist", err)
		}
	}
	cfg, err := c.scoreConfig()
	if err != nil {
		return nil, err
	}
	cfg.Store, cfg.Lists, cfg.Limits, cfg.Resolver = st, out.lists, out.limits, r.Plain()
	if out.scorer, err = score.New(cfg); err != nil {
		return nil, c.place("score.", "score", err)
	}
	return out, nil
}

// scoreConfig is what the section says of the score itself. The error is Problems.
func (c *Config) scoreConfig() (score.Config, error) {
	s := c.Score
	cfg := score.Config{
		Hostnames: []string{c.Hostname, c.AuthservID, c.Egress.Helo},
		OwnAddrs:  c.ownAddrs(),
		Deadline:  time.Duration(s.Deadline),
		Defer:     s.Defer,
		Reject:    s.Reject,
		Tarpit:    time.Duration(s.Tarpit),
		Greet:     time.Duration(s.Greet),
		URL:       s.URL,
		RejectAt:  s.RejectAt,
		Weights:   s.Weights,
		Private:   s.Private,
	}
	cfg.Hostnames = cfg.Hostnames[:2]
	if mail.IsDomain(c.Egress.Helo) {
		cfg.Hostnames = append(cfg.Hostnames, c.Egress.Helo)
	}
	if g := s.Greylist; g != nil {
		cfg.Grey = score.Band{From: g.From, To: g.To}
	}
	var problems Problems
	for _, l := range []struct {
		field string
		lines []string
		file  File
		to    *[]score.Entry
	}{{"score.allow", s.Allow, s.AllowFile, &cfg.Allow}, {"score.block", s.Block, s.BlockFile, &cfg.Block}} {
		for i, line := range l.lines {
			e, err := score.ParseEntry(line)
			if err != nil {
				problems = append(problems, c.problem(fmt.Sprintf("%s[%d]", l.field, i), err.Error()))
				continue
			}
			e.Place = fmt.Sprintf("%s:%d", c.file, c.line(fmt.Sprintf("%s[%d]", l.field, i)))
			*l.to = append(*l.to, e)
		}
		if l.file == "" {
			continue
		}
		f, err := os.Open(string(l.file))
		if err != nil {
			problems = append(problems, c.problem(l.field+"_file", err.Error()))
			continue
		}
		entries, err := score.ParseEntries(string(l.file), f)
		f.Close()
		if err != nil {
			problems = append(problems, Problem{Message: err.Error()}) // it begins with file and line
			continue
		}
		*l.to = append(*l.to, entries...)
	}
	if len(problems) > 0 {
		return cfg, problems
	}
	return cfg, nil
}

// ownAddrs are the addresses by which this node is known: those it listens on and those it sends from.
func (c *Config) ownAddrs() []netip.Addr {
	var out []netip.Addr
	for _, a := range c.localAddrs() {
		if !a.Addr().IsUnspecified() && !a.Addr().IsLoopback() {
			out = append(out, a.Addr())
		}
	}
	for _, s := range c.Egress.Source {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// lists gives the DNS lists. The error is a *mail.FieldError with its path within the section.
func (s *Score) lists() ([]dnsbl.List, error) {
	out := make([]dnsbl.List, len(s.Lists))
	for i, l := range s.Lists {
		out[i] = dnsbl.List{Zone: l.Zone, Name: l.Name, Weight: l.Weight, Unchecked: l.Unchecked}
		switch l.Of {
		case "", "address":
		case "domain":
			out[i].Kind = dnsbl.Domains
		default:
			return nil,
				&mail.FieldError{
					Field:  fmt.Sprintf("lists[%d].of", i),
					Reason: fmt.Sprintf("%q is neither address nor domain", l.Of),
				}
		}
		for match, weight := range l.Codes {
			out[i].Codes = append(out[i].Codes, dnsbl.Code{Match: match, Weight: weight})
		}
	}
	return out, nil
}

// startScore makes what judges clients and begins to check the lists, if the configuration has the section.
func (n *Node) startScore() error {
	c := n.cfg
	if c.Score == nil {
		return nil
	}
	keys, err := n.material.secret.derive(labelScore)
	if err != nil {
		return err
	}
	s, err := c.newScoring(n.store, n.resolver, keys[0], func(zone string, healthy bool, why string) {
		if healthy {
			n.say(slog.LevelInfo, "list is well", "zone", zone)
			return
		}
		n.say(slog.LevelWarn, "list is not asked", "zone", zone, "cause", why)
	})
	if err != nil {
		return err
	}
	n.scoring = s
	n.later("score", func(context.Context) error { s.lists.Close(); s.scorer.Close(); return nil })
	s.lists.Start()
	return n.startLearning()
}

// startLearning begins what learns of clients, off the path of mail.
func (n *Node) startLearning() error {
	background, err := rate.NewBackground(n.store)
	if err != nil {
		return err
	}
	n.drawn = background
	n.later("rates", background.Close)
	cfg := karma.Config{Store: n.store}
	if k := n.cfg.Score.Karma; k != nil {
		cfg.Volume, cfg.Networks = k.Volume, k.Networks
	}
	recorder, err := karma.New(cfg)
	if err != nil {
		return n.cfg.place("score.karma.", "score.karma", err)
	}
	n.karma = recorder
	n.later("karma", recorder.Close)
	return nil
}

// awaitLists waits until each list was checked once, so that the first clients are judged like the others.
func (n *Node) awaitLists() {
	if n.scoring != nil {
		ctx, cancel := context.WithTimeout(context.Background(), listsWait)
		defer cancel()
		n.scoring.lists.Await(ctx)
	}
}

// listsWait bounds the wait for the first checks of the lists.
const listsWait = 5 * time.Second

// checkScore makes what judges clients, and nothing runs. The error is Problems.
func (c *Config) checkScore(r *dns.Resolver, m *material) error {
	if c.Score == nil {
		return nil
	}
	st, err := store.New(c.storeConfig())
	if err != nil {
		return c.place("redis.", "redis.url", err)
	}
	defer st.Close()
	keys, err := m.secret.derive(labelScore)
	if err != nil {
		return err
	}
	s, err := c.newScoring(st, r, keys[0], nil)
	if err != nil {
		return err
	}
	s.lists.Close()
	return nil
}
