package command

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A wrongConfig is a configuration as people write it by mistake. More stands behind four lines that are right, or
// whole is the file. Want is what a line of the complaints begins with, behind the name of the file, and what it has to
// say.
type wrongConfig struct {
	name, more, at, words string
}

const rightLines = "hostname: mx1.example.net\npostmaster: ops@elsewhere.example\n" +
	"listen: [{addr: \"127.0.0.1:0\"}]\nroutes: routes.txt\n"

// wrongConfigs stand behind rightLines and are refused.
var wrongConfigs = []wrongConfig{
	// YAML.
	{"a tab at the start of a line", "limits:\n\tline: 1MiB\n", "6:1", "indented with a tab: write blanks"},
	{"no blank behind a colon", "drain:30s\n", "5:1", "a blank stands behind the colon, as in drain: value"},
	{"an equals sign", "drain = 30s\n", "5:1", "a colon and a blank part a key from its value, as in drain: value"},
	{"no colon", "drain 30s\n", "5:1", "a colon stands behind a key, as in drain: value"},
	{"indented too much", "limits:\n  line: 1MiB\n   recipients: 200\n", "7:4", "indented more than the key above"},
	{"indented without a section", "  drain: 30s\n", "5:3", "indented more than the key above"},
	{"an INI section", "[limits]\nline = 1MiB\n", "5:1", "a section has no brackets"},
	{"a comment with slashes", "// the rest\ndrain: 30s\n", "5:1", "a comment begins with #"},
	{"a comment with a semicolon", "; the rest\ndrain: 30s\n", "5:1", "a comment begins with #"},
	{"a quote that is not closed", "log: {level: \"info}\n", "5:14", "this quote is not closed"},
	{"text behind a quote", "srs: {domain: \"a.example\", key_file: srs.key}\nredis:\n  url: \"redis://h\"/0\n", "7:19",
		"nothing stands behind the closing quote"},
	{"a bracket that is not closed", "egress: {source: [\"192.0.2.1\"}\n", "5:30", "here ] is needed"},
	{"a brace that is not closed", "egress: {family: any\n", "5:9", "this { is not closed by }"},
	{"a star without quotes", "dmarc: {lists: [*.example]}\n", "5:17", "begins with * stands in quotes"},
	{"a colon at the start", "admin: {addr: :8025}\n", "5:15", "begins with : stands in quotes"},
	{"brackets without quotes", "admin:\n  addr: [::1]:8025\n", "6:9", `in brackets stands in quotes: "[::1]:8025"`},
	{"a percent sign at the start", "telemetry: {sample: %5}\n", "5:21", "begins with % stands in quotes"},
	{"a colon inside", "log:\n  level: info: all\n", "6:14", "a value with a colon and a blank in it stands in quotes"},
	{"a backslash in double quotes", "state: \"C:\\millrace\"\n", "5:11", `is written \\`},
	{"octets of Latin-1", "# M\xfcller\ndrain: 30s\n", "5:4", "not UTF-8"},
	{"a NUL", "drain: 30s\x00\n", "5:11", "a control character"},
	{"a dash among keys", "- drain: 30s\n", "5:1", "stands among keys"},
	{"a key among dashes", "score:\n  allow:\n    - 192.0.2.1\n    block: x\n", "8:5", "among the dashes of a list"},
	{"two documents", "---\nhostname: mx2.example.net\n", "5:1", "one document to a file"},
	{"a file of lines", "", "1:1", "is no key"},

	// Keys.
	{"a key mistyped", "dirain: 30s\n", "5:1", "dirain: no such key; did you mean drain"},
	{"a key in capitals", "Drain: 30s\n", "5:1", "did you mean drain"},
	{"a key with a hyphen", "secret-file: secret\n", "5:1", "did you mean secret_file"},
	{"a key of Postfix", "message_size_limit: 50MiB\n", "5:1", "did you mean limits.message_size"},
	{"a key of another section", "message_size: 50MiB\n", "5:1", "did you mean limits.message_size"},
	{"a key that is none", "colour: red\n", "5:1", "colour: no such key; there are hostname"},
	{"a key in a section", "limits:\n  max_size: 50MiB\n", "6:3", "did you mean limits.message_size"},
	{"a key in a list", "dkim:\n  relay:\n    - {domain: a.example, selectr: m1, key_file: r.pem}\n", "7:27",
		"did you mean selector"},
	{"a key twice", "drain: 30s\ndrain: 40s\n", "6:1", "drain: stands on line 5 already"},
	{"a key without a value", "tls:\ncert: cert.pem\n", "5:5", "tls: has no value; what belongs to it is indented"},
	{"a key that is not indented", "tls:\ncert: cert.pem\n", "6:1",
		"did you mean tls.cert or egress.certificates[].cert or cluster.tls.cert"},
	{"a signal that is none", "score: {weights: {no_ptr: 3}}\n", "5:27", "no such signal; did you mean no-ptr"},

	// Shapes and types.
	{"a value for a list", "dns: {servers: \"127.0.0.1:53\"}\n", "5:16", `write ["127.0.0.1:53"]`},
	{"keys for a list", "dkim:\n  relay:\n    domain: a.example\n", "6:3", "put a dash and a blank in front"},
	{"values with commas for a list", "arc: {trust: \"a.example, b.example\"}\n", "5:14",
		"brackets stand around the parts"},
	{"a list for a value", "drain: [30s]\n", "5:1", "want one value, not a list"},
	{"a value for a section", "limits: 5\n", "5:9", "want keys and values, not one value"},
	{"yes", "dns: {trust_ad: yes}\n", "5:17", `"yes" is neither true nor false: write true`},
	{"off", "egress: {allow_private: off}\n", "5:25", "write false"},
	{"a number with commas", "limits: {connections: \"20,000\"}\n", "5:23", "write 20000"},
	{"a doctor who comes too often", "doctor: {interval: 1m}\n", "5:20", "1m is less than 5m"},
	{"a doctor for what is no domain", "doctor: {domains: [\"192.0.2.1\"]}\n", "5:20", "a domain name is needed"},
	{"a number in words", "limits: {recipients: many}\n", "5:22", `"many" is not a whole number`},
	{"a number beyond counting", "limits: {connections: 99999999999999999999}\n", "5:23", "that a machine counts to"},
	{"percent", "telemetry: {sample: 5%}\n", "5:21", "write 0.05"},
	{"a share above one", "telemetry: {sample: 5}\n", "5:21", "5 is not between 0 and 1"},
	{"a duration without a unit", "drain: 30\n", "5:8", "a unit stands behind it, 30s or 30m"},
	{"a duration with a blank", "drain: 30 seconds\n", "5:8", "write 30s"},
	{"days", "drain: 1d\n", "5:8", "write 24h"},
	{"a duration below zero", "drain: -30s\n", "5:8", "below zero"},
	{"a size without its last letters", "limits: {message_size: 50M}\n", "5:24", "write 50MiB or 50MB"},
	{"a size below zero", "limits: {message_size: -1}\n", "5:24", "below zero"},
	{"a size that is too large", "limits: {message_size: 99999999999999999999}\n", "5:24", "too large"},
	{"a rate without its time", "score: {rates: {client: 300}}\n", "5:25", "the time stands behind it, 300/1m"},
	{"a rate with a word", "score: {rates: {client: 300/minute}}\n", "5:25", "write 300/1m"},
	{"a rate of nothing", "score: {rates: {client: 0/1m}}\n", "5:25", "what has no limit is left out"},
	{"an environment variable that is not set", "redis: {url: \"${NOWHERE_AT_ALL}\"}\n", "5:14",
		"the environment has no NOWHERE_AT_ALL"},
	{"a default as in a shell", "redis: {url: \"${URL:-redis://h}\"}\n", "5:14", "${ that is no ${NAME}"},

	{"a password where a section stands", "redis: redis://u:hunter2@h\n", "5:8", "want keys and values"},
	{"a password in a line without a colon", "redis_url=redis://u:hunter2@h\n", "5:1", "as in key: value"},
	{"a password behind a broken variable", "redis: {url: \"redis://u:hunter2@${\"}\n", "5:14", "${NAME}"},

	// Names and addresses.
	{"a URL for a name", "srs: {domain: \"https://srs.example.net\", key_file: srs.key}\n", "5:15", "a URL"},
	{"an address for a name", "dmarc: {lists: [list@lists.example]}\n", "5:17", "a domain, not an address"},
	{"a star in a name", "arc: {trust: [\"*.example\"]}\n", "5:15", "no line is for all domains below another"},
	{"typographic quotes", "authserv_id: “mx.example.net”\n", "5:14", "typographic quotes"},
	{"a network with bits behind it", "score: {private: true}\nrates: none\nlog: {level: info}\n" +
		"egress: {addresses: [\"192.0.2.1/24\"]}\n", "8:22", `"192.0.2.1/24" is not an IP address`},
	{"a server without a port", "dns: {servers: [\"127.0.0.1\"]}\n", "5:17", "has no port: write 127.0.0.1:53"},
	{"a server by its name", "dns: {servers: [\"dns.example:53\"]}\n", "5:17", "names are not looked up"},
	{"IPv6 without brackets", "admin: {addr: \"::1:8025\"}\n", "5:15", "an IPv6 address stands in brackets"},
	{"an address without a port", "admin: {addr: \"127.0.0.1\"}\n", "5:15", "the port is missing"},
	{"a port alone", "admin: {addr: 8025}\n", "5:15", "write :8025 for all addresses"},
	{"a port out of range", "admin: {addr: \":70000\"}\n", "5:15", "a port is a number from 1 to 65535"},
	{"a star for all addresses", "admin: {addr: \"*:8025\"}\n", "5:15", "write :8025 for all addresses"},
	{"a URL for an address", "admin: {addr: \"http://127.0.0.1:8025\"}\n", "5:15", "no URL stands here"},
	{"a name to listen on", "admin: {addr: \"mx1.example.net:8025\"}\n", "5:15", "names are not looked up"},
	{"balancers at the address of administrators", "admin: {addr: \"127.0.0.1:8025\", health: \":8025\"}\n", "5:41",
		"is listened on already, by admin.addr"},
	{"the same port twice", "admin: {addr: \":8443\"}\npublic: {addr: \"0.0.0.0:8443\", url: \"https://a.example\"}\n",
		"6:16", "is listened on already, by admin.addr"},
	{"port 0", "egress: {port: 0}\n", "5:16", "0 is not a port"},
	{"a policy that is none", "egress: {tls: require}\n", "5:15", "did you mean required"},
	{"a level of another program", "log: {level: warning}\n", "5:14", "did you mean warn"},
	{"a host and a port for a URL", "redis: {url: \"127.0.0.1:6379\"}\n", "5:14", "does not begin with redis://"},
	{"a collector without a scheme", "telemetry: {otlp: \"127.0.0.1:4318\"}\n", "5:19", "is not an http or https URL"},
	{"a deadline beyond the client's", "deadlines: {rcpt: 10m}\n", "5:19", "too near the client's own deadline"},
	{"deadlines that are inverted", "deadlines: {data: 90s, commit: 80s}\n", "5:19", "1m30s is not inside"},
	{"a budget below the window", "limits: {hold_budget: 64KiB}\n", "5:23", "is below limits.hold_window"},
	{"weights that are inverted", "score: {defer: 10, reject: 6}\n", "5:28", "is below defer"},
	{"a list without a zone", "score: {lists: [{weight: 5}]}\n", "5:17", "zone"},
	{"an entry that is none", "score: {allow: [partner]}\n", "5:17",
		"is neither an address nor a prefix"},

	{"an address for a domain", "srs: {domain: 192.0.2.1, key_file: srs.key}\n", "5:15", "a domain name is needed"},
	{"a selector with its suffix", "arc: {domain: a.example, selector: m1._domainkey, key_file: arc.pem}\n", "5:36",
		"the selector stands alone: write m1"},
	{"a cluster without its files", "cluster: {name: a, bind: \"10.0.0.1:7946\", peer: \"10.0.0.1:7947\"}\n", "5:1",
		"cluster.key_file: is required: millrace cluster init makes it"},
	{"a cluster without a port", "cluster: {name: a, bind: 10.0.0.1, peer: \"10.0.0.1:7947\"}\n", "5:26",
		"the port is missing"},
	{"a member by its name alone", "cluster: {name: a, bind: \"10.0.0.1:7946\", peer: \"10.0.0.1:7947\", join: [b]}\n",
		"5:73", "the port is missing"},
	{"a band that is inverted", "score: {greylist: {from: 6, to: 4}}\n", "5:33", "is not above greylist.from"},
	{"a second signal that is none", "score: {weights: {bogus: 1, no_ptr: 3}}\n", "5:37", "did you mean no-ptr"},

	// Files.
	{"a file for a section", "tls: cert.pem\n", "5:6", "tls: want keys and values"},
	{"a file that is not there", "secret_file: /etc/millrace/secret\n", "5:14",
		"there is no file /etc/millrace/secret"},
	{"a folder for a file", "secret_file: routes\n", "5:14", "is a folder, and a file is needed"},
	{"a certificate for a key", "tls: {cert: cert.pem, key: cert.pem}\n", "5:28",
		"holds a certificate and no private key"},
	{"a key for a certificate", "tls: {cert: key.pem, key: key.pem}\n", "5:13",
		"holds a private key and no certificate"},
	{"the key of another certificate", "tls: {cert: cert.pem, key: other.pem}\n", "5:28",
		"is not the key of the certificate"},
	{"an encrypted key", "tls: {cert: cert.pem, key: encrypted.pem}\n", "5:28", "the key is encrypted"},
	{"a certificate that is DER", "tls: {cert: cert.der, key: key.pem}\n", "5:13", "is DER, and PEM is needed"},
	{"a text for a certificate", "tls: {cert: secret, key: key.pem}\n", "5:13", "is no PEM file"},
	{"a key for DKIM that is too short", "arc: {domain: a.example, selector: m1, key_file: short.pem}\n", "5:50",
		"has 768 bits, not 1024"},
	{"a public key for DKIM", "arc: {domain: a.example, selector: m1, key_file: public.pem}\n", "5:50",
		"holds a public key and no private key"},
	{"half of a section", "arc: {domain: a.example, key_file: arc.pem}\n", "5:1", "arc.selector: is required"},
	{"a token that is too short", "admin: {addr: \"127.0.0.1:0\", token_file: short}\n", "5:42",
		"a token of fewer than 16 octets"},
}

// wrongFiles are complaints about other files than the configuration: more names them, at begins with their name.
var wrongFiles = []wrongConfig{
	{"a secret that is too short", "secret_file: short\n", "short:1:1", "a key of at least 16 octets"},
	{"a secret of the cluster that is too short",
		"cluster: {name: a, bind: \"10.0.0.1:7946\", peer: \"10.0.0.1:7947\"," +
			" key_file: short, tls: {ca: ca.pem, cert: a.pem, key: a.key}}\n", "short:1:1",
		"cluster.key_file: a key of at least 16"},
	{"a password without a user", "egress: {credentials_file: short}\n", "short:1:1", "want user@host:port"},
	{"an SRS key that is too short", "srs: {domain: srs.example.net, key_file: short}\n", "short:1:1", "16 octets"},
	{"a limit of no Site", "egress: {sites_file: short}\n", "short:1:1", ""},
	{"an entry of a file", "score: {allow_file: short}\n", "short:1:1", ""},
}

// wholeConfigs are refused; more is the whole file.
var wholeConfigs = []wrongConfig{
	{"an empty file", "", "1:1", "the file is empty"},
	{"a text", "relay all mail\n", "1:1", "a colon stands behind a key, as in relay: value"},
	{"a list", "- hostname: mx1.example.net\n", "1:1", "want keys and values"},
	{"no hostname", "listen: [{addr: \"127.0.0.1:0\"}]\nroutes: routes.txt\n", "1:1", "hostname: needs the name"},
	{"no listener", "hostname: mx1.example.net\nroutes: routes.txt\n", "1:1", "listen: is required"},
	{"no rules", "hostname: mx1.example.net\nlisten: [{addr: \"127.0.0.1:0\"}]\n", "1:1", "routes: is required"},
	{"keys for listeners", "listen:\n  addr: \"127.0.0.1:25\"\n", "1:1", "listen: want a list, not keys"},
	{"an address for listeners", "listen: \"127.0.0.1:25\"\n", "1:9", "a line that begins with a dash for each"},
	{"a listener's address by another name", "listen:\n  - {address: \":25\"}\n", "2:6", "did you mean addr"},
	{"a port for a listener", "listen:\n  - {port: 25}\n", "2:6", "did you mean addr"},
	{"a listener without a port", "listen:\n  - addr: 0.0.0.0\n", "2:11", "the port is missing"},
	{"the same listener twice", "listen:\n  - addr: \":2525\"\n  - addr: \"0.0.0.0:2525\"\n", "3:11",
		"is listened on already, by listen[0].addr"},
	{"an open relay", "listen:\n  - {addr: \":25\", relay: trusted, networks: [0.0.0.0/0]}\n", "2:46",
		"would make an open relay"},
	{"networks without trust", "listen:\n  - {addr: \":25\", networks: [10.0.0.0/8]}\n", "2:19", "relay: trusted"},
	{"a network with host bits", "listen:\n  - {addr: \":25\", xclient: [10.0.0.1/8]}\n", "2:29",
		"did you mean 10.0.0.0/8"},
	{"a network with a mask", "listen:\n  - {addr: \":25\", xclient: [10.0.0.0/255.0.0.0]}\n", "2:29",
		"write 10.0.0.0/8"},
	{"a network with a star", "listen:\n  - {addr: \":25\", xclient: [10.0.0.*]}\n", "2:29",
		"a star stands for nothing"},
	{"a range", "listen:\n  - {addr: \":25\", xclient: [10.0.0.1-10.0.0.9]}\n", "2:29", "a range"},
	{"a network that is too long", "listen:\n  - {addr: \":25\", xclient: [10.0.0.0/33]}\n", "2:29", "from 0 to 32"},
	{"STARTTLS by its name", "listen:\n  - {addr: \":25\", tls: starttls}\n", "2:24", "want implicit"},
	{"a postmaster with a name", "postmaster: Ops <ops@elsewhere.example>\n", "1:13", "angle brackets"},
	{"a postmaster with mailto", "postmaster: mailto:ops@elsewhere.example\n", "1:13", "without mailto:"},
	{"a postmaster without a domain", "postmaster: ops\n", "1:13", "is not an address"},
	{"a name that is a URL", "hostname: https://mx1.example.net\n", "1:11", "a URL"},
	{"a name with an at-sign", "hostname: ops@mx1.example.net\n", "1:11", "a domain, not an address"},
	{"a name with a dot at its end", "hostname: mx1.example.net.\n", "1:11", "a dot at its end"},
	{"rules that are not there", "routes: rules.txt\n", "1:9", "there is no file"},
	{"a folder without rules", "hostname: mx1.example.net\nlisten: [{addr: \"127.0.0.1:0\"}]\nroutes: empty\n", "3:9",
		"no file *.txt in this folder"},
}

// doubtfulConfigs are warned of, and served; more is the whole file.
var doubtfulConfigs = []wrongConfig{
	{"a name that is an address", strings.Replace(rightLines, "mx1.example.net", "192.0.2.1", 1), "1:11",
		"is an address: destinations want a name"},
	{"a name of one label", strings.Replace(rightLines, "mx1.example.net", "mx1", 1), "1:11", "has no dot"},
	{"a name with an underscore", strings.Replace(rightLines, "mx1.example.net", "mx_1.example.net", 1), "1:11",
		"has an underscore"},
	{"a key that all can read", rightLines + "secret_file: open\n", "5:14",
		"every user of this machine has access to"},
	{"a certificate for another name", strings.Replace(rightLines, "mx1.", "mx2.", 1) +
		"tls: {cert: cert.pem, key: key.pem}\n", "5:13", "is for mx1.example.net, not for hostname, mx2.example.net"},
	{"a certificate that ends soon", rightLines + "tls: {cert: cert.pem, key: key.pem}\n", "5:13", "ends on"},
	{"an SRS domain with mailboxes", rightLines + "srs: {domain: example.com, key_file: srs.key}\n", "5:15",
		"is hosted by the rules"},
	{"public pages without a certificate", rightLines + "public: {addr: \":8443\", url: \"https://a.example\"}\n",
		"5:1", "browsers refuse the certificate"},
}

// goNames are what no complaint may have: names of the language that the program is written in, and of its libraries.
var goNames = regexp.MustCompile(`\b(nil|int64|struct)\b|\b(netip|strconv|net|os|url|time|config|mail)\.[A-Z]|` +
	`\b(x509|asn1|yaml|json|strconv|dkim): (?:[a-z]+ ){3}|\btls: (?:failed|found|private|unknown)|` +
	`\bParse[A-Z]|unmarshal|%!|invalid syntax|` +
	`\b(stat|open) /`)

// TestCheck_Mistakes: each wrong configuration is refused, at its place, by a text that names the fault.
func TestCheck_Mistakes(t *testing.T) {
	dir := mistakeFiles(t)
	try := func(tt wrongConfig, text, at string) {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(dir, "millrace.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out, complaints strings.Builder
			code := Main([]string{"check", "-c", file}, nil, &out, &complaints)
			if wrong := !slices.Contains(doubtfulConfigs, tt); wrong != (code == exitError) {
				t.Fatalf("exit code %d\n%s", code, complaints.String())
			}
			compareComplaints(t, complaints.String(), filepath.Join(dir, at), tt.words)
		})
	}
	for _, tt := range wrongConfigs {
		text := rightLines + tt.more
		if tt.name == "a file of lines" {
			text = "mx1.example.net\n"
		}
		try(tt, text, "millrace.yaml:"+tt.at)
	}
	for _, tt := range wrongFiles {
		try(tt, rightLines+tt.more, tt.at)
	}
	for _, tt := range wholeConfigs {
		try(tt, tt.more, "millrace.yaml:"+tt.at)
	}
	for _, tt := range doubtfulConfigs {
		try(tt, tt.more, "millrace.yaml:"+tt.at)
	}
}

// compareComplaints requires a line with a place and words, and no name of Go in any.
func compareComplaints(t *testing.T, complaints, at, words string) {
	t.Helper()
	found := false
	for line := range strings.Lines(complaints) {
		if name := goNames.FindString(strings.ReplaceAll(line, at, "")); name != "" {
			t.Errorf("%q is no word of an administrator: %s", name, line)
		}
		if strings.Contains(line, "hunter2") {
			t.Errorf("a password is repeated: %s", line)
		}
		line = strings.TrimPrefix(line, "warning: ")
		found = found || strings.HasPrefix(line, at+": ") && strings.Contains(line, words)
	}
	if !found {
		t.Errorf("got\n%swant %s: ...%s...", complaints, at, words)
	}
}

// mistakeFiles returns a folder with the files that the tables name.
func mistakeFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeExampleFiles(t, dir, "", "@example.com x@t.example srs=never seal=never\n", "", "")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GODEBUG", "rsa1024min=0") // people have such keys, whatever the library thinks of making one
	small, err := rsa.GenerateKey(rand.Reader, 768)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GODEBUG", "")
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(cert)
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"short":         []byte("0123456789\n"),
		"open":          []byte("0123456789abcdef\n"),
		"cert.der":      block.Bytes,
		"other.pem":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"public.pem":    pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"encrypted.pem": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: private}),
		"short.pem": pem.EncodeToMemory(&pem.Block{
			Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(small),
		}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// placed matches the place that a complaint begins with.
var placed = regexp.MustCompile(`^[^:]+:\d+:\d+`)

// TestCheck_AllAtOnce: complaints about keys, types, files and rules come in one run, none of them twice, and none that
// only follows from another.
func TestCheck_AllAtOnce(t *testing.T) {
	dir := mistakeFiles(t)
	file := filepath.Join(dir, "millrace.yaml")
	for name, text := range map[string]string{
		"millrace.yaml": "hostnam: mx1.example.net\npostmaster: ops@elsewhere.example\nlisten: [{adr: \":0\"}]\n" +
			"routes: routes.txt\ndrain: 30\nsecret_file: nowhere\ntls: {cert: cert.pem, key: other.pem}\n" +
			"arc: {domain: a.example, selector: m1, key_file: short.pem}\negress: {credentials_file: short}\n",
		"routes.txt": "info@example.com alice\nsales@example.com smtps://u@h.example lend=anybody\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, complaints strings.Builder
	if code := Main([]string{"check", "-c", file}, nil, &out, &complaints); code != exitError {
		t.Fatalf("exit code %d", code)
	}
	var places []string
	for line := range strings.Lines(complaints.String()) {
		if !strings.HasPrefix(line, "warning: ") {
			places = append(places, filepath.Base(placed.FindString(line)))
		}
	}
	want := []string{
		"millrace.yaml:1:1", "millrace.yaml:3:11", "millrace.yaml:5:8", "millrace.yaml:6:14", "millrace.yaml:7:28",
		"millrace.yaml:8:50", "routes.txt:1:18", "short:1:1",
	}
	if fmt.Sprint(places) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q\n%s", places, want, complaints.String())
	}
}
