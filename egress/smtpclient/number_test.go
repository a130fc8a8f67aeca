package smtpclient

import (
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// A recipient that is refused because there are too many is deferred, whichever code says so (RFC 5321 section
// 4.5.3.1.10). Other refusals with that code are for good.
func TestRcpt_TooMany(t *testing.T) {
	for _, tc := range []struct{ reply, want string }{
		{"552 5.5.3 too many recipients", "452 4.5.3 too many recipients"},
		{"552 Too many recipients", "452 4.0.0 Too many recipients"},
		{"552 5.2.2 over quota", "552 5.2.2 over quota"},
		{"552 mailbox full", "552 5.0.0 mailbox full"},
		{"550 5.5.3 too many recipients", "550 5.5.3 too many recipients"},
	} {
		d := smtptest.Start(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{"RCPT": {Reply: tc.reply}}})
		s := dial(t, target(d))
		s.Begin(mail.Delivery{Reverse: path("a@b.test")})
		err := s.Rcpt(t.Context(), path("c@d.test"))
		if got := mail.ReplyFor(err).String(); got != tc.want {
			t.Errorf("%s: got %s", tc.reply, got)
		}
	}
}
