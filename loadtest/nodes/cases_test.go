package nodes_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// TestCases_RedisErrors: a Redis that answers with errors makes no message fail, and is used again when it is well.
func TestCases_RedisErrors(t *testing.T) {
	addr := extern.StartRedis(t)
	host, port, _ := strings.Cut(addr, ":")
	program := extern.Find(t, "redis-cli")
	cli := func(args ...string) {
		t.Helper()
		out, err := program.Command(t.Context(), append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	d := smtptest.Start(t, smtptest.Behaviour{})
	w := reaching(t, d)
	w.Config += "redis: {url: \"redis://" + addr + "/0\"}\n"
	r := world.Start(t, w)
	s := world.Dial(t, source.Config{Addr: r.Addr})
	sent := 0
	send := func(when string) {
		t.Helper()
		for range 4 {
			res, err := s.Send(source.Message{
				Reverse: "a@client.example", Forward: []string{"b@x.example"},
				Octets: []byte("Subject: x\r\n\r\nhi\r\n"),
			})
			if err != nil || res.End.Class() != 2 {
				t.Fatalf("%s: %v %v", when, res.End, err)
			}
			sent++
		}
	}
	send("well")
	for _, fault := range []struct {
		name       string
		ends, heal []string
	}{
		{"a replica whose master is down", []string{"replicaof", "127.0.0.1", "1"}, []string{"replicaof", "no", "one"}},
		{"no memory", []string{"config", "set", "maxmemory", "1"}, []string{"config", "set", "maxmemory", "0"}},
		{"the scripts are gone", []string{"script", "flush"}, nil},
		{
			"no scripts are allowed", []string{"acl", "setuser", "default", "-@scripting"},
			[]string{"acl", "setuser", "default", "+@all"},
		},
		{"a pause", []string{"client", "pause", "1000", "ALL"}, []string{"ping"}},
		{"its data are gone", []string{"flushall"}, nil},
	} {
		cli(fault.ends...)
		send(fault.name)
		if fault.heal != nil {
			cli(fault.heal...)
		}
		send("after " + fault.name)
	}
	world.Messages(t, d, sent)
}

// TestCases_Container: as the first process of a container whose kernel has no IPv6 switched on, a node starts, listens
// at each form of address, and ends with one SIGTERM.
func TestCases_Container(t *testing.T) {
	for _, addr := range []string{":2525", "[::]:2525", "0.0.0.0:2525"} {
		t.Run(addr, func(t *testing.T) {
			dir := t.TempDir()
			config := world.World{Routes: "@x.example smtp://127.0.0.1:9\n", Log: "info"}.Write(t, dir, addr)
			cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo 1 | tee "+
				"/proc/sys/net/ipv6/conf/all/disable_ipv6 /proc/sys/net/ipv6/conf/default/disable_ipv6 >/dev/null; "+
				"exec \"$0\" serve -c \"$1\"", world.Binary(t), config)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
			if uid := os.Getuid(); uid != 0 {
				cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
				cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
			}
			said := new(logtest.Log)
			cmd.Stdout, cmd.Stderr = said, said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }() // ends with the process
			world.Await(t, "the node is ready", func() bool { return said.Has(`"msg":"ready"`) })
			if !said.Has(`:2525"`) {
				t.Error("it does not listen")
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("it ended with %v:\n%s", err, said)
			}
		})
	}
}

// TestCases_ClusterIPv6: nodes whose gossip and hop are on IPv6 see each other and hand mail over.
func TestCases_ClusterIPv6(t *testing.T) {
	d := smtptest.Start(t, smtptest.Behaviour{})
	c := &cluster{keys: t.TempDir(), world: reaching(t, d), host: "[::1]"}
	c.join(t, "a")
	c.join(t, "b")
	c.oneOwner(t)
	world.Messages(t, d, 2)
}
