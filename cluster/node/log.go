package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
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

// newLogHandler returns the handler of everything that this node logs. Times are those of the records.
func newLogHandler(w io.Writer, level string) slog.Handler {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // Validate has checked it
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})
}

// say logs one line about the node itself and writes it at once.
func (l *logger) say(level slog.Level, message string, args ...any) {
	l.Log(context.Background(), level, message, args...)
	l.out.flush()
}

// panicked logs a panic of one session. The value of the panic is logged only if the runtime made it: any other value
// might hold text that a client sent.
func (l *logger) panicked(v any, stack []byte) {
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	l.say(slog.LevelError, "panic in a session", "what", what, "stack", string(stack))
}

// flushAt is how many octets of log wait in memory before they are written although a batch of events has not ended.
const flushAt = 32 << 10

// A logWriter gathers whole lines and writes many of them in one call. mu is never held during a write: pending lines
// are swapped out first.
type logWriter struct {
	out     io.Writer
	writing sync.Mutex // held during a write; taken before mu

	mu      sync.Mutex
	pending *bytes.Buffer
	spare   *bytes.Buffer
}

func newLogWriter(out io.Writer) *logWriter {
	return &logWriter{out: out, pending: new(bytes.Buffer), spare: new(bytes.Buffer)}
}

// Write keeps one line; slog calls it once a record. It never fails.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	w.pending.Write(line)
	full := w.pending.Len() >= flushAt
	w.mu.Unlock()
	if full {
		w.flush()
	}
	return len(line), nil
}

// flush writes the lines that were kept. An error of out is ignored, because errors are reported to the log.
func (w *logWriter) flush() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	lines := w.pending
	w.pending, w.spare = w.spare, lines
	w.mu.Unlock()
	if lines.Len() > 0 {
		w.out.Write(lines.Bytes())
		lines.Reset()
	}
}
