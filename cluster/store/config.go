package store

import (
	"cmp"
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

// A Config says where the Redis is and how long a stage waits for it. The zero value is a store without Redis.
type Config struct {
	// URL names the Redis: redis://[user[:password]@]host[:port][/database], or rediss:// for TLS. The query may have
	// these keys. With master_name=NAME the hosts are Sentinels, which may need sentinel_username and
	// sentinel_password. Each addr=HOST:PORT names a further Sentinel or, without master_name, a further node of a
	// Redis Cluster. With cluster=true a single host is a node of a Redis Cluster. "" disables Redis.
	URL string
	// Prefix begins every key in Redis. It may have no braces. "" means "millrace".
	Prefix string
	// Timeout bounds what Redis may add to a stage, between 1 ms and 10 s. 0 means 50 ms.
	Timeout time.Duration
	// Wait is how many replicas have to have what the ledger writes about a delivery before it counts as written. It
	// is waited for in the same round trip, for a third of Timeout at most. A Redis Cluster cannot have it. 0 waits for
	// none.
	Wait int
	// Nodes returns the number of live nodes that share the Redis. Limits are divided by it while Redis does not
	// answer. It is called concurrently. nil means 1.
	Nodes func() int
	// Observe is called with the duration and the error of each round trip. It is called concurrently and must not
	// block. nil disables it.
	Observe func(took time.Duration, err error)
	// Emit is called with an Anomaly when Redis has not answered for a while, and when a key of ours holds what is not
	// ours. It must not block. nil disables it.
	Emit func(mail.Event)
	// Log gets a line when Redis answers again. At level debug it also gets the messages of the Redis client, which has
	// one log for the process: that of the last store. nil disables it.
	Log *slog.Logger
	// Transact carries out an event of the ledger on the entries of several recipients, and returns those that decided:
	// once.Transact. nil means that the ledger is not used.
	Transact func(recipients [][]mail.LedgerEntry, v mail.LedgerEvent) (found []mail.LedgerEntry)
	// Now is the clock of the local store and the breaker. Redis has its own. nil means time.Now.
	Now func() time.Time

	tune tuning
}

const (
	defaultTimeout = 50 * time.Millisecond
	defaultPrefix  = "millrace"
	// breakerFailures is the number of failures in a row after which Redis is skipped for breakerPause.
	breakerFailures = 3
	breakerPause    = time.Second
	// maxWait is the most replicas that are waited for.
	maxWait = 16
	// tellAfter is how long, in all, Redis has to be skipped before an administrator is told, and to answer before that
	// is over. The time in which it answers is taken from that in which it did not.
	tellAfter = 10 * time.Second
	// maxConnections is the number of connections to one Redis server. A round trip holds one for about a millisecond.
	maxConnections = 32
	// localEntries is how many entries of each kind the local store holds: rates, list answers, karma, votes, triplets,
	// known good networks and marks. An entry takes some 250 octets.
	localEntries = 1 << 16
	// karmaHalfLife is the time in which karma loses half its weight.
	karmaHalfLife = 7 * 24 * time.Hour
	// maxKarma bounds a score in both directions, so that any karma can change in reasonable time.
	maxKarma = 100.0
)

// A tuning holds what tests change. Its zero fields mean the constants.
type tuning struct {
	failures int
	pause    time.Duration
	tell     time.Duration
	entries  int
	halfLife time.Duration
}

func (t tuning) withDefaults() tuning {
	return tuning{
		failures: cmp.Or(t.failures, breakerFailures), pause: cmp.Or(t.pause, breakerPause),
		tell:    cmp.Or(t.tell, tellAfter),
		entries: cmp.Or(t.entries, localEntries), halfLife: cmp.Or(t.halfLife, karmaHalfLife),
	}
}

// Validate returns all fields that are wrong as mail.Faults, or nil. The error does not contain the password of a URL.
func (c Config) Validate() error {
	var wrong mail.Faults
	o, err := c.options()
	if err != nil {
		wrong = append(wrong, err)
	}
	wrong.AddIf(strings.ContainsAny(c.Prefix, "{}"), "prefix", "has a brace")
	wrong.AddIf(c.Timeout != 0 && (c.Timeout < time.Millisecond || c.Timeout > 10*time.Second), "timeout",
		"is not between 1ms and 10s")
	wrong.AddIf(c.Wait < 0 || c.Wait > maxWait, "wait", "is not between 0 and 16")
	wrong.AddIf(c.Wait > 0 && c.URL == "", "wait", "needs a url")
	wrong.AddIf(c.Wait > 0 && o != nil && clustered(o), "wait", "is not possible with a Redis Cluster")
	return wrong.Err()
}

// withDefaults returns c with its zero fields set.
func (c Config) withDefaults() Config {
	c.tune = c.tune.withDefaults()
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	if c.Nodes == nil {
		c.Nodes = func() int { return 1 }
	}
	if c.Emit == nil {
		c.Emit = func(mail.Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// options returns the options of the Redis client, nil without a URL. With the library's defaults it would wait seconds
// for a dead server, try four times and dial five times for each try.
func (c Config) options() (*redis.UniversalOptions, *mail.FieldError) {
	if c.URL == "" {
		return nil, nil
	}
	o := &redis.UniversalOptions{
		DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolTimeout: c.Timeout * 2 / 5, PoolSize: maxConnections,
		// A call and its answer have some hundred octets each. A second pool for pipelines would double the
		// connections.
		ReadBufferSize: 4096, WriteBufferSize: 4096, PipelinePoolSize: -1,
		// Protocol 2 has no push messages, and DisableIdentity saves a command on each new connection.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if reason := c.locate(o); reason != "" {
		return nil, &mail.FieldError{Field: "url", Reason: reason}
	}
	return o, nil
}

// locate sets the fields of o that the URL determines. It returns the reason why the URL is wrong, or "".
func (c Config) locate(o *redis.UniversalOptions) (wrong string) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil: // the text of err contains the URL with its password
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

// locateDatabase sets the number of the database; see locate.
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

// clustered reports whether o is for a Redis Cluster, by the library's rule.
func clustered(o *redis.UniversalOptions) bool {
	return o.MasterName == "" && (len(o.Addrs) > 1 || o.IsClusterMode)
}
