package shipped_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/world"
)

// shippedFile returns the content of a file of deploy.
func shippedFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(extern.Root(), "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// millrace runs a verb with variables besides those of the test.
func millrace(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), world.Binary(t), args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestCompose_Configuration: each node of the composition has a configuration that is valid, and finds its keys.
func TestCompose_Configuration(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"millrace.yaml", "routes.txt"} {
		world.Save(t, filepath.Join(dir, name), shippedFile(t, "compose/"+name))
	}
	millrace(t, nil, "cluster", "init", filepath.Join(dir, "keys"), "a", "b", "c")
	var compose struct {
		Services map[string]struct{ Environment map[string]string }
	}
	if err := yaml.Unmarshal([]byte(shippedFile(t, "compose/compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	balancer := shippedFile(t, "compose/haproxy.cfg")
	for _, name := range []string{"a", "b", "c"} {
		var env []string
		for key, value := range compose.Services[name].Environment {
			env = append(env, key+"="+value)
		}
		out := millrace(t, env, "check", "-c", filepath.Join(dir, "millrace.yaml"))
		if !strings.Contains(out, ": valid") {
			t.Errorf("%s: %s", name, out)
		}
		line := "server " + name + " " + compose.Services[name].Environment["ADDRESS"] + ":2525 port 8026\n"
		if !strings.Contains(balancer, line) {
			t.Errorf("the balancer lacks %q", line)
		}
	}
	for _, file := range []string{"compose/haproxy.cfg", "haproxy.cfg"} {
		cfg := filepath.Join(extern.Root(), "deploy", file)
		out, err := extern.Find(t, "haproxy").Command(t.Context(), "-c", "-f", cfg).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "Configuration file is valid" {
			t.Errorf("%s: %v: %s", file, err, out)
		}
	}
}

// A manifest is what is looked at of an object of Kubernetes.
type manifest struct {
	Kind string
	Data map[string]string
	Spec struct {
		MaxUnavailable, Replicas int
		Template                 struct {
			Spec struct {
				TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
				Containers                    []struct {
					Lifecycle struct {
						PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
					}
				}
			}
		}
	}
}

// TestKubernetes_Configuration: each pod has a configuration that is valid and finds its keys, and time to end in.
func TestKubernetes_Configuration(t *testing.T) {
	objects := make(map[string]manifest)
	for docs := yaml.NewDecoder(strings.NewReader(shippedFile(t, "kubernetes.yaml"))); ; {
		var m manifest
		if err := docs.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		objects[m.Kind] = m
	}
	dir := t.TempDir()
	millrace(t, nil, "cluster", "init", filepath.Join(dir, "keys"), "millrace-0", "millrace-1", "millrace-2")
	for name, text := range objects["ConfigMap"].Data {
		world.Save(t, filepath.Join(dir, name), strings.ReplaceAll(text, "/keys/", "keys/"))
	}
	for _, pod := range []string{"millrace-0", "millrace-1", "millrace-2"} {
		env := []string{"POD_NAME=" + pod, "POD_IP=10.244.0.7"}
		out := millrace(t, env, "check", "-c", filepath.Join(dir, "millrace.yaml"))
		if !strings.Contains(out, ": valid") {
			t.Errorf("%s: %s", pod, out)
		}
	}
	var cfg struct{ Drain time.Duration }
	if err := yaml.Unmarshal([]byte(objects["ConfigMap"].Data["millrace.yaml"]), &cfg); err != nil {
		t.Fatal(err)
	}
	const commit = 9 * time.Minute // the default of deadlines.commit
	pods := objects["StatefulSet"].Spec.Template.Spec
	needs := time.Duration(pods.Containers[0].Lifecycle.PreStop.Sleep.Seconds)*time.Second + cfg.Drain + commit
	if grace := time.Duration(pods.TerminationGracePeriodSeconds) * time.Second; grace <= needs {
		t.Errorf("pods are killed after %s, and may need %s", grace, needs)
	}
}

// TestDockerfile: the image has the binary that is shipped, certificates, and a user without rights; no shell.
func TestDockerfile(t *testing.T) {
	text := shippedFile(t, "Dockerfile")
	_, image, _ := strings.Cut(text, "\nFROM scratch\n")
	for _, want := range []string{
		"ca-certificates.crt /etc/ssl/certs/", "\nUSER 65532:65532\n", "\nENTRYPOINT [\"/millrace\"]\n",
	} {
		if !strings.Contains(image, want) {
			t.Errorf("the image lacks %q", want)
		}
	}
	if strings.Contains(image, "RUN") {
		t.Error("something is run in the image, which has no program for it")
	}
	const flags = "-trimpath -tags timetzdata -ldflags '-s -w -buildid='"
	script, err := os.ReadFile(filepath.Join(extern.Root(), ".ci", "dist"))
	if err != nil {
		t.Fatal(err)
	}
	shipped := strings.Replace(string(script), "-buildvcs=true ", "", 1)
	if !strings.Contains(text, flags) || !strings.Contains(shipped, flags) {
		t.Errorf("the image and make dist are built with other flags than %s", flags)
	}
}

// TestACME: the hook of an ACME client puts a certificate in its place while a node serves, and the node shows it to
// the next client. A pair that does not fit changes nothing.
func TestACME(t *testing.T) {
	dir := t.TempDir()
	etc := filepath.Join(dir, "etc")
	h := newHome(t, dir, etc, "")
	p := h.start(t, func(free string) string { return free }, world.Binary(t))
	before := certificate(t, p.Addr)
	h.initialise(t, "next")
	h.initialise(t, "other")
	hook := func(env ...string) {
		cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(extern.Root(), "deploy", "acme.sh"))
		cmd.Env = append(os.Environ(), append(env, "MILLRACE_DIR="+etc, "MILLRACE_RELOAD=true",
			"MILLRACE_GROUP="+group(t))...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := p.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	lego := func(cert, key string) []string {
		return []string{"LEGO_CERT_PATH=" + filepath.Join(dir, cert, "cert.pem"), "LEGO_CERT_KEY_PATH=" +
			filepath.Join(dir, key, "cert.key")}
	}
	hook(lego("next", "other")...)
	world.Await(t, "the node says that the key does not fit", func() bool { return p.Log.Has(`"msg":"reload failed`) })
	if got := certificate(t, p.Addr); got != before {
		t.Error("a pair that does not fit is used")
	}
	hook(lego("next", "next")...)
	world.Await(t, "the next certificate is shown", func() bool { return certificate(t, p.Addr) != before })
	before = certificate(t, p.Addr)

	lineage := filepath.Join(dir, "lineage") // as certbot has it
	if err := os.Mkdir(lineage, 0o700); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"cert.pem": "fullchain.pem", "cert.key": "privkey.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, "other", from))
		if err != nil {
			t.Fatal(err)
		}
		world.Save(t, filepath.Join(lineage, to), string(bytes.TrimSpace(text))+"\n")
	}
	hook("RENEWED_LINEAGE=" + lineage)
	world.Await(t, "the certificate of certbot is shown", func() bool { return certificate(t, p.Addr) != before })
	if info, err := os.Stat(filepath.Join(etc, "cert.key")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the key: %v, %v", info, err)
	}
	end(t, p)
}

// group returns the name or number of the group of this process.
func group(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "id", "-g").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
