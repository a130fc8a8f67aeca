package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/egress/dns"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/router/leaf/domain"
	"github.com/millrace/millrace/router/mail"
)

// A Trial is one thing outside of the node that Connect tried.
type Trial struct {
	Field string `json:"field"` // of the configuration
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	Why   string `json:"why,omitempty"`
}

// trialTime bounds one trial.
const trialTime = 10 * time.Second

// maxLogins bounds the next hops whose credentials are tried.
const maxLogins = 20

// Connect tries what a configuration that Check accepts needs of others: name servers, Redis, DNS lists, the collector,
// the socket of syslog, the ports to listen on, and the credentials at next hops. No mail is begun. The error is
// Problems.
func Connect(ctx context.Context, c *config.Config) ([]Trial, error) {
	f, err := readFiles(c, false)
	if err != nil {
		return nil, err
	}
	faults := &listFaults{zones: make(map[string]string)}
	p, err := build(f, hooks{listChanged: faults.note})
	if err != nil {
		return nil, err
	}
	defer p.close()
	t := &trials{ctx: ctx}
	t.nameServers(c)
	if c.Redis != nil {
		t.try("redis.url", "Redis", func(ctx context.Context) error {
			_, err := p.store.RulesVersion(ctx)
			return err
		})
	}
	t.lists(p, faults)
	t.collector(c)
	t.syslog(c)
	t.receivers(c, p.hook)
	t.ports(c)
	t.logins(p)
	return t.list, nil
}

// trials are those made so far.
type trials struct {
	ctx  context.Context
	list []Trial
}

// try makes a trial.
func (t *trials) try(field, what string, trial func(context.Context) error) {
	ctx, cancel := context.WithTimeout(t.ctx, trialTime)
	defer cancel()
	out := Trial{Field: field, What: what, OK: true}
	if err := trial(ctx); err != nil {
		out.OK, out.Why = false, library.ReplaceAllString(err.Error(), "")
	}
	t.list = append(t.list, out)
}

// nameServers asks each name server for our own name. That there is no such name is an answer.
func (t *trials) nameServers(c *config.Config) {
	servers := [][]string{nil}
	for _, s := range c.DNS.Servers {
		servers = append(servers, []string{s})
	}
	if len(servers) > 1 {
		servers = servers[1:]
	}
	for i, s := range servers {
		field, what := fmt.Sprintf("dns.servers[%d]", i), strings.Join(s, "")
		if s == nil {
			field, what = "dns.servers", "of /etc/resolv.conf"
		}
		t.try(field, "name server "+what, func(ctx context.Context) error {
			r, err := dns.New(dns.Config{Servers: s})
			if err != nil {
				return err
			}
			defer r.Close()
			_, _, err = r.LookupAddrs(ctx, c.Hostname)
			if errors.Is(err, dns.ErrNXDomain) || errors.Is(err, dns.ErrNoData) {
				return nil
			}
			return err
		})
	}
}

// listFaults are the DNS lists that are not well, and why.
type listFaults struct {
	mu    sync.Mutex
	zones map[string]string
}

func (f *listFaults) note(zone string, healthy bool, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.zones, zone)
	if !healthy {
		f.zones[zone] = why
	}
}

// lists checks each DNS list once.
func (t *trials) lists(p *parts, faults *listFaults) {
	if p.scoring == nil || len(p.cfg.Score.Lists) == 0 {
		return
	}
	p.scoring.lists.Start()
	p.scoring.awaitLists()
	for i, l := range p.cfg.Score.Lists {
		// The name stands for a zone that holds a secret. It is compared as the lists have it.
		zone := domain.Canonical(cmp.Or(l.Name, l.Zone))
		t.try(fmt.Sprintf("score.lists[%d]", i), "DNS list "+zone, func(context.Context) error {
			faults.mu.Lock()
			defer faults.mu.Unlock()
			if why, ill := faults.zones[zone]; ill {
				return errors.New(why)
			}
			return nil
		})
	}
}

// collector sends an empty export to the collector. Any answer of it but an error of the server's counts.
func (t *trials) collector(c *config.Config) {
	if c.Telemetry.OTLP == "" {
		return
	}
	if c.Telemetry.Protocol == "grpc" {
		t.try("telemetry.otlp", "collector", func(ctx context.Context) error {
			return exportNothing(ctx, &c.Telemetry)
		})
		return
	}
	t.try("telemetry.otlp", "collector", func(ctx context.Context) error {
		endpoint, err := exportURL(c.Telemetry.OTLP)
		if err != nil {
			return err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, http.NoBody)
		if err != nil {
			return errors.New("is not a URL")
		}
		r.Header.Set("Content-Type", "application/x-protobuf")
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(r)
		if err != nil {
			var failed interface{ Unwrap() error }
			if errors.As(err, &failed) { // the whole error repeats the URL, and so a password
				err = failed.Unwrap()
			}
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound || resp.StatusCode >= http.StatusInternalServerError {
			return fmt.Errorf("answers %s", resp.Status)
		}
		return nil
	})
}

// syslog looks whether a daemon has the socket that the log goes to. By UDP nothing can be tried: it never answers.
func (t *trials) syslog(c *config.Config) {
	network, address := c.Log.Syslog()
	if network != "unixgram" {
		return
	}
	t.try("log.output", "syslog", func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// exportNothing sends an empty export to a collector by gRPC.
func exportNothing(ctx context.Context, c *config.Telemetry) error {
	client := otlptracegrpc.NewClient(otlptracegrpc.WithEndpointURL(c.OTLP),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{}))
	if err := client.Start(ctx); err != nil {
		return err
	}
	defer func() { _ = client.Stop(ctx) }()
	return client.UploadTraces(ctx, nil)
}

// receivers asks each receiver of events whether it is there, with a request that holds no event. Any answer counts but
// that there is no such page and an error of the server's.
func (t *trials) receivers(c *config.Config, client *hook.Client) {
	if c.Events == nil {
		return
	}
	defer client.Close()
	for i, r := range c.Events.Receivers {
		t.try(fmt.Sprintf("events.receivers[%d].url", i), "receiver "+r.Name, func(ctx context.Context) error {
			answer, err := client.Do(ctx, hook.Request{Method: http.MethodHead, URL: r.URL, Limit: 1})
			switch {
			case err != nil:
				return err
			case answer.Status == http.StatusNotFound || answer.Status >= http.StatusInternalServerError:
				return fmt.Errorf("answers %d", answer.Status)
			case answer.Status/100 == 3:
				return fmt.Errorf("answers %d: a redirect is not followed", answer.Status)
			}
			return nil
		})
	}
}

// ports listens for a moment on each address.
func (t *trials) ports(c *config.Config) {
	type port struct{ field, addr string }
	var ports []port
	for i := range c.Listen {
		ports = append(ports, port{fmt.Sprintf("listen[%d].addr", i), c.Listen[i].Addr})
	}
	if c.Admin != nil {
		ports = append(ports, port{"admin.addr", c.Admin.Addr})
		if c.Admin.Health != "" {
			ports = append(ports, port{"admin.health", c.Admin.Health})
		}
	}
	if c.Public != nil {
		ports = append(ports, port{"public.addr", c.Public.Addr})
	}
	if k := c.Cluster; k != nil {
		ports = append(ports, port{"cluster.bind", k.Bind}, port{"cluster.peer", k.Peer})
	}
	for _, p := range ports {
		t.try(p.field, "listen on "+p.addr, func(ctx context.Context) error {
			var l net.ListenConfig
			got, err := l.Listen(ctx, "tcp", p.addr)
			if err != nil {
				var failed *net.OpError
				if errors.As(err, &failed) {
					err = failed.Err
				}
				return fmt.Errorf("%w (a node that runs already has it)", err)
			}
			return got.Close()
		})
	}
}

// logins opens a session with each next hop of the rules that has a user, as mail would, and puts it back.
func (t *trials) logins(p *parts) {
	r, err := newReacher(p.egress)
	if err != nil {
		t.try("egress", "relay", func(context.Context) error { return err })
		return
	}
	defer r.hangUp()
	n := 0
	for h := range p.files.nextHops() {
		if h.User == "" {
			continue
		}
		if n++; n > maxLogins {
			return
		}
		t.try("egress.credentials_file", "login at "+h.String(), func(ctx context.Context) error {
			_, err := r.reach(ctx, mail.Delivery{
				NextHop: h, Favoured: true, Client: netip.PrefixFrom(netip.IPv6Loopback(), 128),
			}, nil)
			return causeOf(err)
		})
	}
}

// causeOf returns the error that an administrator reads: the cause of a Refusal, if there is one.
func causeOf(err error) error {
	var refusal *mail.Refusal
	if errors.As(err, &refusal) && refusal.Cause != nil {
		return refusal.Cause
	}
	return err
}
