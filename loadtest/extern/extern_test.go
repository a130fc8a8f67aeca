package extern

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// testTimeout bounds each wait of these tests.
const testTimeout = 30 * time.Second

// content holds what destinations are prone to change: a leading dot, octets above 127, trailing blanks, empty lines.
const content = "Subject: test\r\nFrom: <a@client.example>\r\n\r\n.dot\r\n\xe9\xff \r\n\r\n"

// deliver sends content in one session over conn, greeting with verb, to each of the forward-paths.
func deliver(t *testing.T, conn net.Conn, verb string, forward ...string) {
	t.Helper()
	text := textproto.NewConn(conn)
	defer text.Close()
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	expect(t, text, 220)
	say(t, text, verb+" client.example", 250)
	say(t, text, "MAIL FROM:<a@client.example> BODY=8BITMIME", 250)
	for _, f := range forward {
		say(t, text, "RCPT TO:<"+f+">", 250)
	}
	say(t, text, "DATA", 354)
	stuffed := strings.ReplaceAll(content, "\r\n.", "\r\n..")
	if verb != "LHLO" {
		say(t, text, stuffed+".", 250)
		say(t, text, "QUIT", 221)
		return
	}
	say(t, text, stuffed+".", 250)
	for range forward[1:] {
		expect(t, text, 250)
	}
	say(t, text, "QUIT", 221)
}

func say(t *testing.T, text *textproto.Conn, command string, code int) {
	t.Helper()
	if err := text.PrintfLine("%s", command); err != nil {
		t.Fatal(err)
	}
	expect(t, text, code)
}

func expect(t *testing.T, text *textproto.Conn, code int) {
	t.Helper()
	if _, _, err := text.ReadResponse(code); err != nil {
		t.Fatalf("want %d: %v", code, err)
	}
}

func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout(network, addr, testTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// await returns what read returns once that is n messages.
func await(t *testing.T, n int, read func() []Message) []Message {
	t.Helper()
	deadline := time.NewTimer(testTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		got := read()
		if len(got) == n {
			return got
		}
		select {
		case <-deadline.C:
			t.Fatalf("got %d messages, want %d", len(got), n)
		case <-tick.C:
		}
	}
}

func check(t *testing.T, got Message, forward ...string) {
	t.Helper()
	if got.Reverse != "a@client.example" || !slices.Equal(got.Forward, forward) {
		t.Errorf("got envelope %q %q, want forward-paths %q", got.Reverse, got.Forward, forward)
	}
	if string(got.Content) != content {
		t.Errorf("got %q\nwant %q", got.Content, content)
	}
}

// TestSink_KeepsOctets: smtp sink keeps the octets of a message.
func TestSink_KeepsOctets(t *testing.T) {
	addr, dir := StartSmtpSink(t, SinkOptions{Dump: true})
	deliver(t, dial(t, "tcp", addr), "EHLO", "b@sink.example", `"x y"@sink.example`)
	got := SinkMessages(t, dir)
	if len(got) != 1 {
		t.Fatalf("got %d messages", len(got))
	}
	check(t, got[0], "b@sink.example", `"x y"@sink.example`)
}

// TestSink_FromSmtpSource: smtp source sends to smtp sink.
func TestSink_FromSmtpSource(t *testing.T) {
	addr, dir := StartSmtpSink(t, SinkOptions{Dump: true})
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	source := Find(t, "smtp-source").Command(ctx, "-m", "20", "-s", "4", "-l", "4096", "-f", "a@client.example", "-t",
		"b@sink.example", addr)
	if out, err := source.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := SinkMessages(t, dir); len(got) != 20 {
		t.Errorf("got %d messages, want 20", len(got))
	}
}

// TestExim_FromSwaks: swaks sends over start TLS to exim.
func TestExim_FromSwaks(t *testing.T) {
	addr, messages := StartExim(t)
	host, port := split(t, addr)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	swaks := Find(t, "swaks").Command(ctx, "--server", host, "--port", port, "--tls", "--helo", "client.example",
		"--from", "a@client.example", "--to", "b@exim.example", "--body", "by swaks")
	out, err := swaks.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := await(t, 1, messages)
	if !strings.Contains(string(got[0].Content), "by swaks") {
		t.Errorf("got %q", got[0].Content)
	}
}

// TestExim_EachRecipient: exim delivers for each recipient.
func TestExim_EachRecipient(t *testing.T) {
	addr, messages := StartExim(t)
	deliver(t, dial(t, "tcp", addr), "EHLO", "b@exim.example", "c%d/e@other.example")
	got := await(t, 2, messages)
	slices.SortFunc(got, func(a, b Message) int { return strings.Compare(a.Forward[0], b.Forward[0]) })
	check(t, got[0], "b@exim.example")
	check(t, got[1], "c%d/e@other.example")
}

// TestExim_TLS: exim speaks TLS.
func TestExim_TLS(t *testing.T) {
	addr, _ := StartExim(t)
	conn := dial(t, "tcp", addr)
	text := textproto.NewConn(conn)
	expect(t, text, 220)
	say(t, text, "EHLO client.example", 250)
	say(t, text, "STARTTLS", 220)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx); err != nil {
		t.Error(err)
	}
}

// TestDovecot_EachRecipient: dovecot delivers for each recipient.
func TestDovecot_EachRecipient(t *testing.T) {
	tcp, unix, messages := StartDovecotLMTP(t)
	deliver(t, dial(t, "tcp", tcp), "LHLO", "B+tag@dovecot.example", "c@dovecot.example")
	deliver(t, dial(t, "unix", unix), "LHLO", "d@dovecot.example")
	got := messages()
	if len(got) != 3 {
		t.Fatalf("got %d messages", len(got))
	}
	check(t, got[0], "B+tag@dovecot.example")
	check(t, got[1], "c@dovecot.example")
	check(t, got[2], "d@dovecot.example")
}

// TestHAProxy_Joins: HA proxy joins a client to its upstream.
func TestHAProxy_Joins(t *testing.T) {
	sink, dir := StartSmtpSink(t, SinkOptions{Dump: true})
	addr := StartHAProxy(t, TCPProxy(sink, ""))
	deliver(t, dial(t, "tcp", addr), "EHLO", "b@sink.example")
	if got := SinkMessages(t, dir); len(got) != 1 {
		t.Errorf("got %d messages", len(got))
	}
}

// TestRedis_Ping: redis answers ping.
func TestRedis_Ping(t *testing.T) {
	conn := dial(t, "tcp", StartRedis(t))
	if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
		t.Fatal(err)
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || got != "+PONG\r\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestStrace_Follows: strace follows a program.
func TestStrace_Follows(t *testing.T) {
	out, err := Find(t, "strace").Command(t.Context(), "-f", "-e", "trace=openat", "true").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "+++ exited with 0 +++") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestProcess_Ends: a program is gone when its test ends.
func TestProcess_Ends(t *testing.T) {
	var addr string
	t.Run("redis", func(t *testing.T) { addr = StartRedis(t) })
	if addr == "" {
		t.Skip("no redis-server; to get it: make tools")
	}
	if conn, err := net.DialTimeout("tcp", addr, testTimeout); err == nil {
		conn.Close()
		t.Error("it still takes connections")
	}
}

// TestFind_Unknown: an unknown program is named with the command that gets it.
func TestFind_Unknown(t *testing.T) {
	_, err := Look("no-such-program")
	if err == nil || err.Error() != "no no-such-program; to get it: make tools" {
		t.Errorf("got %v", err)
	}
}

// TestFind_CacheFirst: the cache goes before the system.
func TestFind_CacheFirst(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, ".cache", "root", "usr", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "go.mod"), "module example\n")
	writeFile(t, filepath.Join(bin, "sh"), "#!/bin/true\n")
	if err := os.Chmod(filepath.Join(bin, "sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(sub)
	got, err := Look("sh")
	if err != nil || got.Path() != filepath.Join(bin, "sh") {
		t.Errorf("got %q, %v", got.Path(), err)
	}
	cmd := got.Command(t.Context(), "-c", "true")
	if !slices.ContainsFunc(cmd.Env, func(s string) bool { return strings.HasPrefix(s, "PATH="+bin) }) {
		t.Errorf("PATH does not begin with %s in %q", bin, cmd.Env)
	}
}

// TestCalls_Parse: the table of strace is read with and without errors.
func TestCalls_Parse(t *testing.T) {
	got := parseCalls(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           3       200        50 read
 30.00    0.000300           3       100           write
 10.00    0.000100           4        25         5 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           3       325        55 total
`)
	if got != (Calls{All: 325, Failed: 55, Waits: 20}) {
		t.Errorf("got %+v", got)
	}
}
