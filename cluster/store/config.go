package store

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/millrace/millrace/router/mail"
)

// A Config says where the store is and how much it may take. The zero value is a store without Redis.
type Config struct {
	// URL names the Redis: redis://[user[:password]@]host[:port][/database], or rediss:// for TLS. With
	// master_name=NAME in the query the hosts are Sentinels, which may need sentinel_username and sentinel_password;
	// with addr=HOST:PORT, which may be repeated, they are more Sentinels, or else nodes of a Redis Cluster;
	// cluster=true says so for one host. Empty: no Redis.
	URL string
	// TLS is the base for rediss://: root certificates and our own. Nil: the system's.
	TLS *tls.Config
	// Prefix begins every key in Redis, without braces. Empty: "millrace".
	Prefix string
	// Timeout bounds what Redis may add to a stage, between 1 ms and 10 s. 0: 50 ms.
	Timeout time.Duration
	// Failures in a row after which Redis is skipped for Pause. 0: 3 and 1 s.
	Failures int
	Pause    time.Duration
	// Connections to one Redis server at most. 0: 32.
	Connections int
	// Entries is the most that the twin holds of each kind: rates, list answers, karma, votes, triplets and marks. An
	// entry takes some 250 octets. 0: 65536.
	Entries int
	// HalfLife is the time in which karma loses half its weight. 0: 7 days.
	HalfLife time.Duration
	// KarmaMost bounds a score on both sides, so that no standing takes forever to change. 0: 100.
	KarmaMost float64
	// Nodes gives the number of live nodes that share the Redis, by which limits are divided while it does not answer.
	// It is called by many at once. Nil: 1.
	Nodes func() int
	// Observe is told of each round trip: what it took and how it ended. It is called by many at once
	// and must not block. Nil: nobody.
	Observe func(took time.Duration, err error)
	// Log gets a line when Redis is given up and one when it is back; at level debug, also what the Redis client says,
	// which is one for the process: the last store made has it. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock of the twin and the breaker. Redis has its own. Nil: time.Now.
	Now func() time.Time
}

// Validate reports the first field that is wrong as a *mail.FieldError. The password of a URL is not in it.
func (c Config) Validate() error {
	if _, err := c.options(); err != nil {
		return err
	}
	for _, field := range []struct {
		name   string
		wrong  bool
		reason string
	}{
		{"prefix", strings.ContainsAny(c.Prefix, "{}"), "has a brace"},
		{
			"timeout", c.Timeout != 0 && (c.Timeout < time.Millisecond || c.Timeout > 10*time.Second),
			"is not between 1ms and 10s",
		},
		{"failures", c.Failures < 0, "is negative"},
		{"pause", c.Pause < 0, "is negative"},
		{"connections", c.Connections < 0, "is negative"},
		{"entries", c.Entries < 0, "is negative"},
		{
			"half_life", c.HalfLife != 0 && (c.HalfLife < time.Millisecond || c.HalfLife > longest),
			"is not between 1ms and 744h",
		},
		{"karma_most", !(c.KarmaMost >= 0 && c.KarmaMost < 1e9), "is not between 0 and 1e9"},
	} {
		if field.wrong {
			return &mail.FieldError{Field: field.name, Reason: field.reason}
		}
	}
	return nil
}

// withDefaults fills what was left out.
func (c Config) withDefaults() Config {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&c.Timeout, 50*time.Millisecond)
	set(&c.Pause, time.Second)
	set(&c.HalfLife, 7*24*time.Hour)
	if c.Prefix == "" {
		c.Prefix = "millrace"
	}
	if c.Failures == 0 {
		c.Failures = 3
	}
	if c.Connections == 0 {
		c.Connections = 32
	}
	if c.Entries == 0 {
		c.Entries = 1 << 16
	}
	if c.KarmaMost == 0 {
		c.KarmaMost = 100
	}
	if c.Nodes == nil {
		c.Nodes = func() int { return 1 }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// options gives what the Redis client is made with, nil without a URL. The library's own defaults wait seconds for a
// dead server, try four times and dial five times for each.
func (c Config) options() (*redis.UniversalOptions, error) {
	if c.URL == "" {
		return nil, nil
	}
	o := &redis.UniversalOptions{
		DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolTimeout: c.Timeout * 2 / 5, PoolSize: c.Connections,
		// A call is some hundred octets, and so is its answer. A second pool for pipelines would double the
		// connections.
		ReadBufferSize: 4096, WriteBufferSize: 4096, PipelinePoolSize: -1,
		// Nothing is pushed to us, and nothing is said to a new connection that is not needed.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if reason := c.locate(o); reason != "" {
		return nil, &mail.FieldError{Field: "url", Reason: reason}
	}
	return o, nil
}

// locate reads the URL into o, or says what is wrong with it.
func (c Config) locate(o *redis.UniversalOptions) (wrong string) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil: // whose text has the whole URL in it, password and all
		return "is not a URL"
	case u.Scheme != "redis" && u.Scheme != "rediss":
		return "does not begin with redis:// or rediss://"
	case u.Hostname() == "" || u.Opaque != "" || u.Fragment != "":
		return "names no host"
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	o.Addrs = []string{net.JoinHostPort(u.Hostname(), port)}
	o.Username = u.User.Username()
	o.Password, _ = u.User.Password()
	if u.Scheme == "rediss" {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.TLS != nil {
			o.TLSConfig = c.TLS.Clone()
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "has a query that cannot be read"
	}
	for key, values := range query {
		switch value := values[len(values)-1]; key {
		case "addr":
			for _, addr := range values {
				if _, _, err := net.SplitHostPort(addr); err != nil {
					return "has an addr that is not host:port"
				}
			}
			o.Addrs = append(o.Addrs, values...)
		case "master_name":
			o.MasterName = value
		case "sentinel_username":
			o.SentinelUsername = value
		case "sentinel_password":
			o.SentinelPassword = value
		case "cluster":
			if value != "true" && value != "false" {
				return "has cluster neither true nor false"
			}
			o.IsClusterMode = value == "true"
		default:
			return "has an unknown key in its query: " + strconv.Quote(key)
		}
	}
	return locateDatabase(o, strings.Trim(u.Path, "/"))
}

func locateDatabase(o *redis.UniversalOptions, path string) (wrong string) {
	if o.IsClusterMode && o.MasterName != "" {
		return "names a master and says cluster=true"
	}
	if path == "" {
		return ""
	}
	n, err := strconv.Atoi(path)
	if err != nil || n < 0 {
		return "has a path that is not the number of a database"
	}
	if n != 0 && clustered(o) {
		return "names a database, of which a Redis Cluster has only 0"
	}
	o.DB = n
	return ""
}

// clustered tells whether o is for a Redis Cluster, as the library decides it.
func clustered(o *redis.UniversalOptions) bool {
	return o.MasterName == "" && (len(o.Addrs) > 1 || o.IsClusterMode)
}
