package node

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/millrace/millrace/router/leaf/printable"
)

// A postfixHandler writes what a node logs of itself in Postfix's form: as lines of its master, with the attributes
// behind the message as key=value.
type postfixHandler struct {
	attributes slog.Handler // writes to lines.b
	lines      *masterLines
}

// masterLines is what the handlers of one log share.
type masterLines struct {
	head string // of each line, between its time and its text

	mu  sync.Mutex // held while one line is made
	b   bytes.Buffer
	out io.Writer // never blocks
}

func newPostfixHandler(out io.Writer, level, host string) *postfixHandler {
	l := &masterLines{head: " " + host + " postfix/master[" + strconv.Itoa(os.Getpid()) + "]: ", out: out}
	return &postfixHandler{slog.NewTextHandler(&l.b, &slog.HandlerOptions{
		Level: logLevel(level), ReplaceAttr: attributesAlone,
	}), l}
}

// attributesAlone removes what Handle writes itself.
func attributesAlone(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

// Enabled reports whether records of a level are written.
func (h *postfixHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.attributes.Enabled(ctx, level)
}

// Handle writes one record. In a warning nothing stands in brackets, because programs look there for a client's
// address.
func (h *postfixHandler) Handle(ctx context.Context, r slog.Record) error {
	l := h.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
	if err := h.attributes.Handle(ctx, r); err != nil {
		return err
	}
	text := strings.TrimSpace(printable.Text(r.Message) + " " + strings.TrimSuffix(l.b.String(), "\n"))
	l.b.Reset()
	l.b.WriteString(r.Time.Format(timeForm))
	l.b.WriteString(l.head)
	switch {
	case r.Level >= slog.LevelError:
		l.b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		l.b.WriteString("warning: ")
		text = strings.NewReplacer("[", "{", "]", "}").Replace(text)
	}
	l.b.WriteString(text + "\n")
	_, err := l.out.Write(l.b.Bytes())
	return err
}

// WithAttrs returns a handler that writes these attributes with each record.
func (h *postfixHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &postfixHandler{h.attributes.WithAttrs(attrs), h.lines}
}

// WithGroup returns a handler whose attributes are those of a group.
func (h *postfixHandler) WithGroup(name string) slog.Handler {
	return &postfixHandler{h.attributes.WithGroup(name), h.lines}
}
