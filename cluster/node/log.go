package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/millrace/millrace/cluster/config"
)

// A logger logs what concerns the node itself, and writes the log of all parts.
type logger struct {
	*slog.Logger
	out    *logWriter
	syslog *syslogConn // nil: out writes to stderr
	aside  *logWriter  // where it is said that syslog cannot be reached: stderr
}

// newLogger returns the logger of a node. stderr is where it writes unless the configuration names a syslog daemon.
func newLogger(stderr io.Writer, c *config.Config) *logger {
	form := formOf(c)
	l := &logger{out: newLogWriter(stderr)}
	l.out.form = form
	if network, address := c.Log.Syslog(); network != "" {
		l.aside = l.out
		l.syslog = newSyslogConn(network, address, c.Hostname)
		l.out = newLogWriter(l.syslog)
		l.out.form = form
		l.syslog.drop = l.out.drop
		l.syslog.failed = func(err error) {
			slog.New(form.handler(l.aside, "")).Error("syslog cannot be reached, lines wait", "cause", err.Error())
		}
	}
	l.Logger = slog.New(steady{form.handler(l.out, c.Log.Level), new(steadiness)})
	return l
}

// A logForm is the form of a log's lines. The zero logForm is JSON.
type logForm struct {
	host string // of the lines in Postfix's form; "" for JSON
}

// formOf returns the form that a configuration asks for.
func formOf(c *config.Config) (f logForm) {
	if c.Log.Format == "postfix" {
		f.host = c.Hostname
	}
	return f
}

// handler returns the handler of what this node logs but its events, from level on: debug, info, warn or error. Times
// are those of the records.
func (f logForm) handler(w io.Writer, level string) slog.Handler {
	if f.host != "" {
		return newPostfixHandler(w, level, f.host)
	}
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: logLevel(level), ReplaceAttr: fixTime})
}

// fixTime writes the time of a record with as many digits as each line has.
func fixTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		a.Value = slog.StringValue(a.Value.Time().Format(timeForm))
	}
	return a
}

// A steady logs a warning as information that was given within sameWarning about the same thing, as the journal does
// with those of mail.
type steady struct {
	slog.Handler
	*steadiness
}

// A steadiness is what the handlers of a log share.
type steadiness struct {
	mu     sync.Mutex
	warned lately[string]
}

// isNew reports whether a record is not about the same thing as an earlier one: its message and its texts are others,
// the cause left aside.
func (s *steadiness) isNew(r *slog.Record) bool {
	about := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "cause" && a.Value.Kind() == slog.KindString {
			about += "\x00" + a.Value.String()
		}
		return true
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.warned.isNew(about, r.Time)
}

// Handle logs a record.
func (s steady) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn && !s.isNew(&r) {
		if r.Level = slog.LevelInfo; !s.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return s.Handler.Handle(ctx, r)
}

// WithAttrs returns a steady with attributes.
func (s steady) WithAttrs(attrs []slog.Attr) slog.Handler {
	return steady{s.Handler.WithAttrs(attrs), s.steadiness}
}

// WithGroup returns a steady with a group.
func (s steady) WithGroup(name string) slog.Handler {
	return steady{s.Handler.WithGroup(name), s.steadiness}
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

// flush waits until what was logged is written, for a second at most. It is the end of a log that goes to syslog.
func (l *logger) flush() {
	l.out.flush(lastFlush)
	if l.syslog != nil {
		l.syslog.close()
		l.aside.flush(lastFlush)
	}
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
