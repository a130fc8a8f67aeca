package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/ascii"
	"github.com/millrace/millrace/router/rules"
)

// A Config is the configuration of one node: the YAML file, decoded. Load and Parse return one with the defaults set
// and everything validated. docs/configuration.md describes each key.
type Config struct {
	Hostname   string      `yaml:"hostname"`
	AuthservID string      `yaml:"authserv_id"`
	Postmaster string      `yaml:"postmaster"`
	Listen     []Listener  `yaml:"listen"`
	TLS        *TLS        `yaml:"tls"`
	Routes     File        `yaml:"routes"`
	State      File        `yaml:"state"`
	DNS        DNS         `yaml:"dns"`
	Egress     Egress      `yaml:"egress"`
	Limits     Limits      `yaml:"limits"`
	Deadlines  Deadlines   `yaml:"deadlines"`
	Drain      Duration    `yaml:"drain"`
	SRS        *SRS        `yaml:"srs"`
	ARC        *ARC        `yaml:"arc"`
	DKIM       *DKIM       `yaml:"dkim"`
	DMARC      DMARC       `yaml:"dmarc"`
	Filters    []Filter    `yaml:"filters"`
	Score      *Score      `yaml:"score"`
	Submission *Submission `yaml:"submission"`
	Rates      Rates       `yaml:"rates"`
	Redis      *Redis      `yaml:"redis"`
	Once       bool        `yaml:"once"`
	Cluster    *Cluster    `yaml:"cluster"`
	SecretFile File        `yaml:"secret_file"`
	Admin      *Admin      `yaml:"admin"`
	Public     *Public     `yaml:"public"`
	Telemetry  Telemetry   `yaml:"telemetry"`
	Log        Log         `yaml:"log"`
	Events     *Events     `yaml:"events"`
	Hooks      *Hooks      `yaml:"hooks"`
	Doctor     *Doctor     `yaml:"doctor"`
	Activity   *Activity   `yaml:"activity"`
	Reports    *Reports    `yaml:"reports"`

	// Rules is the text of the rules. Unless it is empty, it replaces the files of Routes, and Routes is its name.
	Rules string `yaml:"-"`

	locations
	loaded bool // by Load, so that the file can be read again
}

// A Listener is an address that accepts mail.
type Listener struct {
	Addr          string    `yaml:"addr"`
	ProxyProtocol []Network `yaml:"proxy_protocol"`
	Xclient       []Network `yaml:"xclient"`
	Relay         string    `yaml:"relay"` // "" or "trusted"
	RelayVia      string    `yaml:"relay_via"`
	Networks      []Network `yaml:"networks"`
	ConfirmWide   bool      `yaml:"confirm_wide"`
	Submission    bool      `yaml:"submission"`
	TLS           string    `yaml:"tls"` // "" is STARTTLS, or "implicit"
	UsersFile     File      `yaml:"users_file"`
	ClientCA      File      `yaml:"client_ca"`
}

// Submission says what users may send. Zero values mean the defaults of package submission.
type Submission struct {
	Messages   Rate     `yaml:"messages"`
	Recipients Rate     `yaml:"recipients"`
	Suppress   Duration `yaml:"suppress"`
}

// TLS names the files of the certificate that the node presents to SMTP clients.
type TLS struct {
	Cert File `yaml:"cert"`
	Key  File `yaml:"key"`
}

// DNS names the name servers that answer all queries of the node.
type DNS struct {
	Servers []string `yaml:"servers"`
	TrustAD bool     `yaml:"trust_ad"`
}

// Egress describes how mail is sent.
type Egress struct {
	Port            int      `yaml:"port"`
	TLS             string   `yaml:"tls"`     // "none", "opportunistic" or "required"
	TLSMin          string   `yaml:"tls_min"` // "1.0" to "1.3"; "" for what suits each session
	CA              File     `yaml:"ca"`
	MTASTS          bool     `yaml:"mta_sts"`
	Helo            string   `yaml:"helo"`
	Source          []Source `yaml:"source"`
	Family          string   `yaml:"family"` // "any", "ipv4", "ipv6" or "prefer-ipv4"
	Addresses       []string `yaml:"addresses"`
	AllowPrivate    bool     `yaml:"allow_private"`
	CredentialsFile File     `yaml:"credentials_file"`
	SitesFile       File     `yaml:"sites_file"`
	ReactionsFile   File     `yaml:"reactions_file"`

	Certificates []HostCertificate `yaml:"certificates"`
}

// A HostCertificate is what we show to next hops at a host, and its key; and the authorities that sign what they show.
type HostCertificate struct {
	Host string `yaml:"host"`
	Cert File   `yaml:"cert"`
	Key  File   `yaml:"key"`
	CA   File   `yaml:"ca"`
}

// Limits bound what a client, a message and the node may use.
type Limits struct {
	MessageSize           Size          `yaml:"message_size"`
	Line                  Size          `yaml:"line"`
	Recipients            int           `yaml:"recipients"`
	Messages              int           `yaml:"messages"` // of one connection; 0 disables the limit
	FanOut                int           `yaml:"fan_out"`
	FanOutPerClient       int           `yaml:"fan_out_per_client"`
	Connections           int           `yaml:"connections"`
	ConnectionsPerClient  int           `yaml:"connections_per_client"`
	ConnectionsPerNetwork NetworkLimits `yaml:"connections_per_network"`
	HoldWindow            Size          `yaml:"hold_window"`
	HoldBudget            Size          `yaml:"hold_budget"`
	StreamFloor           Size          `yaml:"stream_floor"` // octets per second
}

// NetworkLimits bound the connections of the clients of one network.
type NetworkLimits struct {
	Net24 int `yaml:"/24"` // of IPv4
	Net56 int `yaml:"/56"` // of IPv6
	Net48 int `yaml:"/48"` // of IPv6
}

// Deadlines bound the stages of a message. Each has to end before the client's own of RFC 5321 section 4.5.3.2.
type Deadlines struct {
	Rcpt   Duration `yaml:"rcpt"`
	Data   Duration `yaml:"data"`
	Write  Duration `yaml:"write"`
	Commit Duration `yaml:"commit"`
	Lend   Duration `yaml:"lend"`
}

// SRS is the domain that reverse-paths are rewritten to.
type SRS struct {
	Domain  string `yaml:"domain"`
	KeyFile File   `yaml:"key_file"`
}

// A Signer is a domain, a selector and a private key.
type Signer struct {
	Domain   string `yaml:"domain"`
	Selector string `yaml:"selector"`
	KeyFile  File   `yaml:"key_file"`
}

// ARC is the key that seals ARC sets, and the domains whose sets are trusted. Without a KeyFile the node only trusts.
type ARC struct {
	Domain   string   `yaml:"domain"`
	Selector string   `yaml:"selector"`
	KeyFile  File     `yaml:"key_file"`
	Trust    []string `yaml:"trust"`
}

// DKIM lists the keys that sign messages: Relay signs every message, Domains those of their domain. Unpublished says
// what becomes of keys whose record is not in the DNS.
type DKIM struct {
	Relay       []Signer `yaml:"relay"`
	Domains     []Signer `yaml:"domains"`
	Unpublished string   `yaml:"unpublished"` // "wait" or "sign"
}

// DMARC lists the domains of mailing lists whose mail is not refused for DMARC.
type DMARC struct {
	Lists []string `yaml:"lists"`
}

// Score describes how clients are judged before RCPT.
type Score struct {
	Deadline Duration           `yaml:"deadline"`
	Defer    float64            `yaml:"defer"`
	Reject   float64            `yaml:"reject"`
	RejectAt string             `yaml:"reject_at"` // "", "connect" or "rcpt"
	URL      string             `yaml:"url"`
	Greet    Duration           `yaml:"greet"`
	Tarpit   Duration           `yaml:"tarpit"`
	Greylist *Greylist          `yaml:"greylist"`
	Lists    []List             `yaml:"lists"`
	Rates    ScoreRates         `yaml:"rates"`
	Weights  map[string]float64 `yaml:"weights"`
	Karma    *Karma             `yaml:"karma"`
	Private  bool               `yaml:"private"`

	Allow     []string `yaml:"allow"`
	AllowFile File     `yaml:"allow_file"`
	Block     []string `yaml:"block"`
	BlockFile File     `yaml:"block_file"`
}

// Karma says which destinations teach the node: those that accepted at least Volume messages from at least Networks
// client networks in a week. Zero values mean the defaults of package karma.
type Karma struct {
	Volume   int `yaml:"volume"`
	Networks int `yaml:"networks"`
}

// A Greylist is the band of scores whose clients are asked to try again, and how long the node remembers them.
type Greylist struct {
	From   float64  `yaml:"from"`
	To     float64  `yaml:"to"`
	Delay  Duration `yaml:"delay"`
	Window Duration `yaml:"window"`
	Keep   Duration `yaml:"keep"`
}

// A List is a DNS list and the weight of being listed in it.
type List struct {
	Zone      string             `yaml:"zone"`
	Name      string             `yaml:"name"`
	Weight    float64            `yaml:"weight"`
	Of        string             `yaml:"of"` // "", "address" or "domain"
	Codes     map[string]float64 `yaml:"codes"`
	Unchecked bool               `yaml:"unchecked"`
}

// ScoreRates bound connections, messages and recipients. A zero Rate is no limit, but Refused and NetworkRefused have
// defaults unless None is set.
type ScoreRates struct {
	None            bool `yaml:"-"`                // the section is the word "none"
	NetworkRefused  Rate `yaml:"network_refused"`  // as Refused, of a /24 or /48
	Client          Rate `yaml:"client"`           // connections of an address
	Network         Rate `yaml:"network"`          // connections of a /24 or /64
	Messages        Rate `yaml:"messages"`         // of an address
	NetworkMessages Rate `yaml:"network_messages"` // of a /24 or /64
	Recipients      Rate `yaml:"recipients"`       // of an address
	Refused         Rate `yaml:"refused"`          // recipients of an address that were refused for good
	Sender          Rate `yaml:"sender"`           // messages of a reverse-path's domain
	Recipient       Rate `yaml:"recipient"`        // messages to one recipient
	Domain          Rate `yaml:"domain"`           // messages to one hosted domain
}

// Redis names the database that holds the state the nodes share.
type Redis struct {
	URL     string   `yaml:"url"`
	Prefix  string   `yaml:"prefix"`
	Timeout Duration `yaml:"timeout"`
	Wait    int      `yaml:"wait"`
}

// Cluster describes how nodes find and trust each other.
type Cluster struct {
	Name      string     `yaml:"name"`
	Bind      string     `yaml:"bind"`
	Advertise string     `yaml:"advertise"`
	Peer      string     `yaml:"peer"`
	Join      []string   `yaml:"join"`
	Members   []string   `yaml:"members"`
	Weight    float64    `yaml:"weight"`
	KeyFile   File       `yaml:"key_file"`
	TLS       ClusterTLS `yaml:"tls"`
}

// ClusterTLS names the certificate of this node and the authority that signed the certificates of all nodes.
type ClusterTLS struct {
	CA   File `yaml:"ca"`
	Cert File `yaml:"cert"`
	Key  File `yaml:"key"`
}

// Admin is the address of the HTTP server for administrators, that where it speaks TLS, and that for balancers.
type Admin struct {
	Addr      string `yaml:"addr"`
	Health    string `yaml:"health"`
	TLSAddr   string `yaml:"tls_addr"`
	TokenFile File   `yaml:"token_file"`
}

// Telemetry says where traces are sent and which of them are kept.
type Telemetry struct {
	OTLP        string    `yaml:"otlp"`
	Protocol    string    `yaml:"protocol"` // "http" or "grpc"
	Sample      float64   `yaml:"sample"`
	Slow        Duration  `yaml:"slow"`
	Addresses   string    `yaml:"addresses"`   // "hash" or "drop"
	Traceparent []Network `yaml:"traceparent"` // clients that may say what their mail is a part of
}

// Log says which events are logged, where and in which form, and how addresses are written.
type Log struct {
	Level     string `yaml:"level"`     // "debug", "info", "warn" or "error"
	Addresses string `yaml:"addresses"` // "plain" or "hash"
	Format    string `yaml:"format"`    // "json" or "postfix"
	Output    string `yaml:"output"`    // "stderr", "unix:" and a path, or "udp:" and an address with a port
}

// Syslog returns where the syslog daemon is that the log goes to, as net.Dial has it; network is "" for stderr.
func (l *Log) Syslog() (network, address string) {
	scheme, address, _ := strings.Cut(l.Output, ":")
	switch scheme {
	case "unix":
		return "unixgram", address
	case "udp":
		return "udp", address
	}
	return "", ""
}

// Doctor says how often the DNS is examined, and for which domains; without any for all that are hosted.
type Doctor struct {
	Interval Duration `yaml:"interval"`
	Domains  []string `yaml:"domains"`
}

// defaults returns a Config with the values of absent keys.
func defaults() *Config {
	return &Config{
		Egress: Egress{Port: 25, TLS: "opportunistic", MTASTS: true, Family: "any"},
		Limits: Limits{
			MessageSize: 50 << 20, Line: 1 << 20, Recipients: 100, FanOut: 20, FanOutPerClient: 100,
			Connections: 20000, ConnectionsPerClient: 50,
			ConnectionsPerNetwork: NetworkLimits{Net24: 400, Net56: 200, Net48: 1000},
			HoldWindow:            256 << 10, HoldBudget: 512 << 20, StreamFloor: 64 << 10,
		},
		Deadlines: Deadlines{
			Rcpt: Duration(time.Minute), Data: Duration(time.Minute), Write: Duration(2 * time.Minute),
			Commit: Duration(9 * time.Minute), Lend: Duration(5 * time.Second),
		},
		Drain:     Duration(30 * time.Second),
		Telemetry: Telemetry{Protocol: "http", Sample: 0.01, Slow: Duration(10 * time.Second), Addresses: "hash"},
		Log:       Log{Level: "info", Addresses: "plain", Format: "json", Output: "stderr"},
	}
}

// Load reads and validates a configuration file. The error is Problems, all of them, or that of reading the file.
func Load(file string) (*Config, error) {
	c, err := Inspect(file)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Inspect is Load for one who wants all complaints at once: beside Problems it returns what can be had of the Config,
// for a look at the files that it names. That is nil if the file is no YAML or cannot be read.
func Inspect(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, Problems{{File: file, Message: FileReason(err), Cause: err}}
	}
	c, problems := inspect(file, data, "", os.LookupEnv)
	if c != nil {
		c.loaded = true
	}
	if len(problems) > 0 {
		return c, problems
	}
	return c, nil
}

// Digest returns what tells the text of the file that the configuration was read from from any other text.
func (c *Config) Digest() string { return hex.EncodeToString(c.digest[:]) }

// explainBudget is how long all look-ups of an explanation may take together.
const explainBudget = 30 * time.Second

// ExplainBudget returns how long an explanation may take, with or without sessions with next hops.
func (c *Config) ExplainBudget(connect bool) time.Duration {
	if connect {
		return explainBudget + time.Duration(c.Deadlines.Rcpt)
	}
	return explainBudget
}

// Source returns the name of the file that the configuration was read from.
func (c *Config) Source() string { return c.file }

// Parse validates a configuration that was read already. file is its name in complaints, and relative file names count
// from its folder. A text of rules that is not empty replaces the rules files, and the key routes is then its name. The
// error is Problems, all of them.
func Parse(file string, data []byte, ruleText string) (*Config, error) {
	return parse(file, data, ruleText, os.LookupEnv)
}

func parse(file string, data []byte, ruleText string, env func(string) (string, bool)) (*Config, error) {
	c, problems := inspect(file, data, ruleText, env)
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// inspect decodes and validates a file. What it returns has the defaults set. It is nil if the file is no YAML.
func inspect(file string, data []byte, ruleText string, env func(string) (string, bool)) (*Config, Problems) {
	d := decoder{locations: locations{file: file, digest: sha256.Sum256(data)}, dir: filepath.Dir(file), env: env}
	c := defaults()
	c.Rules = ruleText
	readable := d.decode(data, c)
	c.locations = d.locations
	if !readable {
		return nil, d.problems
	}
	c.useALabels()
	if c.AuthservID == "" {
		c.AuthservID = c.Hostname
	}
	if c.Egress.Helo == "" {
		c.Egress.Helo = c.Hostname
	}
	if s := c.Score; s != nil {
		if _, written := d.places["score.deadline"]; written && s.Deadline == 0 && !d.follows("score.deadline") {
			d.add("score.deadline", "is zero: no signal could come in")
		}
		setDefault(&s.Deadline, Duration(time.Second))
		setDefault(&s.Defer, 6)
		setDefault(&s.Reject, 10)
	}
	if c.Admin != nil && c.Admin.Addr == "" {
		c.Admin.Addr = "127.0.0.1:8025"
	}
	if c.Events != nil {
		c.Events.setDefaults()
	}
	if c.DKIM != nil {
		setDefault(&c.DKIM.Unpublished, "wait")
	}
	if c.Activity != nil {
		c.Activity.setDefaults(func(field string) bool { _, ok := d.places[field]; return ok })
	}
	if c.Hooks != nil {
		c.Hooks.setDefaults()
	}
	if c.Public != nil {
		c.Public.setDefaults(c.Hostname)
	}
	if c.Doctor != nil {
		setDefault(&c.Doctor.Interval, Duration(time.Hour))
	}
	problems := d.problems
	var more Problems
	if errors.As(c.Validate(), &more) {
		for _, p := range more {
			if !d.follows(p.Field) {
				problems = append(problems, p)
			}
		}
	}
	problems.sort()
	return c, problems
}

// useALabels writes all domain names as A-labels, which is how they are looked up and compared. What is no domain name
// stays for Validate.
func (c *Config) useALabels() {
	names := []*string{&c.Hostname, &c.AuthservID, &c.Egress.Helo}
	if c.SRS != nil {
		names = append(names, &c.SRS.Domain)
	}
	if c.ARC != nil {
		names = append(names, &c.ARC.Domain, &c.ARC.Selector)
		names = append(names, pointers(c.ARC.Trust)...)
	}
	if c.DKIM != nil {
		for _, signers := range [][]Signer{c.DKIM.Relay, c.DKIM.Domains} {
			for i := range signers {
				names = append(names, &signers[i].Domain, &signers[i].Selector)
			}
		}
	}
	names = append(names, pointers(c.DMARC.Lists)...)
	if c.Public != nil && c.Public.MTASTS != nil {
		names = append(names, pointers(c.Public.MTASTS.Domains)...)
		names = append(names, pointers(c.Public.MTASTS.MX)...)
	}
	if c.Doctor != nil {
		names = append(names, pointers(c.Doctor.Domains)...)
	}
	if c.Events != nil {
		for i := range c.Events.Receivers {
			names = append(names, pointers(c.Events.Receivers[i].Domains)...)
		}
	}
	for _, name := range names {
		if a, ok := rules.ALabels(*name); ok && !ascii.Is(*name) {
			*name = a
		}
	}
}

// pointers returns pointers to the elements of a list.
func pointers(list []string) (all []*string) {
	for i := range list {
		all = append(all, &list[i])
	}
	return all
}

// setDefault sets a field that is zero to value.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
