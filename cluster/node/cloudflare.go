package node

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/cluster/account/verify"
	"github.com/millrace/millrace/cluster/admin"
	"github.com/millrace/millrace/cluster/admin/v4"
	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node/doctor"
	"github.com/millrace/millrace/cluster/public"
	"github.com/millrace/millrace/router/leaf/domain"
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

// startVerifier makes what asks the owners of destinations.
func (n *Node) startVerifier() {
	cfg := verify.Config{
		Account: n.rules.account, From: mail.Path{Local: "postmaster", Domain: n.cfg.Hostname},
		Send: n.listeners.own.send, Log: n.log.Logger,
	}
	if n.cfg.Public != nil {
		cfg.URL = strings.TrimSuffix(n.cfg.Public.URL, "/")
	}
	v := verify.New(cfg)
	n.cleanups.add("verification", func(context.Context) error { v.Close(); return nil })
	n.rules.verifier = v
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
			return n.cfg.CheckHook(name) == nil && (p.Unlimited() || n.cfg.Hooks.IsForOwner(name, zone))
		},
		Records: func(name string) ([]v4.Record, error) { return zoneRecords(n.cfg, name) },
		Ask:     n.rules.verifier.Ask,
		Sender:  v4.Sender{Send: s.send, Most: s.most()},
	}), err
}
