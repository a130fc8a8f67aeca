package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// everyKey is the example of the design document, plus the keys added since.
const everyKey = `
hostname: mx1.example.net
authserv_id: mx.example.net
postmaster: ops@elsewhere.example
listen:
  - {addr: "0.0.0.0:25", proxy_protocol: ["10.0.0.0/8"], xclient: ["127.0.0.1/32"]}
  - {addr: "0.0.0.0:2526", relay: trusted, networks: ["10.1.0.0/16", "192.0.2.0/24"], confirm_wide: false,
     client_ca: file, relay_via: "submission://u@smarthost.example"}
tls: {cert: file, key: file}
routes: file
state: state/
dns: {servers: ["127.0.0.1:53"], trust_ad: false}
egress:
  {port: 25, tls: opportunistic, helo: mx1.example.net, source: [], family: any, addresses: [192.0.2.7, "2001:db8::7"],
   allow_private: false, credentials_file: file, sites_file: file, reactions_file: file,
   certificates: [{host: smarthost.example, cert: file, key: file}]}
limits:
  {message_size: 50MiB, line: 1MiB, recipients: 100, messages: 0, fan_out: 20, fan_out_per_client: 100,
   connections: 20000, connections_per_client: 50,
   connections_per_network: {/24: 400, /56: 200, /48: 1000},
   hold_window: 256KiB, hold_budget: 512MiB, stream_floor: 64KiB}
deadlines: {rcpt: 60s, data: 60s, write: 120s, commit: 9m, lend: 5s}
drain: 30s
srs: {domain: srs.example.net, key_file: file}
arc: {domain: example.net, selector: m1, key_file: file}
dkim:
  {relay: [{domain: example.net, selector: m1, key_file: file}],
   domains: [{domain: example.com, selector: m1, key_file: file}]}
dmarc: {lists: [lists.example]}
score:
  {deadline: 1s, allow: ["198.51.100.0/24 for=score,dmarc a partner"],
   defer: 6, reject: 10, reject_at: connect, url: "https://mx.example.net/why",
   lists: [{zone: zen.example, weight: 10}, {zone: dnswl.example, weight: -5}],
   rates: {client: 300/1m, network: 3000/1m}}
redis: {url: "redis://127.0.0.1:6379/0"}
once: true
cluster:
  {name: a, bind: "10.0.0.1:7946", peer: "10.0.0.1:7947", join: ["10.0.0.2:7946"], key_file: file,
   tls: {ca: file, cert: file, key: file}}
secret_file: file
admin: {addr: "127.0.0.1:8025", health: ":8026", tls_addr: ":8444", token_file: file}
public: {addr: "0.0.0.0:8443", url: "https://mx.example.net"}
telemetry: {otlp: "http://127.0.0.1:4318", sample: 0.01}
log: {level: info, addresses: plain, format: postfix, output: "unix:/run/millrace.log"}
events:
  {queue: 10000, memory: 16MiB, allow_private: ["10.0.0.0/8"],
   receivers: [{name: r, url: "http://10.0.0.1/", secret_file: file, types: [delivered], domains: [example.com],
     rules: [a@example.com]}]}
`

const smallest = "hostname: mx1.example.net\nlisten: [{addr: \"127.0.0.1:0\"}]\nroutes: file\n"

// configFile returns the name of a configuration in a folder that has a file named "file".
func configFile(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("domain example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "millrace.yaml")
}

func noEnv(string) (string, bool) { return "", false }

// TestParse_EveryKey: every key of the design parses, and its example has the default limits.
func TestParse_EveryKey(t *testing.T) {
	file := configFile(t)
	c, err := parse(file, []byte(everyKey), "", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Score.Rates.Network, (Rate{3000, time.Minute}); got != want {
		t.Errorf("rate: got %v, want %v", got, want)
	}
	if got, want := string(c.Routes), filepath.Join(filepath.Dir(file), "file"); got != want {
		t.Errorf("a relative file: got %s, want %s", got, want)
	}
	if got, want := c.Limits, defaults().Limits; got != want {
		t.Errorf("the design's limits are the defaults: got %v, want %v", got, want)
	}
	var warned []string
	for _, w := range c.Warnings() {
		warned = append(warned, w.Field)
	}
	if got, want := strings.Join(warned, " "), ""; got != want {
		t.Errorf("warnings: got %q, want %q", got, want)
	}
}

// TestParse_Defaults: the smallest configuration has the defaults.
func TestParse_Defaults(t *testing.T) {
	c, err := parse(configFile(t), []byte(smallest), "", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if c.AuthservID != "mx1.example.net" || c.Egress.Helo != "mx1.example.net" || c.Egress.Port != 25 ||
		c.Limits.MessageSize != 50<<20 || time.Duration(c.Deadlines.Commit) != 9*time.Minute || c.Log.Level != "info" {
		t.Errorf("got %+v", c)
	}
}

// TestParse_Wait: what waits for replicas is the ledger alone.
func TestParse_Wait(t *testing.T) {
	for once, want := range map[string]string{"true": "", "false": "redis.wait"} {
		text := smallest + "secret_file: file\nredis: {url: \"redis://h\", wait: 2}\nonce: " + once + "\n"
		c, err := parse(configFile(t), []byte(text), "", noEnv)
		if err != nil {
			t.Fatal(err)
		}
		warned := ""
		for _, w := range c.Warnings() {
			if w.Field == "redis.wait" {
				warned = w.Field
			}
		}
		if c.StoreConfig().Wait != 2 || warned != want {
			t.Errorf("once: %s: waits for %d, warned of %q", once, c.StoreConfig().Wait, warned)
		}
	}
}

// TestParse_Once: the ledger is off unless it is asked for, and its keys are warned of that end with the process.
func TestParse_Once(t *testing.T) {
	for _, tt := range []struct {
		yaml, want string
		on         bool
	}{
		{"", "", false},
		{"once: true\n", "once", true},
		{"once: true\nsecret_file: file\n", "", true},
	} {
		c, err := parse(configFile(t), []byte(smallest+tt.yaml), "", noEnv)
		if err != nil {
			t.Fatal(err)
		}
		warned := ""
		for _, w := range c.Warnings() {
			if w.Field == "once" {
				warned = w.Field
			}
		}
		if c.Once != tt.on || warned != tt.want {
			t.Errorf("%q: on is %v, warned of %q", tt.yaml, c.Once, warned)
		}
	}
	_, err := parse(configFile(t), []byte(smallest+"once: perhaps\n"), "", noEnv)
	if err == nil || !strings.Contains(err.Error(), ":4:") {
		t.Errorf("a word that is no answer: %v", err)
	}
}

// TestParse_Rates: the rates that hold by default are turned off by a word, in the section score or without it.
func TestParse_Rates(t *testing.T) {
	for _, tt := range []struct {
		yaml string
		word Rates
		none bool
	}{
		{"", "", false}, {"rates: none\n", "none", false}, {"score: {rates: none}\n", "", true},
		{"score: {rates: {refused: 5/1m, network_refused: 9/1m}}\n", "", false},
	} {
		c, err := Parse(configFile(t), []byte(smallest+tt.yaml), "")
		if err != nil {
			t.Fatal(err)
		}
		if c.Rates != tt.word || c.Score != nil && c.Score.Rates.None != tt.none {
			t.Errorf("%q: got %q, %+v", tt.yaml, c.Rates, c.Score)
		}
	}
}

// TestParse_Problems: complaints name the line.
func TestParse_Problems(t *testing.T) {
	for _, tt := range []struct{ name, yaml, want string }{
		{"an unknown key", "hostnam: a", "1: hostnam: no such key"},
		{"an unknown key in a section", "limits:\n  line: 1MiB\n  lines: 2",
			"3: limits.lines: no such key; did you mean line"},
		{"a key with a hyphen", "secret-file: a", "1: secret-file: no such key; did you mean secret_file"},
		{"an unknown key in a list", "listen:\n  - addr: a\n  - adr: b", "3: listen[1].adr: no such key"},
		{"a key twice", "routes: a\nlisten: []\nroutes: b", "3: routes: stands on line 1 already"},
		{"a key without a value", "tls:\nroutes: a", "1: tls: has no value"},
		{"broken YAML", "hostname: a\n\tlisten: b", "2: this line is indented with a tab"},
		{"an empty file", "", "1: the file is empty"},
		{"two documents", "hostname: a\n---\nhostname: b", "2: one document to a file"},
		{"a list where a value stands", "hostname: [a]", "1: hostname: want one value"},
		{"a value where a list stands", "listen: a", "1: listen: want a list"},
		{"a value where a section stands", "limits: 5", "1: limits: want keys and values"},
		{"a bad size", "limits:\n  line: 1 parsec", `2: limits.line: "1 parsec" is not a size`},
		{"a size over all bounds", "limits:\n  line: 99999999999GiB", `is not a size`},
		{"a bad duration", "drain: 30", `1: drain: "30" is not a duration`},
		{"a bad rate", "score: {rates: {client: 300}}", `"300" is not a rate`},
		{"a word for rates", "rates: some", `1: rates: "some" is not none; a rate is set in score.rates`},
		{"rates in place of the word", "rates: {refused: 5/1m}", "1: rates: want one value"},
		{"a word for the rates of the score", "score: {rates: some}", `"some" is neither none nor keys and values`},
		{"a list for the rates of the score", "score: {rates: [none]}", "score.rates: want one value"},
		{"an unknown rate", "score: {rates: {refusd: 1/1m}}", "score.rates.refusd: no such key; did you mean refused"},
		{"a bad bool", "dns: {trust_ad: yes}", `"yes" is neither true nor false`},
		{"a bad number", "egress: {port: x}", `egress.port: "x" is not a whole number`},
		{"a network with host bits", "listen:\n - {addr: \":25\", xclient: [10.0.0.1/8]}", `did you mean 10.0.0.0/8`},
		{"an unset variable", "hostname: a\nredis:\n  url: ${NOWHERE}", "3: redis.url: the environment has no NOWHERE"},

		{"a missing hostname", "routes: file\nlisten: [{addr: \":0\"}]", "1: hostname: needs the name"},
		{"no listener", "hostname: a.example\nroutes: file", "1: listen: is required"},
		{"a file that is not there", smallest + "tls: {cert: nowhere.pem, key: file}", "4: tls.cert: there is no file"},
		{
			"submission without users",
			"hostname: a.example\nroutes: file\nlisten:\n  - addr: \":465\"\n    submission: true",
			"4: listen[0].users_file: is required",
		},
		{
			"users that are not there", "listen:\n - {addr: \":465\", submission: true, users_file: nowhere}",
			"2: listen[0].users_file: there is no file",
		},
		{
			"users of a listener of hosts", "listen:\n - {addr: \":25\", users_file: file}",
			"2: listen[0].users_file: belongs to a listener with submission: true",
		},
		{
			"users and trust", "listen:\n - {addr: \":465\", submission: true, users_file: file, relay: trusted, " +
				"networks: [10.0.0.0/8]}",
			"2: listen[0].relay: a listener with submission: true is for users",
		},
		{
			"networks of users",
			"listen:\n - {addr: \":465\", submission: true, users_file: file, networks: [10.0.0.0/8]}",
			"2: listen[0].networks: belongs to",
		},
		{"rates of no users", smallest + "submission: {messages: 5/1h}", "submission: no entry of listen"},
		{"a rate for years", smallest + "submission: {recipients: 5/9999h}", "submission.recipients: needs a time"},
		{"years of suppression", smallest + "submission: {suppress: 721h}", "submission.suppress: is longer than"},
		{"an unknown key of submission", "submission: {recipient: 5/1h}", "no such key; did you mean recipients"},
		{
			"the same address twice", "listen:\n - addr: \":25\"\n - addr: \":25\"",
			"3: listen[1].addr: :25 is listened on already",
		},
		{"a bad address", "listen:\n - addr: mail", `2: listen[0].addr: "mail" is not an address and a port`},
		{
			"trusted without networks", "listen:\n - {addr: \":25\", relay: trusted}",
			"2: listen[0].networks: or client_ca is required",
		},
		{
			"networks without trust", "listen:\n - {addr: \":25\", networks: [10.0.0.0/8]}",
			"2: listen[0].networks: belongs to",
		},
		{
			"a next hop of a listener that trusts no client", "listen:\n - {addr: \":25\", relay_via: \"smtp://h\"}",
			"2: listen[0].relay_via: belongs to",
		},
		{
			"a next hop of a listener that is none",
			"listen:\n - {addr: \":25\", relay: trusted, networks: [10.0.0.0/8], relay_via: smart.example}",
			`listen[0].relay_via: "smart.example": a host is written smtp://smart.example`,
		},
		{
			"a next hop of a listener that is this node",
			"listen:\n - {addr: \":25\", relay: trusted, networks: [10.0.0.0/8], relay_via: \"smtp://127.0.0.1\"}",
			"2: listen[0].relay_via: the next hop smtp://127.0.0.1 is this node itself",
		},
		{
			"a source that is none", "egress: {source: [\"192.0.2.1 a.example b\"]}",
			`egress.source[0]: "192.0.2.1 a.example b" is not an IP address, and a name in EHLO behind it`,
		},
		{
			"a source with a name that is none", "egress: {source: [\"192.0.2.1 a..example\"]}",
			"egress.source[0]: the name behind the address is neither a domain name nor an address literal",
		},
		{
			"a trusted everything",
			"listen:\n - addr: \":25\"\n   relay: trusted\n   networks: [0.0.0.0/0]\n   confirm_wide: true",
			"4: listen[0].networks[0]: would make an open relay",
		},
		{
			"a trusted everything in two halves",
			"listen:\n - {addr: \":25\", relay: trusted, networks: [\"0.0.0.0/1\", \"128.0.0.0/1\"], confirm_wide: " +
				"true}", "would make an open relay",
		},
		{
			"a trusted quarter and more",
			"listen:\n - {addr: \":25\", relay: trusted, confirm_wide: true, networks: [" + eighths(65) + "]}",
			"together hold a quarter of the Internet",
		},
		{
			"all of IPv4 behind a translator",
			"listen:\n - {addr: \":25\", relay: trusted, networks: [\"64:ff9b::/96\"], confirm_wide: true}",
			"would make an open relay",
		},
		{
			"a wide network behind a translator",
			"listen:\n - {addr: \":25\", relay: trusted, networks: [\"64:ff9b::c600:0/111\"]}",
			"routed globally and wide",
		},
		{
			"a trusted everything in IPv6", "listen:\n - {addr: \":25\", relay: trusted, networks: [\"::/0\"]}",
			"would make an open relay",
		},
		{
			"a trusted network over the proxy's",
			"listen:\n - {addr: \":25\", relay: trusted, networks: [10.1.0.0/16], proxy_protocol: [10.0.0.0/8]}",
			"10.1.0.0/16 overlaps 10.0.0.0/8",
		},
		{
			"a trusted wide network", "listen:\n - {addr: \":25\", relay: trusted, networks: [203.0.0.0/15]}",
			"is routed globally and wide",
		},
		{
			"a trusted wide network that is private in part",
			"listen:\n - {addr: \":25\", relay: trusted, networks: [10.0.0.0/7]}", "would make an open relay",
		},
		{
			"a trusted wide IPv6 network", "listen:\n - {addr: \":25\", relay: trusted, networks: [\"2001:db8::/31\"]}",
			"is routed globally and wide",
		},
		{
			"a PROXY header from anybody", "listen:\n - {addr: \":25\", proxy_protocol: [0.0.0.0/0]}",
			"each client that connects could say any address",
		},
		{
			"an RCPT deadline beyond the client's", "deadlines:\n  rcpt: 5m",
			"2: deadlines.rcpt: 5m is too near the client's own deadline",
		},
		{
			"a commit deadline beyond the client's", "deadlines:\n  commit: 10m",
			"2: deadlines.commit: 10m is too near",
		},
		{
			"a DATA deadline beyond the commit's", "deadlines:\n  data: 90s\n  commit: 80s",
			"deadlines.data: 1m30s is not inside deadlines.commit",
		},
		{
			"a score that is awaited longer than RCPT", "score: {deadline: 61s}",
			"score.deadline: 1m1s is not inside deadlines.rcpt",
		},
		{"no connections of a network", "limits:\n  connections_per_network: {/56: 0}",
			"2: limits.connections_per_network./56: is below 1"},
		{"a network that has less than a part of it", "limits:\n  connections_per_network: {/48: 100}",
			"2: limits.connections_per_network./48: is below that of a /56 inside it"},
		{"a network of another length", "limits:\n  connections_per_network: {/64: 10}",
			"2: limits.connections_per_network./64: no such key; there are /24, /56, /48"},
		{"less than no messages", "limits:\n  messages: -1", "2: limits.messages: is not between 0 and 10000"},
		{"more messages than are counted", "limits:\n  messages: 10001", "2: limits.messages: is not between 0 and"},
		{"no next hop at all", "limits:\n  fan_out: 0", "2: limits.fan_out: is not between 1 and 100"},
		{"more next hops than targets", "limits:\n  fan_out: 101", "2: limits.fan_out: is not between 1 and 100"},
		{"a client's part is smaller than a message's", "limits:\n  fan_out: 10\n  fan_out_per_client: 9",
			"3: limits.fan_out_per_client: is below limits.fan_out"},
		{"a small recipient limit", "limits:\n  recipients: 10", "2: limits.recipients: is below the 100"},
		{
			"a hold budget under the window", "limits:\n  hold_budget: 64KiB",
			"2: limits.hold_budget: is below limits.hold_window",
		},
		{
			"an address that is none", "egress:\n  addresses:\n    - mx1.example.net",
			`egress.addresses[0]: "mx1.example.net" is not an IP address`,
		},
		{"a list that is no domain", "dmarc:\n  lists: [a.example, not_a@domain]",
			`2: dmarc.lists[1]: "not_a@domain" is not a domain name`},
		{"an entry for nothing that there is", "score:\n  allow:\n    - 192.0.2.1 for=spf",
			"3: score.allow[0]: has for= with something else"},
		{"an entry that blocks for the score", smallest + "score: {block: [192.0.2.1 for=score]}",
			"score.block[0].for: is for entries that allow"},
		{
			"a floor below any link", "limits:\n  stream_floor: 600",
			"2: limits.stream_floor: is not between 1000 octets and 10MiB a second",
		},
		{"a family that is none", "egress: {family: ipv5}", `"ipv5" is none of any, ipv4, ipv6, prefer-ipv4`},
		{"a TLS policy that is none", "egress: {tls: maybe}", `"maybe" is none of none, opportunistic, required`},
		{
			"a Redis URL is not repeated", "redis: {url: \"http://user:hunter2@h\"}",
			"redis.url: does not begin with redis:// or rediss://",
		},
		{
			"replicas of a Redis Cluster", "redis:\n  url: redis://h?cluster=true\n  wait: 1",
			"3: redis.wait: is not possible with a Redis Cluster",
		},
		{"a level that is none", "log: {level: loud}", `"loud" is none of debug`},
		{"a form of the log that is none", "log: {format: syslog}", `"syslog" is none of json, postfix`},
		{
			"a log that goes to a name", "log: {output: \"udp:localhost:514\"}",
			"is not udp: and an address with a port, such as udp:127.0.0.1:514: names are not looked",
		},
		{"a log that goes to no port", "log: {output: \"udp:127.0.0.1\"}", "127.0.0.1:514: the port is missing"},
		{
			"a log that goes to a socket somewhere", "log: {output: \"unix:dev/log\"}",
			`"unix:dev/log" is not unix: and the whole path of a socket`,
		},
		{
			"a log that goes to a file", "log: {output: /var/log/mail.log}",
			`"/var/log/mail.log" is neither stderr nor unix:/path nor udp:address:port`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(configFile(t), []byte(tt.yaml), "", noEnv)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want Problems", err)
			}
			got := columns.ReplaceAllString(err.Error(), ":$1: ")
			if !strings.Contains(got, tt.want) {
				t.Errorf("got\n%v\nwant %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a password is repeated")
			}
		})
	}
}

// columns matches the place of a complaint.
var columns = regexp.MustCompile(`:(\d+):\d+: `)

// TestParse_Environment: the value of a variable is never parsed as YAML.
func TestParse_Environment(t *testing.T) {
	env := func(name string) (string, bool) {
		return map[string]string{"HOST": "mx9", "EVIL": "a: b\nroutes: c"}[name], true
	}
	c, err := parse(configFile(t),
		[]byte("hostname: ${HOST}.example.net\nlisten: [{addr: \"127.0.0.1:0\"}]\nroutes: file\n"), "", env)
	if err != nil || c.Hostname != "mx9.example.net" {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err = parse(configFile(t), []byte("hostname: ${EVIL}\nlisten: [{addr: \"127.0.0.1:0\"}]\nroutes: file\n"), "",
		env); err == nil {
		t.Error("a variable with a line break became more than a value")
	}
}

// TestParse_ALabels: U-labels are taken for every domain name, and are A-labels from then on.
func TestParse_ALabels(t *testing.T) {
	c, err := parse(configFile(t), []byte("hostname: mx.Bücher.example\nlisten: [{addr: \":0\"}]\nroutes: file\n"+
		"srs: {domain: srs.bücher.example, key_file: file}\negress: {helo: aus.bücher.example}\n"+
		"arc: {trust: [straße.example]}\ndmarc: {lists: [liste.bücher.example, lists.example]}\n"+
		"dkim: {relay: [{domain: bücher.example, selector: größe, key_file: file}]}\n"), "", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{
		c.Hostname, c.AuthservID, c.SRS.Domain, c.Egress.Helo, c.ARC.Trust[0], c.DMARC.Lists[0], c.DMARC.Lists[1],
		c.DKIM.Relay[0].Domain, c.DKIM.Relay[0].Selector,
	}
	want := []string{
		"mx.xn--bcher-kva.example", "mx.xn--bcher-kva.example", "srs.xn--bcher-kva.example",
		"aus.xn--bcher-kva.example", "xn--strae-oqa.example", "liste.xn--bcher-kva.example", "lists.example",
		"xn--bcher-kva.example", "xn--gre-6ka8i",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestParse_LineEnds: files of DOS, with a byte order mark and in UTF-16 are read like others.
func TestParse_LineEnds(t *testing.T) {
	wide := "\xff\xfe"
	for _, c := range []byte(smallest) {
		wide += string([]byte{c, 0})
	}
	for _, text := range []string{"\ufeff" + smallest, strings.ReplaceAll(smallest, "\n", "\r\n"), wide} {
		if _, err := parse(configFile(t), []byte(text), "", noEnv); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestValidate_TrustedNetworks: these trusted networks are allowed.
func TestValidate_TrustedNetworks(t *testing.T) {
	for _, networks := range []string{
		"[10.0.0.0/8]", "[192.168.0.0/16, 127.0.0.1]", "[203.0.0.0/16]", "[\"fc00::/7\"]",
		"[192.0.0.0/12], confirm_wide: true",
	} {
		yaml := "hostname: a.example\nroutes: file\nlisten: [{addr: \":0\", relay: trusted, networks: " + networks +
			"}]"
		if _, err := parse(configFile(t), []byte(yaml), "", noEnv); err != nil {
			t.Errorf("%s: %v", networks, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(everyKey)
	f.Add(smallest)
	f.Add("a: &a [*a]")
	f.Add("listen: [{addr: ${X}}]\n<<: {a: b}")
	for _, broken := range []string{
		"a:\n\tb: c", "a: \"b", "a: 'b'c", "a: [b}", "{a: [b", "a: [::]:1", "a b", "a=b", "- a\nb", "a: b\n  c: d",
		"a: *", "a: %",
		"]", "a: \"\\", "a: \xff", "[a]\nb = c", "\"a\" b", "'", "a:\n- b\n c", "-", "- - a: [\n]]", "a: {b: :}",
	} {
		f.Add(broken)
	}
	f.Fuzz(func(t *testing.T, yaml string) {
		c, err := parse("/nonexistent/x.yaml", []byte(yaml), "", noEnv)
		if (c == nil) == (err == nil) {
			t.Errorf("got %v and %v", c, err)
		}
		var problems Problems
		if err != nil && !errors.As(err, &problems) {
			t.Errorf("an error without a place: %v", err)
		}
	})
}

// eighths returns n networks of /8.
func eighths(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("%d.0.0.0/8", i+11))
	}
	return strings.Join(all, ", ")
}
