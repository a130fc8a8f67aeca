package shipped_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// unitKeys reads the section Service of the unit that is shipped.
func unitKeys(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(extern.Root(), "deploy", "millrace.service"))
	if err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			keys[key] = value
		}
	}
	return keys
}

// TestServe_UnitRights: a node serves port 25 with the rights that the unit leaves, as far as there are programs that
// take them where no systemd runs: user, capabilities, no new ones, a file system of which nothing but the state folder
// can be written, no cores. What is left out are system calls, address families and memory that is written and run.
func TestServe_UnitRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becomes another user: run as root")
	}
	keys := unitKeys(t)
	capability := strings.ToLower(strings.TrimPrefix(keys["CapabilityBoundingSet"], "CAP_"))
	if keys["CapabilityBoundingSet"] != keys["AmbientCapabilities"] || keys["ProtectSystem"] != "strict" ||
		keys["NoNewPrivileges"] != "yes" || keys["LimitCORE"] != "0" {
		t.Fatalf("the unit leaves other rights: %v", keys)
	}
	redis := world.StartRedis(t)
	dir := t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) { // for others to pass
		if info, err := os.Stat(d); err == nil && info.Mode()&0o001 == 0 {
			if err := os.Chmod(d, info.Mode()|0o011); err != nil {
				t.Fatal(err)
			}
		}
	}
	state := filepath.Join(dir, "state")
	h := newHome(t, dir, filepath.Join(dir, "etc"), "state: "+state+"\nredis: {url: \""+redis.URL()+"\"}\n")
	// Port 25, which a capability opens alone, at an address of loopback that no other program has.
	h.edit(t, "millrace.yaml", `{addr: "ADDR"}`, "{addr: \"ADDR\"}\n  - {addr: \"127.25.25.25:25\"}")
	binary := world.Binary(t)
	if err := os.Chmod(filepath.Dir(binary), 0o755); err != nil {
		t.Fatal(err)
	}
	// A file outside of the state folder that the user may write, as far as its mode says.
	outside := filepath.Join(dir, "etc", "outside")
	world.Save(t, outside, "")
	script := strings.NewReplacer("STATE", state, "OUTSIDE", outside).Replace(
		"set -e; mounted=$(findmnt -n -o TARGET -T OUTSIDE); mount --bind STATE STATE; " +
			"for m in / \"$mounted\"; do mount -o remount,bind,ro \"$m\"; done; " +
			"touch STATE/probe; rm STATE/probe; if touch OUTSIDE; then exit 1; fi; ulimit -c 0; exec \"$@\"")
	var set []string
	for _, name := range []string{"bounding-set", "inh-caps", "ambient-caps"} {
		set = append(set, fmt.Sprintf("--%s=-all,+%s", name, capability))
	}
	command := append([]string{
		"unshare", "--mount", "sh", "-c", script, "sh", "setpriv", "--no-new-privs", fmt.Sprint("--reuid=", ordinary),
		fmt.Sprint("--regid=", ordinary), "--clear-groups",
	}, set...)
	command = append(command, binary)
	p := h.start(t, func(free string) string { return free }, command...)
	defer end(t, p)
	world.Await(t, "the rules are kept in the state folder", func() bool { return len(filesOf(t, state)) > 0 })
	world.Await(t, "the node has said that it is ready", func() bool { return p.Log.Has(`"msg":"ready"`) })
	for _, want := range []string{`"msg":"confined","writes":"` + state + `"`, `"addr":"127.25.25.25:25"`} {
		if !p.Log.Has(want) {
			t.Errorf("no %s:\n%s", want, p.Log)
		}
	}
}
