package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/millrace/millrace/cluster/dev"
)

type devVerb struct {
	Addr string `default:"127.0.0.1:2525" placeholder:"ADDRESS" help:"Where the node listens."`
	Once bool   `help:"End after the tour; exit code 1 if an outcome differs from what it should be."`
	Log  bool   `help:"Show the node's own log on stderr."`

	Quiet bool `short:"q" help:"@dev_quiet"`

	jsonFlag
}

func (v *devVerb) run(s streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var log io.Writer
	if v.Log {
		log = s.err
	}
	err := dev.Run(ctx, dev.Config{
		Addr: v.Addr, Once: v.Once, Quiet: v.Quiet, Out: s.out, Log: log, Color: isTerminal(s.out), JSON: v.JSON,
		Version: readBuild().Version,
	})
	if err != nil && !(ctx.Err() != nil && !v.Once) {
		fmt.Fprintln(s.err, err)
		return exitError
	}
	return exitOK
}

// isTerminal reports whether w shows colours: it is a terminal, and the environment does not ask for plain text
// (https://no-color.org).
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
