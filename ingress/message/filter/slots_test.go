package filter

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// networkOf returns the nth network of strangers.
func networkOf(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(n), 0}), 24)
}

// patient is a milter that goes on with every step and accepts at the end, in virtual time.
func patient(conn net.Conn) {
	var head [5]byte
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		n := int64(head[0])<<24 + int64(head[1])<<16 + int64(head[2])<<8 + int64(head[3]) - 1
		if _, err := io.CopyN(io.Discard, conn, n); err != nil {
			return
		}
		answer := packet('c', "")
		switch head[4] {
		case milterNegotiate:
			answer = agreed(noHelo)
		case milterMacro, milterQuit:
			continue
		case milterEnd:
			answer = packet('a', "")
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

// patients returns the Set of a patient milter with eight places.
func patients(t *testing.T) *Set {
	t.Helper()
	s, err := New([]Config{{
		Name: "m", Milter: "h:1", Deadline: 15 * time.Second, Late: LateTempfail, Concurrency: 8,
		Dial: program(patient).dial,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSlots_Idle: strangers of many networks that name a recipient and then say nothing, or name more of them, keep no
// other waiting: a filter is told anew of what they said when they say more, and after a while they are put off.
func TestSlots_Idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := patients(t)
		idle := make([]*Panel, 100)
		for i := range idle {
			idle[i] = s.Begin(Envelope{Share: networkOf(i)})
			defer idle[i].Close()
			if d := idle[i].Rcpt(t.Context(), path("c@d.example"), false); d.Action != Accept {
				t.Fatalf("stranger %d: %+v", i, d)
			}
		}
		putOff := 0
		for n := range 20 {
			if d := idle[99].Rcpt(t.Context(), path(fmt.Sprintf("c%d@d.example", n)), false); d.Action == Tempfail {
				putOff++
			}
		}
		if putOff != 20-maxTold {
			t.Errorf("%d recipients are put off", putOff)
		}
		began := time.Now()
		for i := range 50 {
			p := s.Begin(Envelope{Share: networkOf(200)})
			if d := p.Rcpt(t.Context(), path("c@d.example"), false); d.Action != Accept {
				t.Fatalf("honest message %d: %+v", i, d)
			}
			p.Message(Envelope{Share: networkOf(200), Forwards: []mail.Path{path("c@d.example")}, Size: 9})
			p.Write(t.Context(), octets("A: b\r\n\r\nx"))
			if d := p.End(t.Context()); d.Action != Accept || d.Filtered[0].Result != "accept" {
				t.Fatalf("honest message %d: %+v", i, d)
			}
			p.Close()
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("honest messages waited for %v", took)
		}
	})
}

// TestSlots_GiveWay: strangers that drip hold each place for messages that stream; one that waits for such a place gets
// it from the slowest of the network that has most of them. Messages that are whole do not wait, and the filter is not
// blamed.
func TestSlots_GiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := patients(t)
		begin := func(network int) *Panel {
			to := []mail.Path{path("c@d.example")}
			return s.Begin(Envelope{Share: networkOf(network), Streams: true, Forwards: to})
		}
		var drips []*Panel
		for _, network := range []int{1, 1, 2, 3} {
			p := begin(network)
			defer p.Close()
			p.Write(t.Context(), octets("A: b\r\n\r\n"+strings.Repeat("x", 1000*len(drips))))
			drips = append(drips, p)
		}
		<-time.After(paceAfter)
		whole := s.Begin(Envelope{Share: networkOf(4), Size: 6, Forwards: []mail.Path{path("c@d.example")}})
		began := time.Now()
		whole.Write(t.Context(), octets("A: b\r\n"))
		if d := whole.End(t.Context()); d.Filtered[0].Result != "accept" || time.Since(began) != 0 {
			t.Errorf("after %v: %+v", time.Since(began), d)
		}
		whole.Close()

		honest := begin(5)
		defer honest.Close()
		gone := make(chan int)
		go func() { // ends when a drip was wanted
			for {
				<-time.After(time.Second) // as often as a message that streams is asked
				for i, p := range drips {
					if p.Wanted() {
						p.Close()
						gone <- i
						return
					}
				}
			}
		}()
		if honest.Write(t.Context(), octets("A: b\r\n\r\n")) {
			t.Errorf("it is put off: %+v", honest.Decide())
		}
		if i := <-gone; i != 0 {
			t.Errorf("message %d gave way", i)
		}
		if took := time.Since(began); took > giveWayEvery+time.Second {
			t.Errorf("it waited for %v", took)
		}
		if d := honest.End(t.Context()); d.Filtered[0].Result != "accept" {
			t.Errorf("got %+v", d)
		}
		if f := s.filters[0]; f.breaker.failed != 0 || !f.breaker.until.IsZero() {
			t.Errorf("the filter is blamed: %+v", f.breaker.failed)
		}
	})
}

// TestSlots_Begun: a message that a milter has heard of before it streams takes a place of those that stream, or waits
// for one.
func TestSlots_Begun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := patients(t)
		for i := range 6 {
			p := s.Begin(Envelope{Share: networkOf(i)})
			defer p.Close()
			p.Rcpt(t.Context(), path("c@d.example"), false)
			p.Message(Envelope{Share: networkOf(i), Streams: true, Forwards: []mail.Path{path("c@d.example")}})
			if got := p.Write(t.Context(), octets("A: b\r\n\r\n")); got != (i >= 4) {
				t.Errorf("message %d is put off: %v", i, got)
			}
			if n := s.filters[0].slots.streams; n != min(i+1, 4) {
				t.Errorf("%d stream", n)
			}
		}
	})
}

// TestBreaker_Dripped: a filter that drops a message whose client is slow is not blamed, and failures with two
// networks in turn are two.
func TestBreaker_Dripped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closes := func(conn net.Conn) {
			_, _ = io.CopyN(io.Discard, conn, 1000)
			<-time.After(time.Minute) // its own deadline for a message
		}
		s := newSet(t, nil, closes)
		f := s.filters[0]
		for i := range 2 * breakAfter {
			p := s.Begin(Envelope{Share: networkOf(i), Streams: true})
			p.Write(t.Context(), octets(strings.Repeat("x", 100)))
			<-time.After(2 * time.Minute)
			p.Write(t.Context(), octets(strings.Repeat("x", 2000)))
			if d := p.End(t.Context()); d.Filtered[0].Result != "late" {
				t.Errorf("got %+v", d)
			}
			p.Close()
		}
		if f.breaker.failed != 0 {
			t.Errorf("it is blamed for %d", f.breaker.failed)
		}
		for i := range 10 * breakAfter {
			f.note(errClosed, &Envelope{Share: networkOf(i % 2)})
		}
		<-time.After(time.Hour) // the program's
		if f.breaker.failed != 2 || !f.breaker.until.IsZero() {
			t.Errorf("it failed %d times", f.breaker.failed)
		}
	})
}
