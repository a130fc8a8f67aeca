package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/migrate"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

type migrateVerbs struct {
	Plan  migratePlanVerb  `cmd:"" help:"@migrate_plan"`
	Watch migrateWatchVerb `cmd:"" help:"@migrate_watch"`
}

type migratePlanVerb struct {
	Domain   string   `arg:"" placeholder:"DOMAIN" help:"The domain that moves."`
	RollBack string   `name:"rollback" placeholder:"FILE" help:"@migrate_rollback"`
	Resolver []string `placeholder:"ADDRESS:PORT" help:"@migrate_resolver"`
	configFlag
	jsonFlag
}

func (v *migratePlanVerb) run(s streams) int {
	move, err := v.move()
	if err != nil {
		return fail(s, err)
	}
	if v.RollBack != "" {
		if err := create(v.RollBack, publicMode, []byte(move.RollBack())); err != nil {
			return fail(s, fmt.Errorf("--rollback: %w", err))
		}
	}
	if v.JSON {
		printJSON(s.out, map[string]any{
			"domain": move.Domain, "mx": move.Old, "ttl": int(move.TTL.Seconds()), "phases": move.Phases(),
			"rollback": move.RollBack(), "main_cf": move.MainCF(),
		})
		return exitOK
	}
	fmt.Fprint(s.out, move.Text())
	if v.RollBack == "" {
		fmt.Fprintf(s.out, "\nThe way back (--rollback FILE writes it):\n\n%s", move.RollBack())
	}
	return exitOK
}

// move looks up what the domain has now.
func (v *migratePlanVerb) move() (*migrate.Move, error) {
	domain, err := aName("DOMAIN", v.Domain)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(v.Config)
	if err != nil {
		return nil, err
	}
	move := &migrate.Move{
		Domain: domain, Now: time.Now(), Host: cfg.Hostname, Config: v.Config, Size: int64(cfg.Limits.MessageSize),
	}
	move.Inside = insideOf(cfg, domain)
	servers := v.Resolver
	if len(servers) == 0 {
		servers = cfg.DNS.Servers
	}
	r, err := dns.New(dns.Config{Servers: servers})
	if err != nil {
		return nil, usageError{fmt.Errorf("--resolver: %w", err)}
	}
	defer r.Close()
	records, meta, err := r.LookupMX(context.Background(), domain)
	if err != nil && !dns.NotFound(err) {
		return nil, err
	}
	move.TTL = meta.TTL
	move.Zone = zoneOf(r, domain)
	for _, mx := range records {
		move.Old = append(move.Old, migrate.MX{Host: mx.Host, Pref: mx.Pref})
	}
	if slices.ContainsFunc(move.Old, func(mx migrate.MX) bool { return strings.EqualFold(mx.Host, cfg.Hostname) }) {
		return nil, fmt.Errorf("%s has %s among its MX already: migrate watch says who sees it", domain, cfg.Hostname)
	}
	return move, nil
}

// zoneOf returns the zone that a domain lies in, "" if no name server tells.
func zoneOf(r *dns.Resolver, domain string) string {
	for zone := domain; strings.Contains(zone, "."); _, zone, _ = strings.Cut(zone, ".") {
		_, _, err := r.LookupData(context.Background(), zone, "SOA")
		if !dns.NotFound(err) {
			if err != nil {
				return ""
			}
			return zone
		}
	}
	return ""
}

// insideOf returns the fixed next hop that mail of a domain goes to, "" if there is none or no such rule.
func insideOf(cfg *config.Config, domain string) string {
	postmaster, err := mail.ParsePath(cfg.Postmaster, true)
	if err != nil {
		return ""
	}
	table, err := rules.Load([]string{string(cfg.Routes)}, rules.Config{Postmaster: postmaster})
	if err != nil {
		return ""
	}
	routes, err := table.Route(mail.Query{Forward: mail.NewPath("info", domain)}, nil)
	if err != nil || len(routes) == 0 || routes[0].NextHop.Transport == mail.MX {
		return ""
	}
	return routes[0].NextHop.String()
}

// publicResolvers are resolvers that many senders ask.
var publicResolvers = []string{"1.1.1.1:53", "8.8.8.8:53", "9.9.9.9:53", "208.67.222.222:53"}

type migrateWatchVerb struct {
	Domain   string        `arg:"" placeholder:"DOMAIN" help:"The domain that moves."`
	New      []string      `required:"" placeholder:"HOST" help:"A new MX host; once for each."`
	Resolver []string      `placeholder:"ADDRESS:PORT" help:"@watch_resolver"`
	Every    time.Duration `placeholder:"DURATION" help:"@watch_every"`
	Once     bool          `help:"Look once; exit code 1 if a resolver does not see a new one."`
	jsonFlag
}

func (v *migrateWatchVerb) run(s streams) int {
	domain, err := aName("DOMAIN", v.Domain)
	if err != nil {
		return fail(s, err)
	}
	for i := range v.New {
		if v.New[i], err = aName("--new", v.New[i]); err != nil {
			return fail(s, err)
		}
	}
	resolvers := v.Resolver
	if len(resolvers) == 0 {
		resolvers = publicResolvers
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for {
		sights, err := lookFrom(ctx, resolvers, domain, v.New)
		if err != nil {
			return fail(s, err)
		}
		v.print(s.out, sights)
		switch {
		case migrate.AllSee(sights):
			return exitOK
		case v.Once:
			return exitError
		}
		wait := v.Every
		if wait == 0 {
			wait = migrate.NextLook(sights)
		}
		next := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			next.Stop()
			return exitError
		case <-next.C:
		}
	}
}

// lookFrom asks resolvers for the MX hosts of a domain. Nothing is kept between two looks.
func lookFrom(ctx context.Context, resolvers []string, domain string, hosts []string) ([]migrate.Sight, error) {
	sights := make([]migrate.Sight, len(resolvers))
	errs := make([]error, len(resolvers))
	var looks sync.WaitGroup
	for i, server := range resolvers {
		looks.Go(func() { sights[i], errs[i] = look(ctx, server, domain) })
	}
	looks.Wait()
	for i := range sights {
		sights[i].Judge(hosts)
	}
	return sights, errors.Join(errs...)
}

// look asks one resolver. The error is that of a resolver that is none.
func look(ctx context.Context, server, domain string) (migrate.Sight, error) {
	seen := migrate.Sight{Resolver: server}
	r, err := dns.New(dns.Config{Servers: []string{server}})
	if err != nil {
		return seen, usageError{fmt.Errorf("--resolver: %w", err)}
	}
	defer r.Close()
	records, meta, err := r.LookupMX(ctx, domain)
	if err != nil && !dns.NotFound(err) {
		seen.Cause = err.Error()
	}
	seen.TTL = int(meta.TTL.Seconds())
	for _, mx := range records {
		seen.Hosts = append(seen.Hosts, mx.Host)
	}
	return seen, nil
}

// print prints what resolvers see.
func (v *migrateWatchVerb) print(w io.Writer, sights []migrate.Sight) {
	at := time.Now().UTC().Truncate(time.Second)
	if v.JSON {
		printJSON(w, map[string]any{"time": at, "sights": sights, "all": migrate.AllSee(sights)})
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range sights {
		said := strings.Join(s.Hosts, " ")
		if s.Cause != "" {
			said = s.Cause
		}
		fmt.Fprintf(t, "%s\t%s\t%s\tfor %ds\t%s\n", at.Format(time.TimeOnly), s.Resolver, s.State, s.TTL,
			migrate.Plain(said))
	}
	_ = t.Flush() // fails only when the reader has gone
}
