package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/account"
	"github.com/millrace/millrace/ingress/submission"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/router/mail"
)

// make adds a rule by the API of a node.
func (b *bench) make(t *testing.T, pattern, target string) account.Rule {
	t.Helper()
	r, err := b.Node.rules.account.AddRule(t.Context(), account.TokenFile(), account.Rule{
		Pattern: pattern, Target: target, Enabled: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// rcpt returns the code of the answer to a recipient.
func (b *bench) rcpt(t *testing.T, to string) int {
	t.Helper()
	c := b.dial(t)
	c.say("EHLO client.example", 250)
	c.say("MAIL FROM:<alice@sender.example>", 250)
	if err := c.PrintfLine("RCPT TO:<%s>", to); err != nil {
		t.Fatal(err)
	}
	code, _, err := c.ReadResponse(0)
	if code == 0 {
		t.Fatal(err)
	}
	c.Close()
	return code
}

// TestAPIRules_State: without Redis, what the API makes is in force at once, ends at once, is explained as it is
// answered, and is there after a restart. What the files say wins.
func TestAPIRules_State(t *testing.T) {
	state := t.TempDir()
	b := startNode(t, fmt.Sprintf("state: %q\n", state), nil)
	answers := func(t *testing.T, to string, code int, verdict string) {
		t.Helper()
		if got := b.rcpt(t, to); got != code {
			t.Errorf("%s: %d, want %d", to, got, code)
		}
		if a := b.explain(t, to); a.Verdict != verdict {
			t.Errorf("%s: explained as %s, want %s", to, a.Verdict, verdict)
		}
	}
	answers(t, "info@made.example", 550, Reject)
	r := b.make(t, "info@made.example", "reject 550 5.1.1 Made")
	d := b.make(t, "drop@made.example", "drop")
	answers(t, "drop@made.example", 250, Drop)
	answers(t, "info@made.example", 550, Reject)
	if _, err := b.Node.rules.account.RemoveRule(t.Context(), account.TokenFile(), d.ID); err != nil {
		t.Fatal(err)
	}
	answers(t, "drop@made.example", 550, Reject) // and not 451, as after a reload of files

	d = b.make(t, "drop@made.example", "drop")
	_, err := b.Node.rules.account.AddRule(t.Context(), account.TokenFile(), account.Rule{
		Pattern: "@example.com", Target: "drop", Enabled: true,
	})
	if err == nil || !strings.Contains(err.Error(), "@example.com: the same pattern stands at "+b.dir) {
		t.Errorf("a clash with the files: %v", err)
	}

	b.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%s\nDROP@made.example reject 550 No\n",
		b.dest.Addr()))
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	answers(t, "drop@made.example", 550, Reject)
	if got, err := b.Node.rules.account.Rule(account.TokenFile(), d.ID); err != nil || got.Off == "" || !got.Enabled {
		t.Errorf("%+v, %v", got, err)
	}
	b.rules(t, fmt.Sprintf("domain example.com\n@example.com smtp://%s\n", b.dest.Addr()))
	if err := b.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	answers(t, "drop@made.example", 250, Drop)

	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !b.log.Has("the rules files win") {
		t.Error("the log does not say that the files win")
	}
	again := startNode(t, fmt.Sprintf("state: %q\n", state), nil)
	if got, err := again.Node.rules.account.Rule(account.TokenFile(), r.ID); err != nil || got.Pattern != r.Pattern {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	if code := again.rcpt(t, "drop@made.example"); code != 250 {
		t.Errorf("after a restart: %d", code)
	}
}

// TestAPIRules_Unreadable: a node does not start, and check complains, while the file of the API's rules is not what
// was written: its addresses would be refused for good.
func TestAPIRules_Unreadable(t *testing.T) {
	state := t.TempDir()
	b := startNode(t, fmt.Sprintf("state: %q\n", state), nil)
	b.make(t, "drop@made.example", "drop")
	b.make(t, "@made.example", "drop")
	file := filepath.Join(state, account.RulesName)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, len(whole) / 2, len(whole) - 1} {
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(b.cfg, Options{Stderr: b.log})
		_, err2 := Check(b.cfg, nil)
		for _, err := range []error{err, err2} {
			if err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("cut at %d: %v", n, err)
			}
		}
	}
	if code := b.rcpt(t, "drop@made.example"); code != 250 {
		t.Errorf("the running node: %d", code)
	}
}

// TestAPIRules_Submission: the holder of a token logs in with it at a listener of users, sends as its domains, and not
// any more when it was revoked.
func TestAPIRules_Submission(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	alice := "alice " + submission.Hash("a secret") + " alice@example.com\n"
	if err := os.WriteFile(users, []byte(alice), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startNode(t, fmt.Sprintf("state: %q\nlisten: [{addr: \"127.0.0.1:0\", submission: true, users_file: %q}]\n",
		t.TempDir(), users), nil)
	made, secret, err := b.Node.rules.account.AddToken(t.Context(), account.TokenFile(), account.Token{
		Name: "a program", Role: account.Owner, Domains: []string{"example.com"},
	})
	if err != nil {
		t.Fatal(err)
	}
	login := func(secret string, code int) *talk {
		c := b.dialTLS(t, false)
		c.say("EHLO client.example", 250)
		c.say("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+made.ID+"\x00"+secret)), code)
		return c
	}
	login(secret+"x", 535)
	c := login(secret, 235)
	c.say("MAIL FROM:<any@example.com>", 250)
	c.say("RCPT TO:<x@example.com>", 250)
	c.say("RSET", 250)
	c.say("MAIL FROM:<any@sender.example>", 550)
	if _, err := b.Node.rules.account.RevokeToken(t.Context(), account.TokenFile(), made.ID); err != nil {
		t.Fatal(err)
	}
	c.say("MAIL FROM:<any@example.com>", 530)
	login(secret, 535)
	if b.log.Has(secret) {
		t.Error("the log has the secret")
	}
}

// TestAPIRules_Redis: what the API of one node makes is in force on three nodes, with its tokens and destinations, and
// is there after Redis lost all of it.
func TestAPIRules_Redis(t *testing.T) {
	redis := extern.StartRedis(t)
	var nodes []*bench
	for range 3 {
		nodes = append(nodes, startNode(t, onRedis(redis)+"rates: none\n", nil))
	}
	await := func(what string, is func(*bench) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		for i, b := range nodes {
			for !is(b) {
				select {
				case <-ctx.Done():
					t.Fatalf("%s: not on node %d", what, i)
				case <-time.After(10 * time.Millisecond):
				}
			}
		}
		t.Logf("%s on all nodes after %s", what, time.Since(begun).Round(time.Millisecond))
	}
	r := nodes[0].make(t, "drop@made.example", "drop")
	await("a rule of the first", func(b *bench) bool { return b.rcpt(t, "drop@made.example") == 250 })
	mine := account.Principal{ID: "o", Name: "o", Role: account.Owner, Domains: []string{"made.example"}}
	d, err := nodes[1].Node.rules.account.AddDestination(t.Context(), mine, "me@example.com")
	if err != nil {
		t.Fatal(err)
	}
	made, _, err := nodes[2].Node.rules.account.AddToken(t.Context(), account.TokenFile(), account.Token{
		Name: "o", Role: account.Owner, Domains: []string{"made.example"},
	})
	if err != nil {
		t.Fatal(err)
	}
	await("a token of the third", func(b *bench) bool {
		list, err := b.Node.rules.account.Tokens(account.TokenFile())
		return err == nil && len(list) == 1 && list[0].ID == made.ID
	})
	if _, err := nodes[2].Node.rules.account.AddRule(t.Context(), mine, account.Rule{
		Pattern: "info@made.example", Target: "me@example.com", Enabled: true,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes[0].Node.rules.account.ChangeDestination(t.Context(), account.Node("link"), d.ID,
		func(d *account.Destination) error {
			now := time.Now()
			d.Verified, d.How = &now, "link"
			return nil
		}); err != nil {
		t.Fatal(err)
	}
	await("what waited for its destination", func(b *bench) bool { return b.rcpt(t, "info@made.example") == 250 })
	if _, err := nodes[1].Node.rules.account.RemoveRule(t.Context(), account.TokenFile(), r.ID); err != nil {
		t.Fatal(err)
	}
	await("its end", func(b *bench) bool { return b.rcpt(t, "drop@made.example") == 550 })

	for _, b := range nodes {
		for _, p := range []account.Principal{account.TokenFile(), mine} {
			if _, err := b.Node.rules.account.Audit(p, 10); err != nil {
				t.Error(err)
			}
		}
	}
	await("the audit", func(b *bench) bool {
		list, _ := b.Node.rules.account.Audit(account.TokenFile(), 10)
		return len(list) == 6
	})

	flush(t, redis)
	nodes = append(nodes, startNode(t, onRedis(redis)+"rates: none\n", nil))
	await("what Redis lost, and a new node", func(b *bench) bool {
		list, err := b.Node.rules.account.Tokens(account.TokenFile())
		return err == nil && len(list) == 1 && b.rcpt(t, "info@made.example") == 250
	})

	nodes[0].rules(t, fmt.Sprintf("# A comment.\ndomain example.com\n@example.com smtp://%s\nINFO@made.example drop\n",
		nodes[0].dest.Addr()))
	if err := nodes[0].Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	await("the files of the first, which win", func(b *bench) bool {
		return b.explain(t, "info@made.example").Verdict == Drop
	})
	await("who changed the files", func(b *bench) bool {
		list, _ := b.Node.rules.account.Audit(account.TokenFile(), 1)
		return len(list) == 1 && list[0].What == "rules.files" &&
			list[0].Who == "reload of the rules files of mx1.example.net" &&
			strings.Contains(string(list[0].After), "INFO@made.example drop") &&
			strings.Contains(string(list[0].Before), "digest")
	})

	text := ""
	for n := range 100 {
		text += fmt.Sprintf("u%d@text.example drop\n", n)
	}
	version := nodes[0].Node.rules.version()
	for range 2 {
		d := account.Deployer{Account: nodes[1].Node.rules.account}
		if _, err := d.Apply(t.Context(), account.TokenFile(), account.Wish{Owner: "a", Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	await("a text of rules", func(b *bench) bool { return b.rcpt(t, "u99@text.example") == 250 })
	await("one version of it", func(b *bench) bool { return b.Node.rules.version() == version+1 })
}

// TestRuleSet_RecordReload: what a reload changed in the rules files stands in the audit, with the lines before and
// after, and a reload that changes nothing does not.
func TestRuleSet_RecordReload(t *testing.T) {
	b := startNode(t, fmt.Sprintf("state: %q\n", t.TempDir()), nil)
	b.rules(t, "# A comment.\nfirst@example.com drop\n")
	for range 2 {
		if err := b.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	list, err := b.Node.rules.account.Audit(account.TokenFile(), 10)
	if err != nil || len(list) != 1 ||
		!strings.Contains(string(list[0].Before), `"lines":["domain example.com","@example`) ||
		!strings.Contains(string(list[0].After), `"lines":["first@example.com drop"]`) {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestCompareFiles: the lines of a record are bounded.
func TestCompareFiles(t *testing.T) {
	was, is := compareFiles(map[string]string{"a": "x drop\nx drop\ny drop\n"},
		map[string]string{"a": "x drop\n# y\n", "b": strings.Repeat("line of some text\n", maxRecorded)})
	if strings.Join(was.Lines, ",") != "x drop,y drop" || was.More != 0 {
		t.Errorf("before: %+v", was)
	}
	if size := len(strings.Join(is.Lines, "")); size > maxRecorded || len(is.Lines)+is.More != maxRecorded {
		t.Errorf("after: %d octets, %d and %d lines", size, len(is.Lines), is.More)
	}
}

// TestCompareFiles_HookURL: the URL of a hook may be a secret, and the audit of a reload does not have it.
func TestCompareFiles_HookURL(t *testing.T) {
	was, is := compareFiles(map[string]string{"a": "x@a.example hook https://h.example/s3cret y@b.example\n"},
		map[string]string{"a": "x@a.example\thook\thttps://h.example/other-s3cret\n"})
	if got := strings.Join(append(was.Lines, is.Lines...), "\n"); strings.Contains(got, "s3cret") ||
		!strings.Contains(got, " y@b.example") {
		t.Errorf("the audit has %s", got)
	}
}

// flush empties a Redis.
func flush(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := make([]byte, 5)
	if _, err := io.WriteString(c, "FLUSHALL\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "+OK\r\n" {
		t.Fatalf("%q, %v", answer, err)
	}
}

// TestAPIRules_Hooks: the rule of an owner has a hook asked that the configuration has for the domain, and no other
// one, of which it is not told whether there is one. What the configuration takes away is not in force after a start.
func TestAPIRules_Hooks(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, NewReceiverSecret(), 0o600); err != nil {
		t.Fatal(err)
	}
	config := func(domain string) string {
		return fmt.Sprintf("state: %q\nhooks:\n  secret_file: %q\n  named:\n    - {name: ours, url: "+
			"\"https://127.0.0.1:1/\"}\n    - {name: theirs, url: \"https://127.0.0.1:1/\", domains: [%s]}\n    - "+
			"{name: others, url: \"https://127.0.0.1:1/\", domains: [other.example]}\n", dir, secret, domain)
	}
	b := startNode(t, config("made.example"), nil)
	owner := account.Principal{ID: "1", Name: "owner", Role: account.Owner, Domains: []string{"made.example"}}
	add := func(target string, by account.Principal) (account.Rule, error) {
		return b.Node.rules.account.AddRule(t.Context(), by, account.Rule{
			Pattern: account.NewID() + "@made.example", Target: target, Enabled: true,
		})
	}
	for _, target := range []string{
		"hook ours", "hook others", "hook none", "hook https://h.example/", "hook http://127.0.0.1/",
		"hook  others drop",
	} {
		_, err := add(target, owner)
		if err == nil || !strings.Contains(err.Error(), ": its hook is none that hooks.named of the") {
			t.Errorf("%s: got %v", target, err)
		}
	}
	for _, target := range []string{
		"try hook ours", "if spf=pass hook ours", "after=2026-01-01T00:00Z hook ours", "\"hook\" x",
	} {
		if r, err := add(target, owner); err == nil && r.InForce() {
			t.Errorf("%s is in force", target)
		}
	}
	for _, target := range []string{
		"hook ours", "hook others", "hook https://h.example/", "hook theirs x@far.example",
	} {
		if r, err := add(target, account.TokenFile()); err != nil || !r.InForce() {
			t.Errorf("%s of the administrator: %+v, %v", target, r, err)
		}
	}
	r, err := add("hook theirs reject 550 5.7.1 Closed", owner)
	if err != nil || !r.InForce() {
		t.Fatalf("%+v, %v", r, err)
	}
	if code := b.rcpt(t, r.Pattern); code != 550 {
		t.Errorf("its fallback: %d", code)
	}
	if r, err := add("hook theirs x@far.example", owner); err != nil || len(r.Pending) != 1 {
		t.Errorf("a fallback that is not verified: %+v, %v", r, err)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := startNode(t, config("a.other.example"), nil)
	got, err := again.Node.rules.account.Rule(account.TokenFile(), r.ID)
	if err != nil || got.InForce() || !strings.Contains(got.Off, "its hook is none") {
		t.Errorf("after the hook was taken away: %+v, %v", got, err)
	}
	if err := again.Shutdown(t.Context()); err != nil { // the log is whole then
		t.Fatal(err)
	}
	if !again.log.Has("a rule of the API is not in force") {
		t.Error("the log does not say it")
	}
}

// TestOwnersTargets: a hook of owners forwards to their domains and to who agreed.
func TestOwnersTargets(t *testing.T) {
	takes := ownersTargets([]string{"A.example"}, func(domains []string, address string) bool {
		return domains[0] == "a.example" && address == "x@far.example"
	})
	for address, want := range map[string]bool{
		"x@a.example": true, "x@B.a.example": true, "x@far.example": true, "y@far.example": false,
		"x@aa.example": false,
	} {
		p, err := mail.ParsePath(address, true)
		if err != nil || takes(p) != want {
			t.Errorf("%s: want %t, %v", address, want, err)
		}
	}
	if ownersTargets([]string{"a.example"}, nil)(mail.NewPath("x", "far.example")) {
		t.Error("without an API")
	}
}
