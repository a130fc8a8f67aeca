package nodes_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestLog_Questions: what a mail administrator is asked is answered from the log alone, by the lines of
// docs/troubleshoot.md as they stand there.
func TestLog_Questions(t *testing.T) {
	jq := extern.Find(t, "jq")
	lines := documentedLines(t)
	dir := t.TempDir()
	world.Save(t, filepath.Join(dir, "millrace.log"), recordedRun(t))
	for i, tt := range []struct {
		question string
		rows     int
		want     []string // in each row
	}{
		{
			"bounced", 1,
			[]string{"550 5.1.1 No such mailbox", "upstream", "127.0.0.1", "routes.txt:"},
		},
		{"twice", 2, nil},
		{"slow", 1, []string{"\tcommit\t", "127.0.0.1"}},
		{
			"spam", 1,
			[]string{
				`"spf":"pass"`, `"dkim":"none"`, `"dmarc":"pass"`, `"policy":"none"`, `"reverse":"SRS0=`,
				`"source":"127.0.0.1"`, `"host":"mx.far.example"`,
			},
		},
		{"lost", 1, []string{"\tdropped\t", "lost@example.com", "routes.txt:"}},
		{"password", 1, []string{"submission://relay@smarthost.example", "535 5.7.8"}},
	} {
		t.Run(tt.question, func(t *testing.T) {
			cmd := jq.Command(t.Context())
			env := append(cmd.Env, "PATH="+filepath.Dir(jq.Path())+":"+os.Getenv("PATH"))
			cmd = exec.CommandContext(t.Context(), "sh", "-c", lines[i])
			cmd.Env, cmd.Dir = env, dir
			out, err := cmd.CombinedOutput()
			rows := strings.Split(strings.TrimSpace(string(out)), "\n")
			if err != nil || len(rows) != tt.rows {
				t.Fatalf("%s\n%v, %d rows, want %d:\n%s", lines[i], err, len(rows), tt.rows, out)
			}
			for _, row := range rows {
				for _, want := range tt.want {
					if !strings.Contains(row, want) {
						t.Errorf("%s: got %s", want, row)
					}
				}
			}
			if tt.question != "twice" {
				return
			}
			first, second := strings.Split(rows[0], "\t"), strings.Split(rows[1], "\t")
			if first[0] != second[0] || first[2] == second[2] || !strings.Contains(rows[0], "in doubt") ||
				!strings.Contains(rows[1], "relayed") {
				t.Errorf("got\n%s", out)
			}
		})
	}
}

// documentedLines returns the commands of the section about questions, in order.
func documentedLines(t *testing.T) (lines []string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/troubleshoot.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Questions\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for {
		_, rest, found := strings.Cut(section, "```sh\n")
		if !found {
			break
		}
		line, behind, _ := strings.Cut(rest, "```")
		lines, section = append(lines, line), behind
	}
	if len(lines) != 6 {
		t.Fatalf("%d lines in the section", len(lines))
	}
	return lines
}

// recordedRun has a node take mail of all that is asked about, and some besides, and returns its log.
func recordedRun(t *testing.T) string {
	t.Helper()
	ca := smtptest.NewCA()
	var twice atomic.Int32
	var begun atomic.Int64
	d := smtptest.Start(t, smtptest.Behaviour{
		Recipients: map[string]smtptest.Answer{"gone": {Reply: "550 5.1.1 No such mailbox"}},
		On: func(s smtptest.Step) (smtptest.Answer, bool) {
			to := func(name string) bool { return slices.Contains(s.Message.Forwards, name) }
			switch {
			case s.Verb != smtptest.Dot:
			case to("twice@example.com") && twice.Add(1) == 1:
				return smtptest.Answer{Close: true}, true // it has the message, and does not say so
			case to("slow@example.com"):
				return smtptest.Answer{After: 2 * time.Duration(time.Now().UnixNano()-begun.Load())}, true
			}
			return smtptest.Answer{}, false
		},
	})
	smarthost := smtptest.Start(t, smtptest.Behaviour{
		TLS: ca.Server("smarthost.example"), Users: map[string]string{"relay": "the new password"},
	})
	_, port, _ := net.SplitHostPort(d.Addr())
	_, submission, _ := net.SplitHostPort(smarthost.Addr())
	dir := t.TempDir()
	world.Save(t, filepath.Join(dir, "credentials"), "relay@smarthost.example:"+submission+" the old one\n")
	world.Save(t, filepath.Join(dir, "ca.pem"), string(ca.PEM()))
	w := world.World{
		Judged: true, Log: "info",
		DNS: dnstest.Start(t, `near.example. 60 IN TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.near.example. 60 IN TXT "v=DMARC1; p=none"
far.example. 60 IN MX 10 mx.far.example.
mx.far.example. 60 IN A 127.0.0.1
smarthost.example. 60 IN A 127.0.0.1
`),
		Config: "srs: {domain: srs.relay.example, key_file: srs.key}\n" +
			"egress: {port: " + port + ", allow_private: true, credentials_file: credentials}\n",
		Routes: "domain example.com\nlost@example.com drop\ninfo@example.com fwd@far.example\n@example.com smtp://" +
			d.Addr() + "\ndomain partner.example\n@partner.example submission://relay@smarthost.example:" + submission +
			" lend=anybody\n",
	}
	p := world.StartProcess(t, func(addr string) *exec.Cmd {
		cmd := exec.Command(world.Binary(t), "serve", "-c", w.Write(t, dir, addr))
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+filepath.Join(dir, "ca.pem"))
		return cmd
	})
	n := 0
	send := func(id string, code int, to ...string) {
		t.Helper()
		n++
		s := world.Dial(t, source.Config{Addr: p.Addr})
		r, err := s.Send(source.Message{
			Reverse: "alice@near.example", Forward: to,
			Octets: fmt.Appendf(nil, "From: alice@near.example\r\nDate: Mon, 2 Jan 2006 15:04:05 +0000\r\n"+
				"Message-ID: <%s@near.example>\r\nSubject: %d\r\n\r\nhello\r\n", id, n),
		})
		if got := r.End.Code; err != nil || got != code {
			t.Fatalf("to %v: %v, %+v", to, err, r)
		}
	}
	send("gone", 550, "gone@example.com")
	send("other-1", 250, "bob@example.com")
	send("once", 451, "twice@example.com")
	send("once", 250, "twice@example.com")
	send("other-2", 250, "twice@example.com") // another mail to the same
	begun.Store(time.Now().UnixNano())
	send("slow", 250, "slow@example.com")
	send("spam", 250, "info@example.com")
	send("lost", 250, "bob@example.com", "lost@example.com")
	send("smart", 451, "carol@partner.example")
	send("smart", 451, "carol@partner.example")
	p.Terminate(t, p.Cmd.Process.Pid)
	return p.Log.String()
}
