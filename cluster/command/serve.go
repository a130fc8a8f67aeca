package command

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/cluster/node"
)

type serveVerb struct{ configFlag }

func (v *serveVerb) run(s streams) int {
	cfg, err := config.Load(v.Config)
	if err != nil {
		fmt.Fprintln(s.err, err)
		return exitError
	}
	// Signals that come before the node can act on them wait in the channel.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // a log that has no reader any more ends no mail
	n, err := node.New(cfg, node.Options{Stderr: s.err, Version: readBuild().Version, Confine: true})
	if err == nil {
		slog.SetDefault(n.Logger()) // libraries that log to stderr by themselves would wait for its reader
		err = n.Start()
	}
	if err != nil {
		signal.Stop(signals) // the next line may wait for a reader
		fmt.Fprintln(s.err, err)
		return exitError
	}
	reload, endReloads := startReloads(n)
	for {
		select {
		case <-n.DrainAsked():
			endReloads()
			return drain(n, time.Duration(cfg.Drain), signals, 1)
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				endReloads()
				return drain(n, time.Duration(cfg.Drain), signals, 0)
			}
			reload()
		}
	}
}

// startReloads returns ask, which has the node reload, and end, which cuts short what a reload waits for. A reload that
// is asked for while one runs follows it, once.
func startReloads(n *node.Node) (ask, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	asked, ended := make(chan struct{}, 1), make(chan struct{})
	go func() { // ends when asked is closed
		defer close(ended)
		for range asked {
			_ = n.Reload(ctx) // it logs its error
		}
	}()
	ask = func() {
		select {
		case asked <- struct{}{}:
		default:
		}
	}
	return ask, func() {
		cancel()
		close(asked)
		<-ended
	}
}

// drain ends the node and returns the exit code. Transactions under way may take as long as limit, and a message whose
// end of data was released as long as its next hop takes to answer. A further SIGTERM or SIGINT ends the wait, except
// the first spare of them: they only repeat a request that was made in another way.
func drain(n *node.Node, limit time.Duration, signals <-chan os.Signal, spare int) int {
	ended := make(chan struct{})
	// Ends when the node has, or with the process.
	go func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		_ = n.Shutdown(ctx) // what was cut is in the log; the node is gone either way
	}()
	for {
		select {
		case <-ended:
			return exitOK
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				continue
			}
			if spare--; spare < 0 {
				n.Abandon()
				return exitError
			}
		}
	}
}
