package ingress

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/ingress/message"
	"github.com/millrace/millrace/router/mail"
)

// TestRedact_RewrittenRecipient: a rewritten recipients destination is not told.
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
	said := "<alice@MAILBOX.example> unknown at mx1.mailbox.example\nask mailbox.example"
	tests := []struct {
		name  string
		said  string
		rcpts []message.Recipient
		want  string
	}{
		{
			"redacted by default", said,
			[]message.Recipient{rcpt("info@example.com", "Alice@mailbox.example", byDefault)},
			"<info@example.com> unknown at \nask example.com",
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
			[]message.Recipient{rcpt("alice@mailbox.example", "alice@mailbox.example", mail.UpstreamTextCode)},
			"The destination said so",
		},
		{
			"a local part that stands alone", "User alice (Alice) of malice unknown",
			[]message.Recipient{rcpt("info@example.com", "alice@mailbox.example", byDefault)},
			"User info (info) of malice unknown",
		},
		{
			"what is put in is left alone", "<alice@t.example> is no alice",
			[]message.Recipient{rcpt("alice-x@mail.t.example", "alice@t.example", byDefault)},
			"<alice-x@mail.t.example> is no alice-x",
		},
		{
			"an address in a URL", "see https://x.example/?rcpt=secret.alice%40mailbox.example",
			[]message.Recipient{rcpt("info@example.com", "secret.alice@mailbox.example", byDefault)},
			"see https://x.example/?rcpt=info%40example.com",
		},
		{
			"an address before an octet above 127", "<alice@mailbox.example\xc2\xa0>",
			[]message.Recipient{rcpt("info@example.com", "alice@mailbox.example", byDefault)},
			"<info@example.com\xc2\xa0>",
		},
		{
			"an address in another quoting", `"Alice"@mailbox.example`,
			[]message.Recipient{rcpt("info@example.com", "alice@mailbox.example", byDefault)}, `"info"@example.com`,
		},
		{"the address of another recipient", "<bob@mailbox.example> is full", []message.Recipient{
			rcpt("info@example.com", "alice@mailbox.example", byDefault),
			rcpt("sales@example.com", "bob@mailbox.example", byDefault),
		}, "<sales@example.com> is full"},
		{"what tells least counts for all", said, []message.Recipient{
			rcpt("info@example.com", "alice@mailbox.example", mail.UpstreamTextFull),
			rcpt("sales@example.com", "bob@mailbox.example", byDefault),
		}, "<info@example.com> unknown at \nask example.com"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for n := range tt.rcpts {
				rcpts := append(append(tt.rcpts[:n:n], tt.rcpts[n+1:]...), tt.rcpts[n])
				got := publicReply(mail.NewReply(550, 1, 1, tt.said), "mx1.mailbox.example", rcpts)
				if got.Text != tt.want || got.Code != 550 {
					t.Errorf("about recipient %d: got %d %q, want %q", n, got.Code, got.Text, tt.want)
				}
			}
		})
	}
}
