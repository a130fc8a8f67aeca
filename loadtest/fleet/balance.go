package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/millrace/millrace/loadtest/extern"
)

// Balance runs HAProxy before the nodes, with the configuration of deploy/haproxy.cfg, at an address; "" is one of
// loopback. It tells the nodes the clients' addresses and asks /readyz who is there.
func (f *Fleet) Balance(ctx context.Context, addr string) error {
	if addr == "" {
		ports, err := extern.FreePorts(1)
		if err != nil {
			return err
		}
		addr = Local(ports[0])
	}
	var servers []string
	for _, m := range f.Nodes {
		_, port, err := net.SplitHostPort(m.HTTP)
		if err != nil {
			return err
		}
		servers = append(servers, fmt.Sprintf("server %s %s port %s", m.Name, m.Proxied, port))
	}
	c, err := os.ReadFile(filepath.Join(extern.Root(), "deploy", "haproxy.cfg"))
	if err != nil {
		return err
	}
	own, err := replaceAddresses(string(c), addr, servers)
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.balancerFile(), []byte(own), 0o600); err != nil {
		return err
	}
	f.Balancer = addr
	return f.startBalancer(ctx)
}

func (f *Fleet) balancerFile() string { return filepath.Join(f.Dir, "haproxy.cfg") }

// startBalancer runs HAProxy as its service does, with a master and a worker.
func (f *Fleet) startBalancer(ctx context.Context) error {
	program, err := extern.Look("haproxy")
	if err != nil {
		return err
	}
	f.balancing, err = Launch(program.Command(context.Background(), "-W", "-q", "-f", f.balancerFile()),
		filepath.Join(f.Dir, "haproxy.log"))
	if err != nil {
		return err
	}
	f.running = append(f.running, f.balancing)
	return AwaitPort(ctx, f.balancing, f.Balancer)
}

// ReloadBalancer has HAProxy read its configuration anew, as its service does: a new worker takes connections, and the
// old one ends with its last.
func (f *Fleet) ReloadBalancer() error { return f.balancing.Signal(syscall.SIGUSR2) }

// The lines of a configuration of HAProxy that name addresses.
var (
	bindLine    = regexp.MustCompile(`(?m)^([ \t]*)bind .*$`)
	serverLines = regexp.MustCompile(`(?m)^(?:[ \t]*server .*\n)+`)
)

// replaceAddresses returns a configuration of HAProxy that listens at addr and knows these servers, in place of those
// that it has.
func replaceAddresses(c, addr string, servers []string) (string, error) {
	if len(bindLine.FindAllString(c, -1)) != 1 || len(serverLines.FindAllString(c, -1)) != 1 {
		return "", errors.New("haproxy.cfg: want one bind line, and the servers together")
	}
	c = bindLine.ReplaceAllString(c, "${1}bind "+addr)
	return serverLines.ReplaceAllString(c, "\t"+strings.Join(servers, "\n\t")+"\n"), nil
}
