package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
)

// DefaultAddr is the address that the node of this world listens on by default.
const DefaultAddr = "127.0.0.1:2525"

// A Config describes one run.
type Config struct {
	Addr    string    // of the node; "": DefaultAddr. Port 0 takes a free one
	Once    bool      // end after the tour
	Quiet   bool      // print the addresses alone
	Out     io.Writer // what people read
	Log     io.Writer // the node's own log; nil discards it
	Color   bool      // Out is a terminal
	JSON    bool      // Out is read by a program: an object a line
	Version string
}

// shutdownLimit bounds the shutdown of the node, which holds no real mail.
const shutdownLimit = 3 * time.Second

// Run starts the world, sends the messages of the tour and, unless cfg.Once is set, shows what others send until ctx
// ends. The error says what could not be started, or which outcomes differed from what they should be.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Addr == "" {
		cfg.Addr = DefaultAddr
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	w, err := newWorld()
	if err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	defer w.close()
	screen := &console{out: cfg.Out, color: cfg.Color, json: cfg.JSON}
	if cfg.Quiet {
		screen.out = io.Discard
	}
	watch := newWatch(screen)
	token := rand.Text()
	n, err := startNode(cfg, w, watch, token)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownLimit)
		defer cancel()
		_ = n.Shutdown(ctx) // cut or not, the process ends
	}()

	addr := n.Addrs()[0].String()
	screen.welcome(addr)
	t := &tour{addr: addr, world: w, watch: watch, screen: screen}
	err = t.run(ctx)
	if cfg.Once || err != nil && ctx.Err() != nil {
		return err
	}
	watch.show()
	switch {
	case cfg.Quiet && cfg.JSON:
		(&console{out: cfg.Out, json: true}).invite(addr, n.AdminAddr().String(), token)
	case cfg.Quiet:
		fmt.Fprintf(cfg.Out, "%s\n%s\n", addr, n.AdminAddr())
	}
	screen.invite(addr, n.AdminAddr().String(), token)
	<-ctx.Done()
	return err
}

// startNode starts a node from an ordinary configuration, except that the rules are in no file. The token of its
// dashboard and API is in one until the node has read it.
func startNode(cfg Config, w *world, watch *watch, token string) (*node.Node, error) {
	dir, err := os.MkdirTemp("", "millrace-dev-")
	if err != nil {
		return nil, fmt.Errorf("dev: %w", err)
	}
	defer os.RemoveAll(dir)
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("dev: %w", err)
	}
	yaml := fmt.Sprintf(`
hostname: mx.dev.example
postmaster: inbox@accept.example
listen:
  - addr: %q
routes: %s
dns: {servers: [%q]}
egress: {port: %d, allow_private: true}
admin: {addr: "127.0.0.1:0", token_file: %q}
activity: {keep: 24h, memory: 16MiB}
`, cfg.Addr, rulesName, w.dns.Addr(), w.port, tokenFile)
	c, err := config.Parse("dev", []byte(yaml), rules)
	if err != nil {
		if _, _, bad := net.SplitHostPort(cfg.Addr); bad != nil {
			return nil, fmt.Errorf("dev: %q is not an address and a port", cfg.Addr)
		}
		return nil, fmt.Errorf("dev: %w", err)
	}
	n, err := node.New(c, node.Options{Stderr: cfg.Log, Observe: watch.see, Version: cfg.Version})
	if err != nil {
		return nil, fmt.Errorf("dev: %w", err)
	}
	if err := n.Start(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil,
				fmt.Errorf("dev: another program listens on %s; choose another address with --addr, such as --addr "+
					"127.0.0.1:0", cfg.Addr)
		}
		return nil, fmt.Errorf("dev: %w", err)
	}
	return n, nil
}
