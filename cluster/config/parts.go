package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/cluster"
	"github.com/millrace/millrace/cluster/store"
	"github.com/millrace/millrace/router/mail"
)

// SharesRules reports whether the rules are those of all nodes, in Redis, and the files only bring changes.
func (c *Config) SharesRules() bool { return c.Redis != nil }

// SecretSource returns the file that keys are derived from, "" if the configuration names no such file.
func (c *Config) SecretSource() File {
	switch {
	case c.SecretFile != "":
		return c.SecretFile
	case c.Cluster != nil && c.Cluster.KeyFile != "":
		return c.Cluster.KeyFile
	case c.SRS != nil:
		return c.SRS.KeyFile
	}
	return ""
}

// Seals reports whether there is a key to seal with. It is false for a nil ARC.
func (a *ARC) Seals() bool { return a != nil && a.KeyFile != "" }

// Signs reports whether there is any key to sign or seal with.
func (c *Config) Signs() bool {
	return c.ARC.Seals() || c.DKIM != nil && len(c.DKIM.Relay)+len(c.DKIM.Domains) > 0
}

// StoreConfig returns the section redis as package store takes it, without callbacks. Without the section it is the
// zero Config, a store in memory.
func (c *Config) StoreConfig() store.Config {
	if c.Redis == nil {
		return store.Config{}
	}
	return store.Config{
		URL: c.Redis.URL, Prefix: c.Redis.Prefix, Timeout: time.Duration(c.Redis.Timeout), Wait: c.Redis.Wait,
	}
}

// ClusterConfig returns the section cluster, which has to be present, as package cluster takes it, without callbacks.
// keys encrypt gossip, the one in use first. The error is Problems.
func (c *Config) ClusterConfig(keys [][]byte) (cluster.Config, error) {
	k := c.Cluster
	cfg := cluster.Config{
		Name: k.Name, Bind: k.Bind, Advertise: k.Advertise, Peer: k.Peer, Join: k.Join, Members: k.Members,
		Keys: keys, Weight: k.Weight,
	}
	return cfg, c.WithLine("cluster.", "cluster", cfg.Validate())
}

// SourceAddrs returns the addresses of Source.
func (e *Egress) SourceAddrs() (addrs []string) {
	for _, s := range e.Source {
		addrs = append(addrs, s.Addr.String())
	}
	return addrs
}

// certificates requires a host, and the files of a certificate that we show or of authorities.
func (v *validator) certificates(list []HostCertificate) {
	seen := make(map[string]bool)
	for i, c := range list {
		at := fmt.Sprintf("egress.certificates[%d]", i)
		host := strings.ToLower(c.Host)
		_, err := netip.ParseAddr(host)
		switch {
		case host == "":
			v.add(at+".host", "is required: the host of a next hop, as the rules have it")
		case err != nil && !mail.IsDomain(host):
			v.add(at+".host", strconv.Quote(c.Host)+" is neither a host name nor an IP address")
		case seen[host]:
			v.add(at+".host", c.Host+" has a certificate already")
		}
		seen[host] = true
		if c.Cert != "" || c.Key != "" || c.CA == "" {
			v.required(at+".cert", c.Cert)
			v.required(at+".key", c.Key)
		}
		v.file(at+".ca", c.CA)
	}
}

// LocalAddrs returns the addresses that this node listens on, as far as the configuration tells: those with port 0 are
// left out. An address without a host stands for all addresses of this machine.
func (c *Config) LocalAddrs() []netip.AddrPort {
	var out []netip.AddrPort
	for i := range c.Listen {
		host, port, err := net.SplitHostPort(c.Listen[i].Addr)
		if err != nil || port == "0" {
			continue
		}
		if host == "" {
			host = "::"
		}
		if host == "localhost" {
			host = "127.0.0.1"
		}
		a, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
		if err != nil {
			continue
		}
		out = append(out, a)
		if a.Addr().IsUnspecified() {
			out = append(out, interfaceAddrs(a.Port())...)
		}
	}
	return out
}

// interfaceAddrs returns all addresses of this machine, with a port.
func interfaceAddrs(port uint16) []netip.AddrPort {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil // a loop is then recognised by its loop tag
	}
	var out []netip.AddrPort
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, netip.AddrPortFrom(p.Addr().Unmap(), port))
		}
	}
	return out
}
