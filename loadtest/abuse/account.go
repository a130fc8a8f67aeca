package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/loadtest/world"
)

// account has strangers' mail leave under the owner's account: a rule lends a next hop with a user without saying so,
// and the running node is told to read it. The old rules stay, and the log and check name the line.
var account = scenario{
	name:   "account: a rule that lends the owner's",
	egress: ", credentials_file: ../credentials",
	world: func(t *trial) {
		world.Save(t, filepath.Join(t.dir, "credentials"), "owner@smart.example:587 secret\n")
	},
	attack: func(t *trial) {
		n := t.entry
		line := n.lend(t)
		if err := n.process.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		var said string
		t.stands(func() bool {
			said = lineWith(n.process.Log.String(), `"msg":"reload`)
			return said != ""
		})
		if !strings.Contains(said, `"level":"ERROR"`) || !names(said, line) {
			t.harmed("the log about the rule: %s", said)
		}
		if answer := t.deliver(stranger(0, 0), to("b@lent.test")); !strings.HasPrefix(answer, "550 5.7.1") {
			t.harmed("a stranger by the rule: %s", answer)
		}
		ctx, cancel := context.WithTimeout(t.ctx, 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, t.binary, "check", "-c",
			filepath.Join(n.dir, "millrace.yaml")).CombinedOutput()
		if err == nil || !names(string(out), line) {
			t.harmed("check: %v: %s", err, out)
		}
	},
}

// lend adds the rule to the file of the node, and returns its line.
func (n *node) lend(t *trial) (line int) {
	file := filepath.Join(n.dir, "routes.txt")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rules := string(old) + "domain lent.test\n@lent.test submission://owner@smart.example:587\n"
	world.Save(t, file, rules)
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(file, past, past); err != nil { // a reload waits for a file that is being written
		t.Fatal(err)
	}
	return strings.Count(rules, "\n")
}

// names reports whether a text names the line of the rule and what it lacks.
func names(text string, line int) bool {
	return strings.Contains(text, fmt.Sprintf("routes.txt:%d:", line)) && strings.Contains(text, "lend=anybody")
}

// lineWith returns the first line of a log with some text, "" if there is none.
func lineWith(log, text string) string {
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}
