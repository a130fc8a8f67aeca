package admin

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"

	"github.com/millrace/millrace/router/mail"
)

// other is the label value that stands for all that are not shown.
const other = "other"

// classes are the values of the label class, by the first digit of the code.
var classes = [...]string{"", "1yz", "2yz", "3yz", "4yz", "5yz"}

// The values of the labels tls and certificate.
const (
	inClear       = "none"
	noCertificate = "none"
	verified      = "verified"
	unverified    = "unverified"
)

// tlsVersions are what crypto/tls calls them; inClear stands first.
var tlsVersions = [...]string{inClear, "TLS 1.0", "TLS 1.1", "TLS 1.2", "TLS 1.3"}

// tlsLabel returns the label of a version as events have it.
func tlsLabel(version string) string {
	if version == "" {
		return inClear
	}
	if i := slices.Index(tlsVersions[:], version); i > 0 {
		return tlsVersions[i]
	}
	return other
}

// An authKey is what results of authentication are counted by.
type authKey struct{ method, result string }

func (k authKey) labels() []attribute.KeyValue { return is("method", k.method, "result", k.result) }

// authResults are the results of each method of authentication that events may have (RFC 8601 section 2.7).
var authResults = [...]struct {
	method  string
	results []string
}{
	{"spf", []string{"pass", "fail", "softfail", "neutral", "none", "policy", "temperror", "permerror"}},
	{"dkim", []string{"pass", "fail", "policy", "neutral", "none", "temperror", "permerror"}},
	{"dmarc", []string{"pass", "fail", "none", "temperror", "permerror"}},
	{"arc", []string{"pass", "fail", "none", "temperror"}},
}

// See counts one event, which it does not keep. It is called where the event happens and allocates nothing but an
// exemplar now and then.
func (m *Metrics) See(e *mail.Event) {
	class := other
	if c := e.Reply.Class(); c >= 0 && c < len(classes) {
		class = classes[c]
	}
	m.events.of(eventKey{oldKind(e), class, m.oldReasons.label(e.Reason)}).Add(1)
	if e.InDoubt {
		m.inDoubt.Add(1)
	}
	switch e.Kind {
	case mail.Disconnected:
		m.clients.of(tlsLabel(e.TLS)).Add(1)
	case mail.Unread:
		m.unread.Add(1)
	case mail.Anomaly:
		m.seeReason(m.anomalies.of(m.reasons.label(kindOfReason(e.Reason))), e)
	case mail.Refused, mail.Relayed, mail.Dropped, mail.Deferred, mail.Aborted:
		m.seeReason(m.outcomes.of(outcomeKey{e.Kind, m.reasons.label(kindOfReason(e.Reason))}), e)
		m.seeOutcome(e)
	}
	for s, d := range e.Took {
		if d > 0 && e.Kind != mail.Routed { // a recipient's stages stand in its transaction's event again
			m.times.stages[s].record(d, e.Trace, e.Time)
		}
	}
}

// seeReason adds to a count of events, and may keep this one as its exemplar.
func (m *Metrics) seeReason(n *count, e *mail.Event) {
	n.Add(1)
	n.latest.note(0, e.Trace, e.Time)
}

// kindOfReason returns a reason without what tells one of its kind from another, which is text such as how much slower
// a Site is served.
func kindOfReason(reason string) string {
	kind, _, _ := strings.Cut(reason, ": ")
	return kind
}

// seeOutcome counts the event of an outcome.
func (m *Metrics) seeOutcome(e *mail.Event) {
	m.seeRecipients(e)
	m.seeFiltered(e.Filtered)
	if e.Ends {
		m.seeAuth(e.Auth)
		m.times.transactions[e.Kind].record(e.All-e.Waited, e.Trace, e.Time)
		for i := range e.Legs {
			m.seeLeg(&e.Legs[i], e)
		}
	}
	if e.Kind != mail.Relayed {
		return
	}
	m.messages.of(e.Mode.String()).Add(1)
	m.octets.Add(uint64(e.Octets))
	if e.SRS != "" {
		m.srs.of(e.SRS).Add(1)
	}
	m.relayedCount.Add(1)
	if e.Reused {
		m.reusedCount.Add(1)
	}
}

// seeLeg counts the way to one next hop.
func (m *Metrics) seeLeg(leg *mail.Leg, e *mail.Event) {
	if leg.Wait > 0 {
		m.times.waits.record(leg.Wait, e.Trace, e.Time)
	}
	if leg.Replied.Class() != 2 || leg.Session.Kind > mail.SessionWarm {
		return
	}
	tls, certificate := tlsLabel(leg.Session.TLS), noCertificate
	switch {
	case leg.Session.Verified:
		certificate = verified
	case tls != inClear:
		certificate = unverified
	}
	m.deliveries.of(deliveryKey{leg.Session.Kind, tls, certificate}).Add(1)
	if leg.Node != "" {
		m.handedOver.Add(1)
	}
}

// seeAuth counts the results of a message that was authenticated.
func (m *Metrics) seeAuth(a *mail.Auth) {
	if a == nil {
		return
	}
	for i := range authResults {
		known := &authResults[i]
		result := ""
		switch known.method {
		case "spf":
			result = a.SPF
		case "dkim":
			result = a.DKIM
		case "dmarc":
			result = a.DMARC
		case "arc":
			result = a.ARC
		}
		if result == "" {
			continue
		}
		key := authKey{known.method, other}
		if i := slices.Index(known.results, result); i >= 0 {
			key.result = known.results[i]
		}
		m.results.of(key).Add(1)
	}
}

// seeFiltered counts what content filters said of a message or a recipient.
// What names a change in detail came from outside.
func (m *Metrics) seeFiltered(all []mail.Filtered) {
	for i := range all {
		f := &all[i]
		name := f.Name
		if !m.filters[name] {
			name = other
		}
		m.filtered.of(filterKey{name, oneOf(filterResults, f.Result)}).Add(1)
		for _, change := range f.Changes {
			kind, _, _ := strings.Cut(change, " ")
			m.changes.of(changeKey{name, oneOf(filterChanges, kind)}).Add(1)
		}
	}
}

// oneOf returns the word if it is one of a list, else other.
func oneOf(list []string, word string) string {
	if slices.Contains(list, word) {
		return word
	}
	return other
}

// oldKind returns the kind by which millrace_events_total counts: until recently whatever was refused before a message
// was of the kind Refused, also with a 4yz. It stays so until that metric goes.
func oldKind(e *mail.Event) mail.Kind {
	if e.Kind == mail.Deferred && (!e.Ends || e.Mode == mail.ModeNone) {
		return mail.Refused
	}
	return e.Kind
}

// seeRecipients counts the recipients of an event. Those that were refused at RCPT had an event of their own before the
// one that ends their transaction.
func (m *Metrics) seeRecipients(e *mail.Event) {
	for i := range e.To {
		if to := &e.To[i]; !e.Ends || to.Verb != "RCPT" {
			m.rcpts.of(to.Outcome.String()).Add(1)
		}
	}
}

// maxReasons bounds the values of the label reason. Further values are counted as other: a label that grows with what
// clients send would fill the memory of the node and of Prometheus.
const maxReasons = 128

// reasons are the values of the label reason so far. Reasons are few and fixed; the bound holds even if one is ever
// made of text from outside.
type reasons struct {
	seen atomic.Pointer[map[string]struct{}] // replaced whole by each new one
	mu   sync.Mutex                          // held while one is added
}

// label returns the value of the label for a reason.
func (r *reasons) label(reason string) string {
	if reason == "" {
		return ""
	}
	if seen := r.seen.Load(); seen != nil {
		if _, ok := (*seen)[reason]; ok {
			return reason
		}
		if len(*seen) >= maxReasons {
			return other
		}
	}
	return r.add(reason)
}

func (r *reasons) add(reason string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	more := map[string]struct{}{reason: {}}
	if seen := r.seen.Load(); seen != nil {
		maps.Copy(more, *seen)
	}
	if len(more) > maxReasons || len(reason) > 64 {
		return other
	}
	r.seen.Store(&more)
	return reason
}
