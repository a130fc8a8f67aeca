package nodes_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// alertsFile has the rules of Prometheus.
const alertsFile = "../../deploy/alerts.yaml"

// A scene is what befalls nodes, and the alerts that follow from what they show.
type scene struct {
	name  string
	fires []string
	// play starts nodes, calls shot before what befalls them, and once more behind it.
	play func(t *testing.T, shot func(nodes ...*world.Relay))
}

// A shot is what nodes showed at one time: the value of each series, with the node as a label.
type shot struct {
	at     time.Time
	values map[string]float64
	grows  map[string]bool // the series is one of a counter
}

var series = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? (\S+)$`)

// take scrapes nodes. One that has ended shows nothing but that it does not answer.
func take(t *testing.T, nodes []*world.Relay) shot {
	t.Helper()
	s := shot{time.Now(), make(map[string]float64), make(map[string]bool)}
	for i, r := range nodes {
		who := fmt.Sprintf(`instance="%c",job="millrace"`, 'a'+i)
		up := "up{" + who + "}"
		s.values[up] = 0
		addr := r.Node.AdminAddr().String()
		if !answers(addr) {
			continue
		}
		s.values[up] = 1
		kinds := make(map[string]string)
		for line := range strings.Lines(scrape(t, addr)) {
			line = strings.TrimSpace(line)
			if words := strings.Fields(line); len(words) == 4 && words[1] == "TYPE" {
				kinds[words[2]] = words[3]
			}
			m := series.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			value, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				t.Fatal(err)
			}
			labels := who
			if m[2] != "" {
				labels = m[2] + "," + who
			}
			name := m[1] + "{" + labels + "}"
			s.values[name] = value
			s.grows[name] = kinds[m[1]] == "counter" || strings.HasSuffix(m[1], "_count")
		}
	}
	return s
}

// every is how far apart the samples of a scene are that promtool sees.
const every = 5 * time.Minute

// inputs are the series of a scene as promtool has them: as it was for 20 minutes, and then for two hours as it became.
// What a counter grew by it goes on to grow by.
func inputs(before, after shot, known *regexp.Regexp) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(before.values)) {
		if !known.MatchString(name) {
			continue
		}
		was := before.values[name]
		is, still := after.values[name]
		step := 0.0
		switch {
		case before.grows[name]:
			step = is - was
		case strings.Contains(name, "_timestamp_seconds"): // promtool's time begins at 0
			was -= float64(before.at.UnixMilli()) / 1000
			is -= float64(after.at.UnixMilli()) / 1000
		}
		then := fmt.Sprintf("%f+%fx24", is, step)
		if !still {
			then = "_x24"
		}
		fmt.Fprintf(&b, "      - series: '%s'\n        values: '%f+0x3 %s'\n", name, was, then)
	}
	for _, name := range slices.Sorted(maps.Keys(after.values)) { // such as a reason that was not met before
		if _, was := before.values[name]; !was && known.MatchString(name) {
			fmt.Fprintf(&b, "      - series: '%s'\n        values: '_x4 %f+%fx24'\n", name, after.values[name],
				after.values[name])
		}
	}
	return b.String()
}

// relays is a world whose node delivers mail of x.example to a destination, which routes name.
func relays(t *testing.T, to string) world.World {
	t.Helper()
	return world.World{
		Routes: "domain x.example\n@x.example " + to + "\n",
		DNS:    dnstest.Start(t, "mx.y.example. 60 IN A 127.0.0.1\n"),
		Config: "admin: {addr: \"127.0.0.1:0\"}\n",
	}
}

// sends sends messages through a node, whatever it answers.
func sends(t *testing.T, r *world.Relay, n int) {
	t.Helper()
	for i := range n {
		s := world.Dial(t, source.Config{Addr: r.Addr})
		_, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{fmt.Sprintf("b%d@x.example", i)},
			Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Abort(false)
	}
}

// sending is a scene in which a node has a destination, sends and shows.
func sending(make func(t *testing.T) world.World) func(*testing.T, func(...*world.Relay)) {
	return func(t *testing.T, shot func(...*world.Relay)) {
		r := world.Start(t, make(t))
		shot(r)
		sends(t, r, 3)
		shot(r)
	}
}

// TestAlerts: each rule fires by what a real node shows once that befalls it which the rule is about, and none fires
// while all is well.
func TestAlerts(t *testing.T) {
	promtool := extern.Find(t, "promtool")
	rules, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	ca := smtptest.NewCA()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	world.Save(t, roots, string(ca.PEM()))
	t.Setenv("SSL_CERT_FILE", roots) // of this process, as far as it has verified nothing yet
	names := regexp.MustCompile(`\b(millrace_\w+|up)\b`).FindAllString(string(rules), -1)
	known := regexp.MustCompile(`^(` + strings.Join(names, "|") + `)\{`)
	var tests strings.Builder
	left := make(map[string]bool)
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(rules), -1) {
		left[m[1]] = true
	}
	for _, s := range scenes(ca) {
		t.Run(s.name, func(t *testing.T) {
			var shots []shot
			s.play(t, func(nodes ...*world.Relay) { shots = append(shots, take(t, nodes)) })
			fmt.Fprintf(&tests, "  - interval: %s\n    name: %s\n    input_series:\n%s", every, s.name,
				inputs(shots[0], shots[len(shots)-1], known))
			tests.WriteString("    promql_expr_test:\n" +
				"      - expr: group by (alertname) (ALERTS{alertstate=\"firing\"})\n" +
				"        eval_time: 2h20m\n        exp_samples: [")
			for _, alert := range s.fires {
				delete(left, alert)
				fmt.Fprintf(&tests, "{labels: '{alertname=\"%s\"}', value: 1}, ", alert)
			}
			tests.WriteString("]\n")
		})
	}
	for alert := range left {
		t.Errorf("no scene fires %s", alert)
	}
	whole, err := filepath.Abs(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "test.yaml")
	world.Save(t, file, fmt.Sprintf("rule_files: [%s]\nevaluation_interval: %s\ntests:\n%s", whole, every, &tests))
	if out, err := promtool.Command(t.Context(), "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v: %.8000s", err, out)
	}
	if out, err := promtool.Command(t.Context(), "check", "rules", whole).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// answers reports whether something listens at an address.
func answers(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func scenes(ca *smtptest.CA) []scene {
	answering := func(at, reply string) func(t *testing.T) world.World {
		return func(t *testing.T) world.World {
			d := smtptest.Start(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{at: {Reply: reply}}})
			return relays(t, "smtp://"+d.Addr())
		}
	}
	secure := func(behaviour smtptest.Behaviour, user string) func(t *testing.T) world.World {
		return func(t *testing.T) world.World {
			d := smtptest.Start(t, behaviour)
			_, port, _ := net.SplitHostPort(d.Addr())
			w := relays(t, "smtps://"+user+"mx.y.example:"+port+" lend=anybody")
			w.Dir = t.TempDir()
			world.Save(t, filepath.Join(w.Dir, "logins"), "us@mx.y.example:"+port+" a wrong password\n")
			w.Config += "egress: {credentials_file: logins}\n"
			return w
		}
	}
	return []scene{
		{"all is well", nil, func(t *testing.T, shot func(...*world.Relay)) {
			w := reaching(t, smtptest.Start(t, smtptest.Behaviour{}))
			w.Config += "admin: {addr: \"127.0.0.1:0\"}\nredis: {url: \"" + world.StartRedis(t).URL() + "\"}\n"
			c := startCluster(t, 2, w)
			shot(c.nodes...)
			c.through(t)
			c.reload(t)
			shot(c.nodes...)
		}},
		{"a node has ended", []string{"MillraceDown"}, func(t *testing.T, shot func(...*world.Relay)) {
			r := world.Start(t, relays(t, "smtp://127.0.0.1:9"))
			shot(r)
			r.Stop(t)
			shot(r)
		}},
		{"there is no Redis to have the rules of, and those of the files have a mistake",
			[]string{"MillraceNotReady", "MillraceRedisDown"},
			func(t *testing.T, shot func(...*world.Relay)) {
				w := relays(t, "nonsense")
				w.Config += "redis: {url: \"redis://" + extern.FreeAddr(t) + "/0\"}\n"
				r := world.Start(t, w)
				awaitMetric(t, r, "Redis is given up", "millrace_redis_down")
				shot(r)
			}},
		{"the rules have a mistake", []string{"MillraceReloadFailed"}, changed("routes.txt", "@x.example nonsense\n")},
		{"the configuration has changed", []string{"MillraceRestartWaits"},
			changed("millrace.yaml", "limits: {recipients: 101}\n")},
		{"a certificate ends tomorrow, and a key is two years old",
			[]string{"MillraceCertificateEnds", "MillraceKeyOld"}, func(t *testing.T, shot func(...*world.Relay)) {
				w := relays(t, "smtp://127.0.0.1:9")
				w.Dir = t.TempDir()
				pair := ca.Certificate("relay.example")
				key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
				if err != nil {
					t.Fatal(err)
				}
				cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
				world.Save(t, filepath.Join(w.Dir, "cert.pem"), string(cert))
				world.Save(t, filepath.Join(w.Dir, "key.pem"),
					string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
				old, past := filepath.Join(w.Dir, "old.key"), time.Now().AddDate(-2, 0, 0)
				args := []string{"key", "new", "--out", old}
				if code := command.Main(args, nil, &strings.Builder{}, os.Stderr); code != 0 {
					t.Fatalf("key new: %d", code)
				}
				if err := os.Chtimes(old, past, past); err != nil {
					t.Fatal(err)
				}
				w.Config += "tls: {cert: cert.pem, key: key.pem}\nsrs: {domain: srs.example, key_file: old.key}\n"
				shot(world.Start(t, w))
			}},
		{"nothing listens at the destination", []string{"MillraceMostDeferred", "MillraceSitesHeldBack"},
			sending(func(t *testing.T) world.World { return relays(t, "smtp://"+extern.FreeAddr(t)) })},
		{"the destination refuses us", []string{"MillraceMostDeferred", "MillraceRefusedByDestination"},
			sending(answering("MAIL", "530 5.7.0 Authentication required"))},
		{"the answer to the end of data is lost", []string{"MillraceInDoubt", "MillraceMostDeferred"},
			sending(func(t *testing.T) world.World {
				lost := map[string]smtptest.Answer{smtptest.Dot: {Reset: true}}
				d := smtptest.Start(t, smtptest.Behaviour{Answers: lost})
				return relays(t, "smtp://"+d.Addr())
			})},
		{"the destination's certificate is for another",
			[]string{"MillraceDestinationCertificate", "MillraceMostDeferred"},
			sending(secure(smtptest.Behaviour{TLS: ca.Server("other.example"), Implicit: true}, ""))},
		{"the password is wrong",
			[]string{"MillraceCredentials", "MillraceMostDeferred", "MillraceRefusedByDestination"},
			sending(secure(smtptest.Behaviour{
				TLS: ca.Server("mx.y.example"), Implicit: true, Users: map[string]string{"us": "the right password"},
			}, "us@"))},
		{"the name server has gone", []string{"MillraceDNSFails", "MillraceMostDeferred"},
			func(t *testing.T, shot func(...*world.Relay)) {
				w := relays(t, "b@y.example")
				r := world.Start(t, w)
				shot(r)
				w.DNS.Close()
				sends(t, r, 1)
				shot(r)
			}},
		{"a list has no test entries", []string{"MillraceListUnhealthy"}, unhealthy},
		{"nodes do not see each other and have different rules",
			[]string{"MillraceClusterSplit", "MillraceRulesDiffer"}, func(t *testing.T, shot func(...*world.Relay)) {
				w := reaching(t, smtptest.Start(t, smtptest.Behaviour{}))
				w.Config += "admin: {addr: \"127.0.0.1:0\"}\n"
				one := startCluster(t, 1, w)
				w.Config += "redis: {url: \"" + world.StartRedis(t).URL() + "\"}\n"
				other := startCluster(t, 1, w)
				shot(one.nodes[0], other.nodes[0])
			}},
		{"places are taken", []string{"MillraceConnectionsFull"}, crowded},
		{"the memory for messages is taken", []string{"MillraceMemoryTaken", "MillraceMostDeferred"}, hoarded},
		{"nothing listens where spans go", []string{"MillraceTellsLess"}, unheard},
		{"a node does not reach what others reach", []string{"MillraceSitesWaived"}, waived},
	}
}

// unhealthy is a scene in which a DNS list does not answer its test entries.
func unhealthy(t *testing.T, shot func(...*world.Relay)) {
	w := relays(t, "smtp://127.0.0.1:9")
	w.Config += "score: {lists: [{zone: zen.example, weight: 10}]}\n"
	shot(world.Start(t, w))
}

// crowded is a scene in which all places are taken.
func crowded(t *testing.T, shot func(...*world.Relay)) {
	w := relays(t, "smtp://127.0.0.1:9")
	w.Listen = "relay: trusted, networks: [127.0.0.0/8]"
	w.Config += "limits: {connections: 5}\n"
	r := world.Start(t, w)
	shot(r)
	for range 5 {
		world.Dial(t, source.Config{Addr: r.Addr})
	}
	shot(r)
}

// hoarded is a scene in which messages that do not end take all memory for messages.
func hoarded(t *testing.T, shot func(...*world.Relay)) {
	w := relays(t, "smtp://"+smtptest.Start(t, smtptest.Behaviour{}).Addr())
	w.Listen = "relay: trusted, networks: [127.0.0.0/8]"
	w.Config += "limits: {hold_budget: 256KiB, hold_window: 256KiB}\n"
	r := world.Start(t, w)
	sends(t, r, 1)
	shot(r)
	for range 8 { // each holds a slab, as far as there is one
		s := world.Dial(t, source.Config{Addr: r.Addr})
		for _, line := range []string{"MAIL FROM:<a@client.example>", "RCPT TO:<b@x.example>", "DATA"} {
			if reply, err := s.Command(line); err != nil || reply.Code >= 400 {
				break
			}
		}
		if err := s.Write([]byte("Subject: x\r\n\r\n" + strings.Repeat("x\r\n", 1000))); err != nil {
			t.Fatal(err)
		}
	}
	awaitMetric(t, r, "a message is refused", "millrace_hold_refused_total")
	shot(r)
}

// unheard is a scene in which the collector of spans has gone.
func unheard(t *testing.T, shot func(...*world.Relay)) {
	w := relays(t, "smtp://"+smtptest.Start(t, smtptest.Behaviour{}).Addr())
	w.Config += "telemetry: {otlp: \"http://" + extern.FreeAddr(t) + "\", sample: 1}\n"
	r := world.Start(t, w)
	shot(r)
	sends(t, r, 1)
	awaitMetric(t, r, "spans are dropped", "millrace_spans_dropped_total")
	shot(r)
}

// awaitMetric waits until a metric of a node is above 0.
func awaitMetric(t *testing.T, r *world.Relay, what, name string) {
	t.Helper()
	world.Await(t, what, func() bool { return sum(scrape(t, r.Node.AdminAddr().String()), name) > 0 })
}

// changed is a scene in which a file of a node has another line, and is read anew.
func changed(file, line string) func(*testing.T, func(...*world.Relay)) {
	return func(t *testing.T, shot func(...*world.Relay)) {
		w := relays(t, "smtp://127.0.0.1:9")
		w.Dir = t.TempDir()
		r := world.Start(t, w)
		shot(r)
		name := filepath.Join(w.Dir, file)
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		world.Save(t, name, string(text)+line)
		past := time.Now().Add(-time.Minute)
		if err := os.Chtimes(name, past, past); err != nil {
			t.Fatal(err)
		}
		_ = r.Node.Reload(t.Context()) // it may fail, which is what is to be shown
		shot(r)
	}
}

// waived is a scene in which a node of three cannot connect anywhere.
func waived(t *testing.T, shot func(...*world.Relay)) {
	c := oneUnable(t, smtptest.Start(t, smtptest.Behaviour{}), 24)
	shot(c.nodes...)
	for range 3 {
		sendEach(t, c.nodes[0], 24)
	}
	awaitMetric(t, c.nodes[0], "it leaves Sites to others", "millrace_cluster_waived_sites")
	shot(c.nodes...)
}
