package filter

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestDecide: the worst answer counts, whichever filter says it and whatever the others say.
func TestDecide(t *testing.T) {
	held := &Envelope{Size: 1, AuthservID: "mx.example.net"}
	say := func(a Action) Answer { return Answer{Action: a} }
	dead := errors.New("dead")
	for _, tt := range []struct {
		name       string
		answers    []Answer
		failed     error // of the last one
		late       Late
		quarantine Quarantine
		want       Action
		by         string // its reply, or what is added
	}{
		{"none is asked", nil, nil, 0, 0, Accept, ""},
		{"all accept", []Answer{say(Accept), say(Accept)}, nil, 0, 0, Accept, ""},
		{"one discards", []Answer{say(Accept), say(Discard)}, nil, 0, 0, Discard, ""},
		{"a 4yz beats an acceptance", []Answer{say(Tempfail), say(Accept)}, nil, 0, 0, Tempfail,
			"451 4.7.1 A content filter puts this message off, try again later"},
		{"a 4yz beats a discard", []Answer{say(Discard), say(Tempfail)}, nil, 0, 0, Tempfail, "451 4.7.1"},
		{"a refusal beats a 4yz", []Answer{say(Tempfail), say(Reject)}, nil, 0, 0, Reject,
			"550 5.7.1 A content filter refuses this message"},
		{"a refusal beats a discard", []Answer{say(Reject), say(Discard)}, nil, 0, 0, Reject, "550 5.7.1"},
		{"of two refusals the first one's words are said",
			[]Answer{{Action: Reject, Reply: mail.NewReply(554, 7, 1, "first")}, say(Reject)}, nil, 0, 0, Reject,
			"554 5.7.1 first"},
		{"a reply of another class is not said",
			[]Answer{{Action: Reject, Reply: mail.NewReply(250, 0, 0, "fine")}}, nil, 0, 0, Reject,
			"550 5.7.1 A content"},
		{"silence accepts", []Answer{say(Accept), say(Accept)}, dead, LateAccept, 0, Accept, ""},
		{"silence puts off", []Answer{say(Accept), say(Accept)}, dead, LateTempfail, 0, Tempfail,
			"451 4.7.1 This message could not be examined now, try again later"},
		{"a refusal beats silence", []Answer{say(Reject), say(Accept)}, dead, LateTempfail, 0, Reject, "550 5.7.1"},
		{"half an answer is none", []Answer{say(Reject)}, dead, LateAccept, 0, Accept, ""},
		{"quarantine is a field", []Answer{{Quarantine: "bad\r\nlink"}}, nil, 0, QuarantineField, Accept,
			"X-Quarantine: a: bad / link\r\n"},
		{"quarantine is a refusal", []Answer{{Quarantine: "bad"}}, nil, 0, QuarantineReject, Reject, "550 5.7.1"},
		{"quarantine is no refusal in the words of an acceptance",
			[]Answer{{Quarantine: "bad", Reply: mail.NewReply(450, 7, 1, "x")}}, nil, 0, QuarantineReject, Reject,
			"550 5.7.1 A content"},
		{"all fields are added", []Answer{{Fields: []byte("X-A: 1\r\n")}, {Fields: []byte("X-B: 2\r\n")}}, nil, 0, 0,
			Accept, "X-A: 1\r\nX-B: 2\r\n"},
		{"and no more than there is room for",
			[]Answer{{Fields: []byte("X-A: 1\r\n")}, {Fields: make([]byte, maxFields)}},
			nil, 0, 0, Accept, "X-A: 1\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var all []opinion
			for i, a := range tt.answers {
				name := string(rune('a' + i))
				cfg := Config{Name: name, Late: tt.late, Quarantine: tt.quarantine}
				o := opinion{filter: &Filter{cfg: cfg}, answer: a}
				if i == len(tt.answers)-1 {
					o.failed = tt.failed
				}
				all = append(all, o)
			}
			d := decide(all, held)
			if d.Action != tt.want || len(d.Filtered) != len(tt.answers) {
				t.Fatalf("got %v, %+v", d.Action, d.Filtered)
			}
			if (d.Refusal != nil) != (tt.want >= Tempfail) || (d.Reason != "") != (tt.want != Accept) {
				t.Errorf("refusal %v, reason %q", d.Refusal, d.Reason)
			}
			got := string(d.Fields)
			if d.Refusal != nil {
				got = d.Refusal.Reply.String()
			}
			if !strings.HasPrefix(got, tt.by) || tt.by == "" && got != "" {
				t.Errorf("got %q, want %q", got, tt.by)
			}
		})
	}
}

// TestFields_Add: what says who wrote a message, to whom and in which form stays the client's, and no field can be read
// as two.
func TestFields_Add(t *testing.T) {
	for _, tt := range []struct{ name, value, want, refused string }{
		{"X-Virus-Scanned", "clamav at mx", "X-Virus-Scanned: clamav at mx\r\n", ""},
		{"Authentication-Results", "scan.example; dkim=pass", "Authentication-Results: scan.example; dkim=pass\r\n",
			""},
		{"Authentication-Results", "mx.example.NET; dkim=pass", "", "field authentication-results"},
		{"Authentication-Results", " (comment) \"mx.example.net\" 1; dkim=pass", "", "field authentication-results"},
		{"DKIM-Signature", "v=1;\n\tb=x", "DKIM-Signature: v=1;\r\n\tb=x\r\n", ""},
		{"DKIM-Signature", " v=1;\r\n b=x\r\n", "DKIM-Signature: v=1;\r\n b=x\r\n", ""},
		{"Subject", "changed", "", "field subject"},
		{"FROM", "a@b.example", "", "field from"},
		{"Content-Type", "text/html", "", "field content-type"},
		{"ARC-Seal", "i=9", "", "field arc-seal"},
		{"List-Unsubscribe", "<https://a.example>", "", "field list-unsubscribe"},
		{"Received", "from x", "", "field received"},
		{"X-A", "1\r\nSubject: hidden", "", "field x-a"},
		{"X-A", "1\nSubject: hidden", "", "field x-a"},
		{"X-A", "1\r\n\r\nbody", "", "field x-a"},
		{"X-A", "1\r\n \r\n2", "", "field x-a"},
		{"X-A", "1\rSubject: hidden", "", "field x-a"},
		{"X-A", "a\x00b", "", "field x-a"},
		{"X-A", "a\x1bb", "", "field x-a"},
		{"X-A: 1\r\nSubject", "x", "", "field with a name that is none"},
		{"", "x", "", "field with a name that is none"},
		{"X-A", strings.Repeat("x", maxLine), "", "field x-a"},
		{"X-A", strings.Repeat("x\n ", maxField), "", "field x-a"},
	} {
		a := Answer{}
		f := fields{&a, &Envelope{Size: 1, AuthservID: "mx.example.net"}}
		f.add(tt.name, tt.value)
		if string(a.Fields) != tt.want || strings.Join(a.Changes, "; ") != tt.refused {
			t.Errorf("%s %.40q: added %q, refused %q", tt.name, tt.value, a.Fields, a.Changes)
		}
	}
	a := Answer{}
	f := fields{&a, &Envelope{}}
	f.add("X-A", "1")
	if len(a.Fields) > 0 || a.Changes[0] != "field x-a, the message streams" {
		t.Errorf("of a message that streams: %q %q", a.Fields, a.Changes)
	}
}

// TestReplyOf: a filter's words stand with the code that it wants, where that refuses.
func TestReplyOf(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"Spam", "550 5.7.1 Spam"},
		{"554 5.6.0 Bad form", "554 5.6.0 Bad form"},
		{"554 Bad form", "554 5.7.1 Bad form"},
		{"5.6.0 Bad form", "550 5.6.0 Bad form"},
		{"451 4.7.1 Later", "451 4.7.1 Later"},
		{"421 4.3.2 Gone", "451 4.3.2 Gone"},
		{"554 4.7.1 Odd", "554 5.7.1 Odd"},
		{"250 2.0.0 Fine", "550 5.7.1 250 2.0.0 Fine"},
		{"599 x", "550 5.7.1 599 x"},
		{"550", "550 5.7.1 fallback"},
		{"", "550 5.7.1 fallback"},
		{"two\r\nlines", "550 5.7.1 two / lines"},
		{"554-5.6.0 Bad form\r\n554 5.6.0 See the page", "554 5.6.0 Bad form / See the page"},
		{"554-Bad form\r\n554-5.6.0\r\n554 Last", "554 5.7.1 Bad form / Last"},
		{"554-", "554 5.7.1 fallback"},
		{"550 5.7.1 " + strings.Repeat("x", 1000), "550 5.7.1 " + strings.Repeat("x", maxReply)},
	} {
		if got := replyOf(tt.text, mail.NewReply(550, 7, 1, "fallback")).String(); got != tt.want {
			t.Errorf("%.30q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}
