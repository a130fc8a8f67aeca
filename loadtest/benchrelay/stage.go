package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
)

// The race of the peers takes place on a machine of its own: a process that apart prepares has a network with nothing
// but loopback, and a view of the file system in which the programs of .cache are installed, their users exist, and
// what is written to /run, /var/lib, /var/spool and the folder of the run is written to memory. What others have is
// neither seen nor changed, and all of it is gone with the process.

// clientAddress and serverAddress are of the race of those that judge: who is on loopback is not judged.
const (
	clientAddress = "198.51.100.10"
	serverAddress = "198.51.100.1"
	clientName    = "client.example"
)

// apart prepares a run of this program on a machine of its own.
func apart(ctx context.Context, args ...string) (*exec.Cmd, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("the peers have users of their own and need a machine of their own: run it as root")
	}
	cmd, err := fleet.Apart(ctx, args...)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd, nil
}

// furnish installs the programs and the users, and returns the folder of the run, which is in memory.
func furnish(ctx context.Context) (dir string, err error) {
	cache, err := filepath.Abs(".cache")
	if err != nil {
		return "", err
	}
	if cache, err = filepath.EvalSymlinks(cache); err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp("", "benchrelay"); err != nil {
		return "", err
	}
	for _, mount := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"tmpfs", dir, "tmpfs", 0, "mode=755"},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"overlay", "/usr", "overlay", 0, "lowerdir=" + cache + "/peers/usr:" + cache + "/root/usr:/usr"},
	} {
		if err := unix.Mount(mount.source, mount.target, mount.kind, mount.flags, mount.data); err != nil {
			return "", fmt.Errorf("mount on %s: %w", mount.target, err)
		}
	}
	if err := settleIn(dir); err != nil {
		return "", err
	}
	return dir, fleet.IP(ctx, "link set lo up", "addr add "+clientAddress+"/32 dev lo",
		"addr add "+serverAddress+"/32 dev lo",
		"route replace local "+serverAddress+" dev lo table local src "+clientAddress)
}

// settleIn lays files and folders over those of the system.
func settleIn(dir string) error {
	for _, name := range []string{"lib", "spool"} {
		upper, work := filepath.Join(dir, "var", name), filepath.Join(dir, "work", name)
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		data := "lowerdir=/var/" + name + ",upperdir=" + upper + ",workdir=" + work
		if err := unix.Mount("overlay", "/var/"+name, "overlay", 0, data); err != nil {
			return fmt.Errorf("mount on /var/%s: %w", name, err)
		}
	}
	over := filepath.Join(dir, "etc")
	if err := os.Mkdir(over, 0o755); err != nil {
		return err
	}
	passwd, group := extern.Accounts()
	for name, text := range map[string]string{
		"passwd": passwd, "group": group, "resolv.conf": "nameserver 127.0.0.1\n",
		"hosts": "127.0.0.1 localhost\n",
	} {
		file := filepath.Join(over, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		target, err := filepath.EvalSymlinks("/etc/" + name)
		if errors.Is(err, fs.ErrNotExist) { // a link into /run, which is another one now
			target, err = "/etc/"+name, nil
		}
		if err == nil {
			err = unix.Mount(file, target, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("mount on /etc/%s: %w", name, err)
		}
	}
	return os.MkdirAll("/var/lib/opensmtpd/empty", 0o755) // what OpenSMTPD locks its processes into
}

// nameServer serves what the relays ask of the DNS.
func (b *bench) nameServer() (*dnstest.Server, error) {
	records, err := b.writeLetters()
	if err != nil {
		return nil, err
	}
	return dnstest.Listen("127.0.0.1:53", clientName+". 300 IN A "+clientAddress+"\n"+
		"10.100.51.198.in-addr.arpa. 300 IN PTR "+clientName+".\n"+
		"1.0.0.127.in-addr.arpa. 300 IN PTR localhost.\nlocalhost. 300 IN A 127.0.0.1\n"+
		senderDomain+". 300 IN MX 10 "+clientName+".\n"+dnstest.TXT(records))
}
