package node

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"github.com/millrace/millrace/cluster/config"
	"github.com/millrace/millrace/router/leaf/landlock"
)

// confine takes from the process, which is this node's alone, what a relay never needs: to write to a file outside of
// the folder state, to run a program, to leave a core that holds messages. It logs what of the host would carry
// messages to a disk or lose lines of the log, which only the host can change.
func confine(c *config.Config, log *logger, stderr io.Writer) {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil && mayDump() {
		log.say(slog.LevelWarn, "host", "about", "a core of this process would hold messages (LimitCORE=0)",
			"cause", err.Error())
	}
	var folders []string
	if c.State != "" {
		folder := string(c.State)
		_ = os.MkdirAll(folder, 0o700) // what writes there says it
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			folders = []string{folder}
		}
	}
	if err := landlock.Confine(folders); err != nil {
		log.say(slog.LevelInfo, "not confined", "cause", err.Error())
	} else {
		log.say(slog.LevelInfo, "confined", "writes", strings.Join(folders, " "))
	}
	for _, w := range hostWarnings(os.DirFS("/"), log.syslog == nil && isJournal(stderr)) {
		log.say(slog.LevelWarn, "host", "about", w)
	}
}

// mayDump reports whether the system writes cores of this process.
func mayDump() bool {
	var limit syscall.Rlimit
	return syscall.Getrlimit(syscall.RLIMIT_CORE, &limit) != nil || limit.Cur > 0
}

// isJournal reports whether w is what systemd connected to its journal (JOURNAL_STREAM, systemd.exec(5)).
func isJournal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && fmt.Sprintf("%d:%d", stat.Dev, stat.Ino) == os.Getenv("JOURNAL_STREAM")
}
