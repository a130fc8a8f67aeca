package node

import (
	"net/netip"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/router/mail"
)

// A span is one span of a transaction that has ended. Only what exporters ask for is answered.
type span struct {
	sdktrace.ReadOnlySpan // nil

	scope        *scope
	name         string
	id, parent   trace.SpanContext
	kind         trace.SpanKind
	began, ended time.Time
	attributes   []attribute.KeyValue
	events       []sdktrace.Event
	dropped      int // events
	status       sdktrace.Status
}

// A scope is what all spans of a node have in common.
type scope struct {
	resource *resource.Resource
	library  instrumentation.Scope
}

func (s *span) Name() string                                { return s.name }
func (s *span) SpanContext() trace.SpanContext              { return s.id }
func (s *span) Parent() trace.SpanContext                   { return s.parent }
func (s *span) SpanKind() trace.SpanKind                    { return s.kind }
func (s *span) StartTime() time.Time                        { return s.began }
func (s *span) EndTime() time.Time                          { return s.ended }
func (s *span) Attributes() []attribute.KeyValue            { return s.attributes }
func (s *span) Events() []sdktrace.Event                    { return s.events }
func (s *span) Links() []sdktrace.Link                      { return nil }
func (s *span) Status() sdktrace.Status                     { return s.status }
func (s *span) Resource() *resource.Resource                { return s.scope.resource }
func (s *span) InstrumentationScope() instrumentation.Scope { return s.scope.library }
func (s *span) DroppedAttributes() int                      { return 0 }
func (s *span) DroppedEvents() int                          { return s.dropped }
func (s *span) DroppedLinks() int                           { return 0 }
func (s *span) ChildSpanCount() int                         { return 0 }

// A room is memory that is taken in pieces, and given back all at once to be used again.
type room[T any] struct {
	chunks [][]T
	chunk  int // that is in use
	used   int // of it
}

// roomChunk is the least size of a chunk: the spans of some 20 traces.
const roomChunk = 256

// take returns room for n, which is zero.
func (r *room[T]) take(n int) []T {
	if r.chunk < len(r.chunks) && r.used+n > len(r.chunks[r.chunk]) {
		r.chunk, r.used = r.chunk+1, 0
	}
	if r.chunk == len(r.chunks) {
		r.chunks = append(r.chunks, make([]T, max(n, roomChunk)))
	}
	from := r.used
	r.used += n
	return r.chunks[r.chunk][from:r.used:r.used]
}

// reset takes back all that was taken.
func (r *room[T]) reset() {
	for i := range min(r.chunk, len(r.chunks)) {
		clear(r.chunks[i])
	}
	if r.chunk < len(r.chunks) {
		clear(r.chunks[r.chunk][:r.used])
	}
	r.chunk, r.used = 0, 0
}

// A spanRoom is where the spans of a batch stand.
type spanRoom struct {
	spans      room[span]
	attributes room[attribute.KeyValue]
}

func (r *spanRoom) reset() {
	r.spans.reset()
	r.attributes.reset()
}

// maxKnown bounds the texts of each kind that are kept. Beyond it all of them are forgotten.
const maxKnown = 256

// A memo is the texts that were made of values lately.
type memo[K comparable] map[K]string

// of returns the text that make makes of a value.
func (m *memo[K]) of(value K, make func(K) string) string {
	if text, ok := (*m)[value]; ok {
		return text
	}
	if len(*m) >= maxKnown || *m == nil {
		*m = map[K]string{}
	}
	text := make(value)
	(*m)[value] = text
	return text
}

// memos are the texts of the spans before: most values come again.
type memos struct {
	texts     memo[string] // from outside
	reasons   memo[string]
	users     memo[string]
	paths     memo[mail.Path]
	addresses memo[netip.Addr]
	codes     memo[status]
	nextHops  memo[mail.NextHop]
	rules     memo[mail.Rule]
}

// A status is an enhanced code with its class.
type status struct {
	class int
	code  mail.EnhancedCode
}

// String returns a status as a reply has it.
func (s status) String() string {
	b := append(make([]byte, 0, 12), byte('0'+s.class), '.')
	b = append(strconv.AppendUint(b, uint64(s.code.Subject), 10), '.')
	return string(strconv.AppendUint(b, uint64(s.code.Detail), 10))
}

// addressText returns an address as spans have it.
func addressText(a netip.Addr) string { return a.Unmap().String() }

// ruleText returns where a rule stands, without the pattern, which may be an address.
func ruleText(r mail.Rule) string { return r.File + ":" + strconv.Itoa(r.Line) }
