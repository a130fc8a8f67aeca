package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/router/mail"
)

// A keeper keeps the spans that are exported.
type keeper struct {
	mu  sync.Mutex
	all []sdktrace.ReadOnlySpan
}

func (k *keeper) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range spans { // whose memory is used again behind the call
		s := *one.(*span)
		s.attributes, s.events = slices.Clone(s.attributes), slices.Clone(s.events)
		for i := range s.events {
			s.events[i].Attributes = slices.Clone(s.events[i].Attributes)
		}
		k.all = append(k.all, &s)
	}
	return nil
}

func (k *keeper) Shutdown(context.Context) error { return nil }

// tree returns the spans as "name/name/name" from the root down, in order of their names, with "!" behind one that
// failed. There is one root, and all of it is one trace.
func (k *keeper) tree(t *testing.T) (names []string) {
	t.Helper()
	by := make(map[trace.SpanID]sdktrace.ReadOnlySpan)
	for _, s := range k.all {
		if by[s.SpanContext().SpanID()] != nil {
			t.Errorf("two spans have the id of %s", s.Name())
		}
		by[s.SpanContext().SpanID()] = s
	}
	roots := 0
	for _, s := range k.all {
		name := s.Name()
		if s.Status().Code == codes.Error {
			name += "!"
		}
		if s.SpanContext().TraceID() != k.all[0].SpanContext().TraceID() {
			t.Errorf("%s is of another trace", name)
		}
		if s.EndTime().Before(s.StartTime()) {
			t.Errorf("%s ends before it begins", name)
		}
		for up := s.Parent(); up.IsValid(); {
			above := by[up.SpanID()]
			if above == nil {
				t.Fatalf("%s has no parent", name)
			}
			name = above.Name() + "/" + name
			up = above.Parent()
		}
		if !s.Parent().IsValid() {
			roots++
		}
		names = append(names, name)
	}
	if roots != 1 {
		t.Errorf("%d roots", roots)
	}
	slices.Sort(names)
	return names
}

// attribute returns an attribute of the first span of a name, "" without one.
func (k *keeper) attribute(name string, key attribute.Key) string {
	for _, s := range k.all {
		if s.Name() != name {
			continue
		}
		for _, kv := range s.Attributes() {
			if kv.Key == key {
				return kv.Value.String()
			}
		}
		return ""
	}
	return ""
}

// each calls do with each attribute, those of events included.
func (k *keeper) each(do func(where string, kv attribute.KeyValue)) {
	for _, s := range k.all {
		for _, kv := range s.Attributes() {
			do(s.Name(), kv)
		}
		for _, e := range s.Events() {
			for _, kv := range e.Attributes {
				do(e.Name, kv)
			}
		}
	}
}

// TestTracing_Spans: a transaction is one trace, which its reply names and which holds no address and no octet of the
// message.
func TestTracing_Spans(t *testing.T) {
	relayed := []string{
		"smtp.transaction", "smtp.transaction/smtp.connect", "smtp.transaction/smtp.receive",
		"smtp.transaction/smtp.receive/smtp.auth", "smtp.transaction/smtp.relay",
		"smtp.transaction/smtp.relay/smtp.dial", "smtp.transaction/smtp.relay/smtp.dot",
		"smtp.transaction/smtp.relay/smtp.mx", "smtp.transaction/smtp.relay/smtp.pool",
		"smtp.transaction/smtp.relay/smtp.rcpt", "smtp.transaction/smtp.relay/smtp.send",
		"smtp.transaction/smtp.route", "smtp.transaction/smtp.spf",
	}
	for _, tt := range []struct {
		name, extra, to string
		code            string
		names           []string
		rcpt            string // the value of smtp.rcpt.to
	}{
		{"relayed", "telemetry: {sample: 1}", "info@example.com", "250", relayed, `@example\.com`},
		{"addresses are left out", "telemetry: {sample: 1, addresses: drop}", "info@example.com", "250", relayed, "^$"},
		{
			"refused, and not of the share", "telemetry: {sample: 0}", "secret.name@elsewhere.example", "550",
			[]string{"smtp.transaction!", "smtp.transaction/smtp.connect", "smtp.transaction/smtp.route!"},
			`@elsewhere\.example`,
		},
		{"relayed, and not of the share", "telemetry: {sample: 0}", "info@example.com", "250", nil, "^$"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := new(keeper)
			b := startNode(t, tt.extra, k)
			c := b.dial(t)
			c.say("EHLO x.example", 250)
			c.say("MAIL FROM:<canary.sender@x.example>", 250)
			var reply string
			if tt.code == "250" {
				c.say(fmt.Sprintf("RCPT TO:<%s>", tt.to), 250)
				c.say("DATA", 354)
				reply = c.say("From: a@x.example\r\nSubject: canary\r\n\r\ncanary\r\n.", 250)
			} else {
				reply = c.say(fmt.Sprintf("RCPT TO:<%s>", tt.to), 550)
				c.say("RSET", 250)
			}
			c.say("QUIT", 221)
			e := <-b.seen
			if err := b.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(reply, " id="+e.Trace.String()) {
				t.Errorf("reply %q, event %s", reply, e.Trace)
			}
			if tt.names == nil {
				if len(k.all) > 0 {
					t.Errorf("%d spans", len(k.all))
				}
				return
			}
			if names := k.tree(t); !slices.Equal(names, tt.names) {
				t.Errorf("got %q", names)
			}
			if id := k.all[0].SpanContext().TraceID().String(); id != e.Trace.String() {
				t.Errorf("trace %s, event %s", id, e.Trace)
			}
			if code := k.attribute("smtp.transaction", attrReplyCode); code != tt.code {
				t.Errorf("code %s", code)
			}
			if to := k.attribute("smtp.transaction", attrTo); !regexp.MustCompile(tt.rcpt).MatchString(to) {
				t.Errorf("recipients %s", to)
			}
			k.each(func(where string, kv attribute.KeyValue) {
				for _, s := range []string{"canary", "secret.name", "info@"} {
					if strings.Contains(kv.Value.String(), s) {
						t.Errorf("%s: %s=%s", where, kv.Key, kv.Value.String())
					}
				}
			})
		})
	}
}

// TestTracing_Traceparent: a listed client says what its mail is a part of, and no other client can.
func TestTracing_Traceparent(t *testing.T) {
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, tt := range []struct {
		name, list, value string
		code              int
		taken             bool
	}{
		{"listed", "127.0.0.0/8", "00-" + id + "-" + parent + "-01", 250, true},
		{"listed, and not to be read", "127.0.0.0/8", "00-what", 250, false},
		{"another network is listed", "192.0.2.0/24", "00-" + id + "-" + parent + "-01", 555, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := new(keeper)
			b := startNode(t, "telemetry: {sample: 0, traceparent: ["+tt.list+"]}", k)
			c := b.dial(t)
			ehlo := c.say("EHLO x.example", 250)
			if offered := strings.Contains(ehlo, "XTRACEPARENT"); offered != (tt.code == 250) {
				t.Errorf("offered: %v", offered)
			}
			c.say(fmt.Sprintf("MAIL FROM:<a@x.example> XTRACEPARENT=%s", tt.value), tt.code)
			if tt.code == 250 {
				c.say("RCPT TO:<a@elsewhere.example>", 550)
			}
			c.say("QUIT", 221)
			<-b.seen
			if err := b.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !tt.taken {
				for _, s := range k.all {
					if s.SpanContext().TraceID().String() == id {
						t.Errorf("%s is a part of it", s.Name())
					}
				}
				return
			}
			root := k.all[0]
			if root.SpanContext().TraceID().String() != id || root.Parent().SpanID().String() != parent ||
				!root.Parent().IsRemote() {
				t.Errorf("%s: trace %v below %v", root.Name(), root.SpanContext().TraceID(), root.Parent().SpanID())
			}
		})
	}
}

// TestTracing_Refusals: a refusal outside of a transaction has a trace whose id is that of the reply and of the event,
// and one of the engine's own inside of a transaction stands in the trace of that.
func TestTracing_Refusals(t *testing.T) {
	const trusted = "listen: [{addr: \"127.0.0.1:0\"}]\n"
	for _, tt := range []struct {
		name, extra string
		greeting    int
		says        []string // the last one is refused
		code        int
		names       []string
	}{
		{"at the greeting", "score: {reject_at: connect, block: [127.0.0.1]}\n", 554, nil, 554,
			[]string{"smtp.refusal!", "smtp.refusal/smtp.score"}},
		{"EHLO", trusted, 220, []string{"EHLO"}, 501, []string{"smtp.refusal!"}},
		{"an unknown command", trusted, 220, []string{"EHLO x.example", "FOO"}, 500, []string{"smtp.refusal!"}},
		{"a malformed reverse-path", trusted, 220, []string{"EHLO x.example", "MAIL FROM:<a@@x>"}, 501,
			[]string{"smtp.refusal!"}},
		{"too many connections", "limits: {connections_per_client: 1}\n", 220, nil, 421, []string{"smtp.refusal!"}},
		{"DATA without a recipient", trusted, 220, []string{"EHLO x.example", "MAIL FROM:<a@x.example>", "DATA"}, 503,
			[]string{"smtp.transaction", "smtp.transaction/smtp.connect"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := new(keeper)
			b := startNode(t, "telemetry: {sample: 0}\n"+tt.extra, k)
			c := b.dialFor(t, tt.greeting)
			var reply string
			switch {
			case tt.greeting != 220:
				reply = c.greeting
			case tt.says == nil:
				reply = b.dialFor(t, tt.code).greeting
			}
			for i, line := range tt.says {
				code := 250
				if i == len(tt.says)-1 {
					code = tt.code
				}
				reply = c.say(line, code)
			}
			c.raw.Close()
			e := <-b.seen
			if err := b.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(reply, " id="+e.Trace.String()) {
				t.Errorf("reply %q, event %s", reply, e.Trace)
			}
			if len(k.all) == 0 {
				t.Fatal("no trace")
			}
			if names := k.tree(t); !slices.Equal(names, tt.names) {
				t.Errorf("got %q", names)
			}
			root := k.all[0]
			if id := root.SpanContext().TraceID().String(); id != e.Trace.String() {
				t.Errorf("trace %s, event %s", id, e.Trace)
			}
			codes := []string{k.attribute(root.Name(), attrReplyCode)}
			for _, event := range root.Events() { // the shutdown may have been told before the client was seen to go
				for _, kv := range event.Attributes {
					if kv.Key == attrReplyCode {
						codes = append(codes, kv.Value.String())
					}
				}
			}
			if !slices.Contains(codes, fmt.Sprint(tt.code)) {
				t.Errorf("codes %q", codes)
			}
		})
	}
}

// TestTracing_ClientTLS: the handshake of a client is a span of its first transaction behind it, and one that fails has
// a trace of its own.
func TestTracing_ClientTLS(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		t.Run(fmt.Sprintf("implicit=%v", implicit), func(t *testing.T) {
			k := new(keeper)
			listen := "listen: [{addr: \"127.0.0.1:0\"}]\n"
			if implicit {
				listen = "listen: [{addr: \"127.0.0.1:0\", tls: implicit}]\n"
			}
			b := startNode(t, "telemetry: {sample: 0}\n"+listen, k)
			c := b.dialTLS(t, implicit)
			for range 2 {
				c.say("EHLO x.example", 250)
				c.say("MAIL FROM:<a@x.example>", 250)
				c.say("RCPT TO:<a@elsewhere.example>", 550)
				c.say("RSET", 250)
			}
			c.say("QUIT", 221)
			raw, err := net.Dial("tcp", b.Addrs()[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			plain := textproto.NewConn(raw)
			if !implicit {
				_, _, _ = plain.ReadResponse(220)
				_ = plain.PrintfLine("EHLO x.example")
				_, _, _ = plain.ReadResponse(250)
				_ = plain.PrintfLine("STARTTLS")
				_, _, _ = plain.ReadResponse(220)
			}
			_ = plain.PrintfLine("this is no TLS")
			for e := range b.seen {
				if e.Reason == "TLS handshake" {
					break
				}
			}
			if err := b.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			var handshakes []string
			for _, s := range k.all {
				if s.Name() != spanHandshake {
					continue
				}
				for _, above := range k.all {
					if above.SpanContext().SpanID() == s.Parent().SpanID() {
						handshakes = append(handshakes, above.Name()+" "+s.Status().Description)
					}
				}
			}
			slices.Sort(handshakes)
			if want := []string{"smtp.connect ", "smtp.refusal tls"}; !slices.Equal(handshakes, want) {
				t.Errorf("got %q", handshakes)
			}
		})
	}
}

// wholeTrace returns a trace that has all that a trace can have.
func wholeTrace(of mail.TraceOf) *mail.Trace {
	a := netip.MustParseAddrPort("192.0.2.1:25")
	tracing := mail.Tracing{Sample: 1}
	t := tracing.Begin(mail.NewTraceID(), mail.Parent{})
	t.Of, t.Client, t.Local, t.Allowed = of, a, a, "allow[0]"
	refused := mail.Refuse(550, 1, 1, "No <someone@example.com> here", "no rule", nil)
	for kind := range mail.StepKinds {
		var err error
		if mail.StepKind(kind) == mail.StepDot {
			err = refused
		}
		if mail.StepKind(kind) < mail.StepMX {
			t.Steps.Add(mail.StepKind(kind), t.Began, 0, mail.Note{Text: "RCPT", Err: err})
		}
	}
	leg := new(mail.Leg)
	*leg = mail.Leg{
		NextHop: mail.NextHop{Host: "example.com"}, Site: "mx.example.com", Node: "b",
		Session: mail.Taken{
			Host: "mx.example.com", Addr: a, Source: a.Addr(), TLS: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256",
			KeyExchange: "X25519", Verified: true,
		},
		Replied: refused.Reply,
	}
	t.Way(leg)
	for kind := mail.StepMX; int(kind) < mail.StepKinds; kind++ {
		leg.Steps.Add(kind, t.Began, 0, mail.Note{
			Host: "mx.example.com", Addr: a, Err: refused, Text: "connect: refused by someone@example.com",
		})
	}
	path := mail.Path{Local: "someone", Domain: "example.com"}
	t.See(&mail.Event{
		Kind: mail.Refused, Mode: mail.ModeHold, InDoubt: true, Ends: true, Recipients: 1, Client: a.Addr(),
		Helo: "x.example", User: "someone", TLS: "TLS 1.3", Reverse: path, Verb: "DATA", Reply: refused.Reply,
		Reason: "no rule",
		To:     []mail.To{{Forward: path, Rule: mail.Rule{File: "routes.txt", Line: 3}}},
		Octets: 10, Score: 5.5, Signals: "dnsbl 4, helo 1.5",
		Auth: &mail.Auth{
			SPF: "pass", Policy: "reject", Signers: []mail.Signer{{Domain: "example.com", Result: "pass"}},
		},
		Signed: "example.com", Unsigned: "overridden", Rules: "version 7", SRS: "bounces", Waited: time.Second,
	})
	t.Ended = time.Now()
	return t
}

// TestSpan_Document: docs/otel.md has each attribute, span and event that there is, and no other one; each span has
// what it says there of its kind.
func TestSpan_Document(t *testing.T) {
	text, err := os.ReadFile("../../docs/otel.md")
	if err != nil {
		t.Fatal(err)
	}
	type group struct {
		ID, Name, Extends string
		Kind              string `yaml:"span_kind"`
		Attributes        []struct{ ID, Ref string }
		Events            []string
	}
	groups := make(map[string]group)
	for _, block := range regexp.MustCompile("(?s)```yml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		var file struct{ Groups []group }
		if err := yaml.Unmarshal([]byte(block[1]), &file); err != nil {
			t.Fatal(err)
		}
		for _, g := range file.Groups {
			groups[g.ID] = g
		}
	}
	registry := make(map[string]bool) // and whether it was met
	for _, a := range groups["registry.smtp"].Attributes {
		registry[a.ID] = false
	}
	check := func(g group, name string, attributes []attribute.KeyValue) {
		for _, kv := range attributes {
			key := string(kv.Key)
			if _, ours := registry[key]; ours {
				registry[key] = true
			} else if strings.HasPrefix(key, "smtp.") {
				t.Errorf("%s is not registered", key)
			}
			has := slices.ContainsFunc(g.Attributes, func(a struct{ ID, Ref string }) bool { return a.Ref == key })
			if over := groups[g.Extends]; !has && g.Extends != "" {
				all := slices.Concat(over.Attributes, groups["span.smtp.relay.client"].Attributes)
				has = slices.ContainsFunc(all, func(a struct{ ID, Ref string }) bool { return a.Ref == key })
			}
			if !has {
				t.Errorf("%s: %s is not in %s", name, key, g.ID)
			}
		}
	}
	for _, of := range []mail.TraceOf{mail.OfTransaction, mail.OfHandover, mail.OfRefusal} {
		m := &spanMaker{hostname: "relay.example", hash: true, words: journal{hashKey: []byte("k")}}
		for _, s := range m.make(nil, wholeTrace(of)) {
			g := groups["span.smtp.step.internal"]
			switch s.Name() {
			case spanTransaction:
				g = groups["span.smtp.transaction.server"]
			case spanHandover:
				g = groups["span.smtp.handover.server"]
			case spanRefusal:
				g = groups["span.smtp.refusal.server"]
			case spanRelay:
				g = groups["span.smtp.relay.client"]
			}
			if kind := s.SpanKind().String(); kind != g.Kind && !(g.Kind == "internal" && kind == "client") {
				t.Errorf("%s is of kind %s", s.Name(), kind)
			}
			if !strings.Contains(string(text), s.Name()) {
				t.Errorf("%s is not in the document", s.Name())
			}
			check(g, s.Name(), s.Attributes())
			for _, e := range s.Events() {
				check(groups["event."+e.Name], e.Name, e.Attributes)
			}
			for _, kv := range s.Attributes() {
				if strings.Contains(kv.Value.String(), "someone") {
					t.Errorf("%s: %s=%s", s.Name(), kv.Key, kv.Value.String())
				}
			}
		}
	}
	for key, met := range registry {
		if !met {
			t.Errorf("no span has %s", key)
		}
	}
}
