package deploy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// binary is where the unit expects the relay.
const binary = "/usr/local/bin/millrace"

// unit reads the unit file as the values of each key, in order, by "Section.Key".
func unit(t *testing.T) (text string, keys map[string][]string) {
	t.Helper()
	content, err := os.ReadFile("millrace.service")
	if err != nil {
		t.Fatal(err)
	}
	return string(content), parseUnit(string(content))
}

func parseUnit(text string) map[string][]string {
	keys := make(map[string][]string)
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		keys[section+"."+key] = append(keys[section+"."+key], value)
	}
	return keys
}

// complaints is what systemd-analyze verify writes about a unit: it exits with 0 even where it found unknown keys.
func complaints(t *testing.T, text string) string {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return ""
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "millrace.service")
	// The program must exist for verify to be content, and this one does.
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, binary, self)), 0o644); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file)
	cmd.Stderr = &stderr
	_ = cmd.Run() // what it has to say it says on stderr
	var about []string
	for line := range strings.Lines(stderr.String()) {
		// It also complains about units of the machine that this one refers to.
		if strings.Contains(line, "millrace.service") {
			about = append(about, line)
		}
	}
	return strings.Join(about, "")
}

// TestUnit_Verify: systemd finds no fault with the unit.
func TestUnit_Verify(t *testing.T) {
	text, _ := unit(t)
	if got := complaints(t, text); got != "" {
		t.Error(got)
	}
}

// TestUnit_VerifyBites: systemd would say what is wrong with a unit.
func TestUnit_VerifyBites(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		return // the keys are checked without it
	}
	text, _ := unit(t)
	if got := complaints(t, strings.Replace(text, "NoNewPrivileges", "NoNewPrivilege", 1)); got == "" {
		t.Error("an unknown key went unnoticed")
	}
}

// TestUnit_Security: the unit leaves little to the node, by the measure of systemd, which knows what is much.
func TestUnit_Security(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return // the keys are checked without it
	}
	text, _ := unit(t)
	exposure := func(text string) string {
		file := filepath.Join(t.TempDir(), "millrace.service")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		// Tenths: 15 is 1.5 of 10. The exit code tells whether it is more.
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=15",
			"--no-pager", file).CombinedOutput()
		if err == nil {
			return ""
		}
		return string(out)
	}
	if out := exposure(text); out != "" {
		t.Error(out)
	}
	if exposure(strings.Replace(text, "ProtectSystem=strict", "", 1)) == "" {
		t.Error("a file system that can be written went unnoticed")
	}
}

// TestUnit_Rights: the unit runs the relay without rights.
func TestUnit_Rights(t *testing.T) {
	_, keys := unit(t)
	for key, want := range map[string]string{
		"Service.Type":                    "exec",
		"Service.ExecStart":               binary + " serve -c /etc/millrace/millrace.yaml",
		"Service.ExecReload":              "/bin/kill -HUP $MAINPID",
		"Service.Restart":                 "on-failure",
		"Service.User":                    "millrace",
		"Service.Group":                   "millrace",
		"Service.AmbientCapabilities":     "CAP_NET_BIND_SERVICE",
		"Service.CapabilityBoundingSet":   "CAP_NET_BIND_SERVICE",
		"Service.LimitCORE":               "0",
		"Service.NoNewPrivileges":         "yes",
		"Service.ProtectSystem":           "strict",
		"Service.MemoryDenyWriteExecute":  "yes",
		"Service.RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
		"Service.MemorySwapMax":           "0",
		"Service.LogRateLimitIntervalSec": "1s",
		"Service.LogRateLimitBurst":       "1000000",
		"Service.PrivateMounts":           "yes",
		"Service.DeviceAllow":             "",
		"Service.IPAddressDeny":           "169.254.169.254 fd00:ec2::254",
		"Install.WantedBy":                "multi-user.target",
	} {
		if got := keys[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if len(keys["Service.LimitNOFILE"]) != 1 {
		t.Error("LimitNOFILE is missing: a relayed session is two sockets")
	}
}

// TestUnit_StopTimeout: the unit lets mail in flight finish.
func TestUnit_StopTimeout(t *testing.T) {
	_, keys := unit(t)
	stop := keys["Service.TimeoutStopSec"]
	if len(stop) != 1 {
		t.Fatalf("TimeoutStopSec is %q", stop)
	}
	// A client's last octet may be answered 9 minutes later.
	got, err := time.ParseDuration(strings.Replace(stop[0], "min", "m", 1))
	if err != nil || got <= 9*time.Minute {
		t.Errorf("TimeoutStopSec is %q (%v), want more than 9 minutes", stop[0], err)
	}
}

// TestUnit_User: what makes users makes the one that the unit names.
func TestUnit_User(t *testing.T) {
	sysusers, err := exec.LookPath("systemd-sysusers")
	if err != nil {
		return // the names are checked without it
	}
	text, err := os.ReadFile("millrace.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), sysusers, "--root="+root, "-")
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	users, err := os.ReadFile(filepath.Join(root, "etc", "passwd"))
	if err != nil || !strings.HasPrefix(string(users), "millrace:") {
		t.Errorf("the users are %q (%v)", users, err)
	}
}
