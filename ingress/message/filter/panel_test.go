package filter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/router/mail"
)

// A program is what a Filter of a test connects to: it serves each connection. One that is nil cannot be reached.
type program func(conn net.Conn)

// dial returns a connection with the program, as Config.Dial does.
func (p program) dial(context.Context, string, string) (net.Conn, error) {
	if p == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go func() { // ends when the program is done with the connection
		defer theirs.Close()
		p(theirs)
	}()
	return ours, nil
}

// says returns a program that reads a request of HTTP and answers with a text as it stands.
func says(text string) program {
	return func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
		}
		if err == nil {
			_, _ = io.WriteString(conn, text)
		}
	}
}

// answers returns a program that answers with a body.
func answers(body string) program {
	return says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

const accepts = `{"action": "no action", "score": 0.5, "symbols": {"A": {"score": -0.1}, "B": {"score": 0.6}}}`

// readsAndStops returns a program that reads n octets and then nothing, and says nothing of use until the other end
// closes.
func readsAndStops(n int64) program {
	return func(conn net.Conn) {
		_, _ = io.CopyN(io.Discard, conn, n)
		_, _ = io.WriteString(conn, "H") // waits for one who reads, or for the end
		_, _ = io.Copy(io.Discard, conn)
	}
}

// octets returns text as a piece that came by BDAT.
func octets(text string) mail.Octets {
	return mail.Octets{Segments: net.Buffers{[]byte(text)}, Form: mail.Plain}
}

// newSet returns a Set of filters at programs.
func newSet(t *testing.T, change func(*Config), programs ...program) *Set {
	t.Helper()
	all := make([]Config, len(programs))
	for i, p := range programs {
		all[i] = Config{Name: string(rune('a' + i)), Rspamd: "127.0.0.1:1", Dial: p.dial}
		if change != nil {
			change(&all[i])
		}
	}
	s, err := New(all)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPanel_Faults: whatever a program does, a message waits for Deadline at most while it comes in, and as long behind
// it; and what becomes of it is what the configuration says.
func TestPanel_Faults(t *testing.T) {
	const deadline = 3 * time.Second
	large := strings.Repeat("0123456789abcde\n", 1<<16)
	const inTime = "it did not answer in time: context deadline exceeded"
	for _, tt := range []struct {
		name string
		program
		took time.Duration
		why  string
	}{
		{"it cannot be reached", nil, 0, "cannot be connected to: connection refused"},
		{"it reads nothing", readsAndStops(0), deadline, inTime},
		{"it stops in the middle of the message", readsAndStops(1 << 18), deadline, inTime},
		{"it says nothing", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, deadline, inTime},
		{"it closes at once", func(net.Conn) {}, 0, "it closed the connection"},
		{"it closes in the middle of the message", func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, 1<<18) }, 0,
			"it closed the connection"},
		{"it closes after the message", says(""), 0, "it closed the connection"},
		{"it closes in the middle of its answer", says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), 0,
			"it closed the connection"},
		{"it speaks another protocol", says("220 mail.example ESMTP\r\n"), 0, "no answer of HTTP came"},
		{"it says a status", says("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), 0, "rspamd says 403"},
		{"it says no JSON", answers("0123456789abcde"), 0, "rspamd's answer is not the JSON that it speaks"},
		{"it names no action", answers(`{"score": 1}`), 0, "rspamd names no action that there is"},
		{"it names another action", answers(`{"action": "explode"}`), 0, "rspamd names no action that there is"},
		{"its answer has no end", func(c net.Conn) {
			says("HTTP/1.1 200 OK\r\n\r\n")(c)
			for {
				if _, err := io.WriteString(c, strings.Repeat(" ", 1<<16)); err != nil {
					return
				}
			}
		}, 0, "rspamd's answer is not the JSON that it speaks"},
	} {
		for late, want := range map[Late]Action{LateAccept: Accept, LateTempfail: Tempfail} {
			t.Run(fmt.Sprintf("%s, %v", tt.name, want), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSet(t, func(c *Config) { c.Late, c.Deadline = late, deadline }, tt.program)
					p := s.Begin(Envelope{})
					defer p.Close()
					began := time.Now()
					if !p.Write(t.Context(), octets(large)) {
						p.End(t.Context())
					}
					d := p.Decide()
					if took := time.Since(began); took != tt.took {
						t.Errorf("took %v, want %v", took, tt.took)
					}
					f := d.Filtered[0]
					if d.Action != want || f.Result != "late" || f.Cause == nil || f.Cause.Error() != tt.why {
						t.Errorf("got %v, %+v", d.Action, f)
					}
					if n := s.filters[0].slots.taken; n != 0 {
						t.Errorf("%d slots are still taken", n)
					}
				})
			})
		}
	}
}

// TestPanel_SideBySide: one filter that is silent costs another one no time, and a refusal is not kept waiting while a
// message comes in.
func TestPanel_SideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet(t, func(c *Config) { c.Deadline = time.Second }, readsAndStops(1<<20), answers(accepts), nil)
		s.filters[2].cfg.Late = LateTempfail
		p := s.Begin(Envelope{})
		defer p.Close()
		if !p.Write(t.Context(), octets("Subject: x\r\n\r\n")) {
			t.Error("one filter puts the message off, and it goes on")
		}
		if d := p.Decide(); d.Action != Tempfail || len(d.Filtered) != 1 || d.Reason != "filter: c" {
			t.Errorf("got %+v", d)
		}
		began := time.Now()
		d := p.End(t.Context())
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v", took)
		}
		first, second := d.Filtered[0], d.Filtered[1]
		if first.Result != "late" || second.Result != "accept" || second.Score != 0.5 || second.Symbols != "B A" {
			t.Errorf("got %+v, %+v", first, second)
		}
	})
}

// TestPanel_Ends: a context that ends ends the wait, and the filter is not blamed for it.
func TestPanel_Ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet(t, nil, readsAndStops(1<<20))
		for range breakAfter + 1 {
			p := s.Begin(Envelope{})
			ctx, cancel := context.WithCancel(t.Context())
			p.Write(ctx, octets("x\r\n"))
			time.AfterFunc(time.Second, cancel)
			began := time.Now()
			d := p.End(ctx)
			if took := time.Since(began); took != time.Second || !errors.Is(d.Filtered[0].Cause, context.Canceled) {
				t.Errorf("after %v: %v", took, d.Filtered[0].Cause)
			}
			p.Close()
		}
		if !s.filters[0].breaker.until.IsZero() {
			t.Error("the filter is left alone")
		}
	})
}

// TestPanel_Octets: the program gets the octets of the message, whatever the pieces and the dots.
func TestPanel_Octets(t *testing.T) {
	for _, size := range []bool{true, false} {
		var got strings.Builder
		done := make(chan struct{})
		p := program(func(conn net.Conn) {
			defer close(done)
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(&got, r.Body)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(accepts), accepts)
			for name, want := range map[string]string{
				"IP": "192.0.2.1", "Helo": "a?b.example", "From": "a@b.example", "User": "u", "Password": "secret",
				"X-Millrace-Score": "2.5", "Queue-Id": (mail.TraceID{1}).String(), "MTA-Name": "mx1.example.net",
			} {
				if r.Header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, r.Header.Get(name), want)
				}
			}
			if rcpts := fmt.Sprint(r.Header["Rcpt"]); rcpts != "[c@d.example e@f.example]" {
				t.Errorf("Rcpt is %s", rcpts)
			}
		})
		e := Envelope{
			Hostname: "mx1.example.net", Client: netip.MustParseAddrPort("192.0.2.1:25"), Helo: "a\nb.example",
			Reverse: mail.Path{Local: "a", Domain: "b.example"}, User: "u", Score: 2.5, Scored: true,
			Forwards: []mail.Path{{Local: "c", Domain: "d.example"}, {Local: "e", Domain: "f.example"}},
			Trace:    mail.TraceID{1},
		}
		few := mail.Octets{
			Segments: net.Buffers{[]byte("A: b\r\n\r\n..dot\r\n"), []byte("..\r\n")}, Dots: []uint32{8, 15},
		}
		many := mail.Octets{Segments: net.Buffers{[]byte(strings.Repeat("..\r\n", 100))}}
		for i := range uint32(100) {
			many.Dots = append(many.Dots, 4*i)
		}
		want := "A: b\r\n\r\n.dot\r\n.\r\n" + strings.Repeat(".\r\n", 100)
		if size {
			e.Size = int64(len(want))
		}
		panel := newSet(t, func(c *Config) { c.Password = "secret" }, p).Begin(e)
		panel.Write(t.Context(), few)
		panel.Write(t.Context(), many)
		if d := panel.End(t.Context()); d.Action != Accept || d.Filtered[0].Cause != nil {
			t.Errorf("got %+v", d)
		}
		<-done
		panel.Close()
		if got.String() != want {
			t.Errorf("got %q", got.String())
		}
	}
}

// TestPanel_Memory: what a message takes at a filter does not grow with it.
func TestPanel_Memory(t *testing.T) {
	p := newSet(t, nil, answers(accepts)).Begin(Envelope{})
	defer p.Close()
	piece := octets(strings.Repeat("0123456789abcde\n", 1<<12))
	p.Write(t.Context(), piece)
	allocated := testing.AllocsPerRun(200, func() { p.Write(t.Context(), piece) })
	t.Logf("%.0f allocations for a piece of 64 KiB", allocated)
	if allocated > 20 {
		t.Errorf("a piece of 64 KiB takes %.0f allocations", allocated)
	}
	if d := p.End(t.Context()); d.Filtered[0].Result != "accept" {
		t.Errorf("got %+v", d)
	}
}

// TestBreaker: a filter that fails for several networks is left alone, tried by one message at a time, and asked again
// when it answers.
func TestBreaker(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	network := func(n byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, n, 0}), 24) }
	var b breaker
	for range 2 * breakAfter {
		if b.note(now, false, network(1)) || b.ask(now) != nil {
			t.Fatal("one network turns the filter off")
		}
	}
	for i := range byte(breakAfter - 1) {
		if changed := b.note(now, false, network(2+i)); changed != (i == breakAfter-2) {
			t.Fatalf("failure %d: %v", i, changed)
		}
	}
	if b.ask(now) == nil || b.ask(now.Add(breakFor-1)) == nil {
		t.Error("it is asked although it is to be left alone")
	}
	now = now.Add(breakFor)
	if b.ask(now) != nil || b.ask(now) == nil {
		t.Error("not one message tries")
	}
	if b.note(now, false, network(9)) || b.ask(now) == nil {
		t.Error("it is asked behind a try that failed")
	}
	now = now.Add(breakFor)
	if b.ask(now) != nil {
		t.Error("it is not tried again")
	}
	b.unasked()
	if b.ask(now) != nil || !b.note(now, true, network(9)) || b.ask(now) != nil || b.ask(now) != nil {
		t.Error("it is not asked again")
	}
	for range breakAfter - 1 {
		if b.note(now, false, netip.Prefix{}) {
			t.Error("it is left alone too early")
		}
	}
	if !b.note(now, false, netip.Prefix{}) {
		t.Error("what is not seen by it at all is not counted")
	}
}

// TestSlots: messages that stream leave half to the others, a network leaves three quarters to the others, and one that
// waits goes on as soon as it may.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := func(n byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, n, 0}), 24) }
		s := slots{most: 8}
		soon := func() context.Context { return mail.Until(t.Context(), time.Now().Add(time.Second)) }
		take := func(e slot) bool {
			err := s.take(soon(), e)
			if err != nil && !errors.Is(err, errBusy) {
				t.Errorf("got %v", err)
			}
			return err == nil
		}
		both := func(e slot) bool {
			first := take(e)
			return take(e) && first
		}
		one, two := slot{network(1), true}, slot{network(2), true}
		three, four := slot{network(3), true}, slot{network(4), true}
		if !both(one) || take(one) {
			t.Error("a network has not a quarter")
		}
		if !both(two) || take(three) {
			t.Error("messages that stream have not half")
		}
		whole := slot{network(3), false}
		if !both(whole) || take(whole) {
			t.Error("whole messages have not the rest")
		}
		ours := slot{}
		if !both(ours) || take(ours) {
			t.Error("there are more than there may be")
		}
		got := make(chan bool)
		go func() { got <- take(four) }() // waits for a stream to end
		synctest.Wait()
		s.give(ours)
		synctest.Wait()
		s.give(one)
		if !<-got {
			t.Error("one that waits does not go on")
		}
		for _, e := range []slot{one, two, two, whole, whole, ours, four} {
			s.give(e)
		}
		if s.taken != 0 || s.streams != 0 || len(s.shares) != 0 || len(s.waiting) != 0 {
			t.Errorf("left: %d taken, %d streams, %v", s.taken, s.streams, s.shares)
		}
	})
}
