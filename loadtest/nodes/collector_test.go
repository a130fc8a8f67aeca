//go:build collector

package nodes_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A collector is an OpenTelemetry Collector that writes what it gets to a file. "make traces" builds it.
type collector struct {
	http, grpc string // where it listens
	file       string
	cmd        *exec.Cmd
}

// startCollector runs a collector until the test ends.
func startCollector(t *testing.T) *collector {
	t.Helper()
	binary, err := filepath.Abs("../../.cache/collector/otelcol")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &collector{http: extern.FreeAddr(t), grpc: extern.FreeAddr(t), file: filepath.Join(dir, "spans.jsonl")}
	config := filepath.Join(dir, "config.yaml")
	world.Save(t, config, fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: %q}, http: {endpoint: %q}}}}
processors: {batch: {timeout: 50ms}}
exporters: {file: {path: %q, flush_interval: 50ms}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], processors: [batch], exporters: [file]}}
`, c.grpc, c.http, c.file))
	var said bytes.Buffer
	c.cmd = exec.CommandContext(t.Context(), binary, "--config="+config)
	c.cmd.Stderr = &said
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	for _, addr := range []string{c.http, c.grpc} {
		world.Await(t, "the collector listens", func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return c
}

// A collected is a span as the collector wrote it down.
type collected struct {
	TraceID  string `json:"traceId"`
	SpanID   string `json:"spanId"`
	ParentID string `json:"parentSpanId"`
	Name     string
	Status   struct{ Code int }
	host     string // of the resource
}

// spans returns the spans of a trace that the collector has by now.
func (c *collector) spans(t *testing.T, id string) (all []collected) {
	t.Helper()
	content, err := os.ReadFile(c.file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(content) {
		var batch struct {
			ResourceSpans []struct {
				Resource struct {
					Attributes []struct {
						Key   string
						Value struct {
							StringValue string `json:"stringValue"`
						}
					}
				}
				ScopeSpans []struct{ Spans []collected } `json:"scopeSpans"`
			} `json:"resourceSpans"`
		}
		if json.Unmarshal(line, &batch) != nil {
			continue // not whole yet
		}
		for _, r := range batch.ResourceSpans {
			host := ""
			for _, a := range r.Resource.Attributes {
				if a.Key == "service.instance.id" {
					host = a.Value.StringValue
				}
			}
			for _, s := range r.ScopeSpans {
				for _, span := range s.Spans {
					if span.host = host; span.TraceID == id {
						all = append(all, span)
					}
				}
			}
		}
	}
	return all
}

// tree waits until the collector has a trace with spans of these names, and returns them as "node:name/name" from the
// root down, "!" behind one that failed. It wants one root.
func (c *collector) tree(t *testing.T, id string, names ...string) (tree []string) {
	t.Helper()
	var all []collected
	world.Await(t, "the collector has the trace", func() bool {
		all = c.spans(t, id)
		for _, name := range names {
			if !slices.ContainsFunc(all, func(s collected) bool { return s.Name == name }) {
				return false
			}
		}
		return true
	})
	roots := 0
	for _, s := range all {
		name := s.Name
		if s.Status.Code == 2 {
			name += "!"
		}
		for up := s.ParentID; up != ""; {
			i := slices.IndexFunc(all, func(s collected) bool { return s.SpanID == up })
			if i < 0 {
				t.Fatalf("%s has no parent among %v", name, all)
			}
			name, up = all[i].Name+"/"+name, all[i].ParentID
		}
		if s.ParentID == "" {
			roots++
		}
		tree = append(tree, s.host+":"+name)
	}
	if roots != 1 {
		t.Errorf("%d roots: %q", roots, tree)
	}
	slices.Sort(tree)
	return tree
}

// TestCluster_Collector: a real collector has one trace with one root of a message that hopped, of a recipient that was
// refused, and of a message for which the second MX host failed as well, over HTTP and over gRPC.
func TestCluster_Collector(t *testing.T) {
	for _, protocol := range []string{"http", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			col := startCollector(t)
			endpoint := col.http
			if protocol == "grpc" {
				endpoint = col.grpc
			}
			d := smtptest.Start(t, smtptest.Behaviour{Recipients: map[string]smtptest.Answer{
				"later": {Reply: "451 4.2.1 Mailbox of later@two.example is busy"},
			}})
			w := reaching(t, d)
			w.DNS = dnstest.Start(t, "one.example. 60 IN MX 10 mx.one.example.\nmx.one.example. 60 IN A 127.0.0.1\n"+
				// Nothing listens at the first one.
				"two.example. 60 IN MX 10 mx1.two.example.\ntwo.example. 60 IN MX 20 mx2.two.example.\n"+
				"mx1.two.example. 60 IN A 127.0.0.9\nmx2.two.example. 60 IN A 127.0.0.1\n")
			w.Routes = "/(.+)/@one.test $1@one.example\ndomain one.test\n" +
				"/(.+)/@two.test $1@two.example\ndomain two.test\n"
			w.Config += fmt.Sprintf("telemetry: {otlp: \"http://%s\", protocol: %s, sample: 1}\n", endpoint, protocol)
			c := startCluster(t, 2, w)

			handedOver, elsewhere := 0, ""
			for _, r := range c.nodes {
				tree := col.tree(t, attempt(t, r, "info@one.test", 250), "smtp.dot")
				if !slices.ContainsFunc(tree, func(s string) bool { return strings.Contains(s, "/smtp.handover") }) {
					continue
				}
				handedOver++
				elsewhere = strings.Join(tree, "\n")
			}
			if handedOver != 1 {
				t.Errorf("%d messages hopped", handedOver)
			}
			owner := "a"
			if strings.Contains(elsewhere, "a:smtp.transaction\n") {
				owner = "b"
			}
			for _, s := range []string{"smtp.mx", "smtp.pool", "smtp.rcpt", "smtp.send", "smtp.dot"} {
				s = owner + ":smtp.transaction/smtp.relay/smtp.handover/" + s
				if !strings.Contains(elsewhere, s) {
					t.Errorf("lacks %s:\n%s", s, elsewhere)
				}
			}

			tree := col.tree(t, attempt(t, c.nodes[0], "info@nowhere.example", 550), "smtp.transaction")
			if !slices.Contains(tree, "a:smtp.transaction!") ||
				!slices.Contains(tree, "a:smtp.transaction/smtp.route!") {
				t.Errorf("refused: %q", tree)
			}

			tree = col.tree(t, attempt(t, c.nodes[0], "later@two.test", 451), "smtp.tried", "smtp.rcpt")
			for _, step := range []string{"/smtp.dial/smtp.tried!", "/smtp.rcpt!"} {
				if !slices.ContainsFunc(tree, func(s string) bool { return strings.HasSuffix(s, step) }) {
					t.Errorf("the second MX host lacks %s: %q", step, tree)
				}
			}
		})
	}
}

// attempt sends a message through a node, wants the code as the last answer, and returns the id in it.
func attempt(t *testing.T, r *world.Relay, to string, code int) string {
	t.Helper()
	s := world.Dial(t, source.Config{Addr: r.Addr})
	res, err := s.Send(source.Message{
		Reverse: "a@client.example", Forward: []string{to}, Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.End.Code != code {
		t.Fatalf("%s: %s", to, res.End)
	}
	if err := s.Quit(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(world.ReplyID.FindString(res.End.Text), "id=")
}
