package extern

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// StartHAProxy runs HAProxy with the given configuration until the test ends and returns the address it serves, which
// takes the place of the word ADDR in the configuration. TCPProxy makes the configuration that most tests want.
func StartHAProxy(t testing.TB, config string) (addr string) {
	t.Helper()
	haproxy := Find(t, "haproxy")
	return serve(t, func(addr string) *exec.Cmd {
		return haproxy.Command(context.Background(), "-db", "-f", SaveHAProxy(t, config, addr))
	})
}

// SaveHAProxy writes such a configuration for an address and returns the file.
func SaveHAProxy(t testing.TB, config, addr string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "haproxy.cfg")
	writeFile(t, file, strings.ReplaceAll(config, "ADDR", addr))
	return file
}

// TCPProxy is the HAProxy configuration that joins ADDR to upstream octet for octet; serverOptions stand on the
// server's line, for example "send-proxy-v2".
func TCPProxy(upstream, serverOptions string) string {
	return `
defaults
	mode tcp
	timeout connect 10s
	timeout client 5m
	timeout server 5m
listen relay
	bind ADDR
	server upstream ` + upstream + " " + serverOptions + "\n"
}

// StartRedis runs a Redis server that keeps nothing on disk until the test ends and returns its address.
func StartRedis(t testing.TB) (addr string) {
	t.Helper()
	redis := Find(t, "redis-server")
	dir := t.TempDir()
	return serve(t, func(addr string) *exec.Cmd {
		host, port := split(t, addr)
		return redis.Command(context.Background(), "--bind", host, "--port", port, "--dir", dir, "--save", "",
			"--appendonly", "no")
	})
}
