package egress

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// costs are the ways in which a message can come by its session, and the levels at which the host is checked.
var (
	costWays   = []string{"fresh", "resumed", "pooled"}
	costLevels = []string{"opportunistic", "verified", "dane"}
)

// costWorld is a destination whose messages come by their sessions in one of costWays.
func costWorld(t testing.TB, way, level string) (*world, *smtptest.Server) {
	t.Helper()
	ca := smtptest.NewCA()
	server := ca.Server("mx1.one.test")
	server.SessionTicketsDisabled = way == "fresh"
	behaviour := smtptest.Behaviour{TLS: server, Keep: 1}
	if way == "clear" {
		behaviour.TLS = nil
	}
	s := smtptest.Start(t, behaviour)
	all := zone
	if level == "dane" {
		all += tlsaName(port(t, s)) + " 3600 IN TLSA " + tlsaOf(server.Certificates[0]) + "\n"
	}
	w := newWorldOf(t, all, port(t, s), func(c *Config) {
		c.tune.rootCAs = ca.Pool()
		if level == "verified" {
			c.TLS = TLSRequired
		}
		if way == "fresh" || way == "resumed" {
			c.tune.limits = map[mail.Site]pool.Limits{"mx1.one.test": {Messages: 1}}
		}
	})
	w.dns.SetAD(level == "dane")
	return w, s
}

// TestRelay_TLSCost: sessions that are kept save nearly all handshakes, at each level.
func TestRelay_TLSCost(t *testing.T) {
	const messages = 100
	for _, level := range costLevels {
		var handshakes [3]int
		for i, way := range costWays {
			w, s := costWorld(t, way, level)
			for range messages {
				deliver(t, w, to("one.test"), "b@one.test")
			}
			c := s.Counts()
			handshakes[i] = c.Handshakes
			if resumed := c.Resumed; resumed != map[string]int{"resumed": messages - 1}[way] {
				t.Errorf("%s, %s: %d of %d were resumed", level, way, resumed, c.Handshakes)
			}
		}
		if fresh, pooled := handshakes[0], handshakes[2]; fresh != messages || pooled*20 > fresh {
			t.Errorf("%s: %d handshakes pooled, and %d fresh", level, pooled, fresh)
		}
	}
}

// BenchmarkRelay_TLS measures handshakes and the CPU time of both ends for 1000 messages. What TLS costs is the
// difference to those in clear, whose sessions are pooled.
func BenchmarkRelay_TLS(b *testing.B) {
	for _, level := range costLevels {
		for _, way := range append([]string{"clear"}, costWays...) {
			if way == "clear" && level != "opportunistic" {
				continue
			}
			b.Run(fmt.Sprintf("%s/%s", level, way), func(b *testing.B) {
				w, s := costWorld(b, way, level)
				deliver(b, w, to("one.test"), "b@one.test")
				before, began, n := s.Counts().Handshakes, cpu(), 0
				for b.Loop() {
					deliver(b, w, to("one.test"), "b@one.test")
					n++
				}
				b.ReportMetric(float64(s.Counts().Handshakes-before)/float64(n)*1000, "handshakes/1000")
				b.ReportMetric((cpu()-began).Seconds()/float64(n)*1e6, "cpu-ms/1000")
			})
		}
	}
}

// cpu returns the CPU time of the process.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
