package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/millrace/millrace/loadtest/extern"
)

// configurations has a folder for each peer, in which places of a run are written @SO@.
//
//go:embed peers
var configurations embed.FS

// A peer is what a subject is made of.
type peer struct {
	name    string
	folder  string // of its configuration
	pace    pace
	most    int // sessions at a time; 0: as many as there are
	policy  bool
	version []string // a command that prints it
	// beside are what it runs besides, each with where it listens; commands have the places of a configuration
	beside [][]string
	serve  []string // the last word of neither is where it listens
	ready  func(dir string) error
	// metrics is where it counts what passes
	metrics string
}

// postfixVersion asks Postfix, whose own configuration is not there.
var postfixVersion = []string{"postconf", "-c", "@DIR@", "-d", "mail_version"}

// ownVersion is that of this tree.
var ownVersion = []string{"git", "describe", "--always", "--dirty"}

// peers are the relays of the race. The first two need nothing installed, and run where there is no machine of their
// own.
var peers = []peer{
	{
		name: haproxy, folder: "haproxy", version: []string{"haproxy", "-v"},
		serve: []string{"haproxy", "-db", "-q", "-f", "@DIR@/haproxy.cfg"},
	},
	{
		name: millrace, folder: "millrace", version: ownVersion,
		serve: []string{millraceProgram, "serve", "-c", "@DIR@/millrace.yaml"},
	},
	{
		name: "Postfix queue", folder: "postfix-queue", pace: slow, version: postfixVersion,
		serve: []string{"/usr/lib/postfix/sbin/master", "-d", "-c", "@DIR@"}, ready: extern.PreparePostfix,
	},
	{
		name: "Postfix proxy", folder: "postfix-proxy", pace: slow, version: postfixVersion,
		serve: []string{"/usr/lib/postfix/sbin/master", "-d", "-c", "@DIR@"}, ready: extern.PreparePostfix,
	},
	{
		name: "Exim cutthrough", folder: "exim-cutthrough", pace: slow, version: []string{"exim4", "-bV"},
		serve: []string{"exim4", "-C", "@DIR@/exim.conf", "-bdf"}, ready: readyExim,
	},
	{
		name: "Exim queue", folder: "exim-queue", pace: slowest, version: []string{"exim4", "-bV"},
		serve: []string{"exim4", "-C", "@DIR@/exim.conf", "-bdf"}, ready: readyExim,
	},
	{
		name: "Haraka", folder: "haraka", pace: slowest, version: []string{"node", harakaProgram, "-v"},
		serve: []string{"node", harakaProgram, "-c", "@DIR@"},
	},
	{
		// It lets five connections wait to be taken, and each one more tries again after a second.
		name: "OpenSMTPD", folder: "opensmtpd", pace: halting, most: 20, version: []string{"smtpd", "-h"},
		serve: []string{"smtpd", "-d", "-f", "@DIR@/smtpd.conf"},
	},
	{
		name: policyMillrace, folder: "policy-millrace", policy: true, version: ownVersion,
		beside: [][]string{{"redis-server", "--bind", "127.0.0.1", "--port", "6379", "--save", "", "127.0.0.1:6379"}},
		serve:  []string{millraceProgram, "serve", "-c", "@DIR@/millrace.yaml"}, metrics: "127.0.0.1:8025",
	},
	{
		name: policyPostfix, folder: "policy-postfix", pace: slowest, policy: true, version: postfixVersion,
		beside: [][]string{
			{"opendkim", "-f", "-x", "@DIR@/opendkim.conf", "127.0.0.1:8891"},
			{"opendmarc", "-f", "-c", "@DIR@/opendmarc.conf", "127.0.0.1:8893"},
			{"postsrsd", "-4", "-s@DIR@/srs.secret", "-dsrs.bench.example", "127.0.0.1:10001"},
		},
		serve: []string{"/usr/lib/postfix/sbin/master", "-d", "-c", "@DIR@"}, ready: extern.PreparePostfix,
	},
}

// What a command begins with in place of a program of the system.
const (
	millraceProgram = "@MILLRACE@"
	harakaProgram   = "@HARAKA@"
)

// The names of those that judge.
const (
	policyMillrace = "Millrace, full policy"
	policyPostfix  = "Postfix, full policy"
)

// startPeer runs a peer and adds it to the subjects.
func (b *bench) startPeer(ctx context.Context, p peer, binary string) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	if p.policy {
		_, port, _ := strings.Cut(addr, ":")
		addr = net.JoinHostPort(serverAddress, port)
	}
	x := &subject{name: p.name, addr: addr, pace: p.pace, most: p.most, policy: p.policy, metrics: p.metrics}
	if b.apart {
		if x.meter.group, err = newGroup(p.folder); err != nil {
			return err
		}
	}
	dir := filepath.Join(b.dir, p.folder)
	if err := b.write("peers/"+p.folder, dir, b.fill(dir, addr)); err != nil {
		return err
	}
	if p.ready != nil {
		if err := p.ready(dir); err != nil {
			return err
		}
	}
	words := strings.NewReplacer("@DIR@", dir, millraceProgram, binary, harakaProgram, harakaPath())
	for _, command := range p.beside {
		last := len(command) - 1
		if _, err := b.runs(ctx, x, command[:last], words, command[last]); err != nil {
			return errors.Join(err, b.giveUp(x))
		}
	}
	pid, err := b.runs(ctx, x, p.serve, words, addr)
	if err != nil {
		return errors.Join(err, b.giveUp(x))
	}
	if x.meter.group == "" {
		x.meter.pid = pid
	}
	x.version = versionOf(ctx, p.version, words)
	b.subjects = append(b.subjects, x)
	return nil
}

// giveUp ends what was started of a subject.
func (b *bench) giveUp(x *subject) error {
	x.meter.end()
	return nil
}

// runs runs a command for a subject, and returns when it listens.
func (b *bench) runs(ctx context.Context, x *subject, command []string, words *strings.Replacer, addr string) (int,
	error) {
	cmd, err := program(ctx, command, words)
	if err != nil {
		return 0, err
	}
	if x.meter.group != "" {
		// A process is in a group from its first instruction on, so that none of its children can be missed.
		enter := []string{"-c", `echo 0 >"$0/cgroup.procs" && exec "$@"`, x.meter.group}
		cmd.Args = append(append([]string{"sh"}, enter...), append([]string{cmd.Path}, cmd.Args[1:]...)...)
		cmd.Path = "/bin/sh"
	}
	return b.serve(ctx, cmd, addr)
}

// program makes a command of words.
func program(ctx context.Context, command []string, words *strings.Replacer) (*exec.Cmd, error) {
	var args []string
	for _, w := range command {
		args = append(args, words.Replace(w))
	}
	if filepath.IsAbs(args[0]) {
		return exec.CommandContext(ctx, args[0], args[1:]...), nil
	}
	found, err := extern.Look(args[0])
	if err != nil {
		return nil, err
	}
	return found.Command(ctx, args[1:]...), nil
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[-.\w]*`)

// versionOf is the first number of a version that a program prints, or else what it prints.
func versionOf(ctx context.Context, command []string, words *strings.Replacer) string {
	cmd, err := program(ctx, command, words)
	if err != nil {
		return ""
	}
	out, _ := cmd.CombinedOutput() // some end with an error when they have said it
	return cmp.Or(versionNumber.FindString(string(out)), strings.TrimSpace(string(out)))
}

func harakaPath() string {
	path, _ := filepath.Abs(".cache/haraka/node_modules/Haraka/bin/haraka") // fails where there is no folder to be in
	return path
}

// readyExim makes the folders that Exim writes to as the user it becomes.
func readyExim(dir string) error {
	id := extern.Account("Debian-exim")
	for _, sub := range []string{"spool", "log"} {
		path := filepath.Join(dir, sub)
		if err := os.Mkdir(path, 0o750); err != nil {
			return err
		}
		if err := os.Chown(path, id, id); err != nil {
			return fmt.Errorf("a folder of Exim: %w", err)
		}
	}
	return nil
}

// describe has a line for each subject.
func (b *bench) describe() map[string]string {
	all := make(map[string]string)
	for _, x := range b.subjects {
		if x.version != "" {
			all[x.name] = x.version
		}
	}
	return all
}
