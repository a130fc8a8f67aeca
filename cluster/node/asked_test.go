package node

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// question returns a question about a recipient, with an envelope.
func question(ip, to string) Question {
	helo, from, forward := "client.example", mail.Path{Local: "a", Domain: "example.com"}, mail.Path{}
	forward.Local, forward.Domain, _ = strings.Cut(to, "@")
	return Question{IP: netip.MustParseAddr(ip), Helo: &helo, From: &from, To: &forward}
}

// TestNode_Explain: a running node answers by what it knows and a configuration does not, and learns nothing of being
// asked.
func TestNode_Explain(t *testing.T) {
	b := startNode(t, "", nil)
	b.nameUnknown(t, 120)
	for _, tt := range []struct{ ip, verdict, reply string }{
		{"127.0.0.1", Defer, "Too many refused recipients"}, {"192.0.2.9", Accept, ""},
	} {
		a, err := newOracle(b.Node).explain(t.Context(), question(tt.ip, "info@example.com"))
		if err != nil {
			t.Fatal(err)
		}
		if a.Verdict != tt.verdict || !strings.Contains(a.Reply, tt.reply) || a.Asked.Node != "mx1.example.net" {
			t.Errorf("%s: %s %s by %+v", tt.ip, a.Verdict, a.Reply, a.Asked)
		}
		a, err = Explain(t.Context(), b.cfg, question(tt.ip, "info@example.com"))
		if err != nil || a.Verdict != Accept {
			t.Errorf("%s, by the configuration: %+v, %v", tt.ip, a, err)
		}
	}
	for range 120 {
		a, err := newOracle(b.Node).explain(t.Context(), question("192.0.2.9", "unknown@elsewhere.example"))
		if err != nil || a.Verdict != Reject {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	a, err := newOracle(b.Node).explain(t.Context(), question("192.0.2.9", "info@example.com"))
	if err != nil || a.Verdict != Accept {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestNode_ExplainStale: a node answers by the rules in force, and says that the files have others.
func TestNode_ExplainStale(t *testing.T) {
	b := startNode(t, "", nil)
	for _, tt := range []struct {
		reload, stale bool
		verdict       string
	}{{false, true, Accept}, {true, false, Drop}} {
		if tt.reload {
			if err := b.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			b.rules(t, "domain example.com\ninfo@example.com drop\n")
		}
		a, err := newOracle(b.Node).explain(t.Context(), question("192.0.2.9", "info@example.com"))
		if err != nil {
			t.Fatal(err)
		}
		if stale := strings.Contains(strings.Join(a.Notes, "\n"), "rules files were changed"); stale != tt.stale ||
			a.Verdict != tt.verdict {
			t.Errorf("%s, %q", a.Verdict, a.Notes)
		}
	}
}

// TestOracle_Answer: what the API says to questions that no node answers.
func TestOracle_Answer(t *testing.T) {
	b := startNode(t, "", nil)
	o := newOracle(b.Node)
	text := func(a Ask) string {
		out, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	q := question("192.0.2.9", "info@example.com")
	elsewhere := q
	elsewhere.On = "127.0.0.1:1"
	for _, tt := range []struct {
		name, question string
		status         int
		says           string
	}{
		{"a question", text(Ask{q, b.cfg.Digest()}), http.StatusOK, `"verdict":"accept"`},
		{"another configuration", text(Ask{q, "0"}), http.StatusConflict, "another configuration"},
		{"another listener", text(Ask{elsewhere, b.cfg.Digest()}), http.StatusUnprocessableEntity, "no listener"},
		{"a command in a path", `{"question":{"ip":"192.0.2.9","to":{"Local":"a","Domain":"b.example>\r\nRSET"}}}`,
			http.StatusBadRequest, "no question"},
		{"no client", text(Ask{Question{}, b.cfg.Digest()}), http.StatusBadRequest, "no question"},
		{"no JSON", "{", http.StatusBadRequest, "no question"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, answer := o.answer(t.Context(), []byte(tt.question))
			said, err := json.Marshal(answer)
			if err != nil || status != tt.status || !strings.Contains(string(said), tt.says) {
				t.Errorf("%d %s, %v", status, said, err)
			}
		})
	}
	for range maxAsked {
		o.places <- struct{}{}
	}
	status, answer := o.answer(t.Context(), []byte(text(Ask{q, b.cfg.Digest()})))
	if status != http.StatusServiceUnavailable {
		t.Errorf("%d %v", status, answer)
	}
}

// FuzzAsk reads arbitrary questions: one that is answered says what a client can say in a line.
func FuzzAsk(f *testing.F) {
	good, err := json.Marshal(Ask{question("192.0.2.9", "info@example.com"), "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"question":{"ip":"::1","to":{"Local":"a\u0000b","Domain":"x\r\nDATA"},"message":"YQ=="}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var ask Ask
		if json.Unmarshal(data, &ask) != nil {
			return
		}
		if ask.fault() != "" {
			return
		}
		q := &ask.Question
		for _, p := range []*mail.Path{q.From, q.To} {
			if p != nil && strings.ContainsAny(p.String(), "\x00\r\n") {
				t.Errorf("a path %q", p)
			}
		}
		if q.Helo != nil && strings.ContainsAny(*q.Helo, "\x00\r\n") {
			t.Errorf("a name %q", *q.Helo)
		}
	})
}
