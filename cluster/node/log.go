package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"time"
)

// A logger logs what concerns the node itself, and writes the log of all parts.
type logger struct {
	*slog.Logger
	out *logWriter
}

// newLogger returns a logger that writes JSON lines to w, from level on: debug, info, warn or error.
func newLogger(w io.Writer, level string) *logger {
	out := newLogWriter(w)
	return &logger{slog.New(newLogHandler(out, level)), out}
}

// newLogHandler returns the handler of what this node logs but its events. Times are those of the records.
func newLogHandler(w io.Writer, level string) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: logLevel(level), ReplaceAttr: fixTime})
}

// fixTime writes the time of a record with as many digits as each line has.
func fixTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.StringValue(a.Value.Time().Format(timeForm))
	}
	return a
}

// logLevel returns the level that a configuration names.
func logLevel(name string) (l slog.Level) {
	_ = l.UnmarshalText([]byte(name)) // Validate has checked it
	return l
}

// say logs one line about the node itself.
func (l *logger) say(level slog.Level, message string, args ...any) {
	l.Log(context.Background(), level, message, args...)
}

// warn logs what an administrator should know about a part of what is configured before mail flows.
func warn[W fmt.Stringer](l *logger, part string, warnings []W) {
	for _, w := range warnings {
		l.say(slog.LevelWarn, part, "at", w.String())
	}
}

// lastFlush bounds the wait for the last lines of a node. A reader that has stopped reading must not keep it.
const lastFlush = time.Second

// flush waits until what was logged is written, for a second at most.
func (l *logger) flush() { l.out.flush(lastFlush) }

// panicked logs a panic of one session. The value of the panic is logged only if the runtime made it: any other value
// might hold text that a client sent.
func (l *logger) panicked(v any, stack []byte) {
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	l.say(slog.LevelError, "panic in a session", "what", what, "stack", string(stack))
}
