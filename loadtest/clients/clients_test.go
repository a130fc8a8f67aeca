// Cloudflare's own clients against a running node: the npm package cloudflare and wrangler, unmodified.
package clients_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// apiToken is that of the configuration, in the form that Terraform wants.
const apiToken = "0123456789abcdefghijklmnopqrstuvwxyzABCD"

// start runs a node whose API can be written to, and returns it with its base URL. It has so many rules of the API.
func start(t *testing.T, w world.World, rules int) (relay *world.Relay, base string) {
	t.Helper()
	w.Dir = t.TempDir()
	world.Save(t, filepath.Join(w.Dir, "admin.token"), apiToken+"\n")
	made := time.Now()
	list := []account.Rule{{ID: account.NewID(), Domain: "example.com", Pattern: "domain example.com"}}
	for i := range rules {
		list = append(list, account.Rule{
			ID: account.NewID(), Domain: "example.com", Pattern: fmt.Sprintf("r%d@example.com", i), Target: "drop",
		})
	}
	for i := range list {
		list[i].Enabled, list[i].Source, list[i].Created, list[i].Modified = true, "api", made, made
	}
	text, _, err := account.Render(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(w.Dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	world.Save(t, filepath.Join(w.Dir, "state", account.RulesName), text)
	w.Config += "\nstate: state\nadmin: {addr: \"127.0.0.1:0\", token_file: admin.token}\n"
	relay = world.Start(t, w)
	return relay, "http://" + relay.Node.AdminAddr().String() + "/client/v4"
}

// TestSDK: the npm package cloudflare reads and writes all that there is.
func TestSDK(t *testing.T) {
	t.Parallel()
	node, _ := extern.Cloudflare(t)
	_, base := start(t, world.World{}, 1000)
	cmd := node.Command(t.Context(), "testdata/sdk.js", base, apiToken, "example.com")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A wrangler runs commands of wrangler against a node.
type wrangler struct {
	t      *testing.T
	node   extern.Program
	script string
	env    []string
	dir    string
}

// run runs wrangler email routing and returns what it printed, without colours. A command that ends otherwise than it
// is to fails the test.
func (w *wrangler) run(fails bool, args ...string) string {
	w.t.Helper()
	cmd := w.node.Command(w.t.Context(), append([]string{"--no-warnings", w.script, "email", "routing"}, args...)...)
	cmd.Dir = w.dir
	cmd.Env = append(cmd.Env, w.env...)
	out, err := cmd.CombinedOutput()
	text := colours.ReplaceAllString(string(out), "")
	if (err != nil) != fails {
		w.t.Fatalf("wrangler %s: %v\n%s", strings.Join(args, " "), err, text)
	}
	return text
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// id is an id in what wrangler printed.
var id = regexp.MustCompile(`[0-9a-f]{32}`)

// TestWrangler: each sub-command of wrangler email routing works.
func TestWrangler(t *testing.T) {
	t.Parallel()
	node, script := extern.Cloudflare(t)
	_, base := start(t, world.World{}, 0)
	w := &wrangler{t: t, node: node, script: script, dir: t.TempDir()}
	w.env = []string{
		"CLOUDFLARE_API_BASE_URL=" + base, "CLOUDFLARE_API_TOKEN=" + apiToken, "WRANGLER_SEND_METRICS=false", "CI=true",
		"HOME=" + w.dir, "NODE_COMPILE_CACHE=" + filepath.Join(w.dir, "cache"), "WRANGLER_HIDE_BANNER=true",
	}
	// want runs a command and wants words in what it prints.
	want := func(words string, args ...string) string {
		t.Helper()
		out := w.run(false, args...)
		for word := range strings.SplitSeq(words, "|") {
			if !strings.Contains(out, word) {
				t.Errorf("wrangler %s: no %q in\n%s", strings.Join(args, " "), word, out)
			}
		}
		return out
	}
	want("example.com|yes", "list") // which finds the account by itself
	want("disabled for example.com", "disable", "example.com", "--force")
	want("enabled for example.com", "enable", "example.com")
	want("example.com", "settings", "example.com")
	want("MX record|relay.example", "dns", "get", "example.com")
	want("unlocked for example.com", "dns", "unlock", "example.com", "--force")

	address := id.FindString(want("box@mailbox.example", "addresses", "create", "box@mailbox.example"))
	want("box@mailbox.example|pending", "addresses", "list")
	want("box@mailbox.example|pending", "addresses", "get", address)

	rule := id.FindString(want("Created|one", "rules", "create", "example.com", "--name", "one", "--match-type",
		"literal",
		"--match-field", "to", "--match-value", "a@example.com", "--action-type", "forward", "--action-value",
		"box@mailbox.example"))
	want("a@example.com|catch-all", "rules", "list", "example.com")
	want("one|a@example.com|forward: box@mailbox.example", "rules", "get", "example.com", rule)
	want("Updated", "rules", "update", "example.com", rule, "--match-type", "literal", "--match-field", "to",
		"--match-value", "b@example.com", "--action-type", "drop")
	want("b@example.com|drop", "rules", "get", "example.com", rule)
	want("Enabled: true|drop", "rules", "update", "example.com", "catch-all", "--enabled", "--action-type", "drop")
	want("Enabled: true|drop", "rules", "get", "example.com", "catch-all")
	if out := w.run(true, "rules", "get", "example.com", strings.Repeat("0", 32)); !strings.Contains(out, "2020") {
		t.Errorf("got %s", out)
	}
	want("Deleted", "rules", "delete", "example.com", rule, "--force")
	want("Deleted", "addresses", "delete", address, "--force")
}

// call asks the API.
func call(t *testing.T, method, url, body string, result any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+apiToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s %s: %v %d %s", method, url, err, resp.StatusCode, text)
	}
	if err := json.Unmarshal(text, &struct {
		Result any `json:"result"`
	}{result}); err != nil {
		t.Fatal(err)
	}
}

// TestToken: without a token, and with a wrong one, each path below /client/v4/ is 401 in an envelope, whatever the
// method, whether there is such a path or not.
func TestToken(t *testing.T) {
	t.Parallel()
	_, base := start(t, world.World{}, 1)
	const zone, id = "/zones/1b6cc5fc66a173faf805ea4265358383", "/0123456789abcdef0123456789abcdef"
	ask := func(method, path, token string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 401 || method != "HEAD" && !bytes.Contains(body, []byte(`"success":false`)) {
			t.Errorf("%s %s with %q: got %d %s", method, path, token, resp.StatusCode, body)
		}
	}
	for _, path := range []string{
		"/", "/nothing", "/zones", zone, "/zones/x", zone + "/email/routing", zone + "/email/routing/enable",
		zone + "/email/routing/disable", zone + "/email/routing/unlock", zone + "/email/routing/dns",
		zone + "/email/routing/rules", zone + "/email/routing/rules" + id, zone + "/email/routing/rules/catch_all",
		"/accounts", "/accounts" + id, "/memberships", "/user", "/user/tokens/verify", "/accounts" + id +
			"/tokens/verify",
		"/accounts" + id + "/email/routing/zones", "/accounts" + id + "/email/routing/addresses",
		"/accounts" + id + "/email/routing/addresses" + id, "/accounts" + id + "/email/routing/rules",
		"/accounts" + id + "/email/routing/rules/plan", "/accounts" + id + "/email/sending/send_raw",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			ask(method, path, "")
		}
	}
	for _, wrong := range []string{
		"Bearer ", "Bearer x", "Bearer " + apiToken + "x", "Bearer " + apiToken[1:], "Basic " + apiToken, apiToken,
		"Bearer " + strings.ToLower(apiToken),
	} {
		ask("GET", "/zones", wrong)
		ask("DELETE", zone+"/email/routing/rules"+id, wrong)
	}
}
