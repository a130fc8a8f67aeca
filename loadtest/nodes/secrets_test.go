package nodes_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/cluster/command"
	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// A looker asks a node for all that it shows.
type looker struct {
	base   string
	client *http.Client
	seen   int // answers of 200
}

// get returns an answer with its header. A token may be "".
func (l *looker) get(t *testing.T, path, token string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := l.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		l.seen++
	}
	var header bytes.Buffer
	if err := resp.Header.Write(&header); err != nil {
		t.Fatal(err)
	}
	return header.String() + string(body)
}

// login opens a session of the dashboard.
func (l *looker) login(t *testing.T, token string) {
	t.Helper()
	form := url.Values{"token": {token}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.base+"/login",
		strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	resp, err := l.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // behind the redirect
		t.Fatalf("the login answers %s", resp.Status)
	}
}

// shownPaths are the pages of the dashboard, and those paths of both APIs that have lists or the state of the node.
func shownPaths(t *testing.T) (pages, apis []string) {
	t.Helper()
	openapi, err := os.ReadFile("../../cluster/admin/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^  (/api/v1/[^ {:]+):\n    get:`).FindAllSubmatch(openapi, -1) {
		apis = append(apis, string(m[1]))
	}
	if len(apis) < 8 {
		t.Fatalf("paths of the API: %q", apis)
	}
	apis = append(apis, "/metrics", "/readyz", "/client/v4/accounts", "/client/v4/zones",
		"/client/v4/user", "/client/v4/user/tokens/verify", "/client/v4/memberships")
	pages = []string{
		"/", "/sites", "/rules", "/rules/new", "/destinations", "/tokens", "/audit", "/log", "/senders?to=b@x.example",
		"/explain", "/dns", "/nothing",
	}
	return pages, apis
}

// TestSecrets_Nowhere: none of a node's secrets stands in its metrics, its log at the level debug, an answer of an API
// or a page of the dashboard, whatever fails meanwhile.
func TestSecrets_Nowhere(t *testing.T) {
	keys := t.TempDir()
	secrets := map[string]string{
		"the token of the administrator": "4dm1nT0kenOfTheSecretsTest0123456789abcdefgh",
		"a key of SRS":                   "srsK3yOfTheSecretsTest0123456789ab",
		"a key of hop marks":             "h0pK3yOfTheSecretsTest0123456789abcd",
		"a login at a smarthost":         "sm4rtP4sswordOfTheTest",
		"the password of Redis":          "r3disP4sswordOfTheTest", "the key of a DNS list": "d5bK3yOfTheTest",
		"the path of a receiver of events": "ev3ntT0kenOfTheTest", "the path of a hook": "h00kT0kenOfTheTest",
	}
	file := func(name, content string) string {
		path := filepath.Join(keys, name)
		if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	webhook := "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MDE="
	secrets["the key of receivers"] = strings.TrimPrefix(webhook, "whsec_")
	pem := filepath.Join(keys, "dkim.pem")
	if code := command.Main([]string{"dkim", "new", "--domain", "relay.example", "--selector", "s", "--out", pem}, nil,
		&strings.Builder{}, os.Stderr); code != 0 {
		t.Fatal(code)
	}
	text, err := os.ReadFile(pem)
	if err != nil {
		t.Fatal(err)
	}
	secrets["a signing key"] = strings.Split(string(text), "\n")[1]
	redis := world.StartRedis(t)
	redis.Do(t, "CONFIG", "SET", "requirepass", secrets["the password of Redis"])
	w := reaching(t, smtptest.Start(t, smtptest.Behaviour{}))
	w.DNS = dnstest.Start(t, "y.example. 60 IN MX 10 mx.y.example.\nmx.y.example. 60 IN A 127.0.0.1\n"+
		"client.example. 60 IN MX 10 mx.y.example.\n")
	w.Log = "debug"
	w.Routes += "hooked@x.example hook none\nhost@x.example submission://me@127.0.0.1:1 lend=anybody\n"
	w.Config += fmt.Sprintf(`
admin: {addr: "127.0.0.1:0", token_file: %q}
activity: {keep: 1h, memory: 1MiB}
once: true
secret_file: %q
srs: {domain: srs.example, key_file: %q}
redis: {url: "redis://:%s@%s/0"}
score: {lists: [{zone: %s.zen.example, name: zen.example, weight: 10}]}
events: {allow_private: ["127.0.0.0/8"], receivers: [{name: ops, url: "https://127.0.0.1:1/%s", secret_file: %q}]}
dkim: {relay: [{domain: relay.example, selector: s, key_file: %q}]}
hooks: {secret_file: %q, named: [{name: none, url: "https://127.0.0.1:1/%s"}]}
`, file("token", secrets["the token of the administrator"]), file("hop", secrets["a key of hop marks"]),
		file("srs", secrets["a key of SRS"]), secrets["the password of Redis"], redis.Addr,
		secrets["the key of a DNS list"], secrets["the path of a receiver of events"], file("webhook", webhook), pem,
		file("hooks", webhook), secrets["the path of a hook"])
	w.Config = strings.Replace(w.Config, "allow_private: true", fmt.Sprintf("allow_private: true, credentials_file: %q",
		file("logins", "me@127.0.0.1:1 "+secrets["a login at a smarthost"])), 1)
	n := world.Start(t, w)

	for _, to := range []string{"b@x.example", "hooked@x.example", "host@x.example", "nobody@elsewhere.example"} {
		s := world.Dial(t, source.Config{Addr: n.Addr})
		if _, err := s.Send(source.Message{
			Reverse: "a@client.example", Forward: []string{to}, Octets: []byte("Subject: x\r\n\r\nx\r\n"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	l := &looker{base: "http://" + n.Node.AdminAddr().String(), client: &http.Client{Transport: transport, Jar: jar}}
	token := secrets["the token of the administrator"]
	l.login(t, token)
	pages, apis := shownPaths(t)
	answers := make(map[string]string)
	for _, path := range pages {
		answers[path] = l.get(t, path, "")
	}
	for _, path := range apis {
		answers[path] = l.get(t, path, token)
	}
	if l.seen < len(pages)+len(apis)-2 { // one page is missing, and a path may want parameters
		t.Errorf("%d of %d answers are shown", l.seen, len(pages)+len(apis))
	}
	redis.Kill() // what fails is logged
	l.get(t, "/api/v1/destinations", token)
	answers["the log"] = n.Log.String()
	for _, part := range []string{`"msg":"relayed"`, `"hook":"`, "me@127.0.0.1:1", "does not take them"} {
		if !strings.Contains(answers["the log"], part) {
			t.Errorf("the log lacks %s", part) // what fails with each secret is to stand there
		}
	}
	for where, text := range answers {
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				i := strings.Index(text, secret)
				t.Errorf("%s shows %s: ...%q", where, what, text[max(0, i-100):i+len(secret)])
			}
		}
	}
}
