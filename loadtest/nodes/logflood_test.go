package nodes_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestLog_Refusals: strangers that repeat refused recipients on one connection after the other, while the log is not
// read, take no line and no count of a delivered message, and the log of what they do is short. Each refusal is
// counted, and lines tell of each.
func TestLog_Refusals(t *testing.T) {
	const strangers, connections, each, messages = 4, 50, 100, 300
	d := smtptest.Start(t, smtptest.Behaviour{})
	adminAddr := world.FreeAddr(t)
	w := world.World{
		Log: "info", Routes: "domain far.example\n@far.example smtp://" + d.Addr() + "\n",
		Config: fmt.Sprintf("admin: {addr: %q}\nrates: none\n", adminAddr),
	}
	read, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	dir := t.TempDir()
	p := world.StartProcess(t, func(addr string) *exec.Cmd {
		cmd := exec.Command(world.Binary(t), "serve", "-c", w.Write(t, dir, addr))
		cmd.Stderr = stderr
		return cmd
	})
	stderr.Close()

	var refused atomic.Int64
	var wg sync.WaitGroup
	for i := range strangers {
		wg.Go(func() {
			for range connections {
				n, err := repeatRefused(p.Addr, fmt.Sprintf("127.9.9.%d", i+1), each)
				if err != nil {
					t.Error(err)
					return
				}
				refused.Add(int64(n))
			}
		})
	}
	s := world.Dial(t, source.Config{Addr: p.Addr})
	for range messages {
		world.Send(t, s, source.Message{
			Reverse: "a@near.example", Forward: []string{"someone@far.example"}, Octets: []byte("\r\nx\r\n"),
		})
	}
	wg.Wait()
	if err := s.Quit(); err != nil { // so that none is told that the node ends, which is an event, too
		t.Error(err)
	}

	metrics := scrape(t, adminAddr)
	if n := sum(metrics, `millrace_messages_relayed_total{`); n != messages {
		t.Errorf("%d of %d messages were counted", n, messages)
	}
	if n := sum(metrics, `millrace_events_total{class="5yz",kind="refused"`); n != int(refused.Load()) ||
		n < strangers*connections*each {
		t.Errorf("%d refusals were counted, and strangers read %d", n, refused.Load())
	}
	all := sum(metrics, `millrace_events_total{`, `kind="refused"`)
	if err := p.Cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	log, err := io.ReadAll(read)
	if err != nil {
		t.Fatal(err)
	}
	kinds, more := make(map[string]int), 0
	for line := range strings.Lines(string(log)) {
		var e struct {
			Msg  string
			More int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		kinds[e.Msg]++
		more += e.More
	}
	t.Logf("%d refusals: %d octets of log, %v, more %d", all, len(log), kinds, more)
	if kinds["relayed"] != messages || kinds["refused"]+kinds["deferred"]+more != all {
		t.Errorf("%d refusals, and the log has %v and tells of %d more", all, kinds, more)
	}
	if len(log) > 1<<20 {
		t.Errorf("%d octets of log", len(log))
	}
}

// repeatRefused has a client at an address repeat a refused recipient, and returns how many refusals it read.
func repeatRefused(addr, from string, times int) (refused int, err error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := dialer.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	if _, err := in.ReadString('\n'); err != nil {
		return 0, err
	}
	_, err = io.WriteString(c, "HELO near.example\r\nMAIL FROM:<a@near.example>\r\n"+
		strings.Repeat("RCPT TO:<unknown@elsewhere.example>\r\n", times)+"QUIT\r\n")
	if err != nil {
		return 0, err
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil { // after 221 or 421
			return refused, nil
		}
		if strings.HasPrefix(line, "550") {
			refused++
		}
	}
}

// scrape returns what a node shows at /metrics.
func scrape(t *testing.T, addr string) string {
	t.Helper()
	r, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var sampleLine = regexp.MustCompile(`(?m)^(\S+(?:\{.*\})?) (\S+)$`)

// sum returns the sum of the series whose names begin with the first of parts and have the others.
func sum(metrics string, parts ...string) (total int) {
	for _, m := range sampleLine.FindAllStringSubmatch(metrics, -1) {
		fits := strings.HasPrefix(m[1], parts[0])
		for _, part := range parts[1:] {
			fits = fits && strings.Contains(m[1], part)
		}
		if n, err := strconv.ParseFloat(m[2], 64); fits && err == nil {
			total += int(n)
		}
	}
	return total
}
