package bench

import (
	"bufio"
	"context"
	"net"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The most calls of ours that may stand between the client's socket and the next hop's. A reader who follows a message
// has to keep them all in mind.
const (
	maxDotDepth  = 9  // when the end of data is out and its reply is awaited, on a session that is warm
	maxRcptDepth = 14 // when the greeting of a new session is awaited, at the first RCPT
)

// TestDepth takes the stack of a message twice, while the next hop is silent: at a cold RCPT, before its greeting, and
// at a warm dot, before its reply. It counts the calls of ours from the loop that reads the client's commands to the
// one that reads the next hop's reply.
func TestDepth(t *testing.T) {
	hop, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hop.Close()
	addr := serve(t, t.TempDir(), "listen: [{addr: \"127.0.0.1:0\"}]\n", unjudged(hop.Addr().String()))
	client, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	from := bufio.NewReader(client)
	expect(t, from, "220")
	say(t, client, "EHLO client.example")
	expect(t, from, "250")
	say(t, client, "MAIL FROM:<a@client.example>")
	expect(t, from, "250")
	say(t, client, "RCPT TO:<b@bench.example>")

	up, err := hop.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	rcpt := stackTo(t, up)
	say(t, up, "220 hop.example")
	to := bufio.NewReader(up)
	for message := range 2 {
		verbs := []string{"EHLO 250", "MAIL 250", "RCPT 250", "DATA 354"}
		if message > 0 {
			verbs = verbs[1:]
		}
		for _, verb := range verbs {
			name, code, _ := strings.Cut(verb, " ")
			if name == "DATA" {
				expect(t, from, "250")
				say(t, client, "DATA")
				expect(t, from, "354")
				say(t, client, "Subject: x\r\n\r\nx\r\n.")
			}
			expect(t, to, name)
			if name == "EHLO" {
				say(t, up, "250-hop.example\r\n250 PIPELINING")
				continue
			}
			say(t, up, code+" 2.0.0 OK")
		}
		for line := ""; line != ".\r\n"; {
			if line, err = to.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if message > 0 {
			break
		}
		say(t, up, "250 2.0.0 OK")
		expect(t, from, "250")
		say(t, client, "MAIL FROM:<a@client.example>")
		expect(t, from, "250")
		say(t, client, "RCPT TO:<b@bench.example>")
	}
	dot := stackTo(t, up)
	say(t, up, "250 2.0.0 OK")
	expect(t, from, "250")

	for _, s := range []struct {
		name  string
		calls []string
		most  int
	}{{"cold RCPT", rcpt, maxRcptDepth}, {"warm dot", dot, maxDotDepth}} {
		t.Logf("%s: %d calls from socket to socket\n\t%s", s.name, len(s.calls), strings.Join(s.calls, "\n\t"))
		if len(s.calls) > s.most {
			t.Errorf("%s: %d calls from socket to socket, want %d at most", s.name, len(s.calls), s.most)
		}
	}
}

func say(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := c.Write([]byte(line + "\r\n")); err != nil {
		t.Fatal(err)
	}
}

// expect reads lines up to the last of a reply, or a command, that begins with want.
func expect(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			t.Fatalf("got %q, %v, want %s", line, err, want)
		}
		if !strings.HasPrefix(line, want+"-") {
			return
		}
	}
}

var (
	goroutine = regexp.MustCompile(`^goroutine (\d+)`)
	// perConnection begins the goroutine of a connection that has rested: serve goes on in it.
	perConnection = regexp.MustCompile(`^ingress/wire\.\(\*conn\)\.rest$`)
	created       = regexp.MustCompile(`\ncreated by \S+ in goroutine (\d+)\n`)
	ours          = regexp.MustCompile(`(?m)^github\.com/millrace/millrace/((?:ingress|egress|cluster)\S*)\(.*\)$`)
)

// stackTo returns the calls of ours from the loop of the client's connection to the read of the next hop's, as soon as
// one of them waits there. Where a call goes on in another goroutine, the calls of both count.
func stackTo(t *testing.T, up net.Conn) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	buf := make([]byte, 1<<20)
	for ; ; runtime.Gosched() {
		if ctx.Err() != nil {
			t.Fatal("nothing waits for the next hop")
		}
		stacks := make(map[string]string)
		var waiting string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			id := goroutine.FindStringSubmatch(stack)
			if id == nil {
				continue
			}
			stacks[id[1]] = stack
			if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "/egress/smtpclient.") {
				waiting = id[1]
			}
		}
		var calls []string
		for id := waiting; id != ""; {
			for _, call := range ours.FindAllStringSubmatch(stacks[id], -1) {
				if !perConnection.MatchString(call[1]) {
					calls = append(calls, call[1])
				}
			}
			if strings.Contains(stacks[id], "/ingress/wire.(*conn)") {
				return calls
			}
			parent := created.FindStringSubmatch(stacks[id] + "\n")
			if parent == nil {
				break
			}
			id = parent[1]
		}
	}
}
