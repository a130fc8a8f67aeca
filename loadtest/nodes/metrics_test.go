package nodes_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A metric is what the table of the documents says of one, or a scrape.
type metric struct {
	kind   string
	labels []string // sorted
}

// documented returns the table of metrics, and reports what is wrong with its form.
func documented(t *testing.T) map[string]metric {
	t.Helper()
	text, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([a-z_]+)`")
	all := make(map[string]metric)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `millrace_") || len(cells) < 3 {
			continue
		}
		m := metric{kind: cells[1]}
		for _, label := range quoted.FindAllStringSubmatch(cells[2], -1) {
			m.labels = append(m.labels, label[1])
		}
		slices.Sort(m.labels)
		for _, name := range quoted.FindAllStringSubmatch(cells[0], -1) {
			if _, twice := all[name[1]]; twice {
				t.Errorf("%s stands twice in the table", name[1])
			}
			all[name[1]] = m
		}
	}
	return all
}

// shown adds the metrics of ours in a scrape to all.
func shown(all map[string]metric, text string) {
	label := regexp.MustCompile(`([a-z_]+)="`)
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	kinds := make(map[string]string)
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 4 && words[1] == "TYPE" {
			kinds[words[2]] = words[3]
			continue
		}
		name, rest, _ := strings.Cut(strings.Fields(line)[0], "{")
		if base := suffix.ReplaceAllString(name, ""); kinds[base] == "histogram" {
			name = base
		}
		if !strings.HasPrefix(name, "millrace_") {
			continue
		}
		m := all[name]
		m.kind = kinds[name]
		for _, l := range label.FindAllStringSubmatch(rest, -1) {
			if l[1] != "le" && !slices.Contains(m.labels, l[1]) {
				m.labels = append(m.labels, l[1])
			}
		}
		slices.Sort(m.labels)
		all[name] = m
	}
}

// everything is a world in which a node has all that it can show.
func everything(t *testing.T) world.World {
	t.Helper()
	keys := t.TempDir()
	file := func(name string) string { return filepath.Join(keys, name) }
	for _, args := range [][]string{
		{"key", "new", "--out", file("secret")}, {"key", "new", "--webhook", "--out", file("webhook")},
		{"dkim", "new", "--domain", "relay.example", "--selector", "s", "--out", file("dkim.pem")},
	} {
		if code := command.Main(args, nil, &strings.Builder{}, os.Stderr); code != 0 {
			t.Fatalf("%v: %d", args, code)
		}
	}
	w := reaching(t, smtptest.Start(t, smtptest.Behaviour{}))
	w.DNS = dnstest.Start(t, "y.example. 60 IN MX 10 mx.y.example.\nmx.y.example. 60 IN A 127.0.0.1\n"+
		"client.example. 60 IN MX 10 mx.y.example.\n")
	w.Routes += "home@x.example smtp://127.0.0.1:1\n"
	w.Routes += "hooked@x.example hook none\n"
	w.Config += "hooks: {secret_file: " + file("webhook") + ", named: [{name: none, url: " +
		"\"https://127.0.0.1:1/\"}]}\n" + "admin: {addr: \"127.0.0.1:0\"}\nonce: true\nsecret_file: " + file("secret") +
		"\nsrs: {domain: srs.example, key_file: " + file("secret") + "}\n" +
		"dkim: {relay: [{domain: relay.example, selector: s, key_file: " + file("dkim.pem") + "}]}\n" +
		"score: {lists: [{zone: zen.example, weight: 10}]}\n" +
		"events: {receivers: [{name: ops, url: \"https://hooks.example.net/mail\", secret_file: " +
		file("webhook") + "}]}\n" +
		"doctor: {domains: [client.example]}\n" +
		"filters: [{name: spam, rspamd: \"127.0.0.1:1\"}]\n" +
		"redis: {url: \"" + world.StartRedis(t).URL() + "\"}\n"
	return w
}

// TestMetrics_Documented: the table of the documents has each metric that nodes show, with its type and its labels, and
// no other; and what nodes did is counted.
func TestMetrics_Documented(t *testing.T) {
	c := startCluster(t, 2, everything(t))
	c.through(t)
	for _, r := range c.nodes {
		s := world.Dial(t, source.Config{Addr: r.Addr})
		if _, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{"nobody@elsewhere.example", "hooked@x.example"},
			Octets: []byte("\r\n"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	c.reload(t)
	want, got, both := documented(t), make(map[string]metric), ""
	for _, r := range c.nodes {
		text := scrape(t, r.Node.AdminAddr().String())
		shown(got, text)
		both += text
	}
	for series, least := range map[string]int{
		`millrace_deliveries_total{`: 2, `millrace_handed_over_total`: 1, `millrace_hops_total{result="begun"}`: 1,
		`millrace_outcomes_total{outcome="relayed",reason=""}`: 2, `millrace_recipients_total{outcome="refused"}`: 2,
		`millrace_score_verdicts_total{verdict="accept"}`: 2, `millrace_reloads_total{result="done"}`: 2,
		`millrace_tls_handshake_seconds_count{result="done",with="node"}`: 2, `millrace_ready`: 2,
		`millrace_dns_seconds_count{result="answered"}`: 1, `millrace_redis_seconds_count{result="answered"}`: 1,
		`millrace_transaction_seconds_count{outcome="relayed"}`: 2, `millrace_srs_messages_total{`: 2,
	} {
		if n := sum(both, series); n < least {
			t.Errorf("%s is %d, want at least %d", series, n, least)
		}
	}
	for name, m := range got {
		d, ok := want[name]
		switch {
		case !ok:
			t.Errorf("%s (%s, %v) is not in the table", name, m.kind, m.labels)
		case d.kind != m.kind || !slices.Equal(d.labels, m.labels):
			t.Errorf("%s: the table has %v, nodes %v", name, d, m)
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is in the table and no node shows it", name)
		}
	}
	if len(got) < 60 {
		t.Errorf("%d metrics", len(got))
	}
}
