package dial

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/egress/feedback"
	"github.com/millrace/millrace/egress/smtpclient"
)

// TestMemory: what a session with an address comes to is remembered for as long as it should be, and where TLS is
// demanded clear text never is.
func TestMemory(t *testing.T) {
	type session struct {
		hello          hello
		secure, failed bool
	}
	ok, small := session{full, true, false}, session{classic, true, true}
	inClear, refused := session{clear, false, true}, session{full, false, false}
	byHELO := session{old, false, true}
	for _, c := range []struct {
		name      string
		sessions  []session
		next      hello
		remember  time.Duration // how long next holds
		mandatory hello         // where TLS is demanded
	}{
		{"nothing", nil, full, 0, full},
		{"TLS works", []session{ok}, full, 0, full},
		{"STARTTLS is not offered, or refused", []session{refused, refused, refused}, full, 0, full},
		{"a classic hello works where another failed", []session{small}, classic, time.Hour, classic},
		{"one failure and a success in clear", []session{inClear}, full, 0, full},
		{"two", []session{inClear, inClear}, clear, 24 * time.Hour, full},
		{"two, where TLS worked before", []session{ok, inClear, inClear}, clear, time.Hour, full},
		{"two with a success in TLS between", []session{inClear, ok, inClear}, full, 0, full},
		{"two with a success of classic TLS between", []session{inClear, small, inClear}, classic, time.Hour, classic},
		{"a classic hello, then two in clear", []session{small, inClear, inClear}, clear, time.Hour, full},
		{"what is remembered does not prolong itself", []session{inClear, inClear, {clear, false, false}}, clear,
			24 * time.Hour, full},
		{"EHLO ended the connection, and HELO did not", []session{byHELO}, old, 5 * time.Minute, full},
		{"twice", []session{byHELO, byHELO}, old, time.Hour, full},
		{"and then EHLO works", []session{byHELO, refused}, full, 0, full},
		{"and then TLS does", []session{byHELO, ok}, full, 0, full},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, at := newMemory(nil), feedback.Spot{Host: "mx.test", Addr: netip.MustParseAddr("192.0.2.1")}
				for _, s := range c.sessions {
					m.worked(at, s.hello, s.secure, s.failed)
				}
				if got := m.hello(at, smtpclient.Opportunistic); got != c.next {
					t.Errorf("next is %d, want %d", got, c.next)
				}
				for _, policy := range []smtpclient.TLSPolicy{smtpclient.Required, smtpclient.Implicit} {
					if got := m.hello(at, policy); got != c.mandatory {
						t.Errorf("under %d next is %d, want %d", policy, got, c.mandatory)
					}
				}
				other := feedback.Spot{Host: "mx.test", Addr: netip.MustParseAddr("192.0.2.2")}
				if m.hello(other, smtpclient.Opportunistic) != full {
					t.Error("another address is remembered")
				}
				if c.remember == 0 {
					return
				}
				time.Sleep(c.remember - time.Second)
				if got := m.hello(at, smtpclient.Opportunistic); got != c.next {
					t.Error("it is forgotten too soon")
				}
				time.Sleep(time.Second)
				if got := m.hello(at, smtpclient.Opportunistic); got != full {
					t.Error("it is remembered for too long")
				}
			})
		})
	}
}
