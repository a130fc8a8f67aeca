package karma

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/router/mail"
)

// TestParsePhrases_Embedded: the embedded table parses.
func TestParsePhrases_Embedded(t *testing.T) {
	list, err := parsePhrases(spamText)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 20 || len(list) != len(spam()) {
		t.Errorf("%d phrases, %d in use", len(list), len(spam()))
	}
}

// TestParsePhrases: the error names the line of a fault.
func TestParsePhrases(t *testing.T) {
	for _, c := range []struct{ name, table, want string }{
		{"comments and blanks", "# a\n\n  # b", ""},
		{"no colon", "google 550 5.7.1 a long phrase", "line 1: want a provider"},
		{"no phrase", "\ngoogle: 550 5.7.1", "line 2: want a provider"},
		{"a provider of two words", "a b: 550 5.7.1 a long phrase", "line 1: want a provider"},
		{"a code that is no number", "a: 55x 5.7.1 a long phrase", `line 1: "55x" is no 5yz code`},
		{"a 4yz", "a: 450 5.7.1 a long phrase", `line 1: "450" is no 5yz code`},
		{"an enhanced code of another class", "a: 550 4.7.1 a long phrase", `line 1: "4.7.1" is no enhanced code`},
		{"half an enhanced code", "a: 550 5.7 a long phrase", `line 1: "5.7" is no enhanced code`},
		{
			"an enhanced code beyond its range", "a: 550 5.7.70000 a long phrase",
			`line 1: "5.7.70000" is no enhanced code`,
		},
		{"a phrase that is short", "a: * * spam", "line 1: phrase too short"},
		{"a phrase without an end", "a: * * message rejected ... ", ""},
		{"a phrase of nothing", "a: * * ... ... ...", "line 1: a part of the phrase is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parsePhrases(c.table)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	reply := func(code, subject, detail int, text string) mail.Reply {
		return mail.NewReply(code, subject, detail, text)
	}
	for _, c := range []struct {
		name string
		o    Outcome
		want Lesson
	}{
		{"mail that is taken", Outcome{Answer: MessageTaken, Reply: reply(250, 2, 0, "OK")}, Accepted},
		{
			"a bounce that is taken",
			Outcome{Answer: MessageTaken, NullSender: true, Reply: reply(250, 2, 0, "OK")}, Nothing,
		},
		{
			"a reply about us, whatever it says",
			Outcome{AboutUs: true, Reply: reply(550, 7, 1, "spam message rejected")}, Nothing,
		},
		{"a 4yz, whatever it says", Outcome{Reply: reply(451, 7, 1, "spam message rejected")}, Nothing},
		{"Gmail's refusal of a message, over two lines", Outcome{Reply: reply(550, 7, 1,
			"[192.0.2.7      12] Gmail has detected that this message is\nlikely unsolicited mail. To reduce the "+
				"amount of spam sent to Gmail, this\nmessage has been blocked.")}, Spam},
		{
			"Gmail's refusal of an attachment",
			Outcome{Reply: reply(552, 7, 0,
				"This message was blocked because its content presents a potential\nsecurity issue.")}, Spam,
		},
		{
			"Exchange's content filter",
			Outcome{Reply: reply(550, 7, 1, "Message rejected as spam by Content Filtering.")}, Spam,
		},
		{"amavis, with its id between", Outcome{Reply: reply(554, 7, 0, "Reject, id=12345-01 - SPAM")}, Spam},
		{"amavis, about a header", Outcome{Reply: reply(554, 7, 0, "Reject, id=12345-01 - BAD_HEADER")}, Policy},
		{"spam in a bounce", Outcome{NullSender: true, Reply: reply(554, 7, 1, "Spam message rejected")}, Spam},
		{"Yandex",
			Outcome{Reply: reply(554, 7, 1, "[2] Message rejected under suspicion of SPAM; https://ya.cc/1IrBc")},
			Spam},
		{
			"Yahoo's DMARC, which sounds like its phishing",
			Outcome{Reply: reply(554, 7, 9, "Message not accepted for policy reasons.")}, Nothing,
		},
		{
			"a message without authentication",
			Outcome{Reply: reply(550, 7, 26,
				"This mail has been blocked because the sender is unauthenticated. It is likely spam message "+
					"rejected")}, Nothing,
		},
		{
			"a DMARC failure with an old code",
			Outcome{Reply: reply(550, 7, 1, "Rejected by the DMARC policy of x.test")}, Nothing,
		},
		{"a policy that is not said", Outcome{Reply: reply(550, 7, 1, "Message refused")}, Policy},
		{
			"a policy before the message was seen",
			Outcome{Answer: RcptRefused, Reply: reply(550, 7, 1, "Access denied")},
			Nothing,
		},
		{"a user that is unknown", Outcome{Answer: RcptRefused, Reply: reply(550, 1, 1, "No such user")}, Unknown},
		{
			"a user that is unknown, of a bounce",
			Outcome{Answer: RcptRefused, NullSender: true, Reply: reply(550, 1, 1, "No such user")}, Nothing,
		},
		{"a full mailbox", Outcome{Answer: RcptRefused, Reply: reply(552, 2, 2, "Mailbox full")}, Nothing},
		{"a refusal without an enhanced code", Outcome{Reply: reply(550, 0, 0, "No")}, Nothing},
		{"a message that is too large", Outcome{Reply: reply(552, 3, 4, "Too large")}, Nothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Judge(&c.o); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// FuzzParsePhrases: the phrases of a table that is taken can be found: a 5yz with the parts of one, in their order,
// matches it.
func FuzzParsePhrases(f *testing.F) {
	f.Add(spamText)
	for _, s := range []string{
		"", "a: * * abcdefghij", "a: 550 5.7.1 abc ... defghijkl", "a:b", "a: * * ... x",
		"a: 599 5.999.999 \xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, table string) {
		list, err := parsePhrases(table)
		if err != nil {
			return
		}
		for _, p := range list {
			r := mail.Reply{Code: max(p.code, 500), Enhanced: p.enhanced, Text: strings.Join(p.parts, " something ")}
			if !p.matches(&r, normal(r.Text)) {
				t.Errorf("%q does not find itself", p.parts)
			}
			if len(strings.Join(p.parts, "")) < minPhrase {
				t.Errorf("%q is too short", p.parts)
			}
		}
	})
}

// FuzzJudge: no text makes a vote of a 4yz, of a reply about us or of a reply about authentication.
func FuzzJudge(f *testing.F) {
	f.Add(550, uint16(7), uint16(1), "spam message rejected", false)
	f.Add(550, uint16(7), uint16(26), "likely unsolicited mail", true)
	f.Add(451, uint16(1), uint16(1), "\n\xff", true)
	f.Fuzz(func(t *testing.T, code int, subject, detail uint16, text string, rcpt bool) {
		answer := MessageRefused
		if rcpt {
			answer = RcptRefused
		}
		o := Outcome{
			Answer: answer,
			Reply:  mail.Reply{Code: code, Enhanced: mail.EnhancedCode{Subject: subject, Detail: detail}, Text: text},
		}
		got := Judge(&o)
		if got == Accepted || got != Nothing && (code/100 != 5 || isAboutAuthentication(o.Reply.Enhanced)) {
			t.Errorf("%d %d.%d %q: %s", code, subject, detail, text, got)
		}
		if o.AboutUs = true; Judge(&o) != Nothing {
			t.Error("it is about us")
		}
	})
}
