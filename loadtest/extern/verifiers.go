package extern

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Python returns Debian's Python 3 with the modules of .cache/root. If a module cannot be imported, it skips the test
// with a line that names the command that gets it; with CI=true it fails the test. Another Python in PATH does not
// count: modules are compiled for this one.
func Python(t testing.TB, modules ...string) Program {
	t.Helper()
	p := interpreter(t, "python3")
	root := cacheRoot()
	p.env = append(p.env, "PYTHONPATH="+filepath.Join(root, "usr", "lib", "python3", "dist-packages"),
		"PYTHONDONTWRITEBYTECODE=1")
	if strings.HasPrefix(p.path, root+"/") {
		p.env = append(p.env, "PYTHONHOME="+filepath.Join(root, "usr"))
	}
	return p.with(t, modules, "-c", "import "+strings.Join(modules, ", "))
}

// Perl returns Debian's Perl with the modules of .cache/root, and skips or fails the test as Python does.
func Perl(t testing.TB, modules ...string) Program {
	t.Helper()
	return interpreter(t, "perl").with(t, modules, "-e", "use "+strings.Join(modules, "; use "))
}

// Node returns Node.js with the packages of .cache/node, and skips or fails the test as Python does.
func Node(t testing.TB, packages ...string) Program {
	t.Helper()
	p := Find(t, "node")
	p.env = append(p.env, "NODE_PATH="+filepath.Join(filepath.Dir(cacheRoot()), "node", "node_modules"))
	return p.with(t, packages, "-e", "require('"+strings.Join(packages, "'); require('")+"')")
}

// Cloudflare returns the Node.js that Cloudflare's clients need, with the packages of .cache/clients, and the script of
// wrangler. It skips or fails the test as Python does.
func Cloudflare(t testing.TB) (node Program, wrangler string) {
	t.Helper()
	modules := filepath.Join(filepath.Dir(cacheRoot()), "clients", "node_modules")
	wrangler = filepath.Join(modules, "wrangler", "wrangler-dist", "cli.js")
	found, _ := filepath.Glob(filepath.Join(modules, "node-linux-*", "bin", "node")) // the pattern is well formed
	if len(found) != 1 || !executable(found[0]) {
		lack(t, "no clients of Cloudflare; to get them: make tools")
	}
	p := Program{found[0], []string{"NODE_PATH=" + modules}}
	return p.with(t, []string{"cloudflare"}, "-e", "require('cloudflare')"), wrangler
}

// interpreter returns the interpreter of the system, or the one of .cache/root where the system has none, and in both
// cases the environment of programs in .cache/root.
func interpreter(t testing.TB, name string) Program {
	t.Helper()
	root := cacheRoot()
	for _, path := range []string{filepath.Join("/usr/bin", name), filepath.Join(root, "usr", "bin", name)} {
		if executable(path) {
			return Program{path, cacheEnv(root)}
		}
	}
	return Find(t, name)
}

// with ends the test unless a run of p with these arguments, which loads modules, succeeds.
func (p Program) with(t testing.TB, modules []string, args ...string) Program {
	t.Helper()
	if out, err := p.Command(t.Context(), args...).CombinedOutput(); err != nil {
		t.Logf("%s: %.500s", p.path, out)
		lack(t, "no "+strings.Join(modules, ", ")+" for "+filepath.Base(p.path)+"; to get it: make tools")
	}
	return p
}

// rspamdConfig looks at DKIM and ARC and at nothing else, of mail from everybody, with one DNS server. The suffixes of
// domains are few because the compilation of all takes long and no URL is looked for.
const rspamdConfig = `
options {
  pidfile = "DIR/pid";
  control_socket = "DIR/control mode=0600";
  cache_file = "DIR/symbols.cache";
  hs_cache_dir = "DIR/";
  tempdir = "DIR";
  url_tld = "DIR/suffixes";
  filters = "dkim";
  task_timeout = 30s;
  max_message = 100mb;
  dns { nameserver = ["DNS"]; timeout = 5s; }
}
logging { type = "console"; level = "warning"; }
worker "normal" { bind_socket = "ADDR"; count = 1; }
modules { path = "SHARE/plugins/arc.lua"; }
lua = "DIR/rules.lua";
dkim { max_sigs = 50; check_local = true; check_authed = true; }
arc { check_local = true; check_authed = true; }
`

// StartRspamd runs an rspamd that judges the DKIM signatures and the ARC chain of a message until the test ends, and
// returns the address that its HTTP protocol (POST /checkv2) is spoken at. It asks the DNS server at nameserver only.
func StartRspamd(t testing.TB, nameserver string) (addr string) {
	t.Helper()
	rspamd := Find(t, "rspamd")
	share := filepath.Join(filepath.Dir(filepath.Dir(rspamd.path)), "share", "rspamd")
	// The name of its Unix socket is limited to about 100 octets, and t.TempDir holds the test's name.
	dir, err := os.MkdirTemp("", "rspamd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	writeFile(t, filepath.Join(dir, "suffixes"), "com\nexample\n")
	writeFile(t, filepath.Join(dir, "rules.lua"), "")
	config := filepath.Join(dir, "rspamd.conf")
	return serve(t, func(addr string) *exec.Cmd {
		writeFile(t, config,
			strings.NewReplacer("DIR", dir, "SHARE", share, "ADDR", addr, "DNS", nameserver).Replace(rspamdConfig))
		// Its own user is not here; insecure allows root to run it.
		args := []string{"-f", "-i", "-c", config}
		for name, value := range map[string]string{
			"SHAREDIR": share, "PLUGINSDIR": share + "/plugins", "RULESDIR": share + "/rules",
			"LUALIBDIR": share + "/lualib",
			"CONFDIR":   dir, "LOCAL_CONFDIR": dir, "DBDIR": dir, "RUNDIR": dir, "LOGDIR": dir,
		} {
			args = append(args, "--var="+name+"="+value)
		}
		return rspamd.Command(context.Background(), args...)
	})
}
