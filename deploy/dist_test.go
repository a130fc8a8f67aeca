//go:build dist

package deploy_test

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/loadtest/extern"
)

// What "make dist" made, and what is beside it, as programs of others find it.

// architectures are those that are shipped.
var architectures = []string{"amd64", "arm64"}

// dist returns the name of a file that was made.
func dist(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(extern.Root(), "dist", name)
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: make dist", err)
	}
	return file
}

// run returns what a program prints, and fails the test if it fails.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return string(out)
}

// TestDist_Binaries: the sums are those of the files, and no binary is larger than 40 MiB.
func TestDist_Binaries(t *testing.T) {
	sums, err := os.ReadFile(dist(t, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range architectures {
		name := "millrace-linux-" + arch
		content, err := os.ReadFile(dist(t, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MiB", arch, float64(len(content))/(1<<20))
		if len(content) > 40<<20 {
			t.Errorf("%s: %d octets", name, len(content))
		}
		if line := fmt.Sprintf("%x  %s\n", sha256.Sum256(content), name); !strings.Contains(string(sums), line) {
			t.Errorf("SHA256SUMS lacks %s", line)
		}
	}
	if n := strings.Count(string(sums), "\n"); n != 8 {
		t.Errorf("%d sums, want those of 8 files:\n%s", n, sums)
	}
}

// TestDist_ARM: the binary for arm64 says what it is, writes a first configuration and finds it valid, under QEMU.
func TestDist_ARM(t *testing.T) {
	qemu, binary, dir := extern.Find(t, "qemu-aarch64"), dist(t, "millrace-linux-arm64"), t.TempDir()
	if got := run(t, qemu.Command(t.Context(), binary, "version")); !strings.Contains(got, "linux/arm64") {
		t.Errorf("got %s", got)
	}
	run(t, qemu.Command(t.Context(), binary, "init", dir, "--domain", "example.com", "--to", "alice@mailbox.example"))
	got := run(t, qemu.Command(t.Context(), binary, "check", "-c", filepath.Join(dir, "millrace.yaml")))
	if !strings.Contains(got, ": valid") {
		t.Errorf("got %s", got)
	}
}

// TestDist_SBOM: the list of parts has each module that the Go linker recorded, once, and the hash of the binary.
func TestDist_SBOM(t *testing.T) {
	for _, arch := range architectures {
		name := "millrace-linux-" + arch
		text, err := os.ReadFile(dist(t, name+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			BOMFormat, SpecVersion, SerialNumber string
			Metadata                             struct {
				Component struct {
					Hashes []struct{ Alg, Content string }
				}
			}
			Components []struct{ Type, Name, Version, PURL string }
		}
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(dist(t, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		if h := list.Metadata.Component.Hashes; len(h) != 1 || h[0].Content != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the hash is %v", arch, h)
		}
		build, err := buildinfo.Read(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		want = append(want, "std@"+strings.TrimPrefix(build.GoVersion, "go"))
		for _, m := range build.Deps {
			want = append(want, m.Path+"@"+m.Version)
		}
		for _, c := range list.Components {
			got = append(got, c.Name+"@"+c.Version)
			if c.Type != "library" || c.PURL != "pkg:golang/"+c.Name+"@"+c.Version {
				t.Errorf("%+v", c)
			}
		}
		if !slices.Equal(got, want) || len(got) < 20 {
			t.Errorf("%s: got %v, want %v", arch, got, want)
		}
		if list.BOMFormat != "CycloneDX" || list.SpecVersion != "1.5" ||
			len(list.SerialNumber) != len("urn:uuid:")+36 {
			t.Errorf("%s: %s %s %s", arch, list.BOMFormat, list.SpecVersion, list.SerialNumber)
		}
	}
}

// installed are the files of a package.
var installed = []string{
	"/usr/bin/millrace", "/usr/lib/systemd/system/millrace.service", "/usr/lib/sysusers.d/millrace.conf",
	"/usr/share/man/man1/millrace.1.gz", "/usr/share/bash-completion/completions/millrace",
	"/usr/share/doc/millrace/millrace.yaml", "/usr/share/doc/millrace/acme.sh", "/usr/share/doc/millrace/copyright",
}

// TestDist_Deb: the package is installed into a root folder and makes the user there; systemd finds no fault with the
// unit, which runs what was installed; and all is gone when the package is removed.
func TestDist_Deb(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"status", "available"} {
		if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg", file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dpkg := func(args ...string) {
		t.Helper()
		args = append([]string{
			"--root=" + root, "--log=" + filepath.Join(root, "log"), "--force-script-chrootless", "--force-not-root",
			"--force-architecture",
		}, args...)
		run(t, extern.Find(t, "dpkg").Command(t.Context(), args...))
	}
	dpkg("-i", dist(t, "millrace_amd64.deb"))
	for _, file := range installed {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}
	if got := run(t, exec.CommandContext(t.Context(), filepath.Join(root, "usr/bin/millrace"), "version")); got == "" {
		t.Error("the binary says nothing")
	}
	text, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/millrace.service"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "ExecStart=/usr/bin/millrace ") {
		t.Errorf("the unit runs another binary:\n%s", text)
	}
	own := strings.ReplaceAll(string(text), "/usr/bin/millrace", filepath.Join(root, "usr/bin/millrace"))
	if got := complaints(t, own); got != "" {
		t.Error(got)
	}
	users, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
	if err != nil || !strings.HasPrefix(string(users), "millrace:") {
		t.Errorf("the users are %q (%v)", users, err)
	}
	dpkg("-r", "millrace")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/millrace")); err == nil {
		t.Error("the binary is still there")
	}
}

// TestDist_RPM: the other package has the same files.
func TestDist_RPM(t *testing.T) {
	for _, arch := range architectures {
		rpm := extern.Find(t, "rpm")
		cmd := rpm.Command(t.Context(), "-qlp", "--dbpath", t.TempDir(), dist(t, "millrace_"+arch+".rpm"))
		cmd.Env = append(cmd.Env, "RPM_CONFIGDIR="+filepath.Join(filepath.Dir(filepath.Dir(rpm.Path())), "lib", "rpm"))
		list := run(t, cmd)
		for _, file := range installed {
			if !strings.Contains(list, file+"\n") {
				t.Errorf("%s: no %s in\n%s", arch, file, list)
			}
		}
	}
}

// TestDist_Compose: docker-compose takes the file, and would not take a mistake in it.
func TestDist_Compose(t *testing.T) {
	text, err := os.ReadFile("compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := func(text string) error {
		file := filepath.Join(t.TempDir(), "compose.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p := extern.Find(t, "docker-compose")
		modules := filepath.Join(filepath.Dir(filepath.Dir(p.Path())), "lib", "python3", "dist-packages")
		cmd := p.Command(t.Context(), "-f", file, "config", "-q")
		cmd.Env = append(cmd.Env, "PYTHONPATH="+modules, "PYTHONDONTWRITEBYTECODE=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := config(string(text)); err != nil {
		t.Error(err)
	}
	if config(strings.Replace(string(text), "read_only", "read_onyl", 1)) == nil {
		t.Error("a mistake in a key goes unnoticed")
	}
}

// TestDist_Nginx: nginx takes the file.
func TestDist_Nginx(t *testing.T) {
	text, err := os.ReadFile("nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	p := extern.Find(t, "nginx")
	module := filepath.Join(filepath.Dir(filepath.Dir(p.Path())), "lib", "nginx", "modules", "ngx_stream_module.so")
	says := func(text string) (string, error) {
		dir := t.TempDir()
		file := filepath.Join(dir, "nginx.conf")
		text = strings.Replace(text, "modules/ngx_stream_module.so", module, 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := p.Command(t.Context(), "-e", "stderr", "-t", "-c", file, "-g", "pid "+dir+"/pid;").CombinedOutput()
		return string(out), err
	}
	if out, err := says(string(text)); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := says(strings.Replace(string(text), "proxy_protocol on", "proxy_protocol maybe", 1)); err == nil {
		t.Error("a mistake goes unnoticed")
	}
}

// TestDist_Kubernetes: the manifests are of the types of Kubernetes, and a field that has no meaning there is found.
func TestDist_Kubernetes(t *testing.T) {
	checker := filepath.Join(extern.Root(), "..", "shared", "testbed", "k8sstrict")
	if _, err := os.Stat(checker); err != nil {
		t.Skip("no ../shared: the types of Kubernetes")
	}
	text, err := os.ReadFile("kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "k8sstrict")
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=readonly", "-o", program, ".")
	build.Dir = checker
	run(t, build)
	decode := func(text string) (string, error) {
		file := filepath.Join(t.TempDir(), "kubernetes.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, file).CombinedOutput()
		return string(out), err
	}
	out, err := decode(string(text))
	if err != nil || strings.Count(out, "ok ") != 5 {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := decode(strings.Replace(string(text), "containerPort", "containerPrt", 1)); err == nil {
		t.Error("a mistake in a field goes unnoticed")
	}
}

// TestDist_Anycast: BIRD takes the file, and has the route just while the node is ready and the script runs.
func TestDist_Anycast(t *testing.T) {
	bird, birdc, dir := extern.Find(t, "bird"), extern.Find(t, "birdc"), t.TempDir()
	text, err := os.ReadFile("bird.conf")
	if err != nil {
		t.Fatal(err)
	}
	run(t, bird.Command(t.Context(), "-p", "-c", "bird.conf"))
	// No neighbour is there, and none is to be looked for.
	own := strings.NewReplacer("protocol bgp upstream {", "protocol bgp upstream {\n\tdisabled yes;",
		"log syslog all", "log stderr all").Replace(string(text))
	file, control := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "ctl")
	if err := os.WriteFile(file, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := bird.Command(t.Context(), "-f", "-c", file, "-s", control, "-P", filepath.Join(dir, "pid"))
	daemon.Stderr = t.Output()
	start(t, daemon)
	announced := func() bool {
		out, err := birdc.Command(t.Context(), "-s", control, "show", "route").CombinedOutput()
		return err == nil && strings.Contains(string(out), "192.0.2.25/32")
	}
	var ready atomic.Bool
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ready.Load() || r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer node.Close()
	host, port, _ := strings.Cut(node.Listener.Addr().String(), ":")
	script := birdc.Command(t.Context(), host, port)
	script.Path, script.Args = "/bin/bash", []string{"bash", "anycast.sh", host, port}
	script.Env = append(script.Env, "BIRDC="+birdc.Path()+" -s "+control)
	script.Stderr = t.Output()
	await(t, "bird answers", func() bool {
		return birdc.Command(t.Context(), "-s", control, "show", "status").Run() == nil
	})
	start(t, script)
	if announced() {
		t.Error("announced before the node is ready")
	}
	for range 2 {
		ready.Store(true)
		await(t, "the route is announced", announced)
		ready.Store(false)
		await(t, "the route is withdrawn", func() bool { return !announced() })
	}
	ready.Store(true)
	await(t, "the route is announced", announced)
	if err := script.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "the route ends with the script", func() bool { return !announced() })
}

// start runs a program until the test ends.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
}

// await waits until a condition holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	late := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-late:
			t.Fatal(what + ": not in a minute")
		case <-tick.C:
		}
	}
}
