package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/submission"
)

// furtherConfigs stand behind rightLines and are refused, as wrongConfigs.
var furtherConfigs = []wrongConfig{
	// Numbers, units and times.
	{"an endless number", "score: {defer: inf}\n", "5:16", "is not a number"},
	{"a share that is none", "telemetry: {sample: .nan}\n", "5:21", "is not a number"},
	{"a share below zero", "telemetry: {sample: -0.1}\n", "5:21", "is not between 0 and 1"},
	{"a number that begins with a zero", "limits: {connections: 010}\n", "5:23", "begins with a zero: write 10"},
	{"a time of zero in a rate", "score: {rates: {client: 5/0s}}\n", "5:25", "the time behind the slash is above zero"},
	{"a negative time in a rate", "score: {rates: {client: 5/-1m}}\n", "5:25",
		"the time behind the slash is above zero"},
	{"a rate of a year", "score: {rates: {client: 1/24000h}}\n", "5:25", "at most 31 days"},
	{"no time for the score", "score: {deadline: 0s}\n", "5:19", "is zero: no signal could come in"},
	{"no time for Redis", "redis: {url: \"redis://h\", timeout: 0s}\n", "5:36", "is zero"},
	{"a unit in capitals", "drain: 30S\n", "5:8", "write 30s"},
	{"a size in bits", "limits: {message_size: 50Mbit}\n", "5:24", "write 50MiB or 50MB"},

	// Keys.
	{"a key twice in a section", "log:\n  level: info\n  level: warn\n", "7:3", "stands on line 6 already"},
	{"a key twice, once in quotes", "\"drain\": 30s\ndrain: 40s\n", "6:1", "stands on line 5 already"},
	{"another file", "include: more.yaml\n", "5:1", "no such key"},
	{"a key of YAML that merges", "<<: {drain: 30s}\n", "5:1", "no such key"},
	{"an element of nothing", "dns: {servers: [~]}\n", "5:17", "has no value"},

	// Addresses, names and networks.
	{"a name server that is many", "dns: {servers: [\"224.0.0.1:53\"]}\n", "5:17", "is no address of one server"},
	{"a name server twice", "dns: {servers: [\"[::1]:53\", \"[::1]:53\"]}\n", "5:29", "stands there twice"},
	{"a source twice", "egress: {source: [192.0.2.1, 192.0.2.1]}\n", "5:30", "stands there twice"},
	{"a source of another family", "egress: {source: [\"2001:db8::1\"], family: ipv4}\n", "5:19",
		"is not of the family ipv4"},
	{"a socket for an address", "admin: {addr: \"unix:/run/x.sock\"}\n", "5:15", "no socket stands here"},
	{"the name of a port", "admin: {addr: \":http\"}\n", "5:15", "a port is a number"},
	{"half of the Internet", "telemetry: {traceparent: [0.0.0.0/1]}\n", "5:27", "each client could name any trace"},
	{"an address for a zone", "score: {lists: [{zone: 127.0.0.1, weight: 5}]}\n", "5:24",
		"is an address, and a list has a zone"},
	{"a list twice, in another case",
		"score: {lists: [{zone: zen.example, weight: 5}, {zone: ZEN.example, weight: 3}]}\n", "5:56",
		"is a list already"},
	{"a collector at a port that is none", "telemetry: {otlp: \"http://h.example:99999\"}\n", "5:19",
		"a port from 1 to 65535"},
	{"a collector without a host", "telemetry: {otlp: \"http://:4318\"}\n", "5:19", "wants a host"},
	{"a path for gRPC", "telemetry: {otlp: \"http://h.example:4317/v1/traces\", protocol: grpc}\n", "5:19",
		"has a path, which is for protocol: http"},
	{"a Redis at a port that is none", "redis: {url: \"redis://h:99999\"}\n", "5:14", "no number from 1 to 65535"},
	{"a file for the log", "log: {output: /var/log/millrace.log}\n", "5:15", "is neither stderr nor unix:/path"},
	{"a name for syslog", "log: {output: \"udp:localhost:514\"}\n", "5:15", "names are not looked up"},
	{"one address for two", "cluster: {name: a, bind: \"10.0.0.1:7946\", peer: \"10.0.0.1:7946\", key_file: srs.key," +
		" tls: {ca: ca.pem, cert: a.pem, key: a.key}}\n", "5:49", "is listened on already, by cluster.bind"},

	// Files of another kind.
	{"the key and the certificate exchanged", "tls: {cert: key.pem, key: cert.pem}\n", "5:13",
		"holds a private key and no certificate"},
	{"a receiver on this machine",
		"events: {receivers: [{name: r, url: \"https://127.0.0.1/\", secret_file: secret}]}\n", "5:37",
		"is at 127.0.0.1, which is not public"},
	{"a receiver by the name of this machine",
		"events: {receivers: [{name: r, url: \"https://localhost:8443/\", secret_file: secret}]}\n", "5:37",
		"name it in events.allow_private"},
	{"a receiver in a network that is not listed", "events: {allow_private: [10.1.0.0/16], " +
		"receivers: [{name: r, url: \"https://10.2.0.1/\", secret_file: secret}]}\n", "5:67", "is at 10.2.0.1"},
	{"the configuration for a secret", "secret_file: millrace.yaml\n", "5:14", "is this file, which others read"},
	{"a name of two keys", "dkim: {relay: [{domain: a.example, selector: m1, key_file: r.pem}," +
		" {domain: a.example, selector: m1, key_file: d.pem}]}\n", "5:98", "m1._domainkey.a.example is the name of"},
}

// furtherFiles are complaints about other files than the configuration, as wrongFiles.
var furtherFiles = []wrongConfig{
	{"a certificate for a secret", "secret_file: cert.pem\n", "cert.pem:1:1", "this is a file in PEM"},
	{"a certificate for a token", "admin: {addr: \"127.0.0.1:0\", token_file: cert.pem}\n", "cert.pem:1:1",
		"this is a file in PEM"},
	{"a secret behind a byte order mark", "secret_file: marked\n", "marked:1:1", "a byte order mark stands in front"},
	{"a secret that is no text", "secret_file: cert.der\n", "cert.der:1:1", "this is no text"},
	{"a key for limits of Sites", "egress: {sites_file: key.pem}\n", "key.pem:2:1",
		"a line begins with site, limits or arc"},
	{"two reactions to one reply", "egress: {reactions_file: twice}\n", "twice:2:1", "is about the same replies"},
	{"a list that is no text of lines", "score: {allow_file: endless}\n", "endless:1:1", "longer than 64 KiB"},
	{"a tab behind a login", "egress: {credentials_file: tab}\n", "tab:1:1", "want user@host:port and a password"},
}

// furtherDoubts stand behind rightLines, are warned of and served.
var furtherDoubts = []wrongConfig{
	{"a client with more places than there are", "limits: {connections: 10, connections_per_client: 100}\n", "5:51",
		"one client can take all places"},
	{"all clients allowed", "score: {allow: [\"0.0.0.0/0 all\"]}\n", "5:17", "is about every client"},
	{"all names allowed", "score: {allow: [\"helo:* x\"]}\n", "5:17", "is about every client"},
	{"a client allowed and blocked", "score: {allow: [\"192.0.2.1 a\"], block: [\"192.0.2.1 b\"]}\n", "5:41",
		"is about the same clients as score.allow[0]"},
	{"an EHLO of one label", "egress: {helo: localhost}\n", "5:16", "has no dot"},
	{"the port of TLS for MX hosts", "egress: {port: 465}\n", "5:16", "TLS is spoken from the first octet"},
	{"an SRS domain that is the host", "srs: {domain: mx1.example.net, key_file: srs.key}\n", "5:15", "is hostname"},
	{"a drain of no time", "drain: 0s\n", "5:8", "cuts each message that is under way at SIGTERM"},
	{"a drain of a day", "drain: 24h\n", "5:8", "longer than systemd or Kubernetes waits"},
	{"sessions that are lent for long", "deadlines: {lend: 10m}\n", "5:19", "keeps a session at the next hop from all"},
	{"a commit of seconds", "deadlines: {data: 9s, write: 10s, commit: 20s}\n", "5:43", "comes a second time"},
	{"a deadline of a second", "deadlines: {rcpt: 2s}\n", "5:19", "merely busy are taken for dead"},
	{"a network with less than its client", "score: {rates: {client: 300/1m, network: 30/1m}}\n", "5:42",
		"is below score.rates.client: one address"},
	{"a network with fewer messages", "score: {rates: {messages: 2/1m, network_messages: 100/1h}}\n", "5:51",
		"is below score.rates.messages: one address"},
	{"a network with fewer refusals", "score: {rates: {refused: 300/10m, network_refused: 100/10m}}\n", "5:52",
		"is below score.rates.refused: one address"},
	{"a domain with less than a recipient", "score: {rates: {recipient: 100/1h, domain: 50/1h}}\n", "5:44",
		"is below score.rates.recipient: one recipient"},
	{"fewer recipients than messages", "score: {rates: {messages: 100/1h, recipients: 50/1h}}\n", "5:47",
		"is below score.rates.messages: a message has"},
	{"too many recipients", "limits: {recipients: 100000}\n", "5:22", "100000 in one transaction"},
	{"a message of a terabyte", "limits: {message_size: 100GiB}\n", "5:24", "100GiB in one message"},
	{"a budget beyond the machine", "limits: {hold_budget: 1048576GiB}\n", "5:23", "this machine has"},
	{"a network with fewer places than a client", "limits: {connections_per_network: {/24: 10}}\n", "5:41",
		"one address takes what its whole network has"},
	{"a client with more places than its network", "limits: {connections_per_client: 300}\n", "5:34",
		"connections_per_network./56, 200, which holds first"},
	{"the port of users for MX hosts", "egress: {port: 587}\n", "5:16", "at port 587 users log in"},
	{"a private address that is seen", "egress: {addresses: [10.0.0.7]}\n", "5:22", "no address that destinations see"},
	{"a source with a name of one label", "egress: {source: [192.0.2.7 mail]}\n", "5:19", "has no dot"},
	{"an address twice", "egress: {addresses: [192.0.2.7, \"2001:db8::7\", 192.0.2.7]}\n", "5:48",
		"192.0.2.7 stands there twice, first as entry 1"},
	{"a list twice", "dmarc: {lists: [lists.example, Lists.Example]}\n", "5:32", "twice, first as entry 1"},
	{"a sealer twice", "arc: {trust: [a.example, b.example, a.example]}\n", "5:37", "stands there twice"},
	{"a domain examined twice", "doctor: {domains: [a.example, a.example]}\n", "5:31", "stands there twice"},
	{"an open resolver and DNS lists",
		"dns: {servers: [\"8.8.8.8:53\"]}\nscore: {lists: [{zone: l.example, weight: 5}]}\n", "5:17",
		"DNS lists (score.lists) do not answer those who ask through 8.8.8.8:53"},
	{"a signed answer from afar", "dns: {servers: [\"9.9.9.9:53\"], trust_ad: true}\n", "5:17", "forges answers"},
	{"Redis on the Internet in clear", "redis: {url: \"redis://9.9.9.9:6379/0\"}\n", "5:14", "write rediss://"},
	{"an SRS domain of one label", "srs: {domain: srs, key_file: srs.key}\n", "5:15", "has no dot"},
}

// listenDoubts stand in place of the listener of rightLines, are warned of and served.
var listenDoubts = []wrongConfig{
	{"port 465 in clear", "{addr: \"127.0.0.1:465\"}", "3:17", "say tls: implicit"},
	{"port 25 with TLS", "{addr: \"127.0.0.1:25\", tls: implicit}", "3:38", "leave tls out for STARTTLS"},
	{"port 587 with TLS", "{addr: \":587\", tls: implicit, submission: true, users_file: users}", "3:30",
		"leave tls out for STARTTLS"},
	{"users at port 25", "{addr: \":25\", submission: true, users_file: users}", "3:36", "none of them logs in"},
	{"port 587 without users", "{addr: \":587\"}", "3:17", "submission: true"},
	{"a network twice", "{addr: \":2525\", relay: trusted, networks: [10.0.0.0/8, 10.0.0.0/8]}", "3:65",
		"stands there twice"},
	{"a proxy twice", "{addr: \":2525\", proxy_protocol: [10.0.0.1, 10.0.0.1]}", "3:53", "stands there twice"},
}

// TestCheck_ListenDoubts: listeners to which nothing comes are warned of, and the usual ones are not.
func TestCheck_ListenDoubts(t *testing.T) {
	dir := mistakeFiles(t)
	users := "alice " + submission.Hash("correct horse battery") + " alice@example.com\n"
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "millrace.yaml")
	check := func(listen string) string {
		t.Helper()
		text := strings.Replace(rightLines, "{addr: \"127.0.0.1:0\"}", listen, 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, said strings.Builder
		if code := Main([]string{"check", "-c", file}, nil, &out, &said); code != exitOK {
			t.Fatalf("exit code %d\n%s", code, said.String())
		}
		return said.String()
	}
	for _, tt := range listenDoubts {
		t.Run(tt.name, func(t *testing.T) {
			compareComplaints(t, check(tt.more), filepath.Join(dir, "millrace.yaml:"+tt.at), tt.words)
		})
	}
	said := check("{addr: \":25\"}, {addr: \":465\", tls: implicit, submission: true, users_file: users}, " +
		"{addr: \":587\", submission: true, users_file: users}, " +
		"{addr: \":2525\", relay: trusted, networks: [10.0.0.0/8]}")
	if strings.Contains(said, "listen[") && !strings.Contains(said, "self-signed") {
		t.Errorf("usual listeners are doubted:\n%s", said)
	}
}

// TestCheck_FurtherMistakes: these are refused or warned of as well, and two kinds of line ends and a byte order mark
// are none.
func TestCheck_FurtherMistakes(t *testing.T) {
	dir := mistakeFiles(t)
	for name, text := range map[string]string{
		"marked": "\ufeff0123456789abcdef0123456789abcdef\n", "tab": "relay@h.example:587\tsecret\n",
		"twice":   "450 4.7.1 * * -> suspend 5m\n450 4.7.1 * * -> nothing\n",
		"endless": strings.Repeat("x", 70000),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "millrace.yaml")
	check := func(t *testing.T, text string) (code int, complaints string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, said strings.Builder
		code = Main([]string{"check", "-c", file}, nil, &out, &said)
		return code, said.String()
	}
	for _, table := range []struct {
		cases []wrongConfig
		in    string
		code  int
	}{
		{furtherConfigs, "millrace.yaml:", exitError}, {furtherFiles, "", exitError},
		{furtherDoubts, "millrace.yaml:", exitOK},
	} {
		for _, tt := range table.cases {
			t.Run(tt.name, func(t *testing.T) {
				code, complaints := check(t, rightLines+tt.more)
				if code != table.code {
					t.Fatalf("exit code %d\n%s", code, complaints)
				}
				compareComplaints(t, complaints, filepath.Join(dir, table.in+tt.at), tt.words)
			})
		}
	}
	for name, text := range map[string]string{
		"a byte order mark": "\ufeff" + rightLines, "CRLF": strings.ReplaceAll(rightLines, "\n", "\r\n"),
	} {
		if code, complaints := check(t, text); code != exitOK {
			t.Errorf("%s: exit code %d\n%s", name, code, complaints)
		}
	}
}
