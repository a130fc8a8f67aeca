package egress

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/egress/pool"
	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
	"go.opentelemetry.io/otel/trace/noop"
)

// A tracer notes the names of spans that ended, with those above them.
type tracer struct {
	embedded.Tracer
	mu    sync.Mutex
	ended []string
}

type span struct {
	noop.Span
	tracer *tracer
	name   string
	status string
}

func (t *tracer) Start(ctx context.Context, name string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	if above, ok := trace.SpanFromContext(ctx).(*span); ok {
		name = above.name + "/" + name
	}
	s := &span{tracer: t, name: name}
	return trace.ContextWithSpan(ctx, s), s
}

func (s *span) IsRecording() bool                    { return true }
func (s *span) SetStatus(_ codes.Code, about string) { s.status = ": " + about }
func (s *span) End(...trace.SpanEndOption) {
	s.tracer.mu.Lock()
	s.tracer.ended = append(s.tracer.ended, s.name+s.status)
	s.tracer.mu.Unlock()
}

// TestRelay_Spans: every stage has a span below the caller's.
func TestRelay_Spans(t *testing.T) {
	tr := new(tracer)
	w, _ := one(t, smtptest.Behaviour{Recipients: smtptest.ByLocalPart()}, func(c *Config) { c.Tracer = tr })
	ctx, root := tr.Start(t.Context(), "walk")
	tx, err := w.relay.Begin(ctx, to("one.test"))
	if err != nil {
		t.Fatal(err)
	}
	if tx.Rcpt(ctx, path("550@one.test")) == nil {
		t.Fatal("accepted")
	}
	if err := tx.Rcpt(ctx, path("b@one.test")); err != nil {
		t.Fatal(err)
	}
	tx.Lend()
	if err := tx.Data(ctx, mail.Plain); err != nil {
		t.Fatal(err)
	}
	tx.Commit(ctx, octets(message))
	root.End()
	want := []string{
		"walk/egress.mx", "walk/egress.pool", "walk/egress.dial", "walk/egress.rcpt: upstream", "walk/egress.rcpt",
		"walk/egress.pool", "walk/egress.replay", "walk/egress.octets", "walk/egress.dot", "walk",
	}
	if !slices.Equal(tr.ended, want) {
		t.Errorf("got %q, want %q", tr.ended, want)
	}
	for _, s := range tr.ended {
		if strings.Contains(s, "@") {
			t.Errorf("an address of people in %q", s)
		}
	}
	tr.ended = nil
	deliver(t, w, to("one.test"), "b@one.test") // no span above it is recorded
	if len(tr.ended) != 0 {
		t.Errorf("got %q", tr.ended)
	}
}

// TestRelay_HandshakeSpan: a handshake has a span.
func TestRelay_HandshakeSpan(t *testing.T) {
	tr := new(tracer)
	w, _ := one(t, smtptest.Behaviour{TLS: smtptest.NewCA().Server("x")}, func(c *Config) { c.Tracer = tr })
	ctx, root := tr.Start(t.Context(), "walk")
	tx, err := w.relay.Begin(ctx, to("one.test"))
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Rcpt(ctx, path("b@one.test")); err != nil {
		t.Fatal(err)
	}
	tx.Abort()
	root.End()
	if !slices.Contains(tr.ended, "walk/egress.dial/egress.tls") {
		t.Errorf("got %q", tr.ended)
	}
}

// TestConfig_Limits: limits are overridden by Site.
func TestConfig_Limits(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, func(c *Config) {
		c.tune.limits = map[mail.Site]pool.Limits{"mx1.one.test": {Messages: 1}}
	})
	deliver(t, w, to("one.test"), "b@one.test")
	deliver(t, w, to("one.test"), "b@one.test")
	if c := s.Counts(); c.Connections != 2 {
		t.Errorf("%d connections", c.Connections)
	}
}
