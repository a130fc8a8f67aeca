package nodes_test

import (
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestTraces_DeadCollector: while the collector is not there, never answers or answers what is no OTLP, all mail is
// taken at once, spans are dropped and counted, and the node ends.
func TestTraces_DeadCollector(t *testing.T) {
	const messages = 1500
	for name, collector := range map[string]func(t *testing.T) (addr string){
		"is not there":            func(t *testing.T) string { return world.FreeAddr(t) },
		"never answers":           func(t *testing.T) string { return startDeaf(t, "") },
		"answers what is no OTLP": func(t *testing.T) string { return startDeaf(t, "220 mx.example ESMTP\r\n") },
	} {
		for _, protocol := range []string{"http", "grpc"} {
			t.Run(name+", by "+protocol, func(t *testing.T) {
				dir, d, adminAddr := t.TempDir(), smtptest.Start(t, smtptest.Behaviour{}), world.FreeAddr(t)
				w := world.World{
					Routes: "domain far.example\n@far.example smtp://" + d.Addr() + "\n",
					Config: fmt.Sprintf("admin: {addr: %q}\nrates: none\n"+
						"telemetry: {otlp: \"http://%s\", protocol: %s, sample: 1}\n",
						adminAddr, collector(t), protocol),
				}
				p := world.StartProcess(t, func(addr string) *exec.Cmd {
					return exec.Command(world.Binary(t), "serve", "-c", w.Write(t, dir, addr))
				})
				s := world.Dial(t, source.Config{Addr: p.Addr, Pipeline: true})
				m := source.Message{
					Reverse: "a@near.example", Forward: []string{"b@far.example"}, Octets: []byte("\r\nx\r\n"),
				}
				for range messages {
					world.Send(t, s, m)
				}
				metrics := scrape(t, adminAddr)
				if n := sum(metrics, `millrace_messages_relayed_total{`); n != messages {
					t.Errorf("%d of %d messages were counted", n, messages)
				}
				world.Await(t, "spans are dropped and counted", func() bool {
					return sum(scrape(t, adminAddr), "millrace_spans_dropped_total") > 0
				})
				t.Logf("%d spans were dropped", sum(scrape(t, adminAddr), "millrace_spans_dropped_total"))
				p.Terminate(t, p.Cmd.Process.Pid)
			})
		}
	}
}

// startDeaf takes connections until the test ends, says one thing on each, and reads nothing.
func startDeaf(t *testing.T, says string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends with the listener
		defer close(ended)
		var all []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			all = append(all, c)
			_, _ = c.Write([]byte(says)) // which may have gone
		}
		for _, c := range all {
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String()
}
