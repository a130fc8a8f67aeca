package smtpclient

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/egress/smtptest"
)

// A smarthost that asks for the response again, or refuses PLAIN as a mechanism, is logged in at; a wrong password is
// tried once.
func TestDial_Auth(t *testing.T) {
	ca := smtptest.NewCA()
	for _, tc := range []struct {
		name            string
		plain, response string // the replies to AUTH PLAIN, and to the response that is sent again
		asked           int    // AUTH commands
		fails           bool
	}{
		{"PLAIN", "", "", 1, false},
		{"PLAIN in two lines", "235-2.7.0 ok\n235 2.7.0 welcome", "", 1, false},
		{"250 in place of 235", "250 2.7.0 welcome", "", 1, false},
		{"asked again", "334 ", "235 2.7.0 ok", 1, false},
		{"asked again without a blank", "334", "235 2.7.0 ok", 1, false},
		{"asked again, and a wrong password", "334 ", "535 5.7.8 no", 1, true},
		{"asked twice again", "334 ", "334 ", 1, true},
		{"504 and LOGIN", "504 5.7.4 Unrecognized authentication type", "", 2, false},
		{"534 and LOGIN", "534 5.7.9 Too weak", "", 2, false},
		{"501 and LOGIN", "501 5.5.4 No initial response here", "", 2, false},
		{"504 behind 334, and LOGIN", "334 ", "504 5.7.4 no", 2, false},
		{"a wrong password", "535 5.7.8 no", "", 1, true},
		{"trouble", "454 4.7.0 later", "", 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := smtptest.Start(t, smtptest.Behaviour{
				TLS: ca.Server("mx.dest.test"), Users: map[string]string{"u": "p"},
				On: func(s smtptest.Step) (smtptest.Answer, bool) {
					if s.Verb == "AUTH" && strings.HasPrefix(s.Line, "AUTH PLAIN ") && tc.plain != "" {
						return smtptest.Answer{Reply: tc.plain}, true
					}
					return smtptest.Answer{Reply: tc.response}, s.Line == encode("\x00u\x00p")
				},
			})
			tg := target(d)
			tg.TLS, tg.TLSConfig, tg.User, tg.Password = Required, ca.Client(), "u", "p"
			c, err := Dial(t.Context(), Config{}, tg)
			if (err != nil) != tc.fails {
				t.Errorf("got %v", err)
			}
			if err == nil {
				c.Close()
			}
			if n := d.Counts().Commands["AUTH"]; n != tc.asked {
				t.Errorf("%d AUTH commands, want %d", n, tc.asked)
			}
		})
	}
}
