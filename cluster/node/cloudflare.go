package node

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/account/verify"
	"github.com/millrace/millrace/cluster/admin"
	v4 "github.com/millrace/millrace/cluster/admin/v4"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/cluster/public"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/leaf/network"
	"github.com/millrace/millrace/router/mail"
)

// recordTTL is how long others may keep the records that are to be published, in seconds.
const recordTTL = 300

// zoneRecords returns what is to be published for a domain, as Cloudflare's clients read it.
func zoneRecords(c *config.Config, name string) (list []v4.Record, err error) {
	all, err := doctor.Records(c, []string{name}, nil)
	for i := range all {
		r := &all[i]
		if !domain.Within(domain.Canonical(r.Name), name) || r.Type == "PTR" || r.IsPlaceholder() {
			continue // of the relay, which all its domains share
		}
		out := v4.Record{Type: r.Type, Name: r.Name, Content: r.Value, TTL: recordTTL}
		if r.Type == "MX" {
			preference, host, _ := strings.Cut(r.Value, " ")
			n, err := strconv.Atoi(preference)
			if err != nil {
				return nil, err
			}
			out.Priority, out.Content = &n, strings.TrimSuffix(host, ".")
		}
		list = append(list, out)
	}
	return list, err
}

// spread is how long other nodes may take until they know what was written to Redis.
const spread = 2 * time.Second

// startVerifier makes what asks the owners of destinations.
func (n *Node) startVerifier() error {
	own := append(interfaceAddrs(), n.parts.egress.Ours.Addresses...)
	web, err := hook.New(hook.Config{Resolver: n.parts.resolver, Own: own}) // no private network is listed
	if err != nil {
		return err
	}
	n.cleanups.add("files of owners", func(context.Context) error { web.Close(); return nil })
	cfg := verify.Config{
		Account: n.rules.account, From: mail.Path{Local: "postmaster", Domain: n.cfg.Hostname},
		Send: n.listeners.own.send, Log: n.log.Logger,
	}
	cfg.Lookups = lookups(n.parts.resolver, web, own)
	if n.parts.store.HasRedis() {
		cfg.Spread = spread
	}
	if n.cfg.Public != nil {
		cfg.URL = strings.TrimSuffix(n.cfg.Public.URL, "/")
	}
	v := verify.New(cfg)
	n.cleanups.add("verification", func(context.Context) error { v.Close(); return nil })
	n.rules.verifier = v
	return nil
}

// lookups returns what the verifier asks of the world.
func lookups(resolver *dns.Resolver, web *hook.Client, own []netip.Addr) verify.Lookups {
	return verify.Lookups{
		Text: func(ctx context.Context, name string) ([]string, error) {
			asking := mail.AskAs(ctx, mail.RankChosen) // names are the owners'
			return resolver.Plain().LookupTXT(&asking, name)
		},
		Addrs: func(ctx context.Context, host string) ([]netip.Addr, error) {
			asking := mail.AskAs(ctx, mail.RankChosen)
			return resolver.Plain().LookupAddrs(&asking, host) // of both families, or an error
		},
		Fetch: func(ctx context.Context, url string, most int) (int, []byte, error) {
			asking := mail.AskAs(ctx, mail.RankChosen)
			answer, err := web.Do(&asking, hook.Request{Method: http.MethodGet, URL: url, Limit: most})
			return answer.Status, answer.Body, err
		},
		Own: func(a netip.Addr) bool { return slices.Contains(own, a) || slices.Contains(own, network.Carried(a)) },
	}
}

// confirm takes the token of a link that was followed.
func (p *publicPages) confirm(ctx context.Context, token string) error {
	err := p.rules.verifier.Follow(ctx, token)
	if errors.Is(err, verify.ErrNoLink) {
		return public.ErrNoToken
	}
	return err
}

// cloudflare returns the surface for the clients of Cloudflare.
func (n shown) cloudflare() (admin.Surface, error) {
	s, err := newSending(n.Node)
	return v4.New(v4.Config{
		Account: n.rules.account,
		Hosted:  func() []string { return n.rules.router.HostedNames(math.MaxInt) },
		Hook: func(p account.Principal, name, zone string) bool {
			return n.cfg.Hooks.Check(name) == nil && (p.Unlimited() || n.cfg.Hooks.IsForOwner(name, zone))
		},
		Records: func(name string) ([]v4.Record, error) { return zoneRecords(n.cfg, name) },
		Ask:     n.rules.verifier.Ask,
		Sender:  v4.Sender{Send: s.send, Most: s.most()},
	}), err
}
