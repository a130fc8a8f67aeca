package node

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/router/mail"
)

// A journal logs events: one wide line of JSON a transaction. It never sees an octet of a message, because no event
// holds one. It is used by one goroutine.
type journal struct {
	handler slog.Handler
	out     *logWriter // that handler writes to
	hashKey []byte     // nil: addresses are logged in clear

	attrs []slog.Attr // of the event being written
	took  []slog.Attr // the times of its stages
}

// level returns the level that an event is logged at. The events of a connection and of accepted recipients are for
// debugging: the line of the transaction repeats them.
func level(e *mail.Event) slog.Level {
	switch e.Kind {
	case mail.Connected, mail.Disconnected, mail.Routed:
		return slog.LevelDebug
	case mail.Aborted:
		if e.Recipients == 0 { // all recipients were refused, and each has a line of its own
			return slog.LevelDebug
		}
	case mail.Anomaly:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// see logs one event. While the log is crowded only outcomes of messages are logged.
func (j *journal) see(e *entry) {
	l := level(&e.Event)
	if !j.handler.Enabled(context.Background(), l) {
		return
	}
	if !isOutcome(&e.Event) && j.out.Crowded() {
		j.out.drop(1 + e.more)
		return
	}
	j.attrs, j.took = j.attrs[:0], j.took[:0]
	j.addClient(&e.Event)
	j.addNextHop(&e.Event)
	j.addOutcome(&e.Event)
	if e.more > 0 {
		j.add(slog.Int("more", e.more))
	}
	r := slog.NewRecord(e.Time, l, e.Kind.String(), 0)
	r.AddAttrs(j.attrs...)
	j.handler.Handle(context.Background(), r)
}

// InnermostCause returns the innermost cause of an event, with the host it is about, "" for an event without a cause.
// The refusals around it are skipped: they repeat the reply, which the event has itself.
func InnermostCause(e *mail.Event) string {
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

// text adds text that came from outside, made printable and cut, unless it is empty.
func (j *journal) text(key, value string) {
	if value != "" {
		j.add(slog.String(key, cut(printable(value))))
	}
}

// maxText is the most octets of a text from outside in a line of the log.
const maxText = 1 << 10

// cut cuts a text before the character that reaches beyond maxText octets.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// addClient adds the client and what it said.
func (j *journal) addClient(e *mail.Event) {
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
		j.text("srs", e.SRS)
		j.add(slog.String("forward", j.path(e.Forward)))
	}
	if e.Recipients > 0 {
		j.add(slog.Int("recipients", e.Recipients))
	}
	j.text("verb", e.Verb)
}

// addNextHop adds the rule and the next hop.
func (j *journal) addNextHop(e *mail.Event) {
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

// addOutcome adds how the transaction ended and how long its stages took.
func (j *journal) addOutcome(e *mail.Event) {
	j.text("mode", e.Mode.String())
	if e.Octets > 0 {
		j.add(slog.Int64("octets", e.Octets))
	}
	if e.Reply.Code != 0 {
		reply := e.Reply
		reply.ID = mail.TraceID{} // it is logged as trace
		j.add(slog.String("reply", cut(j.mask(reply.String()))))
	}
	if e.InDoubt {
		j.add(slog.Bool("in_doubt", true))
	}
	j.text("reason", e.Reason)
	j.text("cause", cut(j.mask(InnermostCause(e))))
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

// path returns an address as it is logged. A hashed address keeps its domain, because administrators search for it.
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

// rule returns a rule as it is logged: its location and, unless addresses are hashed, its pattern, which may be an
// address.
func (j *journal) rule(r mail.Rule) string {
	if j.hashKey != nil && r.File != "" {
		r.Pattern = ""
	}
	return printable(strings.TrimSpace(r.String()))
}

// mask makes text from outside printable and, when addresses are hashed, replaces the addresses in it: next hops often
// repeat the recipient, and a rule may have rewritten it to an address that the event does not name.
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

// withoutQuoted removes quoted local parts from s, which may hold blanks (RFC 5321 section 4.1.2), and leaves their
// "@". In text that may have been quoted once more or truncated, the beginning of a local part is ambiguous. So it
// removes everything from the first quote to the last one that ends a local part, and everything after a quote that
// opens a path and is not closed.
func withoutQuoted(s string) string {
	if end := strings.LastIndex(s, `"@`); end >= 0 {
		s = s[:strings.IndexByte(s, '"')] + s[end+1:]
	}
	if open := strings.Index(s, `<"`); open >= 0 {
		s = s[:open] + "@"
	}
	return s
}

// printable replaces characters that could control a terminal or reverse the direction of text by "?". JSON escapes the
// C0 controls, but neither DEL nor C1 nor the bidirectional controls.
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
