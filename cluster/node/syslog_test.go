package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/mail"
)

// A toldChan receives each write to it.
type toldChan chan string

func (c toldChan) Write(b []byte) (int, error) {
	c <- string(b)
	return len(b), nil
}

// syslogLogger returns a logger of a node whose log goes to an output, and what it says on stderr.
func syslogLogger(t *testing.T, output, form string) (*logger, <-chan string) {
	t.Helper()
	stderr := make(toldChan, 100)
	l := newLogger(stderr, &config.Config{
		Hostname: "relay.example", Log: config.Log{Level: "debug", Format: form, Output: output},
	})
	t.Cleanup(l.flush)
	return l, stderr
}

// listenLog returns a socket of a syslog daemon, and one datagram after the other.
func listenLog(t *testing.T, network, addr string) (net.PacketConn, func() string) {
	t.Helper()
	c, err := net.ListenPacket(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := make([]byte, 64<<10)
	return c, func() string {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

// TestSyslog_Form: each line is a datagram of RFC 5424, with the time, the severity and the name that the line has.
func TestSyslog_Form(t *testing.T) {
	pid := fmt.Sprint(os.Getpid())
	stamp := `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)`
	e := wholeEvent()
	e.Time = time.Now()
	for _, tt := range []struct {
		name, form string
		log        func(l *logger)
		want       []string
	}{
		{
			"JSON", "json",
			func(l *logger) {
				l.Debug("a")
				l.Info("b", "c", 1)
				l.Warn("d")
				l.Error("e")
				(&journal{out: l.out}).see(&entry{Event: e})
			},
			[]string{
				`<23>1 TIME relay\.example millrace PID - - {"time":"TIME","level":"DEBUG","msg":"a"}`,
				`<22>1 TIME relay\.example millrace PID - - {"time":"TIME","level":"INFO","msg":"b","c":1}`,
				`<20>1 TIME relay\.example millrace PID - - {"time":"TIME","level":"WARN","msg":"d"}`,
				`<19>1 TIME relay\.example millrace PID - - {"time":"TIME","level":"ERROR","msg":"e"}`,
				`<22>1 TIME relay\.example millrace PID - - {"time":"TIME","level":"INFO","msg":"relayed",.*}`,
			},
		},
		{
			"Postfix", "postfix",
			func(l *logger) {
				l.Info("b", "c", "d e")
				l.With("a", 1).WithGroup("g").Warn("d", "h", "[::1]:25")
				l.Error("e\nf")
				j := &journal{out: l.out, least: slog.LevelDebug}
				j.postfix = newPostfixForm(j, "relay.example")
				j.see(&entry{Event: mail.Event{Kind: mail.Connected, Time: time.Now()}})
				j.see(&entry{Event: mail.Event{Kind: mail.Anomaly, Time: time.Now(), Reason: "accept"}})
			},
			[]string{
				`<22>1 TIME relay\.example postfix/master PID - - b c="d e"`,
				`<20>1 TIME relay\.example postfix/master PID - - warning: d a=1 g.h={::1}:25`,
				`<19>1 TIME relay\.example postfix/master PID - - error: e\?f`,
				`<22>1 TIME relay\.example postfix/smtpd PID - - connect from unknown\[unknown\]`,
				`<20>1 TIME relay\.example postfix/smtp PID - - warning: unknown\[unknown\]: accept`,
			},
		},
	} {
		for _, network := range []string{"unix", "udp"} {
			t.Run(tt.name+" by "+network, func(t *testing.T) {
				kind, addr := "udp", "127.0.0.1:0"
				if network == "unix" {
					kind, addr = "unixgram", filepath.Join(t.TempDir(), "log")
				}
				c, next := listenLog(t, kind, addr)
				l, _ := syslogLogger(t, network+":"+c.LocalAddr().String(), tt.form)
				tt.log(l)
				for _, want := range tt.want {
					want = "^" + strings.NewReplacer("TIME", stamp, "PID", pid).Replace(want) + "$"
					if got := next(); !regexp.MustCompile(want).MatchString(got) {
						t.Errorf("got  %s\nwant %s", got, want)
					}
				}
			})
		}
	}
}

// TestSyslog_Restart: lines wait while a syslog daemon is away, and are sent when it is back. stderr is told once in
// each outage.
func TestSyslog_Restart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "log")
	l, told := syslogLogger(t, "unix:"+socket, "json")
	for range 3 {
		l.Info("one")
		if said := <-told; !strings.Contains(said, "syslog cannot be reached") {
			t.Errorf("stderr was told %q", said)
		}
		c, next := listenLog(t, "unixgram", socket)
		if got := next(); !strings.Contains(got, `"msg":"one"`) {
			t.Errorf("got %s", got)
		}
		c.Close()
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
	}
	l.flush()
	if n := l.out.Dropped(); n != 0 {
		t.Errorf("%d lines were dropped", n)
	}
	if len(told) > 0 {
		t.Errorf("stderr was told %q as well", <-told)
	}
}

// TestSyslog_Dead: a daemon that does not read, or is not there, holds no line up and no end of the node, and what
// waits too long is counted.
func TestSyslog_Dead(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, output := range map[string]func(t *testing.T) string{
		"a socket that is not read": func(t *testing.T) string {
			c, _ := listenLog(t, "unixgram", filepath.Join(t.TempDir(), "log"))
			return "unix:" + c.LocalAddr().String()
		},
		"a socket that is not there": func(t *testing.T) string { return "unix:" + filepath.Join(t.TempDir(), "log") },
		"a port without a listener":  func(*testing.T) string { return "udp:" + gone.LocalAddr().String() },
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := syslogLogger(t, output(t), "json")
			l.out.max = 64 << 10
			line := append(bytes.Repeat([]byte("x"), 999), '\n')
			for range 3000 {
				if _, err := l.out.Write(line); err != nil {
					t.Fatal(err)
				}
			}
			if n := l.out.Dropped(); n < 1000 {
				t.Errorf("%d lines were dropped", n)
			}
			l.flush()
			l.out.mu.Lock()
			writer := l.out.idle
			l.out.mu.Unlock()
			if writer != nil {
				<-writer // ends with the log
			}
		})
	}
}

// TestSyslog_TooLong: a line that no datagram holds is counted, and the next one is sent.
func TestSyslog_TooLong(t *testing.T) {
	c, next := listenLog(t, "udp", "127.0.0.1:0")
	l, _ := syslogLogger(t, "udp:"+c.LocalAddr().String(), "json")
	l.out.Write(append(bytes.Repeat([]byte("x"), 70000), '\n'))
	l.Info("next")
	if got := next(); !strings.Contains(got, `"msg":"next"`) {
		t.Errorf("got %.200s", got)
	}
	if n := l.out.Dropped(); n != 1 {
		t.Errorf("%d lines were dropped", n)
	}
}

// FuzzSyslog: whatever a line is, its datagram has the head of RFC 5424 and the text of the line behind it.
func FuzzSyslog(f *testing.F) {
	for _, s := range []string{
		"", `{"time":"2023-11-14T22:13:20.000000Z","level":"WARN","msg":"x"}`, `{"time":"x","level":"INFO"`,
		"2023-11-14T22:13:20.000000+01:00 relay.example postfix/smtpd[1]: warning: x", "x postfix/[1]: ",
	} {
		f.Add(s)
	}
	head := regexp.MustCompile(`^<(19|20|22|23)>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)) ` +
		`relay\.example (millrace|postfix/[!-~]{0,40}) 1 - - `)
	f.Fuzz(func(t *testing.T, s string) {
		got := string(appendSyslog(nil, []byte(s), "relay.example", "1"))
		begin := head.FindString(got)
		if begin == "" || !strings.HasSuffix(s, got[len(begin):]) {
			t.Errorf("%q for %q", got, s)
		}
	})
}

// TestSyslog_RefusedByUDP: stderr is told once that nothing listens at a port, not by each line that is refused.
func TestSyslog_RefusedByUDP(t *testing.T) {
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	told, dropped := 0, 0
	s := newSyslogConn("udp", gone.LocalAddr().String(), "relay.example")
	defer s.close()
	s.failed = func(error) { told++ }
	s.drop = func(n int) { dropped += n }
	if _, err := s.Write([]byte("a\nb\nc\n")); err != nil {
		t.Fatal(err)
	}
	if told != 1 || dropped != 2 {
		t.Errorf("told %d times, %d lines were dropped", told, dropped)
	}
}
