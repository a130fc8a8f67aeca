package egress

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/router/mail"
)

// TestTransaction_UnknownReply: what is kept of an unknown recipient is one short line.
func TestTransaction_UnknownReply(t *testing.T) {
	long := strings.Repeat("z", 1900)
	w, _ := one(t, smtptest.Behaviour{Answers: map[string]smtptest.Answer{"RCPT": {
		Reply: "550-5.1.1 " + long + "\n550-5.1.1 " + long + "\n550 5.1.1 end",
	}}}, nil)
	for again := range 2 {
		tx := begin(t, w, to("one.test"))
		r := want(t, tx.Rcpt(t.Context(), path("b@one.test")), "550 5.1.1 zzz")
		if r.Host != "mx1.one.test" || r.Reason != "upstream" {
			t.Errorf("got %+v", r)
		}
		if again == 1 &&
			(len(r.Reply.Text) != mail.MaxReplyLine || strings.Contains(r.Reply.Text, "\n") || r.Cause != nil) {
			t.Errorf("got %d octets with the cause %v", len(r.Reply.Text), r.Cause)
		}
		tx.Abort()
	}
}
