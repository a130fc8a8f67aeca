package ingress

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// TestRedact_RewrittenRecipient: the destination of a rewritten recipient is not told, in any form.
func TestRedact_RewrittenRecipient(t *testing.T) {
	path := func(s string) mail.Path {
		local, domain, _ := strings.Cut(s, "@")
		return mail.Path{Local: local, Domain: domain}
	}
	rcpt := func(forward, target string, how mail.UpstreamText) message.Recipient {
		return message.Recipient{Forward: path(forward), Route: mail.Route{
			NextHop: mail.NextHop{Host: "mailbox.example"}, Forwards: []mail.Path{path(target)},
			Rewrote: forward != target,
			Policy:  mail.DomainPolicy{UpstreamText: how},
		}}
	}
	const byDefault = mail.UpstreamTextDefault
	said := "<alice@MAILBOX.example> unknown at mx1.mailbox.example\nask postmaster@mailbox.example"
	alice := []message.Recipient{rcpt("info@example.com", "alice@mailbox.example", byDefault)}
	secret := []message.Recipient{rcpt("info@h.example", "alice.secret@d0.example", byDefault)}
	const unknown = "No such mailbox"
	tests := []struct {
		name  string
		said  string
		rcpts []message.Recipient
		want  string
	}{
		{
			"redacted by default", said,
			[]message.Recipient{rcpt("info@example.com", "Alice@mailbox.example", byDefault)},
			"<info@example.com> unknown at\nask",
		},
		{
			"full where the rule says so", said,
			[]message.Recipient{rcpt("info@example.com", "Alice@mailbox.example", mail.UpstreamTextFull)}, said,
		},
		{
			"full by default for the same recipient", said,
			[]message.Recipient{rcpt("alice@mailbox.example", "alice@mailbox.example", byDefault)}, said,
		},
		{
			"code alone", said,
			[]message.Recipient{rcpt("alice@mailbox.example", "alice@mailbox.example", mail.UpstreamTextCode)}, unknown,
		},
		{"a local part that stands alone", "User alice unknown", alice, unknown},
		{"a local part in upper case", "User ALICE, who is unknown", alice, unknown},
		{"a local part behind another word", "user/alice unknown", alice, unknown},
		{"a local part in quotes", "'alice' unknown", alice, unknown},
		{"a label of the domain", "No such user at Mailbox", alice, unknown},
		{"a piece of the local part", "User smith unknown", []message.Recipient{
			rcpt("info@example.com", "john.smith1970@mailbox.example", byDefault),
		}, unknown},
		{"a longer word that has the local part in it", "Malice is unknown", alice, "Malice is unknown"},
		{"a local part of two letters", "No such user as we know", []message.Recipient{
			rcpt("info@example.com", "us@x.example", byDefault),
		}, "No such user as we know"},
		{"ordinary words", "Mail refused (try again later): relay not permitted, sorry!", alice,
			"Mail refused (try again later): relay not permitted, sorry!"},
		{"what is put in is left alone", "<alice@t.example> is no user", []message.Recipient{
			rcpt("alice-x@mail.t.example", "alice@t.example", byDefault),
		}, "<alice-x@mail.t.example> is no user"},
		{"an address in a URL", "see https://x.example/?rcpt=secret.alice%40mailbox.example now", alice, "see now"},
		{
			"an address before an octet above 127", "<alice@mailbox.example\xc2\xa0> refused", alice,
			"<info@example.com > refused",
		},
		{"an address in another quoting", `"Alice"@mailbox.example refused`, alice, "refused"},
		{"an address without its sign", "alice.mailbox.example alice=mailbox alice%mailbox refused", alice, "refused"},
		{"an address in another coding", "YWxpY2VAbWFpbGJveA== 616c696365 cafebabe =?utf-8?q?alice?= no", alice, "no"},
		{"numbers and hosts", "host [192.0.2.1] mx1 said 550 5.1.1 id 4Fx9 no", alice, "host said id no"},
		{"names with other signs", "user al_ice al+ice $alice `alice` no", alice, "user no"},
		{"two pieces of a local part that stand alone", "user alice.secret unknown", secret, "user unknown"},
		{"a local part before its sign alone", "user alice.secret@ unknown", secret, "user unknown"},
		{
			"a mailbox by its path", "mailbox /var/mail/d0.example/alice.secret/ not found", secret,
			"mailbox not found",
		},
		{"a bang path", "mailbox d0.example!alice.secret not found", secret, "mailbox not found"},
		{"a sign in words", "alice.secret at d0.example is unknown", secret, "at is unknown"},
		{"a sign in brackets", "alice[dot]secret[at]d0[dot]example is unknown", secret, "is unknown"},
		{"a sign in HTML", "alice&#46;secret&#64;d0.example is unknown", secret, "is unknown"},
		{"an address in SRS", "SRS0=xxxx=yy=d0.example=alice.secret@relay", secret, unknown},
		{"an address in VERP", "rcpt=alice.secret=d0.example", secret, unknown},
		{"a local part without its dots", "alicesecret@d0.example (dots removed)", secret, "(dots removed)"},
		{"a local part with another sign for its dot", "alice-secret has moved", secret, unknown},
		{"a local part in quotes before its sign", `"alice.secret"@d0.example`, secret, unknown},
		{"a sign that stands alone", "alice.secret @ d0.example", secret, unknown},
		{"a TAB in an address", "al\tice.secret@d0.example", secret, "al"},
		{"an address on two lines", "alice.\nsecret@d0.example", secret, unknown},
		{"a host of the destination", "mx.d0.example says no", secret, "says no"},
		{"a host in capitals", "MX.D0.EXAMPLE says no", secret, "says no"},
		{"an id at a host", "id 4711@mx7.d0.example", secret, "id"},
		{"a host of its provider", "d0-example.mail.provider.example", secret, unknown},
		{"an address with a tag", "alice.secret+tag@d0.example", secret, unknown},
		{"base64 alone", "YWxpY2Uuc2VjcmV0", secret, unknown},
		{"an address in capitals with a last dot", "ALICE.SECRET@D0.EXAMPLE.", secret, "info@h.example."},
		{"nothing that may stay", "550 alice@mx1.mailbox.example", alice, unknown},
		{"no text", "", alice, unknown},
		{"control characters", "no\x1b[2J such\x00user here", alice, "here"},
		{"the address of another recipient", "<bob@mailbox.example> is full", []message.Recipient{
			rcpt("info@example.com", "alice@mailbox.example", byDefault),
			rcpt("sales@example.com", "bob@mailbox.example", byDefault),
		}, "<sales@example.com> is full"},
		{"the local part of another recipient", "bob is full", []message.Recipient{
			rcpt("info@example.com", "alice@mailbox.example", byDefault),
			rcpt("sales@example.com", "bob@mailbox.example", byDefault),
		}, unknown},
		{"what tells least counts for all", said, []message.Recipient{
			rcpt("info@example.com", "alice@mailbox.example", mail.UpstreamTextFull),
			rcpt("sales@example.com", "bob@mailbox.example", byDefault),
		}, "<info@example.com> unknown at\nask"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for n := range tt.rcpts {
				rcpts := append(append(tt.rcpts[:n:n], tt.rcpts[n+1:]...), tt.rcpts[n])
				got := publicReply(mail.NewReply(550, 1, 1, tt.said), rcpts)
				if got.Text != tt.want || got.Code != 550 {
					t.Errorf("about recipient %d: got %d %q, want %q", n, got.Code, got.Text, tt.want)
				}
			}
		})
	}
}

// FuzzRedact: what a stranger reads holds no piece of the destination as a word of its own, and no digit or sign that
// could spell it.
func FuzzRedact(f *testing.F) {
	f.Add("<alice@mailbox.example> unknown at mx1.mailbox.example", 550)
	f.Add("alice, (alice) alice/x 'alice'\nalice", 451)
	f.Add("=?utf-8?q?alice?= deadbeef cafe\x00babe", 250)
	f.Fuzz(func(t *testing.T, said string, code int) {
		rcpts := []message.Recipient{{
			Forward: mail.Path{Local: "info", Domain: "client.test"},
			Route: mail.Route{
				Rewrote: true, Forwards: []mail.Path{{Local: "alice", Domain: "mailbox.example"}},
			},
		}}
		got := publicReply(mail.NewReply(code, 1, 1, said), rcpts).Text
		if got == fixedText(mail.NewReply(code, 1, 1, "")) {
			return
		}
		got = strings.ReplaceAll(got, "info@client.test", "")
		if strings.ContainsAny(got, "@=[]%0123456789") {
			t.Errorf("%q became %q", said, got)
		}
		for _, word := range strings.FieldsFunc(strings.ToLower(got), func(r rune) bool { return r < 'a' || r > 'z' }) {
			if word == "alice" || word == "mailbox" || word == "example" {
				t.Errorf("%q became %q", said, got)
			}
		}
	})
}
