package node

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/egress/hook"
)

// maxExamined bounds the hosted domains that are examined where the configuration names none.
const maxExamined = 100

// rounds are the examinations of the DNS by a running node.
type rounds struct {
	doctor  *doctor.Doctor
	domains func() []string
	say     func(level slog.Level, message string, args ...any)
	faults  map[faultKey]doctor.Finding // that were found last; of the goroutine that examines
	last    atomic.Pointer[admin.Examination]
}

// A faultKey tells a fault from others.
type faultKey struct{ domain, check, name, fault string }

// nodeName stands for what all domains share.
const nodeName = "*"

// startRounds begins to examine the DNS, if the configuration has the section doctor.
func (w *watches) startRounds(p *parts, rules *ruleSet, log *logger, ends *cleanups) error {
	c := p.cfg.Doctor
	if c == nil {
		return nil
	}
	// The policy of a domain may be served by this very machine, so that its addresses are asked too.
	web, err := hook.New(hook.Config{Resolver: p.resolver})
	if err != nil {
		return err
	}
	d, err := doctor.New(doctor.Config{Node: p.cfg, Resolver: p.resolver, Web: web})
	if err != nil {
		return err
	}
	r := &rounds{doctor: d, say: log.say, domains: func() []string {
		if len(c.Domains) > 0 {
			return slices.Clone(c.Domains)
		}
		return rules.router.HostedNames(maxExamined)
	}}
	r.last.Store(&admin.Examination{})
	w.rounds = r
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { // ends with ctx
		tick := time.NewTicker(time.Duration(c.Interval))
		defer tick.Stop()
		for {
			r.examine(ctx)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	ends.add("doctor", func(context.Context) error {
		cancel()
		running.Wait()
		web.Close()
		return nil
	})
	return nil
}

// examine looks at all domains once, and says what has changed since the last time.
func (r *rounds) examine(ctx context.Context) {
	var reports []doctor.Report
	domains := r.domains()
	for _, name := range domains { // one after the other: there is no hurry
		reports = append(reports, r.doctor.Domain(ctx, name))
	}
	reports = append(reports, r.doctor.Node(ctx, domains...))
	if ctx.Err() != nil {
		return // what ended with ctx says nothing of the DNS
	}
	seen := admin.Examination{At: time.Now(), Findings: make(map[admin.Finding]int)}
	faults := make(map[faultKey]doctor.Finding)
	for _, report := range reports {
		name := report.Domain
		if name == "" {
			name = nodeName
		}
		for _, state := range []doctor.State{doctor.Misconfigured, doctor.Unconfigured, doctor.Unknown} {
			seen.Findings[admin.Finding{Domain: name, State: string(state)}] = 0
		}
		for _, f := range report.Findings {
			if f.State == doctor.Ready {
				continue
			}
			seen.Findings[admin.Finding{Domain: name, State: string(f.State)}]++
			faults[faultKey{name, f.Check, f.Name, f.Fault}] = f
		}
	}
	r.last.Store(&seen)
	r.report(faults)
}

// report logs the faults that are new and those that are gone.
func (r *rounds) report(faults map[faultKey]doctor.Finding) {
	for _, k := range sortedKeys(faults) {
		if _, old := r.faults[k]; old {
			continue
		}
		f := faults[k]
		level := slog.LevelWarn
		if f.State == doctor.Unknown { // a name server that is away for a moment
			level = slog.LevelInfo
		}
		r.say(level, "the DNS is not as mail needs it", "domain", k.domain, "check", f.Check, "name", f.Name,
			"state", string(f.State), "fault", f.Fault, "expected", f.Expected, "found", f.Found, "reason", f.Reason,
			"fix", f.Fix)
	}
	for _, k := range sortedKeys(r.faults) {
		if _, still := faults[k]; !still {
			r.say(slog.LevelInfo, "the DNS is right again", "domain", k.domain, "check", k.check, "name", k.name,
				"fault", k.fault)
		}
	}
	r.faults = faults
}

// sortedKeys returns the keys of faults in an order that does not change.
func sortedKeys(faults map[faultKey]doctor.Finding) []faultKey {
	return slices.SortedFunc(maps.Keys(faults), func(a, b faultKey) int {
		return slices.Compare([]string{a.domain, a.check, a.name, a.fault}, []string{b.domain, b.check, b.name,
			b.fault})
	})
}
