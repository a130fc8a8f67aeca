package node

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/leaf/printable"
	"github.com/millrace/millrace/router/mail"
)

// tracerName is the instrumentation scope of every span.
const tracerName = "github.com/millrace/millrace"

// The attributes of ours. OpenTelemetry has none for mail: docs/otel.md proposes these.
const (
	attrOutcome      = attribute.Key("smtp.outcome")
	attrCommand      = attribute.Key("smtp.command")
	attrReplyCode    = attribute.Key("smtp.reply.code")
	attrReplyStatus  = attribute.Key("smtp.reply.enhanced_code")
	attrReplyText    = attribute.Key("smtp.reply.text")
	attrHelo         = attribute.Key("smtp.helo")
	attrUser         = attribute.Key("smtp.user")
	attrFrom         = attribute.Key("smtp.mail.from")
	attrTo           = attribute.Key("smtp.rcpt.to")
	attrRecipients   = attribute.Key("smtp.recipient.count")
	attrSize         = attribute.Key("smtp.message.size")
	attrMode         = attribute.Key("smtp.mode")
	attrInDoubt      = attribute.Key("smtp.in_doubt")
	attrRule         = attribute.Key("smtp.rule")
	attrRulesVersion = attribute.Key("smtp.rules.version")
	attrAllowed      = attribute.Key("smtp.allow.entry")
	attrClientWait   = attribute.Key("smtp.client.wait")
	attrScore        = attribute.Key("smtp.score.total")
	attrSignal       = attribute.Key("smtp.signal.name")
	attrWeight       = attribute.Key("smtp.signal.weight")
	attrAuth         = attribute.Key("smtp.auth.results")
	attrSigners      = attribute.Key("smtp.auth.signers")
	attrPolicy       = attribute.Key("smtp.auth.dmarc.policy")
	attrSigned       = attribute.Key("smtp.signed")
	attrUnsigned     = attribute.Key("smtp.unsigned")
	attrSeal         = attribute.Key("smtp.seal")
	attrSRS          = attribute.Key("smtp.srs")
	attrNextHop      = attribute.Key("smtp.next_hop")
	attrSite         = attribute.Key("smtp.site")
	attrNode         = attribute.Key("smtp.node")
	attrSession      = attribute.Key("smtp.session.kind")
	attrVerified     = attribute.Key("smtp.tls.verified")
	attrCause        = attribute.Key("smtp.cause")
	attrFilter       = attribute.Key("smtp.filter.result")
)

// The names of the spans that are no step, and of the events.
const (
	spanTransaction = "smtp.transaction"
	spanHandover    = "smtp.handover"
	spanRefusal     = "smtp.refusal"
	spanRelay       = "smtp.relay"
	spanHandshake   = "tls.handshake" // that of mail.StepTLS
	eventRefused    = "smtp.refused"
	eventSignal     = "smtp.signal"
)

// rootSpans are the names of the spans of traces.
var rootSpans = [...]string{spanTransaction, spanHandover, spanRefusal}

// stepSpans are the names of the spans of steps.
var stepSpans = func() (names [mail.StepKinds]string) {
	for k := range names {
		names[k] = "smtp." + mail.StepKind(k).String()
	}
	names[mail.StepTLS] = spanHandshake
	return names
}()

// A spanMaker turns traces into spans. It is used by one goroutine.
type spanMaker struct {
	scope    scope
	hostname string
	hash     bool    // addresses are hashed; else they are left out
	words    journal // takes addresses out of texts

	spans []span               // of the trace under way; their room is taken beforehand, so that they do not move
	attrs []attribute.KeyValue // of the span under way
	room  spanRoom
	memos memos
}

// make appends the spans of a trace to out, the root first. They stand until forget.
func (m *spanMaker) make(out []sdktrace.ReadOnlySpan, t *mail.Trace) []sdktrace.ReadOnlySpan {
	m.spans, m.attrs = m.room.spans.take(t.Spans())[:0], m.attrs[:0]
	root := m.root(t)
	m.steps(root, t, &t.Steps)
	for _, leg := range t.Legs {
		m.leg(root, t, leg)
	}
	for i := range m.spans {
		out = append(out, &m.spans[i])
	}
	m.spans = nil
	return out
}

// forget takes the memory of all spans back that were made.
func (m *spanMaker) forget() { m.room.reset() }

// begin begins a span below the one with the index above, -1 for the root.
func (m *spanMaker) begin(name string, id mail.SpanID, above int, t *mail.Trace) *span {
	m.spans = m.spans[:len(m.spans)+1]
	s := &m.spans[len(m.spans)-1]
	s.scope, s.name, s.kind = &m.scope, name, trace.SpanKindInternal
	s.id = trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(t.ID), SpanID: trace.SpanID(id), TraceFlags: trace.FlagsSampled,
	})
	if above >= 0 {
		s.parent = m.spans[above].id
	}
	return s
}

// end ends the attributes of a span.
func (m *spanMaker) end(s *span) { s.attributes = m.cut() }

// cut returns the attributes since the last call.
func (m *spanMaker) cut() []attribute.KeyValue {
	all := m.room.attributes.take(len(m.attrs))
	copy(all, m.attrs)
	m.attrs = m.attrs[:0]
	return all
}

func (m *spanMaker) add(kv attribute.KeyValue) { m.attrs = append(m.attrs, kv) }

// text adds a text of ours, unless it is empty.
func (m *spanMaker) text(key attribute.Key, s string) {
	if s != "" {
		m.add(key.String(s))
	}
}

// outside adds a text that came from outside: printable, cut, and without addresses.
func (m *spanMaker) outside(key attribute.Key, s string) {
	switch {
	case s == "":
	case len(s) <= shortText && !strings.ContainsFunc(s, isDoubtful):
		m.add(key.String(s))
	default:
		m.add(key.String(m.memos.texts.of(s, m.clean)))
	}
}

// isDoubtful reports whether a text with a character in it needs a closer look before it stands in a span.
func isDoubtful(r rune) bool { return r < ' ' || r >= 0x7f || r == '@' || r == '"' }

// clean returns a text from outside as spans have it.
func (m *spanMaker) clean(s string) string {
	return cut(m.words.mask(strings.ReplaceAll(s, "\n", " ")), shortText)
}

// reply adds a reply, if there is one.
func (m *spanMaker) reply(r *mail.Reply) {
	if r.Code == 0 {
		return
	}
	m.add(attrReplyCode.Int(r.Code))
	if r.Enhanced != (mail.EnhancedCode{}) {
		m.add(attrReplyStatus.String(m.memos.codes.of(status{r.Class(), r.Enhanced}, status.String)))
	}
	m.outside(attrReplyText, r.Text)
}

// path returns an address as spans have it: a keyed hash of it at its domain.
func (m *spanMaker) path(p mail.Path) string {
	if p.IsNull() {
		return "<>"
	}
	return m.memos.paths.of(p, m.hashed)
}

func (m *spanMaker) hashed(p mail.Path) string {
	return m.words.hashed(p.AppendTo(nil)) + "@" + cut(printable.Text(p.Domain), shortText)
}

func (m *spanMaker) user(name string) string { return m.words.hashed([]byte(name)) }

// peer adds an address that is spoken with.
func (m *spanMaker) peer(a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	m.add(semconv.NetworkPeerAddressKey.String(m.memos.addresses.of(a.Addr(), addressText)))
	m.add(semconv.NetworkPeerPortKey.Int(int(a.Port())))
	if a.Addr().Unmap().Is4() {
		m.add(semconv.NetworkTypeIPv4)
	} else {
		m.add(semconv.NetworkTypeIPv6)
	}
}

// tls adds the version of TLS, "" for none, as crypto/tls names it.
func (m *spanMaker) tls(version string) {
	if version == "" {
		return
	}
	m.add(semconv.TLSProtocolNameTLS)
	m.add(semconv.TLSProtocolVersionKey.String(strings.TrimPrefix(version, "TLS ")))
}

// fail says that a span failed, by a short fixed word.
func (m *spanMaker) fail(s *span, reason string) {
	s.status = sdktrace.Status{Code: codes.Error, Description: reason}
	m.add(semconv.ErrorTypeKey.String(m.memos.reasons.of(reason, errorType)))
}

// errorType returns a reason as error.type has it.
func errorType(reason string) string {
	if reason == "" {
		return semconv.ErrorTypeOther.Value.AsString()
	}
	return strings.ReplaceAll(reason, " ", "_")
}

// root makes the span of the transaction itself, and returns its index.
func (m *spanMaker) root(t *mail.Trace) int {
	s := m.begin(rootSpans[t.Of], t.Steps.Parent.Span, -1, t)
	s.kind, s.began, s.ended = trace.SpanKindServer, t.Began, t.Ended
	if t.Parent != (mail.Parent{}) {
		flags := trace.TraceFlags(0).WithSampled(t.Parent.Sampled)
		s.parent = trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID(t.ID), SpanID: trace.SpanID(t.Parent.Span), TraceFlags: flags, Remote: true,
		})
	}
	m.add(semconv.NetworkProtocolNameKey.String("smtp"))
	m.add(semconv.NetworkTransportTCP)
	if a := t.Client.Addr(); a.IsValid() {
		m.add(semconv.ClientAddressKey.String(m.memos.addresses.of(a, addressText)))
		if t.Client.Port() != 0 {
			m.add(semconv.ClientPortKey.Int(int(t.Client.Port())))
		}
	}
	m.add(semconv.ServerAddressKey.String(m.hostname))
	if t.Local.IsValid() {
		m.add(semconv.ServerPortKey.Int(int(t.Local.Port())))
		m.add(semconv.NetworkLocalAddressKey.String(m.memos.addresses.of(t.Local.Addr(), addressText)))
	}
	m.envelope(t)
	m.outcome(s, t)
	m.end(s)
	for i := range t.Steps.List {
		if step := &t.Steps.List[i]; step.Kind == mail.StepRefused {
			s.events = append(s.events, m.refused(t.Steps.Start.Add(step.Began), t.Steps.Note(i)))
		}
	}
	s.dropped = t.Steps.Dropped
	return 0
}

// maxPaths is the most recipients that a span names.
const maxPaths = 32

// envelope adds what the client said, and what the rules make of it.
func (m *spanMaker) envelope(t *mail.Trace) {
	e := &t.Event
	m.tls(e.TLS)
	m.outside(attrHelo, e.Helo)
	if m.hash && e.User != "" {
		m.add(attrUser.String(m.memos.users.of(e.User, m.user)))
	}
	if m.hash && e.Kind.IsOutcome() && t.Of != mail.OfRefusal {
		m.add(attrFrom.String(m.path(e.Reverse)))
	}
	var paths, rules []string
	for i := range e.To[:min(len(e.To), maxPaths)] {
		to := &e.To[i]
		if m.hash {
			paths = append(paths, m.path(to.Forward))
		}
		if to.Rule.File != "" {
			if at := m.memos.rules.of(to.Rule, ruleText); len(rules) == 0 || rules[len(rules)-1] != at {
				rules = append(rules, at)
			}
		}
	}
	if len(paths) > 0 {
		m.add(attrTo.StringSlice(paths))
	}
	if len(rules) > 0 {
		m.add(attrRule.StringSlice(rules))
	}
	if v, ok := strings.CutPrefix(e.Rules, "version "); ok {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			m.add(attrRulesVersion.Int64(n))
		}
	}
	m.text(attrAllowed, t.Allowed)
	m.text(attrSRS, e.SRS)
}

// outcome adds what became of the transaction, and sets the status of its span.
func (m *spanMaker) outcome(s *span, t *mail.Trace) {
	e := &t.Event
	if !e.Kind.IsOutcome() {
		if t.Of == mail.OfRefusal { // without a reply
			m.fail(s, e.Reason)
		}
		return
	}
	m.add(attrOutcome.String(e.Kind.String()))
	if e.Recipients > 0 {
		m.add(attrRecipients.Int(e.Recipients))
	}
	if e.Octets > 0 {
		m.add(attrSize.Int64(e.Octets))
	}
	m.text(attrMode, e.Mode.String())
	m.text(attrCommand, e.Verb)
	m.reply(&e.Reply)
	if e.Waited > 0 {
		m.add(attrClientWait.Float64(e.Waited.Seconds()))
	}
	m.text(attrSigned, e.Signed)
	m.text(attrUnsigned, e.Unsigned)
	if e.InDoubt {
		m.add(attrInDoubt.Bool(true))
	}
	if e.Kind == mail.Refused || e.Kind == mail.Deferred || e.InDoubt {
		reason := e.Reason
		if reason == "" {
			reason = mail.ReasonOf(e.Cause)
		}
		m.fail(s, reason)
	}
}

// refused returns the event of a command that was refused.
func (m *spanMaker) refused(at time.Time, n mail.Note) sdktrace.Event {
	m.text(attrCommand, n.Text)
	r := mail.ReplyFor(n.Err)
	m.reply(&r)
	m.add(semconv.ErrorTypeKey.String(m.memos.reasons.of(mail.ReasonOf(n.Err), errorType)))
	return sdktrace.Event{Name: eventRefused, Time: at, Attributes: m.cut()}
}

// leg makes the span of the way to a next hop, and those of its steps.
func (m *spanMaker) leg(root int, t *mail.Trace, leg *mail.Leg) {
	if len(leg.Steps.List) == 0 { // it was not gone
		return
	}
	at := root
	if t.Of != mail.OfHandover { // there the root is the span of the way
		s := m.begin(spanRelay, leg.Steps.Parent.Span, root, t)
		at = len(m.spans) - 1
		s.kind, s.began, s.ended = trace.SpanKindClient, t.Began, t.Ended
		steps, start := leg.Steps.List, leg.Steps.Start
		s.began = start.Add(steps[0].Began)
		if last := &steps[len(steps)-1]; leg.Node == "" && !last.Open {
			s.ended = start.Add(last.Began + last.Took)
		}
		m.way(s, leg)
		m.end(s)
	} else {
		s := &m.spans[root]
		m.attrs = append(m.attrs, s.attributes...)
		m.way(s, leg)
		m.end(s)
	}
	m.steps(at, t, leg.Steps)
}

// way adds what is known of the way to a next hop. The status of its span is that of the last step that failed, unless
// the next hop took the message.
func (m *spanMaker) way(s *span, leg *mail.Leg) {
	m.outside(attrNextHop, m.memos.nextHops.of(leg.NextHop, mail.NextHop.String))
	m.outside(attrSite, string(leg.Site))
	m.text(attrNode, leg.Node)
	m.text(attrSeal, leg.Sealed.Wanted)
	m.text(attrSigned, leg.Sealed.Signed)
	m.text(attrUnsigned, leg.Sealed.Unsigned)
	if took := &leg.Session; took.Host != "" {
		if s.kind == trace.SpanKindClient {
			m.outside(semconv.ServerAddressKey, took.Host)
		}
		m.peer(took.Addr)
		if took.Source.IsValid() {
			m.add(semconv.NetworkLocalAddressKey.String(m.memos.addresses.of(took.Source, addressText)))
		}
		if m.tls(took.TLS); took.TLS != "" {
			m.text(semconv.TLSCipherKey, took.Cipher)
			m.text(semconv.TLSCurveKey, took.KeyExchange)
			m.add(semconv.TLSResumedKey.Bool(took.Kind == mail.SessionResumed))
			m.add(attrVerified.Bool(took.Verified))
		}
		m.add(attrSession.String(took.Kind.String()))
		if m.hash && s.kind == trace.SpanKindClient {
			m.add(attrFrom.String(m.path(leg.Reverse)))
		}
	}
	if s.kind != trace.SpanKindClient {
		return
	}
	m.reply(&leg.Replied)
	if c := leg.Replied.Class(); leg.Replied.Code != 0 && c != 2 {
		m.fail(s, "reply")
	} else if err := lastError(leg.Steps); err != nil && leg.Replied.Code == 0 {
		m.fail(s, mail.ReasonOf(err))
	}
}

// lastError returns what the last step that is no part of another ended with.
func lastError(steps *mail.Steps) error {
	for i := len(steps.List) - 1; i >= 0; i-- {
		if steps.List[i].Above < 0 {
			return steps.Note(i).Err
		}
	}
	return nil
}

// steps makes the spans of steps below the span with the index above.
func (m *spanMaker) steps(above int, t *mail.Trace, steps *mail.Steps) {
	var at [maxStepSpans]int
	for i := range steps.List {
		step := &steps.List[i]
		under := above
		if step.Above >= 0 {
			under = at[step.Above]
		}
		at[i] = under // for what is part of a step that is no span
		if step.Kind == mail.StepRefused {
			continue
		}
		s := m.begin(stepSpans[step.Kind], mail.NewSpanID(), under, t)
		at[i] = len(m.spans) - 1
		s.began = steps.Start.Add(step.Began)
		if s.ended = s.began.Add(step.Took); step.Open {
			s.ended = t.Ended
		}
		m.step(s, t, step.Kind, steps.Note(i))
	}
}

// maxStepSpans is the most spans of one list of steps.
const maxStepSpans = 64

// step adds what is known of a step, and sets the status of its span.
func (m *spanMaker) step(s *span, t *mail.Trace, kind mail.StepKind, n mail.Note) {
	e := &t.Event
	switch kind {
	case mail.StepScore:
		m.add(attrScore.Float64(e.Score))
	case mail.StepAuth:
		if e.Auth != nil {
			m.text(attrAuth, e.Auth.String())
			m.outside(attrSigners, signers(e.Auth))
			m.text(attrPolicy, e.Auth.Policy)
		}
	case mail.StepFilter:
		m.outside(attrFilter, n.Text)
	case mail.StepDial, mail.StepTried:
		m.outside(semconv.ServerAddressKey, n.Host)
		m.peer(n.Addr)
	case mail.StepRcpt, mail.StepDot, mail.StepReplay, mail.StepSend:
		s.kind = trace.SpanKindClient
	}
	switch {
	case kind == mail.StepTried:
		m.outside(attrCause, n.Text)
		m.fail(s, triedAs(n.Text))
	case kind == mail.StepTLS && n.Err != nil: // nothing was said
		m.outside(attrCause, n.Err.Error())
		m.fail(s, "tls")
	case kind == mail.StepFilter && n.Err != nil: // it said nothing
		m.outside(attrCause, n.Err.Error())
		m.fail(s, "filter")
	case n.Err != nil:
		r := mail.ReplyFor(n.Err)
		m.reply(&r)
		m.fail(s, mail.ReasonOf(n.Err))
	}
	m.end(s)
	if kind == mail.StepScore {
		m.signals(s, e.Signals)
	}
}

// signals adds an event for each signal that spoke, out of "name weight, ...".
func (m *spanMaker) signals(s *span, all string) {
	for one := range strings.SplitSeq(all, ", ") {
		name, weight, ok := strings.Cut(one, " ")
		w, err := strconv.ParseFloat(weight, 64)
		if !ok || err != nil {
			continue
		}
		m.add(attrSignal.String(name))
		m.add(attrWeight.Float64(w))
		s.events = append(s.events, sdktrace.Event{Name: eventSignal, Time: s.ended, Attributes: m.cut()})
	}
}

// triedAs returns the short word that the cause of what did not serve begins with: the part of the session that failed.
func triedAs(cause string) string {
	word, _, ok := strings.Cut(cause, ":")
	if !ok || len(word) > 16 || strings.ContainsFunc(word, func(r rune) bool { return r < 'A' || r > 'z' }) {
		return "failed"
	}
	return strings.ToLower(word)
}
