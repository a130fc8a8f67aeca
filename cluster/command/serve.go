package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/node"
)

type serveVerb struct{ configFlag }

func (v *serveVerb) run(s streams) int {
	cfg, err := node.Load(v.Config)
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitError
	}
	cfg.Stderr = s.err
	cfg.Version = readBuild().Version
	// Signals that come before the node can act on them wait in the channel.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	n, err := node.New(cfg)
	if err == nil {
		err = n.Start()
	}
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitError
	}
	for sig := range signals {
		if sig != syscall.SIGHUP {
			break
		}
		_ = n.Reload() // logged there
	}
	drain(n, time.Duration(cfg.Drain), signals)
	return exitOK
}

// drain ends the node. Transactions under way may take as long as limit; a second SIGTERM or SIGINT cuts them.
func drain(n *node.Node, limit time.Duration, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ended := make(chan struct{})
	// Ends when the node has.
	go func() {
		defer close(ended)
		_ = n.Shutdown(ctx) // what was cut is in the log; the node is gone either way
	}()
	for {
		select {
		case <-ended:
			return
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				cancel()
			}
		}
	}
}
