package feedback

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

var (
	here  = Spot{Host: "mx1.test", Addr: netip.MustParseAddr("192.0.2.1")}
	there = Spot{Host: "mx1.test", Addr: netip.MustParseAddr("2001:db8::1")}
)

func of(reverse, recipient string) Of { return Of{Reverse: reverse, Recipient: recipient} }

func mailOf(reverse, recipient string) *Sender {
	return &Sender{Domain: recipient, Reverse: mail.Path{Local: "a", Domain: reverse}}
}

func marked(m *Marks, s Spot, o Of) bool {
	_, ok := m.FailedAt(s, o)
	return ok
}

// TestMarks_Time: a mark outlasts a sender's interval, doubles up to an hour, and ends with a success.
func TestMarks_Time(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMarks(time.Now)
		for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
			want *= time.Minute
			m.Failed(here, Opening, Of{})
			time.Sleep(want - time.Second)
			if !marked(m, here, of("a.test", "b.test")) {
				t.Fatalf("a mark ended before %v", want)
			}
			m.Failed(here, Opening, Of{}) // while it is on: no news
			time.Sleep(time.Second)
			if marked(m, here, of("a.test", "b.test")) {
				t.Fatalf("a mark did not end after %v", want)
			}
		}
		m.Failed(here, Opening, Of{})
		m.Opened(here)
		if marked(m, here, Of{}) {
			t.Error("a success does not end it")
		}
		m.Failed(here, Opening, Of{})
		time.Sleep(markFirst)
		if marked(m, here, Of{}) {
			t.Error("a success does not end the doubling")
		}
		m.Failed(here, Opening, Of{})
		time.Sleep(4 * time.Hour)
		m.Failed(here, Opening, Of{})
		time.Sleep(markFirst)
		if marked(m, here, Of{}) {
			t.Error("what is long ago doubles it")
		}
		if marked(m, there, Of{}) {
			t.Error("another address of the host is marked")
		}
	})
}

// TestMarks_Mail: what a client may have provoked marks its own mail, until three kinds of mail have met it.
func TestMarks_Mail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name   string
			phase  Phase
			mail   func(i int) Of // the same in what the phase is marked for, if i is the same
			accept func(i int) *Sender
		}{
			{"MAIL, by reverse-path", AtMail,
				func(i int) Of { return of(fmt.Sprintf("r%d.test", i), "b.test") },
				func(i int) *Sender { return mailOf(fmt.Sprintf("r%d.test", i), "other.test") }},
			{"RCPT, by recipient", AtRcpt,
				func(i int) Of { return of("a.test", fmt.Sprintf("d%d.test", i)) },
				func(i int) *Sender { return mailOf("other.test", fmt.Sprintf("d%d.test", i)) }},
		} {
			m := NewMarks(time.Now)
			for range 5 {
				m.Failed(here, c.phase, c.mail(1))
			}
			m.Failed(here, c.phase, c.mail(2))
			if !marked(m, here, c.mail(1)) || !marked(m, here, c.mail(2)) || marked(m, here, c.mail(3)) {
				t.Errorf("%s: two kinds of mail mark others, or not themselves", c.name)
			}
			m.Failed(here, c.phase, c.mail(3))
			if !marked(m, here, c.mail(4)) {
				t.Errorf("%s: three kinds do not mark all", c.name)
			}
			m.Opened(here)
			if !marked(m, here, c.mail(4)) {
				t.Errorf("%s: a session that opens proves nothing about it", c.name)
			}
			m.Accepted(here, c.accept(4))
			if marked(m, here, c.mail(4)) || !marked(m, here, c.mail(1)) {
				t.Errorf("%s: a success ends the mark for all, and not that of others", c.name)
			}
			m.Accepted(here, c.accept(1))
			if marked(m, here, c.mail(1)) {
				t.Errorf("%s: a success does not end the mark", c.name)
			}
			m.Failed(here, c.phase, c.mail(5))
			m.Failed(here, c.phase, c.mail(6))
			if marked(m, here, c.mail(7)) {
				t.Errorf("%s: those that met it before the success still count", c.name)
			}
		}
	})
}

// TestMarks_Order: of two marks the later failure is the one that counts.
func TestMarks_Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMarks(time.Now)
		m.Failed(here, Opening, Of{})
		time.Sleep(time.Second)
		m.Failed(there, Opening, Of{})
		time.Sleep(time.Second)
		m.Failed(here, AtMail, of("a.test", "b.test"))
		mine, _ := m.FailedAt(here, of("a.test", "b.test"))
		others, _ := m.FailedAt(here, of("c.test", "b.test"))
		second, _ := m.FailedAt(there, of("c.test", "b.test"))
		if !mine.After(second) || !second.After(others) {
			t.Errorf("%v, %v, %v", mine, second, others)
		}
	})
}

// TestMarks_Latest: the address that took a session where another one should have comes first for an hour.
func TestMarks_Latest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMarks(time.Now)
		if m.Took(here, true); m.Latest("mx1.test").IsValid() {
			t.Error("the first address is nothing to remember")
		}
		m.Took(there, false)
		if m.Took(there, true); m.Latest("mx1.test") != there.Addr || m.Latest("mx2.test").IsValid() {
			t.Errorf("got %v", m.Latest("mx1.test"))
		}
		if m.Took(here, true); m.Latest("mx1.test") != here.Addr {
			t.Error("the one that worked since comes first")
		}
		time.Sleep(markMost + time.Second)
		if m.Latest("mx1.test").IsValid() {
			t.Error("it is remembered for too long")
		}
	})
}

// TestMarks_Cost: an accepted recipient allocates nothing where the address is not marked.
func TestMarks_Cost(t *testing.T) {
	m, s := NewMarks(time.Now), mailOf("a.test", "b.test")
	m.Failed(there, AtMail, of("a.test", "b.test"))
	if n := testing.AllocsPerRun(100, func() { m.Accepted(here, s) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
