package egress

import (
	"testing"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
)

// Sessions that die silently while they are idle cost their next message no answer: it is sent on a fresh one, and the
// others are not tried.
func TestRelay_SilentSessions(t *testing.T) {
	for _, ext := range [][]string{nil, {}} {
		w, s := one(t, smtptest.Behaviour{Extensions: ext}, func(c *Config) {
			c.Client.Reused = 500 * time.Millisecond
		})
		var open []*transaction
		for i := range 3 {
			tx := begin(t, w, from(i, "one.test"))
			rcpt(t, tx, "b@one.test")
			open = append(open, tx)
		}
		for _, tx := range open {
			finish(t, tx)
		}
		isIdle(t, w, 3)
		s.Set(smtptest.Behaviour{Extensions: ext, On: func(s smtptest.Step) (smtptest.Answer, bool) {
			return smtptest.Answer{After: time.Hour}, s.Verb == "MAIL" && s.Session <= 3
		}})
		for i := range 3 {
			deliver(t, w, from(i, "one.test"), "b@one.test")
		}
		if c := s.Counts(); c.Connections != 4 || c.Messages != 6 || c.Commands["MAIL"] != 3+1+3 {
			t.Errorf("%d connections, %d messages, %d MAIL: one session was to be found dead, and one opened",
				c.Connections, c.Messages, c.Commands["MAIL"])
		}
		for _, m := range s.Messages() {
			if m.Session > 4 {
				t.Errorf("a message on session %d", m.Session)
			}
		}
	}
}

// A destination that is slow, and whose TCP is there, keeps its session.
func TestRelay_SlowSession(t *testing.T) {
	w, s := one(t, smtptest.Behaviour{}, func(c *Config) { c.Client.Reused = 500 * time.Millisecond })
	deliver(t, w, to("one.test"), "b@one.test")
	s.Set(smtptest.Behaviour{Answers: map[string]smtptest.Answer{"MAIL": {After: 600 * time.Millisecond}}})
	deliver(t, w, to("one.test"), "b@one.test")
	if c := s.Counts(); c.Connections != 1 {
		t.Errorf("%d connections", c.Connections)
	}
}
