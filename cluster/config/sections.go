package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/ingress/client/greylist"
	"github.com/millrace/millrace/ingress/client/karma"
	"github.com/millrace/millrace/ingress/client/rate"
	"github.com/millrace/millrace/ingress/client/score"
	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/leaf/near"
	"github.com/millrace/millrace/router/mail"
	"github.com/millrace/millrace/router/rules"
)

// sections validates the optional sections, those included that this version does not serve yet, so that a file that is
// written for a later version is checked already.
func (v *validator) sections(c *Config) {
	if a := c.ARC; a != nil {
		// Without a key, the section only lists the domains to trust.
		if a.KeyFile != "" || a.Domain != "" || a.Selector != "" || len(a.Trust) == 0 {
			v.signer("arc", &Signer{a.Domain, a.Selector, a.KeyFile})
		}
		for i, domain := range a.Trust {
			v.domain(fmt.Sprintf("arc.trust[%d]", i), domain)
		}
	}
	if d := c.DKIM; d != nil {
		for i := range d.Relay {
			v.signer(fmt.Sprintf("dkim.relay[%d]", i), &d.Relay[i])
		}
		for i := range d.Domains {
			v.signer(fmt.Sprintf("dkim.domains[%d]", i), &d.Domains[i])
		}
		v.oneOf("dkim.unpublished", d.Unpublished, "wait", "sign")
	}
	for i, domain := range c.DMARC.Lists {
		v.domain(fmt.Sprintf("dmarc.lists[%d]", i), domain)
	}
	v.filters(c.Filters, c.Deadlines.Commit)
	if c.Score != nil {
		v.score(c)
	}
	if c.Submission != nil {
		v.submission(c)
	}
	if c.Redis != nil {
		v.redis(c)
	}
	if c.Cluster != nil {
		v.cluster(c)
	}
	if c.Events != nil {
		v.events(c.Events)
	}
	if c.Activity != nil {
		v.activity(c.Activity)
	}
	if c.Reports != nil {
		v.reports(c)
	}
	if d := c.Doctor; d != nil {
		if time.Duration(d.Interval) < leastInterval {
			v.add("doctor.interval", fmt.Sprintf("%s is less than %s: the DNS is asked some fifty questions each time",
				d.Interval, Duration(leastInterval)))
		}
		for i, name := range d.Domains {
			v.domain(fmt.Sprintf("doctor.domains[%d]", i), name)
		}
	}
	if c.Hooks != nil {
		v.checkHooks(c.Hooks)
	}
	if c.Public != nil {
		v.public(c)
	}
}

// leastInterval is the shortest time between two examinations of the DNS.
const leastInterval = 5 * time.Minute

// domain requires a domain name.
func (v *complaints) domain(field, s string) {
	switch {
	case s == "":
		v.add(field, "is required: a domain name")
	case field != "hostname" && field != "authserv_id" && isAddress(s):
		v.add(field, fmt.Sprintf("%q is an address, and a domain name is needed", s))
	case !isDomain(s):
		v.add(field, fmt.Sprintf("%q is not a domain name: %s", s, rules.DomainMistake(s)))
	}
}

// isAddress reports whether s is an IP address.
func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isDomain reports whether s is a domain name. One that is not ASCII has to have A-labels.
func isDomain(s string) bool {
	if ascii.Is(s) {
		return mail.IsDomain(s)
	}
	_, ok := rules.ALabels(s)
	return ok
}

// signer requires a domain, a selector and a key file. field is the path of keys of the signer.
func (v *validator) signer(field string, s *Signer) {
	v.domain(field+".domain", s.Domain)
	if name, found := strings.CutSuffix(s.Selector, "._domainkey"); found {
		v.add(field+".selector", "the selector stands alone: write "+name)
	} else {
		v.domain(field+".selector", s.Selector)
	}
	v.required(field+".key_file", s.KeyFile)
}

// partError adds the complaints of a part about its section, if err is about fields. prefix is put before the names of
// the fields.
func (v *complaints) partError(prefix string, err error) {
	var all Problems
	for _, f := range faultsOf(err) {
		all = append(all, v.Problem(prefix+keyOfPart.Replace(f.Field), keyOfPart.Replace(f.Reason)))
	}
	v.problems = v.problems.Join(all)
}

// keyOfPart turns names of fields of packages into the keys that stand for them.
var keyOfPart = strings.NewReplacer("grey.", "greylist.")

// score checks the section with the validation of package score.
func (v *validator) score(c *Config) {
	if c.Score.URL != "" {
		v.page("score.url", c.Score.URL)
	}
	v.file("score.allow_file", c.Score.AllowFile)
	v.file("score.block_file", c.Score.BlockFile)
	_, err := c.Score.DNSLists()
	v.partError("score.", err)
	v.rates(&c.Score.Rates)
	if g := c.Score.Greylist; g != nil {
		cfg := greylist.Config{
			Key: make([]byte, rate.MinKey), Delay: time.Duration(g.Delay), Window: time.Duration(g.Window),
			Keep: time.Duration(g.Keep),
		}
		v.partError("score.greylist.", cfg.Validate())
	}
	if k := c.Score.Karma; k != nil {
		v.partError("score.karma.", karma.Faults(k.Volume, k.Networks).Err())
	}
	signals := slices.Sorted(maps.Keys(score.DefaultWeights()))
	for _, name := range slices.Sorted(maps.Keys(c.Score.Weights)) {
		if slices.Contains(signals, name) {
			continue
		}
		why := "; the signals are " + strings.Join(signals, ", ")
		if meant := near.Word(name, signals); meant != "" {
			why = "; did you mean " + meant
		}
		v.add("score.weights["+name+"]", "no such signal"+why)
	}
	var located Problems
	cfg, err := c.ScoreConfig()
	if errors.As(err, &located) {
		v.problems = append(v.problems, located...)
	}
	cfg.Hostnames = nil // they have complaints of their own, as have names that are no signals
	cfg.Weights = maps.Clone(cfg.Weights)
	maps.DeleteFunc(cfg.Weights, func(name string, _ float64) bool { return !slices.Contains(signals, name) })
	v.partError("score.", cfg.Validate())
}

// rates checks the rates of the section score.
func (v *validator) rates(r *ScoreRates) {
	for _, one := range []struct {
		key string
		Rate
	}{
		{"network_refused", r.NetworkRefused}, {"client", r.Client}, {"network", r.Network}, {"messages", r.Messages},
		{"network_messages", r.NetworkMessages}, {"recipients", r.Recipients}, {"refused", r.Refused},
		{"sender", r.Sender}, {"recipient", r.Recipient}, {"domain", r.Domain},
	} {
		if why := (rate.Limit{Count: one.Count, Per: one.Per}).Fault(); why != "" {
			v.add("score.rates."+one.key, why)
		}
	}
}

// submission checks the section, which is of use with a listener of users, and with an API by which tokens send.
func (v *validator) submission(c *Config) {
	if c.Admin == nil && !slices.ContainsFunc(c.Listen, func(l Listener) bool { return l.Submission }) {
		v.add("submission", "no entry of listen says submission: true, and without the section admin no token sends")
	}
	for _, one := range []struct {
		key string
		Rate
	}{{"messages", c.Submission.Messages}, {"recipients", c.Submission.Recipients}} {
		if why := (rate.Limit{Count: one.Count, Per: one.Per}).Fault(); why != "" {
			v.add("submission."+one.key, why)
		}
	}
	if most := 30 * 24 * time.Hour; time.Duration(c.Submission.Suppress) > most {
		v.add("submission.suppress", "is longer than 720h: an address may be there again")
	}
}

// redis checks the section with the validation of package store.
func (v *validator) redis(c *Config) {
	switch {
	case c.Redis.URL == "":
		v.add("redis.url", "is required: redis://host:port/database or rediss://")
	case !strings.Contains(c.Redis.URL, "://"): // the URL is not repeated: it may hold a password
		v.add("redis.url", "does not begin with redis:// or rediss://")
	}
	cfg := c.StoreConfig()
	v.partError("redis.", cfg.Validate())
	if u, err := url.Parse(c.Redis.URL); err == nil && u.Port() != "" {
		if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
			v.add("redis.url", "has a port that is no number from 1 to 65535")
		}
	}
	if _, written := v.places["redis.timeout"]; written && c.Redis.Timeout == 0 {
		v.add("redis.timeout", "is zero")
	}
}

// cluster checks the section with the validation of package cluster. The keys of gossip are read later, so zeros stand
// in for them.
func (v *validator) cluster(c *Config) {
	k := c.Cluster
	v.required("cluster.key_file", k.KeyFile)
	v.required("cluster.tls.ca", k.TLS.CA)
	v.required("cluster.tls.cert", k.TLS.Cert)
	v.required("cluster.tls.key", k.TLS.Key)
	for _, a := range []struct{ field, addr, example string }{
		{"cluster.bind", k.Bind, "10.0.0.1:7946"}, {"cluster.peer", k.Peer, "10.0.0.1:7947"},
	} {
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			v.address(a.field, a.addr, a.example)
		}
		v.takeAddress(a.field, a.addr)
	}
	for i, addr := range k.Join {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			v.add(fmt.Sprintf("cluster.join[%d]", i), fmt.Sprintf("%q is not an address or a name and a port%s", addr,
				addressFault(addr)))
		}
	}
	_, err := c.ClusterConfig([][]byte{make([]byte, gossipKeySize)})
	v.problems = v.problems.Join(err)
}

// gossipKeySize is the length in octets of a key that encrypts gossip.
const gossipKeySize = 32
