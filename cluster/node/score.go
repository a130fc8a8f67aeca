package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/ingress/client/dnsbl"
	"github.com/millrace/millrace/ingress/client/greylist"
	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
)

// A scoring is all that judges clients. Nothing of it runs before lists is started.
type scoring struct {
	lists    *dnsbl.Set
	limits   *rate.Limits
	scorer   *score.Scorer
	greylist *greylist.Policy // nil without a grey band
}

// The limits of refused recipients where the configuration sets none: of an address, and how many times that of a
// network.
const (
	defaultRefused    = 100
	defaultRefusedPer = 10 * time.Minute
	networkRefused    = 4
)

// limitOf returns a rate of the configuration as package rate takes it.
func limitOf(r config.Rate) rate.Limit { return rate.Limit{Count: r.Count, Per: r.Per} }

// makeScoring makes what judges clients, if the configuration has the section score. The error is Problems.
func (p *parts) makeScoring(h hooks) error {
	s := p.cfg.Score
	if s == nil {
		return nil
	}
	keys, err := p.files.secret.derive(labelScore)
	if err != nil {
		return err
	}
	out := &scoring{}
	if err := p.makeLists(out, h); err != nil {
		return err
	}
	if out.limits, err = rate.New(rateConfig(s.Rates, keys[0])); err != nil {
		return p.cfg.WithLine("score.rates.", "score.rates", err)
	}
	if g := s.Greylist; g != nil {
		if out.greylist, err = greylist.New(greylist.Config{
			Key: keys[0], Delay: time.Duration(g.Delay), Window: time.Duration(g.Window), Keep: time.Duration(g.Keep),
		}); err != nil {
			return p.cfg.WithLine("score.greylist.", "score.greylist", err)
		}
	}
	cfg, err := p.cfg.ScoreConfig()
	if err != nil {
		return err
	}
	cfg.Store, cfg.Lists, cfg.Limits, cfg.Resolver = p.store, out.lists, out.limits, p.resolver.Plain()
	if out.scorer, err = score.New(cfg); err != nil {
		return p.cfg.WithLine("score.", "score", err)
	}
	p.scoring = out
	return nil
}

// makeGuard makes what limits refused recipients, unless the configuration wants no rates. It needs no section score.
// What the section limits by address is counted by the store. The error is Problems.
func (p *parts) makeGuard(hooks) error {
	var set config.ScoreRates
	if s := p.cfg.Score; s != nil {
		set = s.Rates
	}
	cfg, client := rate.GuardConfig{Network: limitOf(set.NetworkRefused)}, limitOf(set.Refused)
	if !set.None && p.cfg.Rates != "none" {
		if client == (rate.Limit{}) {
			client = rate.Limit{Count: defaultRefused, Per: defaultRefusedPer}
			cfg.Client = client
		}
		if cfg.Network == (rate.Limit{}) {
			cfg.Network = rate.Limit{Count: min(networkRefused*client.Count, rate.MaxCount), Per: client.Per}
		}
	}
	if cfg.Network == (rate.Limit{}) {
		return nil
	}
	var err error
	p.guard, err = rate.NewGuard(cfg)
	return p.cfg.WithLine("score.rates.", "score.rates", err)
}

// makeLists makes the DNS lists. The error is Problems.
func (p *parts) makeLists(out *scoring, h hooks) error {
	lists, err := p.cfg.Score.DNSLists()
	if err == nil {
		out.lists, err = dnsbl.New(dnsbl.Config{
			Lists: lists, Store: p.store, Resolver: p.resolver.Plain(), Private: p.cfg.Score.Private,
			Changed: h.listChanged,
		})
	}
	if err != nil {
		return p.cfg.WithLine("score.", "score.lists", err)
	}
	p.cleanups.add("lists", func(context.Context) error { out.lists.Close(); return nil })
	return nil
}

// rateConfig returns the rates of the section score. key makes the names of addresses in the store.
func rateConfig(r config.ScoreRates, key []byte) rate.Config {
	return rate.Config{
		Key:                key,
		ClientConnections:  limitOf(r.Client),
		NetworkConnections: limitOf(r.Network),
		ClientMessages:     limitOf(r.Messages),
		NetworkMessages:    limitOf(r.NetworkMessages),
		ClientRecipients:   limitOf(r.Recipients),
		ClientRefused:      limitOf(r.Refused),
		SenderMessages:     limitOf(r.Sender),
		RecipientMessages:  limitOf(r.Recipient),
		DomainMessages:     limitOf(r.Domain),
	}
}

// logListChange logs that the health of a DNS list has changed.
func (l *logger) logListChange(zone string, healthy bool, why string) {
	if healthy {
		l.say(slog.LevelInfo, "list is well", "zone", zone)
		return
	}
	l.say(slog.LevelWarn, "list is not asked", "zone", zone, "cause", why)
}

// A learning is what remembers clients off the path of mail.
type learning struct {
	rates *rate.Background
	karma *karma.Recorder
}

// start begins to check the DNS lists and to learn. It does nothing if s is nil.
func (s *scoring) start(p *parts, ends *cleanups) (*learning, error) {
	if s == nil {
		return nil, nil
	}
	s.lists.Start()
	rates, err := rate.NewBackground(p.store)
	if err != nil {
		return nil, err
	}
	ends.add("rates", rates.Close)
	cfg := karma.Config{Store: p.store}
	if k := p.cfg.Score.Karma; k != nil {
		cfg.Volume, cfg.Networks = k.Volume, k.Networks
	}
	recorder, err := karma.New(cfg)
	if err != nil {
		return nil, p.cfg.WithLine("score.karma.", "score.karma", err)
	}
	ends.add("karma", recorder.Close)
	return &learning{rates: rates, karma: recorder}, nil
}

// listsWait bounds the wait for the first checks of the DNS lists.
const listsWait = 5 * time.Second

// awaitLists waits until each DNS list was checked once, so that the first clients are judged like the others.
func (s *scoring) awaitLists() {
	ctx, cancel := context.WithTimeout(context.Background(), listsWait)
	defer cancel()
	s.lists.Await(ctx)
}
