package node

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/router/mail"
)

// flushAt is how much log waits in memory before it is written although a batch of events has not ended, in octets.
const flushAt = 32 << 10

// A logWriter gathers whole lines and writes many of them in one call. Its lock is never held while it writes: pending
// lines are swapped out first.
type logWriter struct {
	out     io.Writer
	writing sync.Mutex // held across the write, and only by those who write; before mu

	mu      sync.Mutex
	pending *bytes.Buffer
	spare   *bytes.Buffer
}

func newLogWriter(out io.Writer) *logWriter {
	return &logWriter{out: out, pending: new(bytes.Buffer), spare: new(bytes.Buffer)}
}

// Write keeps one line; slog calls it once a record.
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

// flush writes what was kept. An error has nowhere to go: the log is where errors go.
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

// A journal writes events down: one wide line of JSON a transaction. It never sees an octet of a message, because no
// event holds one. It is fed by one goroutine.
type journal struct {
	handler slog.Handler
	hashKey []byte // nil: addresses are written as they are

	attrs []slog.Attr // of the event being written
	took  []slog.Attr
}

// newLogger gives the handler that everything of this node is logged with. Times are those of the records.
func newLogger(w io.Writer, level string) slog.Handler {
	var l slog.Level
	_ = l.UnmarshalText([]byte(level)) // Validate has seen it
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})
}

// level says how loud an event is. The connection's own and the accepted recipients repeat in the transaction's line.
func level(e *mail.Event) slog.Level {
	switch e.Kind {
	case mail.Connected, mail.Disconnected, mail.Routed:
		return slog.LevelDebug
	case mail.Aborted:
		if e.Recipients == 0 { // all were refused, and each has its line
			return slog.LevelDebug
		}
	case mail.Anomaly:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// see writes one event.
func (j *journal) see(e *mail.Event) {
	l := level(e)
	if !j.handler.Enabled(context.Background(), l) {
		return
	}
	j.attrs, j.took = j.attrs[:0], j.took[:0]
	j.who(e)
	j.where(e)
	j.what(e)
	r := slog.NewRecord(e.Time, l, e.Kind.String(), 0)
	r.AddAttrs(j.attrs...)
	j.handler.Handle(context.Background(), r)
}

// Because gives what lies behind an event for an operator: the innermost cause and the host it is about. Refusals on
// the way to it repeat the reply, which the event has itself.
func Because(e *mail.Event) string {
	err, host := e.Cause, ""
	for err != nil {
		r, ok := err.(*mail.Refusal) // not errors.As: what wraps a refusal says more than the refusal
		if !ok {
			break
		}
		if r.Host != "" {
			host = r.Host
		}
		err = r.Cause
	}
	switch {
	case err == nil:
		return ""
	case host == "" || strings.Contains(err.Error(), host):
		return err.Error()
	}
	return host + ": " + err.Error()
}

func (j *journal) add(a slog.Attr) { j.attrs = append(j.attrs, a) }

// text adds what somebody else wrote, unless it is empty.
func (j *journal) text(key, value string) {
	if value != "" {
		j.add(slog.String(key, printable(value)))
	}
}

// who adds the client and what it said.
func (j *journal) who(e *mail.Event) {
	if !e.Trace.IsZero() {
		j.add(slog.String("trace", e.Trace.String()))
	}
	if e.Client.IsValid() {
		j.add(slog.String("client", e.Client.String()))
	}
	j.text("helo", e.Helo)
	j.text("tls", e.TLS)
	if e.Forward != (mail.Path{}) || !e.Reverse.IsNull() || e.Recipients > 0 {
		j.add(slog.String("reverse", j.path(e.Reverse)))
		j.add(slog.String("forward", j.path(e.Forward)))
	}
	if e.Recipients > 0 {
		j.add(slog.Int("recipients", e.Recipients))
	}
	j.text("verb", e.Verb)
}

// where adds the rule and the next hop.
func (j *journal) where(e *mail.Event) {
	if e.Rule != (mail.Rule{}) {
		j.add(slog.String("rule", j.rule(e.Rule)))
	}
	if e.NextHop != (mail.NextHop{}) {
		j.add(slog.String("next_hop", printable(e.NextHop.String())))
	}
	j.text("site", string(e.Site))
	j.text("host", e.Host)
	j.text("host_tls", e.HostTLS)
	if e.Host != "" {
		j.add(slog.Bool("reused", e.Reused))
	}
}

// what adds how it ended and how long it took.
func (j *journal) what(e *mail.Event) {
	j.text("mode", e.Mode.String())
	if e.Octets > 0 {
		j.add(slog.Int64("octets", e.Octets))
	}
	if e.Reply.Code != 0 {
		reply := e.Reply
		reply.ID = mail.TraceID{} // stands there as trace
		j.add(slog.String("reply", j.mask(reply.String())))
	}
	if e.InDoubt {
		j.add(slog.Bool("in_doubt", true))
	}
	j.text("reason", e.Reason)
	j.text("cause", j.mask(Because(e)))
	for s, d := range e.Took {
		if d > 0 {
			ms := float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
			j.took = append(j.took, slog.Float64(mail.Stage(s).String(), ms))
		}
	}
	if len(j.took) > 0 {
		j.add(slog.GroupAttrs("ms", j.took...))
	}
}

// path gives an address as the log is to have it. Of a hashed one the domain is kept, which is what an operator greps
// for.
func (j *journal) path(p mail.Path) string {
	if p.IsNull() {
		return "<>"
	}
	if j.hashKey == nil {
		return printable(p.String())
	}
	mac := hmac.New(sha256.New, j.hashKey)
	mac.Write(p.AppendTo(make([]byte, 0, 64)))
	return hex.EncodeToString(mac.Sum(nil)[:8]) + "@" + printable(p.Domain)
}

// rule gives the rule's place; its pattern may be an address.
func (j *journal) rule(r mail.Rule) string {
	if j.hashKey != nil && r.File != "" {
		r.Pattern = ""
	}
	return printable(strings.TrimSpace(r.String()))
}

// mask takes addresses out of foreign text when they are to be hashed: next hops like to repeat the recipient, and a
// rule may have turned it into one that the event does not name.
func (j *journal) mask(s string) string {
	s = printable(s)
	if j.hashKey == nil {
		return s
	}
	s = withoutQuoted(s)
	if !strings.Contains(s, "@") {
		return s
	}
	words := strings.Split(s, " ")
	for i, w := range words {
		if strings.Contains(w, "@") {
			words[i] = "(address)"
		}
	}
	return strings.Join(words, " ")
}

// withoutQuoted takes quoted local parts out of s, which may hold blanks (RFC 5321 section 4.1.2), and leaves their
// "@". Where one begins cannot be told for sure in text that anybody may have quoted or cut, so it takes all from the
// first quote to the last that ends a local part, and all behind a quote that opens a path and is not ended so.
func withoutQuoted(s string) string {
	if end := strings.LastIndex(s, `"@`); end >= 0 {
		s = s[:strings.IndexByte(s, '"')] + s[end+1:]
	}
	if cut := strings.Index(s, `<"`); cut >= 0 {
		s = s[:cut] + "@"
	}
	return s
}

// printable replaces what could command a terminal or turn text around: JSON escapes the C0 controls, but neither DEL
// nor C1 nor the bidirectional controls.
func printable(s string) string {
	plain := true
	for i := range len(s) {
		if s[i] >= 0x7f || s[i] < ' ' {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
