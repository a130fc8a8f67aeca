package shipped_test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/egress/dns/dnstest"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/extern"
	"github.com/millrace/millrace/loadtest/fleet"
	"github.com/millrace/millrace/loadtest/source"
	"github.com/millrace/millrace/loadtest/world"
)

// previous is the commit that stands for the version before, as long as none was released: the last whose nodes speak
// version 1 of the hop alone.
const previous = "37ca554"

// buildPrevious makes its binary from the history of this checkout.
func buildPrevious(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) ([]byte, error) {
		return exec.CommandContext(t.Context(), "git", append([]string{"-C", extern.Root()}, args...)...).Output()
	}
	if _, err := git("cat-file", "-e", previous+"^{commit}"); err != nil {
		t.Skip("no commit " + previous + " here: the history of this checkout is shallow, or there is none")
	}
	tree := filepath.Join(dir, "tree.tar")
	if _, err := git("archive", "-o", tree, previous); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-x", "-C", dir, "-f", tree).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	binary := filepath.Join(dir, "millrace-previous")
	if err := fleet.BuildIn(t.Context(), dir, binary); err != nil {
		t.Fatal(err)
	}
	return binary
}

// TestUpgrade_Rolling: the nodes of a ring are replaced one by one by those of this version, and back, while mail runs
// through all of them. At each step nodes of both versions are one ring that hands mail over, and nothing is lost,
// doubled or refused; what a node of this version demands of a destination's TLS is demanded at each of them.
func TestUpgrade_Rolling(t *testing.T) {
	extern.Find(t, "haproxy")
	redis := world.StartRedis(t)
	dest := smtptest.Start(t, smtptest.Behaviour{Keep: 1 << 20})
	host, port, _ := strings.Cut(dest.Addr(), ":")
	// The host of strict.example, which has no TLS, does not show what its TLSA record demands.
	names := dnstest.Start(t, "plain.example. 300 IN MX 10 mx.plain.example.\nmx.plain.example. 300 IN A "+host+"\n"+
		"strict.example. 300 IN MX 10 mx.strict.example.\nmx.strict.example. 300 IN A "+host+"\n"+
		"_"+port+"._tcp.mx.strict.example. 300 IN TLSA 3 1 1 "+strings.Repeat("ab", 32)+"\n")
	names.SetAD(true)
	dir := t.TempDir()
	rules := filepath.Join(dir, "routes.txt")
	world.Save(t, rules, "domain * dmarc=off require_auth=no seal=never\ndomain plain.test\n"+
		"strict@plain.test a@strict.example\n/(.+)/@plain.test $1@plain.example\n")
	nodes, err := fleet.Loopback(3)
	if err != nil {
		t.Fatal(err)
	}
	old, current := buildPrevious(t), world.Binary(t)
	f, err := fleet.Start(t.Context(), fleet.Plan{
		Binary: old, Dir: filepath.Join(dir, "fleet"), Ring: true,
		Config: fmt.Sprintf("routes: %q\ndns: {servers: [%q], trust_ad: true}\n"+
			"egress: {port: %s, allow_private: true}\nlimits: {connections: 4000, connections_per_client: 4000}\n"+
			"redis: {url: %q}\nlog: {level: warn}\n", rules,
			names.Addr(), port, redis.URL()),
	}, nodes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if err := f.Balance(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Out(t.Context(), f.Nodes, 3); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	load := &fleet.Load{
		Name: "upgrade", Addrs: fleet.Only(f.Balancer), Forward: fleet.Always("ok@plain.test"), Clients: 4,
		Every: 2 * time.Millisecond, Patience: time.Minute, Stop: stop,
	}
	sent := make(chan []fleet.Sent, 1)
	go func() { sent <- load.Run(t.Context()) }() // ends with stop
	runs := make([]string, len(f.Nodes))          // the binaries
	for i, step := range []struct {
		name, binary string
		node         int
	}{
		{"one of three", current, 0}, {"two of three", current, 1}, {"one again", old, 1},
		{"two of three anew", current, 1}, {"all", current, 2},
	} {
		if err := replace(t.Context(), f, f.Nodes[step.node], step.binary); err != nil {
			t.Errorf("%s: %v", step.name, err)
			break
		}
		// What comes to a node that does not own the destination is handed over: from each node to the owner.
		for _, m := range f.Nodes {
			through := &fleet.Load{
				Name: fmt.Sprint("step", i, m.Name), Addrs: fleet.Only(m.SMTP), Forward: fleet.Always("ok@plain.test"),
				Clients: 1, Messages: 10,
			}
			if n := fleet.Count(through.Run(t.Context()), dest); n.Err() != nil {
				t.Errorf("%s: through %s: %s", step.name, m.Name, n)
			}
		}
		// What a node of this version demands of TLS an owner of before does not know, and it is demanded all the same.
		runs[step.node] = step.binary
		for at, m := range f.Nodes {
			if runs[at] != current {
				continue
			}
			got, err := world.Dial(t, source.Config{Addr: m.SMTP}).Send(source.Message{
				Reverse: "me@client.example", Forward: []string{"strict@plain.test"},
				Octets: []byte("Subject: x\r\n\r\nx\r\n"),
			})
			if err != nil || got.End.Code != 451 {
				t.Errorf("%s: without TLS through %s: %+v, %v", step.name, m.Name, got, err)
			}
		}
	}
	close(stop)
	all := fleet.Count(<-sent, dest)
	t.Log(all)
	if err := all.Err(); err != nil || all.Messages == 0 {
		t.Errorf("%s: %v", all, err)
	}
}

// replace ends a node as an upgrade does and starts it from another binary. It returns when all see one ring of three.
func replace(ctx context.Context, f *fleet.Fleet, m *fleet.Member, binary string) error {
	if err := m.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-m.Process.Exited
	if err := m.Process.Err(); err != nil {
		return err
	}
	f.Binary = binary
	if err := f.StartNode(m); err != nil {
		return err
	}
	if err := f.AwaitReady(ctx, m); err != nil {
		return err
	}
	return fleet.Await(ctx, time.Minute, "one ring of three", func() bool { return f.Merged(ctx) })
}
