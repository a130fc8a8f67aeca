package bench

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
)

// An onceSubject is what BenchmarkOnce compares.
type onceSubject struct {
	name  string
	start func(b *testing.B) (addr string)
	all   []*differing // sessions

	cpu, median []time.Duration // per message, of each round
	allocations []float64
}

// BenchmarkOnce sends messages that differ through nodes without the ledger, with it, with it in Redis, and with it in
// a Redis whose replica has to answer as well. "none" is client and destination alone, which are counted in all rows.
//
// b.N is the number of rounds. In each all subjects have their turn, so that what else the machine does meets all of
// them: CPU is that of eight sessions at a time, the time of a message that of one. Redis is a process of its own and
// not counted.
func BenchmarkOnce(b *testing.B) {
	for _, size := range sizes {
		b.Run("size="+size.name, func(b *testing.B) {
			subjects := []*onceSubject{
				{name: "none", start: func(b *testing.B) string { return sink(b, false) }},
				{name: "off", start: onceNode("")},
				{name: "on", start: onceNode("once: true\n")},
				{name: "redis", start: func(b *testing.B) string {
					return onceNode("once: true\nredis: {url: \"redis://" + extern.StartRedis(b) + "\"}\n")(b)
				}},
				{name: "redis, wait: 1", start: func(b *testing.B) string {
					return onceNode("once: true\nredis: {url: \"redis://" + replicated(b) + "\", wait: 1}\n")(b)
				}},
			}
			for _, s := range subjects {
				s.connect(b, s.start(b), size.octets)
			}
			messages := max(32, min(256, 16<<20/size.octets)) // of a round
			b.ResetTimer()
			for round := range b.N {
				for i := range subjects {
					subjects[(i+round)%len(subjects)].round(b, messages)
				}
			}
			b.StopTimer()
			reportOnce(b, subjects)
		})
	}
}

// replicated starts a Redis with a replica that has caught up, and returns its address.
func replicated(b *testing.B) (addr string) {
	b.Helper()
	addr = extern.StartRedis(b)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		b.Fatal(err)
	}
	_, replica, err := net.SplitHostPort(extern.StartRedis(b))
	if err != nil {
		b.Fatal(err)
	}
	cli := extern.Find(b, "redis-cli")
	said := cli.Command(b.Context(), "-p", replica, "REPLICAOF", host, port).Run()
	for info := []byte(nil); said == nil && !bytes.Contains(info, []byte("master_link_status:up")); {
		info, said = cli.Command(b.Context(), "-p", replica, "INFO", "replication").Output()
	}
	if said != nil {
		b.Fatal(said)
	}
	return addr
}

// onceNode returns what starts a node with such a configuration before a destination of its own.
func onceNode(config string) func(*testing.B) string {
	return func(b *testing.B) string {
		return serve(b, b.TempDir(), "listen: [{addr: \"127.0.0.1:0\"}]\n"+config, unjudged(sink(b, false)))
	}
}

// connect opens sessions and sends what warms them: sessions upstream, pools, growing buffers.
func (s *onceSubject) connect(b *testing.B, addr string, octets int) {
	b.Helper()
	for i := range 8 {
		d, err := differ(addr, octets, i)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = d.conn.Close() })
		s.all = append(s.all, d)
	}
	s.send(b, 160)
}

// send sends messages through all sessions at a time.
func (s *onceSubject) send(b *testing.B, messages int) {
	var wg sync.WaitGroup
	for _, d := range s.all {
		wg.Go(func() { // ends when its messages are sent
			for range messages / len(s.all) {
				if err := d.send(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// round measures a number of messages.
func (s *onceSubject) round(b *testing.B, messages int) {
	var memory [2]runtime.MemStats
	runtime.ReadMemStats(&memory[0])
	before := cpu()
	s.send(b, messages)
	s.cpu = append(s.cpu, (cpu()-before)/time.Duration(messages))
	runtime.ReadMemStats(&memory[1])
	s.allocations = append(s.allocations, float64(memory[1].Mallocs-memory[0].Mallocs)/float64(messages))
	took := make([]time.Duration, 0, messages/4)
	for range cap(took) {
		began := time.Now()
		if err := s.all[0].send(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	s.median = append(s.median, took[len(took)/2])
}

// A differing sends messages that differ in their Message-IDs.
type differing struct {
	*sender
	number []byte // of the message that was sent last, as it stands there
	sent   int
}

// serial is where the Message-ID of a message has its number.
const serial = "0000000000000000"

// differ opens the nth session.
func differ(addr string, octets, n int) (*differing, error) {
	head := "Message-ID: <" + serial + "@client.example>\r\nDate: Mon, 30 Nov 2026 09:00:00 +0000\r\n"
	s, err := dial(addr, false, append([]byte(head), body(octets-len(head))...))
	if err != nil {
		return nil, err
	}
	return &differing{s, s.message[bytes.Index(s.message, []byte(serial)):][:len(serial)], n << 32}, nil
}

func (d *differing) send() error {
	d.sent++
	copy(d.number, fmt.Sprintf("%016x", d.sent))
	return d.sender.send()
}

// reportOnce reports the median of each subject, and logs the quartiles of the rounds. What a subject costs more than
// "off" is taken in each round by itself.
func reportOnce(b *testing.B, subjects []*onceSubject) {
	b.Helper()
	table := []string{
		processor(),
		"| Ledger | CPU, us | more than off, % | the relay's part more, % | one message takes, us | allocations |",
		"|---|---|---|---|---|---|",
	}
	none, off := subjects[0], subjects[1]
	for _, s := range subjects {
		var more, part []float64
		for i := range s.cpu {
			more = append(more, 100*(float64(s.cpu[i])/float64(off.cpu[i])-1))
			part = append(part, 100*(float64(s.cpu[i]-none.cpu[i])/float64(off.cpu[i]-none.cpu[i])-1))
		}
		table = append(table, fmt.Sprintf("| %s | %s | %s | %s | %s | %.0f |", s.name, quartiles(micros(s.cpu)),
			quartiles(more), quartiles(part), quartiles(micros(s.median)), middle(s.allocations)))
		name := strings.ReplaceAll(s.name, ", wait: ", "-wait-")
		b.ReportMetric(middle(micros(s.cpu)), name+"-cpu-us")
		b.ReportMetric(middle(more), name+"-more-%")
	}
	if b.N > 1 { // the first run is to find out how many there are to be
		b.Log(strings.Join(table, "\n"))
	}
}

func micros(all []time.Duration) (us []float64) {
	for _, d := range all {
		us = append(us, float64(d)/float64(time.Microsecond))
	}
	return us
}

func middle(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// quartiles returns the median, and the first and third quartile behind it.
func quartiles(v []float64) string {
	v = slices.Sorted(slices.Values(v))
	return fmt.Sprintf("%.1f (%.1f to %.1f)", v[len(v)/2], v[len(v)/4], v[len(v)*3/4])
}

// processor returns what it is, and which it has of the instructions that hashes are made of.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	line := func(name string) string {
		for l := range strings.Lines(string(text)) {
			if key, value, _ := strings.Cut(l, ":"); strings.TrimSpace(key) == name {
				return strings.TrimSpace(value)
			}
		}
		return "unknown"
	}
	has := []string{line("model name")}
	for _, flag := range []string{"sse4_1", "avx2", "avx512f", "avx512vl", "sha_ni", "vaes", "vpclmulqdq"} {
		if slices.Contains(strings.Fields(line("flags")), flag) {
			has = append(has, flag)
		}
	}
	return strings.Join(has, " ")
}
