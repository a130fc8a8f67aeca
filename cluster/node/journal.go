package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// A journal logs events: one wide line of JSON a transaction. It never sees an octet of a message, because no event
// holds one. It is used by one goroutine.
type journal struct {
	out     *logWriter   // where the lines go
	least   slog.Level   // events below it are not logged
	hashKey []byte       // nil: addresses are logged in clear
	mac     hash.Hash    // with hashKey; nil before the first address
	postfix *postfixForm // nil: JSON

	warned lately[warned] // the warnings of late

	line     line      // the one being written
	scratch  []byte    // a text of it
	elements []byte    // of its lists
	ends     []element // where each of them ends
}

// level returns the level that an event is logged at. The events of a connection and of accepted recipients are for
// debugging: the line of the transaction repeats them. A warning is what an administrator should act on; what strangers
// cause, or a destination, is none.
func level(e *mail.Event) slog.Level {
	switch e.Kind {
	case mail.Connected, mail.Disconnected, mail.Routed:
		return slog.LevelDebug
	case mail.Aborted:
		if e.Recipients == 0 { // all recipients were refused, and each has a line of its own
			return slog.LevelDebug
		}
	case mail.Deferred:
		if e.Reason == "credentials" || e.Reason == "certificate" {
			return slog.LevelWarn
		}
	case mail.Anomaly:
		if !isNotice(e.Reason) {
			return slog.LevelWarn
		}
	}
	return slog.LevelInfo
}

// notices are the reasons of anomalies on which nothing is to be done: what clients and messages are like.
var notices = []string{
	"TLS handshake", "first line is no field", "mailbox line dropped", "DMARC pct ignored", "delivered before",
	"mixed fan-out accepted", "body hash foretold wrongly",
}

func isNotice(reason string) bool {
	return slices.Contains(notices, reason) || strings.HasPrefix(reason, "authentication overridden: ")
}

const (
	// sameWarning is how long a warning is not repeated for the same thing: it is a line of level info meanwhile.
	sameWarning = 10 * time.Minute
	// maxWarned bounds the things that are remembered. Beyond them all are forgotten.
	maxWarned = 1024
)

// A lately is what was warned of, and when.
type lately[T comparable] map[T]time.Time

// isNew reports whether the same was not warned of within sameWarning, and notes that it is now.
func (l *lately[T]) isNew(what T, now time.Time) bool {
	if at, ok := (*l)[what]; ok && now.Sub(at) < sameWarning {
		return false
	}
	if len(*l) >= maxWarned || *l == nil {
		*l = make(lately[T])
	}
	(*l)[what] = now
	return true
}

// A warned is what a warning was about: the reason, and where the trouble is.
type warned struct {
	reason, host string
	site         mail.Site
	nextHop      mail.NextHop
}

// isNew reports whether a warning about the same thing as e was not given within sameWarning, and notes that it is.
func (j *journal) isNew(e *mail.Event) bool {
	return j.warned.isNew(warned{reason: e.Reason, host: e.Host, site: e.Site, nextHop: e.NextHop}, e.Time)
}

// see logs one event. While the log is crowded only outcomes of messages are logged.
func (j *journal) see(e *entry) {
	l := level(&e.Event)
	if l == slog.LevelWarn && !j.isNew(&e.Event) {
		l = slog.LevelInfo
	}
	if l < j.least {
		return
	}
	if !isOutcome(&e.Event) && j.out.Crowded() {
		j.out.drop(1 + e.more)
		return
	}
	if j.postfix != nil {
		j.postfix.write(e, l)
		return
	}
	j.write(e, l)
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

// head begins the line of an event: all of it but its lists. text is the most octets of a text from outside.
func (j *journal) head(e *entry, level slog.Level, text int) {
	j.line.b, j.line.text = j.line.b[:0], text
	j.open(&j.line, e, level)
	j.addClient(&e.Event)
	j.addNextHop(&e.Event)
	j.addOutcome(&e.Event)
	if e.more > 0 {
		j.line.number("more", int64(e.more))
	}
}

// addClient adds the client and what it said.
func (j *journal) addClient(e *mail.Event) {
	l := &j.line
	l.addr("client", e.Client)
	l.outside("helo", e.Helo)
	if e.User != "" && j.hashKey != nil { // it may be an address
		l.word("user", j.hashed([]byte(e.User)))
	} else {
		l.outside("user", e.User)
	}
	l.outside("tls", e.TLS)
	if e.Forward != (mail.Path{}) || !e.Reverse.IsNull() || e.Recipients > 0 {
		j.path(l, "reverse", e.Reverse)
		l.word("srs", e.SRS)
	}
	if e.Recipients > 0 {
		l.number("recipients", int64(e.Recipients))
	}
	l.outside("verb", e.Verb)
	j.addJudgement(e)
}

// addJudgement adds what was found of the client and its message.
func (j *journal) addJudgement(e *mail.Event) {
	l := &j.line
	if e.Signals != "" {
		l.key("score")
		l.b = strconv.AppendFloat(l.b, e.Score, 'f', 1, 64)
		l.outside("signals", j.mask(e.Signals))
	}
	l.outside("entries", e.Entries)
	addAuth(l, e.Auth)
	l.outside("hook", e.Hook)
	l.outside("signed", e.Signed)
	l.outside("unsigned", e.Unsigned)
	j.addFiltered(e.Filtered)
	if e.MessageID != 0 {
		l.key("message_id")
		l.b = append(l.b, '"')
		l.b = hex.AppendEncode(l.b, binary.BigEndian.AppendUint64(nil, e.MessageID))
		l.b = append(l.b, '"')
	}
	l.word("rules", e.Rules)
}

// addFiltered adds what content filters said of a message.
func (j *journal) addFiltered(all []mail.Filtered) {
	if len(all) == 0 {
		return
	}
	l := &j.line
	l.begin("filters", '[')
	for i := range all {
		f := &all[i]
		if i > 0 {
			l.b = append(l.b, ',')
		}
		l.b = append(l.b, '{')
		l.word("name", f.Name)
		l.word("result", f.Result)
		if f.Rcpt {
			l.word("verb", "RCPT")
		}
		if f.Scored {
			l.key("score")
			l.b = strconv.AppendFloat(l.b, f.Score, 'f', 1, 64)
		}
		l.outside("symbols", f.Symbols)
		l.outside("refused_changes", strings.Join(f.Changes, ", "))
		if f.Cause != nil {
			l.outside("cause", j.mask(f.Cause.Error()))
		}
		l.ms("ms", f.Took)
		l.end('}')
	}
	l.end(']')
}

// addAuth adds what the authentication of a message came to.
func addAuth(l *line, a *mail.Auth) {
	if a == nil || a.SPF == "" && a.DKIM == "" && a.DMARC == "" && a.ARC == "" {
		return
	}
	l.begin("auth", '{')
	l.word("spf", a.SPF)
	l.word("dkim", a.DKIM)
	l.word("dmarc", a.DMARC)
	l.word("policy", a.Policy)
	l.word("arc", a.ARC)
	if len(a.Overrides) > 0 {
		l.word("overrides", strings.Join(a.Overrides, ", "))
	}
	l.flag("unauthenticated", a.Unauthenticated)
	if len(a.Signers) > 0 {
		l.begin("signers", '[')
		for i := range a.Signers {
			if i > 0 {
				l.b = append(l.b, ',')
			}
			l.b = append(l.b, '{')
			l.outside("d", a.Signers[i].Domain)
			l.word("result", a.Signers[i].Result)
			l.end('}')
		}
		l.end(']')
	}
	if a.Unverified > 0 {
		l.number("unverified", int64(a.Unverified))
	}
	l.end('}')
}

// addNextHop adds the recipient, the rule and the next hop of an event that is about one of each and has no lists.
func (j *journal) addNextHop(e *mail.Event) {
	l := &j.line
	if len(e.To) == 0 {
		if e.Forward != (mail.Path{}) {
			j.path(l, "forward", e.Forward)
		}
		if e.Rule != (mail.Rule{}) {
			l.outside("rule", j.rule(e.Rule))
		}
	}
	if len(e.Legs) > 0 {
		return
	}
	if e.NextHop != (mail.NextHop{}) && len(e.To) == 0 {
		l.outside("next_hop", e.NextHop.String())
	}
	l.outside("site", string(e.Site))
	l.outside("host", e.Host)
}

// addOutcome adds how the transaction ended and how long its stages took. Where addresses are hashed, what a client
// sent in place of a path is left out: it is not known where an address in it begins.
func (j *journal) addOutcome(e *mail.Event) {
	l := &j.line
	l.word("mode", e.Mode.String())
	if e.Octets > 0 {
		l.number("octets", e.Octets)
	}
	j.reply(l, e.Reply)
	l.flag("in_doubt", e.InDoubt)
	l.outside("reason", e.Reason)
	if cause := InnermostCause(e); cause != "" && (j.hashKey == nil || e.Reason != "protocol") {
		l.key("cause")
		quote(l, cut(j.mask(cause), l.text))
	}
	j.addTimes(e)
}

// addTimes adds how long the stages took.
func (j *journal) addTimes(e *mail.Event) {
	l, begun := &j.line, false
	for s, d := range e.Took {
		if d <= 0 {
			continue
		}
		if !begun {
			l.begin("ms", '{')
			begun = true
		}
		l.ms(mail.Stage(s).String(), d)
	}
	if e.Ends {
		if !begun {
			l.begin("ms", '{')
			begun = true
		}
		l.ms("client", e.Waited)
		l.ms("all", e.All)
	}
	if begun {
		l.end('}')
	}
}

// reply appends a reply, if there is one. Its id is logged as trace.
func (j *journal) reply(l *line, r mail.Reply) {
	if r.Code == 0 {
		return
	}
	l.key("reply")
	j.scratch = r.AppendPlain(j.scratch[:0])
	if j.hashKey == nil && printable.IsASCII(j.scratch) && len(j.scratch) <= l.text {
		quote(l, j.scratch)
		return
	}
	quote(l, cut(j.mask(string(j.scratch)), l.text))
}

// path appends an address as it is logged. A hashed address keeps its domain, because administrators search for it.
func (j *journal) path(l *line, name string, p mail.Path) {
	l.key(name)
	if p.IsNull() {
		l.b = append(l.b, `"<>"`...)
		return
	}
	j.scratch = p.AppendTo(j.scratch[:0])
	switch {
	case j.hashKey != nil:
		quote(l, j.hashed(j.scratch)+"@"+cut(printable.Text(p.Domain), l.text))
	case printable.IsASCII(j.scratch) && len(j.scratch) <= l.text:
		quote(l, j.scratch)
	default:
		quote(l, cut(printable.Text(string(j.scratch)), l.text))
	}
}

// hashed returns what stands for the local part of an address where addresses are hashed.
func (j *journal) hashed(address []byte) string {
	if j.mac == nil {
		j.mac = hmac.New(sha256.New, j.hashKey)
	}
	j.mac.Reset()
	j.mac.Write(address)
	var sum [sha256.Size]byte
	return hex.EncodeToString(j.mac.Sum(sum[:0])[:8])
}

// rule returns a rule as it is logged: its location and, unless addresses are hashed, its pattern, which may be an
// address.
func (j *journal) rule(r mail.Rule) string {
	if j.hashKey != nil && r.File != "" {
		r.Pattern = ""
	}
	return printable.Text(strings.TrimSpace(r.String()))
}

// mask makes text from outside printable and, when addresses are hashed, replaces the addresses in it: next hops often
// repeat the recipient, and a rule may have rewritten it to an address that the event does not name.
func (j *journal) mask(s string) string {
	s = printable.Text(s)
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
