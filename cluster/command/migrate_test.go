package command

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/extern"
)

// ran runs a verb and returns its exit code and what it printed.
func ran(args ...string) (code int, out, complaints string) {
	var o, e strings.Builder
	code = Main(args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// secretToken is what the double of the API wants.
const secretToken = "0123456789abcdef0123456789abcdef01234567"

// serveCloudflare serves the API for one zone with three rules, two a page.
func serveCloudflare(t *testing.T) *httptest.Server {
	t.Helper()
	rule := func(user, to string) string {
		return fmt.Sprintf(`{"id":"1","enabled":true,"matchers":[{"type":"literal","field":"to",`+
			`"value":"%s@example.org"}],`+
			`"actions":[{"type":"forward","value":["%s"]}]}`, user, to)
	}
	answers := map[string]string{
		"/client/v4/zones?name=example.org": `{"result":[{"id":"z1","account":{"id":"a1"}}]}`,
		"/client/v4/zones/z1/email/routing": `{"result":{"name":"example.org",` +
			`"support_subaddress":true}}`,
		"/client/v4/zones/z1/email/routing/rules/catch_all": `{"result":{"matchers":[{"type":"all"}],` +
			`"actions":[{"type":"drop"}]}}`,
		"/client/v4/zones/z1/email/routing/rules?page=1&per_page=50": `{"result":[` + rule("info",
			"alice@mailbox.example") +
			`,` + rule("two", "bob@mailbox.example") + `],"result_info":{"total_pages":2}}`,
		"/client/v4/zones/z1/email/routing/rules?page=2&per_page=50": `{"result":[` + rule("six",
			"new@mailbox.example") +
			`],"result_info":{"total_pages":2}}`,
		"/client/v4/accounts/a1/email/routing/addresses?page=1&per_page=50": `{"result":[{"email":` +
			`"new@mailbox.example","verified":null}],"result_info":{"total_pages":1}}`,
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.URL.RequestURI()]
		switch {
		case r.Header.Get("Authorization") != "Bearer "+secretToken:
			w.WriteHeader(http.StatusForbidden)
			answer = `{"success":false,"errors":[{"code":9109,"message":"Invalid \u001b[31mtoken"}]}`
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			answer = `{"success":false,"errors":[{"code":7003,"message":"no route"}]}`
		}
		fmt.Fprint(w, answer)
	}))
	t.Cleanup(s.Close)
	return s
}

// TestImport_CloudflareAPI: the API is asked with the token, and what it says is written as rules that check accepts.
func TestImport_CloudflareAPI(t *testing.T) {
	s := serveCloudflare(t)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(secretToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "etc")
	code, said, complaints := ran("import", "cloudflare", "--domain", "Example.ORG", "--token-file", token,
		"--url", s.URL+"/client/v4", "--out", out)
	if code != exitOK || !strings.Contains(said, "routes.txt") ||
		!strings.Contains(complaints, "takes no mail until new@mailbox.example is verified") {
		t.Fatalf("exit code %d, %s%s", code, said, complaints)
	}
	rules, err := os.ReadFile(filepath.Join(out, "routes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "\ndomain example.org  subaddress=+\ninfo@example.org  alice@mailbox.example\n" +
		"two@example.org  bob@mailbox.example\n@example.org  drop\n"
	if !strings.HasSuffix(string(rules), want) {
		t.Errorf("the rules are\n%s\nwant\n%s", rules, want)
	}
	if code, _, complaints := ran("check", "-c", filepath.Join(out, configName)); code != exitOK {
		t.Errorf("check: %s", complaints)
	}
}

// TestImport_CloudflareRefused: what stands in the way is said, without the token, and without what a terminal would
// take for a command.
func TestImport_CloudflareRefused(t *testing.T) {
	s := serveCloudflare(t)
	t.Setenv(cloudflareToken, "")
	if code, _, said := ran("import", "cloudflare", "--domain", "example.org"); code != exitUsage ||
		!strings.Contains(said, cloudflareToken) {
		t.Errorf("without a token: exit code %d, %s", code, said)
	}
	if code, _, said := ran("import", "cloudflare"); code != exitUsage || !strings.Contains(said,
		"--domain: is required") {
		t.Errorf("without a domain: exit code %d, %s", code, said)
	}
	t.Setenv(cloudflareToken, "a-wrong-token")
	code, _, said := ran("import", "cloudflare", "--domain", "example.org", "--url", s.URL+"/client/v4")
	if code != exitError || !strings.Contains(said, "the token may not read this: 9109 Invalid ?[31mtoken") ||
		strings.Contains(said, "a-wrong-token") {
		t.Errorf("with a wrong token: exit code %d, %q", code, said)
	}
	if code, _, said := ran("import", "cloudflare", "--domain", "example.org", "--url", "http://api.example/"); code !=
		exitUsage || !strings.Contains(said, "--url: begins with http://") {
		t.Errorf("in clear to a host of others: exit code %d, %s", code, said)
	}
}

// movingZone is a domain that forwards by its records, whose MX moves.
const movingZone = `
example.org. 300 IN SOA ns1.example.org. hostmaster.example.org. 1 3600 600 864000 60
example.org. 7200 IN TXT "forward-email=info:alice@mailbox.example,!no"
example.org. 7200 IN MX 10 old.example.org.
`

// TestImport_ForwardEmailDNS: the records are looked up.
func TestImport_ForwardEmailDNS(t *testing.T) {
	server := dnstest.Start(t, movingZone)
	code, said, complaints := ran("import", "forward-email", "example.org", "--dns", server.Addr())
	if code != exitOK || !strings.Contains(said, "info@example.org  alice@mailbox.example\nno@example.org  drop\n") {
		t.Errorf("exit code %d, %s%s", code, said, complaints)
	}
	if code, _, _ := ran("import", "forward-email", "none.example", "--dns", server.Addr()); code != exitError {
		t.Errorf("a domain without records: exit code %d", code)
	}
}

// TestEgressList_Cluster: the running node is asked for the addresses of all, and a list that lacks those of one is not
// printed.
func TestEgressList_Cluster(t *testing.T) {
	for _, tt := range []struct {
		name, nodes, out, complaint string
	}{
		{"all say theirs", `{"node": "a", "ok": true, "addresses": ["192.0.2.1"]},
			{"node": "b", "ok": true, "addresses": ["192.0.2.3", "2001:db8::1"]}`, "192.0.2.1/32", ""},
		{"one says nothing", `{"node": "a", "ok": true, "addresses": ["192.0.2.1"]},
			{"node": "b", "ok": false, "says": ["cannot be asked: \u001b[2J"]}`, "", "b: cannot be asked: "},
		{"one of an earlier version", `{"node": "a", "ok": true, "addresses": ["192.0.2.1"]},
			{"node": "b", "ok": true}`, "", "b: "},
	} {
		asked := ""
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = r.URL.Path
			fmt.Fprintf(w, `{"check": "addresses", "ok": true, "nodes": [%s]}`, tt.nodes)
		}))
		t.Cleanup(api.Close)
		dir := t.TempDir()
		for name, text := range map[string]string{
			"millrace.yaml": rightLines + "admin: {addr: \"" + strings.TrimPrefix(api.URL, "http://") +
				"\", token_file: token}\n",
			"routes.txt": "@example.org smtp://10.0.0.7\n", "token": secretToken + "\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		code, out, complaints := ran("egress-list", "--cluster", "-c", filepath.Join(dir, "millrace.yaml"))
		if (code == exitOK) != (tt.complaint == "") || !strings.Contains(out, tt.out) ||
			!strings.Contains(complaints, tt.complaint) || strings.Contains(complaints, "\x1b") ||
			asked != "/api/v1/check/addresses" || tt.out == "" && out != "" {
			t.Errorf("%s: exit code %d of %s, %s%s", tt.name, code, asked, out, complaints)
		}
	}
}

// TestMigrate_RollBack: the way back that a plan writes is taken by a real name server from a real program, as it
// stands, and brings the records back that there were.
func TestMigrate_RollBack(t *testing.T) {
	o := newOwner(t, ownersZone+"@ 7200 MX 10 old\n@ 7200 MX 20 old.backup.example.\nold A 192.0.2.9\n")
	back := filepath.Join(t.TempDir(), "back")
	code, _, complaints := ran("migrate", "plan", "example.org", "-c", o.config, "--resolver", o.server.Addr,
		"--rollback", back)
	if code != exitOK {
		t.Fatalf("exit code %d, %s", code, complaints)
	}
	before := o.has("example.org", "MX")
	code, out := o.apply("--key", o.keyFile, "--replace", "--yes")
	if code != exitOK || o.has("example.org", "MX") == before {
		t.Fatalf("the move: exit code %d, %s", code, out)
	}
	host, port, err := net.SplitHostPort(o.server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(back)
	if err != nil {
		t.Fatal(err)
	}
	cmd := extern.Find(t, "knsupdate").Command(t.Context(), "-y", extern.KnotKey)
	cmd.Stdin = strings.NewReader("server " + host + " " + port + "\n" + string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("knsupdate: %v\n%s", err, out)
	}
	if after := o.has("example.org", "MX"); after != before {
		t.Errorf("the records are %q, and were %q", after, before)
	}
}

// TestMigrate_Plan: the plan has the records and the TTL of the DNS, and the way back is written once.
func TestMigrate_Plan(t *testing.T) {
	server := dnstest.Start(t, movingZone)
	dir := t.TempDir()
	cfg := filepath.Join(dir, "millrace.yaml")
	for name, text := range map[string]string{
		"millrace.yaml": "hostname: mx1.example.net\npostmaster: ops@elsewhere.example\nlisten: [{addr: " +
			"\"127.0.0.1:0\"}]\n" +
			"routes: routes.txt\ndns: {servers: [\"" + server.Addr() + "\"]}\nlimits: {message_size: 52428800}\n",
		"routes.txt": "@example.org smtp://10.0.0.7\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	back := filepath.Join(dir, "back")
	code, said, complaints := ran("migrate", "plan", "example.org", "-c", cfg, "--rollback", back)
	if code != exitOK {
		t.Fatalf("exit code %d, %s", code, complaints)
	}
	for _, line := range []string{"example.org moves to mx1.example.net", "They count for 2h0m0s after a change",
		"example.org. 300 IN MX 10 old.example.org.", "example.org. 300 IN MX 10 mx1.example.net.",
		"example.org. 300 IN MX 30 old.example.org.", "message_size_limit = 52428800",
		"millrace check target smtp://10.0.0.7 -c "} {
		if !strings.Contains(said, line) {
			t.Errorf("the plan has no %q:\n%s", line, said)
		}
	}
	text, err := os.ReadFile(back)
	if err != nil || !strings.HasSuffix(string(text), "zone example.org.\nupdate delete example.org. MX\n"+
		"update add example.org. 7200 "+
		"MX 10 "+
		"old.example.org.\nsend\n") {
		t.Errorf("the way back is %s, %v", text, err)
	}
	if code, _, complaints := ran("migrate", "plan", "example.org", "-c", cfg, "--rollback", back); code != exitError ||
		!strings.Contains(complaints, "--rollback: ") {
		t.Errorf("a second time: exit code %d, %s", code, complaints)
	}
	if code, said, _ := ran("migrate", "plan", "example.org", "-c", cfg, "--json"); code != exitOK ||
		!strings.Contains(said, `"ttl": 7200`) {
		t.Errorf("for a program: exit code %d, %s", code, said)
	}
	if err := server.SetZone("example.org. 300 IN MX 10 mx1.example.net.\n"); err != nil {
		t.Fatal(err)
	}
	if code, _, complaints := ran("migrate", "plan", "example.org", "-c", cfg); code != exitError ||
		!strings.Contains(complaints, "among its MX already") {
		t.Errorf("of a domain that has moved: exit code %d, %s", code, complaints)
	}
}

// A lineWatcher calls a function once, when a word is written to it.
type lineWatcher struct {
	strings.Builder
	word string
	once sync.Once
	then func()
}

// Write notes what is written.
func (w *lineWatcher) Write(b []byte) (int, error) {
	n, err := w.Builder.Write(b)
	if w.Len() > 1<<16 {
		panic("it goes on for ever")
	}
	if strings.Contains(w.String(), w.word) {
		w.once.Do(w.then)
	}
	return n, err
}

// TestMigrate_Watch: it ends when the last resolver sees the new MX, and tells who does not.
func TestMigrate_Watch(t *testing.T) {
	const moved = "example.org. 300 IN MX 10 mx1.example.net.\nexample.org. 300 IN MX 20 old.example.org.\n"
	first, last := dnstest.Start(t, moved), dnstest.Start(t, movingZone)
	args := []string{"migrate", "watch", "example.org", "--new", "mx1.example.net", "--resolver", first.Addr(),
		"--resolver",
		last.Addr()}
	code, said, _ := ran(append(args, "--once")...)
	if code != exitError || !strings.Contains(said, first.Addr()+"  both") || !strings.Contains(said,
		last.Addr()+"  old") {
		t.Errorf("exit code %d, %s", code, said)
	}
	w := &lineWatcher{word: " old ", then: func() {
		if err := last.SetZone(moved); err != nil {
			t.Error(err)
		}
	}}
	var complaints strings.Builder
	code = Main(append(args, "--every", "1ms"), strings.NewReader(""), w, &complaints)
	if code != exitOK || !strings.HasSuffix(strings.TrimSpace(w.String()), "mx1.example.net old.example.org") {
		t.Errorf("exit code %d, %s%s", code, w.String(), complaints.String())
	}
	if code, _, _ := ran("migrate", "watch", "example.org", "--new", "mx1.example.net", "--resolver",
		"nowhere"); code !=
		exitUsage {
		t.Errorf("a resolver that is none: exit code %d", code)
	}
}
