// Package extern finds and runs the programs of others that the relay must get along with: Postfix's smtp-source and
// smtp-sink, swaks, Exim, Knot DNS, Unbound, Dovecot's LMTP server, HAProxy, Redis, strace, ip, jq and rspamd, and the
// interpreters with which tests run dkimpy, Mail::DKIM and mailauth. It owns where they lie, what environment they
// need, how a test knows that one is ready, and that each is gone when its test ends. It refuses to know the relay: it
// imports nothing of it, and what a program received is handed over as octets.
//
// The programs come from .cache/root below the module's root, where "make tools" unpacks them, from .cache/deploy,
// where "make dist" does, else from the system. A
// test that lacks one is skipped with the command that gets it; with CI=true it fails. Exim and Dovecot expect to be
// installed and to find users of their own, so they run in a mount namespace in which .cache/root lies over /usr, and a
// user namespace in which they are not root; both work for root and for an ordinary user on Debian. Postfix has several
// users and takes root. All of them listen on the loopback interface, or in a network of the
// test's own, and write to folders of the test only.
package extern

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Program is an executable and the environment it runs in. It is made by Find, Look, Python, Perl or Node.
type Program struct {
	path string
	env  []string
}

// Path is the program's absolute file name.
func (p Program) Path() string { return p.path }

// Command prepares a run of the program, which ends with ctx at the latest. The command inherits the environment of the
// caller, extended by what the program needs to find its shared libraries and Perl modules.
func (p Program) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Env = append(os.Environ(), p.env...)
	return cmd
}

// Find returns the program of that name, such as "smtp-sink". If there is none, it skips the test with a line that
// names the command that gets it; with CI=true it fails the test.
func Find(t testing.TB, name string) Program {
	t.Helper()
	p, err := Look(name)
	if err != nil {
		lack(t, err.Error())
	}
	return p
}

// Look returns the program of that name, or an error that names the command that gets it.
func Look(name string) (Program, error) {
	for _, cache := range []string{"root", "deploy"} {
		root := cacheOf(cache)
		for _, dir := range []string{"usr/bin", "usr/sbin"} {
			if path := filepath.Join(root, dir, name); root != "" && executable(path) {
				return Program{path, cacheEnv(root)}, nil
			}
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			return Program{path, nil}, nil
		}
	}
	// The folders of administrators are not in everybody's PATH.
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, name); executable(path) {
			return Program{path, nil}, nil
		}
	}
	return Program{}, fmt.Errorf("no %s; to get it: make tools", name)
}

// lack ends a test for which the machine lacks something that a fresh Debian has or can fetch.
func lack(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Root is the module's root, or "" outside of it: the nearest folder with a go.mod, upwards from the working folder. go
// test runs a package's tests in the package's own folder.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if !errors.Is(err, fs.ErrNotExist) || parent == dir {
			return ""
		}
		dir = parent
	}
}

// cacheRoot is .cache/root below the module's root, or "" if there is none.
func cacheRoot() string { return cacheOf("root") }

// cacheOf is a folder of .cache below the module's root, or "" if there is none.
func cacheOf(name string) string {
	dir := Root()
	if dir == "" {
		return ""
	}
	root := filepath.Join(dir, ".cache", name)
	if _, err := os.Stat(root); err != nil {
		return ""
	}
	return root
}

// cacheEnv is the environment in which a program below root finds its libraries, its Perl modules and its siblings.
func cacheEnv(root string) []string {
	join := func(variable string, patterns ...string) string {
		var dirs []string
		for _, pattern := range patterns {
			found, _ := filepath.Glob(filepath.Join(root, "usr", pattern)) // the patterns are well formed
			dirs = append(dirs, found...)
		}
		if rest := os.Getenv(variable); rest != "" {
			dirs = append(dirs, rest)
		}
		return variable + "=" + strings.Join(dirs, string(os.PathListSeparator))
	}
	return []string{
		join("LD_LIBRARY_PATH", "lib/postfix", "lib/*-linux-gnu", "lib/dovecot", "lib/rspamd"),
		join("PERL5LIB", "share/perl5", "lib/*-linux-gnu/perl5/*"),
		join("PATH", "bin", "sbin"),
	}
}
