package command

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace/millrace/cluster/node"
	"github.com/millrace/millrace/ingress/message/auth/dkim"
	"github.com/millrace/millrace/loadtest/extern"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"millrace": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// zone holds the answers of the scripts' name server.
const zone = `
example.org. 60 IN MX 10 mx1.example.org.
example.org. 60 IN MX 20 mx2.example.org.
mx1.example.org. 60 IN A 192.0.2.25
mx2.example.org. 60 IN AAAA 2001:db8::25
nomail.example. 60 IN MX 0 .
relay.example.net. 60 IN A 192.0.2.27
27.2.0.192.in-addr.arpa. 60 IN PTR relay.example.net.
`

// TestScripts runs testdata/script. Each script finds the address of a name server in $DNS, of a host with logins in
// $SMARTHOST, of a collector in $COLLECTOR, and addresses with free ports in $ADDR and $ADMIN.
func TestScripts(t *testing.T) {
	dns := dnstest.Start(t, zone)
	ca := smtptest.NewCA()
	smarthost := smtptest.Start(t, smtptest.Behaviour{
		TLS: ca.Server("127.0.0.1"), Users: map[string]string{"relay": "right", "other": "right"},
	})
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(collector.Close)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("DNS", dns.Addr())
			env.Setenv("SMARTHOST", smarthost.Addr())
			env.Setenv("COLLECTOR", collector.URL)
			env.Setenv("SSL_CERT_FILE", filepath.Join(env.WorkDir, "smarthost-ca.pem")) // what the system trusts
			if err := writeSmarthost(env.WorkDir, smarthost.Addr(), ca.PEM()); err != nil {
				return err
			}
			ports, err := extern.FreePorts(2)
			if err != nil {
				return err
			}
			for n, name := range []string{"ADDR", "ADMIN"} {
				env.Setenv(name, net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[n])))
			}
			// A reload waits for a file that has just been written, and the end of the node ends that wait.
			files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.txt"))
			for _, file := range files {
				past := time.Now().Add(-time.Minute)
				err = errors.Join(err, os.Chtimes(file, past, past))
			}
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"awaitclosed": awaitClosed,
			"awaitrcpt":   awaitRcpt,
			"awaitsmtp":   awaitSMTP,
			"begindata":   beginData,
			"exits":       exits,
			"signal":      sendSignal,
		},
		RequireExplicitExec: true,
	})
}

// await waits for a condition, and reports whether it was met.
func await(condition func() bool) bool {
	late := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-late:
			return false
		case <-tick.C:
		}
	}
	return true
}

// writeSmarthost writes rules with two logins at a host, of which one has a wrong password, and the authority of its
// certificate.
func writeSmarthost(dir, addr string, authority []byte) error {
	var errs []error
	for name, text := range map[string]string{
		"smarthost-ca.pem": string(authority),
		"smarthost.txt": "one@example.com submission://relay@" + addr + " lend=anybody\n" +
			"two@example.com submission://other@" + addr + " lend=anybody\n",
		"hosted.txt": "info@hosted.example alice@nomail.example\npostmaster@hosted.example smtp://" + addr +
			"\n",
		"smarthost.passwords": "relay@" + addr + " right\nother@" + addr + " wrong-password\n",
	} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return errors.Join(errs...)
}

// awaitSMTP waits until an SMTP server greets at an address.
func awaitSMTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: awaitsmtp ADDRESS")
	}
	if !await(func() bool { return greeted(args[0]) }) {
		ts.Fatalf("nobody greets at %s", args[0])
	}
}

// awaitClosed waits until an address refuses connections.
func awaitClosed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: awaitclosed ADDRESS")
	}
	if !await(func() bool {
		c, err := net.DialTimeout("tcp", args[0], time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	}) {
		ts.Fatalf("somebody listens at %s", args[0])
	}
}

// awaitRcpt waits until a recipient is taken.
func awaitRcpt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: awaitrcpt ADDRESS RECIPIENT")
	}
	if !await(func() bool {
		c, err := converse(args[0], args[1])
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		ts.Fatalf("%s is not taken at %s", args[1], args[0])
	}
}

// beginData leaves a client in the middle of a message.
func beginData(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: begindata ADDRESS RECIPIENT")
	}
	c, err := converse(args[0], args[1])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	ts.Check(c.PrintfLine("DATA"))
	_, _, err = c.ReadResponse(354)
	ts.Check(err)
}

// converse names a recipient to an SMTP server, which takes it.
func converse(addr, recipient string) (*textproto.Conn, error) {
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_, _, err = c.ReadResponse(220)
	for _, line := range []string{
		"EHLO client.example", "MAIL FROM:<alice@sender.example>", "RCPT TO:<" + recipient + ">",
	} {
		if err == nil {
			err = c.PrintfLine("%s", line)
		}
		if err == nil {
			_, _, err = c.ReadResponse(250)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func greeted(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return false
	}
	b := make([]byte, 4)
	_, err = c.Read(b)
	return err == nil && string(b[:3]) == "220"
}

// sendSignal sends HUP or TERM to the one background command.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	sig, ok := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[strings.Join(args, " ")]
	cmds := ts.BackgroundCmds()
	if neg || !ok || len(cmds) != 1 {
		ts.Fatalf("usage: signal HUP|TERM, with one command in the background")
	}
	ts.Check(cmds[0].Process.Signal(sig))
}

// exits runs a command and compares its exit code, which exec alone cannot.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENTS")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// TestCheck_Documents: the examples of the documents are valid.
func TestCheck_Documents(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatal("no documents", err)
	}
	const smallest = "hostname: mx1.example.net\npostmaster: ops@elsewhere.example\nlisten: [{addr: " +
		"\":2525\"}]\nroutes: routes.txt\negress: {credentials_file: smarthosts, sites_file: sites.txt, " +
		"reactions_file: reactions.txt}\nhooks: {secret_file: hooks.secret, named: [{name: orders, url: " +
		"\"https://hooks.example.net/mail\"}]}\n"
	const noRules = "domain example.com\n"
	t.Setenv("REDIS_PASSWORD", "secret") // which an example takes from there
	tried := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range fenced(string(text)) {
			tried++
			t.Run(fmt.Sprintf("%s line %d", filepath.Base(file), block.line), func(t *testing.T) {
				yaml, rules, sites, reactions := smallest, noRules, "", ""
				switch block.kind {
				case "yaml":
					yaml = block.text
				case "routes":
					rules = block.text
				case "sites":
					sites = block.text
				case "reactions":
					reactions = block.text
				}
				dir := t.TempDir()
				writeExampleFiles(t, dir, yaml, rules, sites, reactions)
				var out, complaints strings.Builder
				if code := Main([]string{"check", "-c", filepath.Join(dir, "millrace.yaml")}, nil, &out,
					&complaints); code != 0 {
					t.Errorf("exit code %d\n%s", code, complaints.String())
				}
			})
		}
	}
	if tried < 5 {
		t.Errorf("only %d examples were found", tried)
	}
}

type example struct {
	kind, text string
	line       int
}

// fenced returns the blocks between ```yaml, ```routes, ```sites or ```reactions and ```.
func fenced(text string) []example {
	var all []example
	var open *example
	for i, line := range strings.Split(text, "\n") {
		switch {
		case open == nil && (line == "```yaml" || line == "```routes" || line == "```sites" || line == "```reactions"):
			open = &example{kind: line[3:], line: i + 1}
		case open != nil && line == "```":
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return all
}

// writeExampleFiles writes a configuration and all the files that the examples name.
func writeExampleFiles(t *testing.T, dir, yaml, rules, sites, reactions string) {
	t.Helper()
	secret := "0123456789abcdef0123456789abcdef\n"
	files := map[string]string{
		"millrace.yaml": yaml, "routes.txt": rules, "routes/00.txt": rules,
		"secret": secret, "admin.token": secret, "srs.key": secret,
		"hooks.secret": string(node.NewReceiverSecret()),
		"crm.secret":   string(node.NewReceiverSecret()), "ops.secret": string(node.NewReceiverSecret()),
		"sites.txt": sites, "reactions.txt": reactions,
		"users":      "alice $2a$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZabcde alice@example.com\n",
		"smarthosts": "relay@smarthost.example:587 secret\nuser@example.com@smarthost.example:587 secret\n",
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code := Main([]string{"cluster", "init", dir, "a"}, nil, io.Discard, os.Stderr); code != 0 {
		t.Fatalf("cluster init: exit code %d", code)
	}
	for _, name := range []string{"arc.pem", "r.pem", "d.pem"} {
		key, err := dkim.GenerateKey(dkim.Ed25519SHA256, 0)
		if err != nil {
			t.Fatal(err)
		}
		text, err := dkim.MarshalKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeCertificate(t, dir)
	authority, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "authorities.pem"), authority, 0o600); err != nil {
		t.Fatal(err)
	}
}
