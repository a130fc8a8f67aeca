//go:build clients

package clients_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/egress/hook"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// workerd returns a command that runs deploy/worker with another worker in Cloudflare's runtime, on a port that it
// chooses and tells on descriptor 3.
func workerd(t *testing.T, worker, secret string) *exec.Cmd {
	t.Helper()
	root := extern.Root()
	found, err := filepath.Glob(filepath.Join(root, ".cache", "clients", "node_modules", "@cloudflare",
		"workerd-linux-*", "bin", "workerd"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q, %v: no workerd; to get it: make tools", found, err)
	}
	dir := t.TempDir()
	for from, to := range map[string]string{
		filepath.Join(root, "deploy/worker/config.capnp"): "config.capnp",
		filepath.Join(root, "deploy/worker/adapter.js"):   "adapter.js",
		worker: "worker.js",
	} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		world.Save(t, filepath.Join(dir, to), string(text))
	}
	cmd := exec.CommandContext(t.Context(), found[0], "serve", "config.capnp", "--socket-addr", "hook=127.0.0.1:0",
		"--control-fd", "3")
	cmd.Dir, cmd.Env = dir, []string{"MILLRACE_SECRET=" + secret}
	return cmd
}

// startWorker runs a worker until the test ends, and returns its URL and what it prints.
func startWorker(t *testing.T, worker, secret string) (url string, log *logtest.Log) {
	t.Helper()
	ready, told, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	cmd := workerd(t, worker, secret)
	log = new(logtest.Log)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{told}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error means that it is gone
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%.4000s", filepath.Base(worker), log)
		}
	})
	line, err := bufio.NewReader(ready).ReadBytes('\n')
	var listen struct{ Port json.Number }
	if err != nil || json.Unmarshal(line, &listen) != nil {
		t.Fatalf("%v %q\n%s", err, line, log)
	}
	return "http://127.0.0.1:" + listen.Port.String() + "/", log
}

// TestWorker: a node has unmodified Email Workers asked, in Cloudflare's runtime, and does what they say. What a worker
// wants of a message that has not come is refused for now and told to its operator.
func TestWorker(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "hooks.secret")
	args := []string{"key", "new", "--webhook", "--out", file}
	if code := command.Main(args, nil, io.Discard, os.Stderr); code != 0 {
		t.Fatal(code)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	secret := string(text)
	examples := filepath.Join(extern.Root(), "deploy", "worker")
	every, said := startWorker(t, "testdata/worker.js", secret)
	class, _ := startWorker(t, "testdata/class.js", secret)
	byName, _ := startWorker(t, filepath.Join(examples, "worker.js"), secret)
	allow, _ := startWorker(t, filepath.Join(examples, "allow.js"), secret)
	stranger, _ := startWorker(t, filepath.Join(examples, "worker.js"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

	d := smtptest.Start(t, smtptest.Behaviour{})
	routes := "domain * dmarc=off require_auth=no seal=never srs=never\ndomain mailbox.example\n" +
		"@mailbox.example smtp://" + d.Addr() + "\n"
	for _, name := range []string{"every", "class", "byname", "allow", "stranger"} {
		routes += "domain " + name + ".example\n@" + name + ".example hook " + name + "\n"
	}
	relay := world.Start(t, world.World{Dir: dir, Routes: routes, Config: "hooks: {secret_file: hooks.secret, " +
		"deadline: 10s, allow_private: [\"127.0.0.1/32\"], named: [{name: every, url: \"" + every +
		"\"}, {name: class, url: \"" + class + "\"}, {name: byname, url: \"" + byName + "\"}, {name: allow, url: \"" +
		allow + "\"}, {name: stranger, url: \"" + stranger + "\"}]}\n"})

	const failed = "451 4.3.0 The program that decides failed"
	arrive := make(map[string]string) // by the recipient that the client gave
	s := world.Dial(t, source.Config{Addr: relay.Addr})
	for _, tt := range []struct{ to, reply, at, tells string }{
		{"forward@every.example", "250", "alice@mailbox.example", ""},
		{"several@every.example", "250", "alice@mailbox.example bob@mailbox.example", ""},
		{"twice@every.example", "250", "alice@mailbox.example", ""},
		{"later@every.example", "250", "alice@mailbox.example", ""},
		{"reject@every.example", "550 5.7.1 Moved to another house, see https://example.org/", "", ""},
		{"both@every.example", "550 5.7.1 After all not", "", ""},
		{"words@every.example", "550 5.7.1 Caf? closed " + strings.Repeat("x", 100), "", ""},
		{"drop@every.example", "250", "", ""},
		{"throw@every.example", failed, "", "Error: the table is out of reach"},
		{"forwardthenthrow@every.example", failed, "", "Error: thought better of it"},
		{"laterthrow@every.example", failed, "", "Error: later"},
		{"subject@every.example", failed, "",
			"message.headers: the field subject is not there: a hook is asked at RCPT, before the message comes"},
		{"fields@every.example", failed, "", "message.headers as a list is not there"},
		{"copy@every.example", failed, "", "the worker failed"},
		{"raw@every.example", failed, "", "message.raw is not there"},
		{"rawsize@every.example", failed, "", "message.rawSize is not there"},
		{"reply@every.example", failed, "", "message.reply is not there"},
		{"addfield@every.example", failed, "", "message.forward with header fields is not there"},
		{"unawaited@every.example", failed, "", "message.forward with header fields is not there"},
		{"many@every.example", failed, "", "message.forward: more than 20 addresses"},
		{"known@every.example", "250", "alice@mailbox.example", ""},
		{"env@every.example", "250", "alice@mailbox.example", ""},
		{"nonsense@every.example", "451 4.3.0", "", ""},
		{"anyone@class.example", "250", "alice@mailbox.example", ""},
		{"Orders@byname.example", "250", "alice@mailbox.example", ""},
		{"help@byname.example", "250", "alice@mailbox.example bob@mailbox.example", ""},
		{"constructor@byname.example", "550 5.7.1 No such address here", "", ""},
		{"any@allow.example", "550 5.7.1 This address takes mail of its correspondents only", "", ""},
		{"orders@stranger.example", "451 4.3.0", "", ""},
	} {
		r, err := s.Send(source.Message{
			Reverse: "a@near.example", Forward: []string{tt.to},
			Octets: []byte("Message-ID: <" + tt.to + ">\r\nDate: x\r\n\r\nx\r\n"),
		})
		if err != nil {
			t.Fatalf("%s: %v", tt.to, err)
		}
		switch got := r.Rcpt[0].String(); {
		case !strings.HasPrefix(got, tt.reply):
			t.Errorf("%s: got %s", tt.to, got)
		case r.Rcpt[0].Code == 250 && r.End.Code != 250:
			t.Errorf("%s: the end got %s", tt.to, r.End)
		case !strings.Contains(said.String(), tt.tells):
			t.Errorf("%s: its operator is not told %q", tt.to, tt.tells)
		}
		if r.Rcpt[0].Code != 250 {
			if err := s.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		if tt.at != "" {
			arrive[tt.to] = tt.at
		}
	}
	for _, m := range world.Messages(t, d, len(arrive)) {
		_, id, _ := strings.Cut(string(m.Octets), "Message-ID: <")
		to, _, _ := strings.Cut(id, ">")
		if at := strings.Join(m.Forwards, " "); arrive[to] != at {
			t.Errorf("mail for %q came to %q", to, at)
		}
		delete(arrive, to)
	}
	if len(arrive) > 0 {
		t.Errorf("lost: %v", arrive)
	}

	secrets, err := hook.ParseSecrets(secret)
	if err != nil {
		t.Fatal(err)
	}
	question := `{"type": "recipient.asked", "data": {"recipient": "drop@every.example", "sender": ""}}`
	now := time.Now()
	for _, tt := range []struct {
		name, signed, body string
		at                 time.Time
		code               int
	}{
		{"asked", question, question, now, http.StatusOK},
		{"another body", "{}", question, now, http.StatusUnauthorized},
		{"too old", question, question, now.Add(-10 * time.Minute), http.StatusUnauthorized},
		{"of the future", question, question, now.Add(10 * time.Minute), http.StatusUnauthorized},
		{"no body", question, "", now, http.StatusUnauthorized},
		{"no question", "[]", "[]", now, http.StatusBadRequest},
		{"too large", "", strings.Repeat("x", 64<<10+1), now, http.StatusRequestEntityTooLarge},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, every, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		hook.Sign(r.Header, "hook_1", tt.at, []byte(tt.signed), secrets)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != tt.code {
			t.Errorf("%s: got %s", tt.name, answer.Status)
		}
	}
	none := filepath.Join(t.TempDir(), "none.js")
	world.Save(t, none, "export default { async fetch() { return new Response('web'); } };\n")
	for name, tt := range map[string][3]string{
		"no secret":     {"testdata/worker.js", "", "MILLRACE_SECRET is not"},
		"a bare prefix": {"testdata/worker.js", "whsec_", "MILLRACE_SECRET is not"},
		"no handler":    {none, secret, "no email handler"},
	} {
		cmd := workerd(t, tt[0], tt[1])
		cmd.Args = cmd.Args[:len(cmd.Args)-2]
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), tt[2]) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
