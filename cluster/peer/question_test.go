package peer

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// asked starts a world whose server answers questions so.
func asked(t *testing.T, answer func(context.Context, []byte) []byte) *world {
	t.Helper()
	return newWorld(t, &destination{}, beat, func(s *ServerConfig, _ *ClientConfig) {
		s.Answer = answer
		s.Panicked = func(any, []byte) {}
	})
}

// TestClient_Ask: a question reaches the node and its answer comes back, over a link that then carries mail.
func TestClient_Ask(t *testing.T) {
	w := asked(t, func(ctx context.Context, q []byte) []byte {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the node does not know how long it may take")
		}
		return bytes.ToUpper(q)
	})
	for range 2 {
		if got, err := w.client.Ask(t.Context(), "b", []byte("how are you?")); string(got) != "HOW ARE YOU?" {
			t.Errorf("%q, %v", got, err)
		}
		if o := w.deliver(); o.Reply.Code != 250 {
			t.Errorf("%+v", o)
		}
	}
	if open, idle := w.client.count("b"); open != 1 || idle != 1 {
		t.Errorf("%d links are open and %d idle, want one", open, idle)
	}
}

// TestClient_AskLong: an answer that takes longer than signs of life may be late is awaited.
func TestClient_AskLong(t *testing.T) {
	w := newWorld(t, &destination{}, 10*time.Millisecond, func(s *ServerConfig, _ *ClientConfig) {
		s.Answer = func(context.Context, []byte) []byte {
			<-time.After(20 * maxMissedBeats * 10 * time.Millisecond)
			return []byte("late")
		}
	})
	if got, err := w.client.Ask(t.Context(), "b", nil); string(got) != "late" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestClient_AskFails: what cannot be asked or answered is an error that names the node, and mail goes on.
func TestClient_AskFails(t *testing.T) {
	long := make([]byte, maxContent+1)
	for name, tt := range map[string]struct {
		answer func(context.Context, []byte) []byte
		ask    []byte
		want   string
	}{
		"a long question": {nil, long, "more than 60000 octets"},
		"a long answer":   {func(context.Context, []byte) []byte { return long }, nil, "Local error"},
		"a panic":         {func(context.Context, []byte) []byte { panic("no") }, nil, "Local error"},
	} {
		t.Run(name, func(t *testing.T) {
			w := asked(t, tt.answer)
			_, err := w.client.Ask(t.Context(), "b", tt.ask)
			if e := peerError(t, err); e.Node != "b" || e.Sent() || !strings.Contains(e.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if o := w.deliver(); o.Reply.Code != 250 {
				t.Errorf("%+v", o)
			}
		})
	}
	w := asked(t, nil)
	if got, err := w.client.Ask(t.Context(), "b", []byte("x")); err != nil || len(got) != 0 {
		t.Errorf("a node that answers nothing: %q, %v", got, err)
	}
}

// TestClient_AskOlder: a node of an older version is not asked, and its link stays.
func TestClient_AskOlder(t *testing.T) {
	w := asked(t, func(context.Context, []byte) []byte { t.Error("it was asked"); return nil })
	l, err := w.client.get(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	l.version = questionVersion - 1
	w.client.put(l)
	if _, err := w.client.Ask(t.Context(), "b", []byte("x")); !errors.Is(err, errOlder) {
		t.Errorf("%v", err)
	}
	if _, idle := w.client.count("b"); idle != 1 {
		t.Errorf("%d links are idle", idle)
	}
}

// TestServer_QuestionWithin: a question within a transaction ends the connection.
func TestServer_QuestionWithin(t *testing.T) {
	d := &destination{}
	s := plainServer(t, d)
	feed(t, s, frame(opens(hi()), question, func(f fields) fields { return f.text(fContent, "x") }))
	if delivered, _, open := d.count(); delivered != 0 || open != 0 {
		t.Errorf("%d delivered, %d open", delivered, open)
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add([]byte(appendBudget(fields(nil).text(fContent, "{}"), time.Second)))
	f.Fuzz(func(t *testing.T, b []byte) {
		content, budget, err := parseQuestion(b)
		if err == nil && (len(content) > len(b) || budget < 0) {
			t.Errorf("%d octets, %s", len(content), budget)
		}
	})
}
