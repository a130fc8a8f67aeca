package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/egress/smtptest"
	"github.com/millrace/millrace/loadtest/source"
)

// A load is senders that behave as real ones do: what was not accepted stays with them and is tried again, at whatever
// address takes the connection, until it was accepted or refused for good.
type load struct {
	name     string              // of the messages, unique in a run
	addrs    func() []string     // in the order to try, asked for each connection
	forward  func(i int) string  // the forward-path of message i
	octets   int                 // of a message; 0: a few
	fresh    bool                // a connection for each message
	clients  int                 // at a time
	messages int                 // 0: until stop is closed
	stop     <-chan struct{}     // may be nil
	every    time.Duration       // the pause of a client between two messages; 0: none
	backoff  time.Duration       // before a message is tried again; 0: 50 ms
	patience time.Duration       // until a message is given up; 0: 20 s
	watch    func(source.Result) // sees every answer; may be nil
	networks int                 // how many the clients come from; 0: one
	next     atomic.Int64        // the number of the next message
	padding  []byte              // behind the header section
}

// A sent is what became of one message.
type sent struct {
	id       string
	accepted bool
	refused  string // the 5yz
	last     string // the last thing that went wrong
	retries  int
	doubtful bool // an attempt ended after the end of data and without a word of the destination
	took     time.Duration
}

// run sends and returns when all is answered.
func (l *load) run(ctx context.Context) []sent {
	if l.octets > 0 {
		l.padding = source.Body(l.octets)
	}
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex // over all
		all []sent
	)
	for range l.clients {
		wg.Go(func() { // ends when there are no more messages, or with ctx
			own := l.client(ctx)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	return all
}

func (l *load) ended(ctx context.Context) bool {
	select {
	case <-l.stop:
		return true
	default:
		return ctx.Err() != nil
	}
}

func (l *load) client(ctx context.Context) []sent {
	var all []sent
	var s *source.Session
	defer func() {
		if s != nil {
			_ = s.Quit() // everything was answered
		}
	}()
	for !l.ended(ctx) {
		i := int(l.next.Add(1) - 1)
		if l.messages > 0 && i >= l.messages {
			break
		}
		var m sent
		m, s = l.deliver(ctx, s, i)
		all = append(all, m)
		if l.fresh && s != nil {
			_ = s.Quit() // everything was answered
			s = nil
		}
		if l.every > 0 {
			time.Sleep(l.every)
		}
	}
	return all
}

// deliver tries one message until it is accepted, refused for good, or patience has ended.
func (l *load) deliver(ctx context.Context, s *source.Session, i int) (sent, *source.Session) {
	m := sent{id: fmt.Sprintf("%s-%d", l.name, i)}
	octets := append([]byte("Subject: "+m.id+"\r\n\r\nhi\r\n"), l.padding...)
	letter := source.Message{Reverse: "a@client.example", Forward: []string{l.forward(i)}, Octets: octets}
	begun := time.Now()
	patience := l.patience
	if patience == 0 {
		patience = 20 * time.Second
	}
	for ; ctx.Err() == nil && time.Since(begun) < patience; m.retries++ {
		if m.retries > 0 {
			time.Sleep(max(l.backoff, 50*time.Millisecond))
		}
		if s == nil {
			if s = l.dial(ctx, &m); s == nil {
				continue
			}
		}
		r, err := s.Send(letter)
		if err != nil {
			m.last, m.doubtful = err.Error(), m.doubtful || r.Data.Code == 354
			s.Abort(false)
			s = nil
			continue
		}
		if l.watch != nil {
			l.watch(r)
		}
		switch r.End.Class() {
		case 2:
			m.accepted, m.took = true, time.Since(begun)
			return m, s
		case 5:
			m.refused = r.End.String()
			return m, l.reset(s)
		}
		m.last, m.doubtful = r.End.String(), m.doubtful || r.Data.Code == 354 && strings.HasPrefix(r.End.Text, "4.4.2")
		if s = l.reset(s); r.End.Code == 421 && s != nil {
			s.Abort(false)
			s = nil
		}
	}
	m.took = time.Since(begun)
	return m, s
}

func (l *load) reset(s *source.Session) *source.Session {
	if s.Reset() != nil {
		s.Abort(false)
		return nil
	}
	return s
}

func (l *load) dial(ctx context.Context, m *sent) *source.Session {
	for _, addr := range l.addrs() {
		c := source.Config{Addr: addr}
		if l.networks > 0 {
			c.Local = netip.AddrFrom4([4]byte{127, 0, byte(100 + rand.IntN(l.networks)), 1})
		}
		s, err := source.Dial(ctx, c)
		if err == nil {
			return s
		}
		m.last = err.Error()
	}
	return nil
}

// anyOf returns the addresses of nodes in a random order, as the MX hosts of one preference are tried.
func anyOf(nodes []*member) func() []string {
	return func() []string {
		var addrs []string
		for _, i := range rand.Perm(len(nodes)) {
			addrs = append(addrs, nodes[i].smtp)
		}
		return addrs
	}
}

func only(addr string) func() []string { return func() []string { return []string{addr} } }

func always(forward string) func(int) string { return func(int) string { return forward } }

// A tally is what came of a load when both ends are asked.
type tally struct {
	messages, failed, refused, retried int
	lost                               int // accepted and not at the destination
	doubled                            int // at the destination more than once, and no attempt had been in doubt
	doubtful, doubtfulDoubled          int // where one had been: RFC 1047's case, which no relay can exclude
	slowest                            time.Duration
	example                            string
}

// count asks the destination for what was sent.
func count(all []sent, d *smtptest.Server) tally {
	there := make(map[string]int, len(all))
	for _, m := range d.Messages() {
		there[subject(m.Octets)]++
	}
	var t tally
	for _, m := range all {
		t.messages++
		t.retried += m.retries
		t.slowest = max(t.slowest, m.took)
		n := there[m.id]
		switch {
		case m.refused != "":
			t.refused++
			t.example = m.refused
		case !m.accepted:
			t.failed++
			t.example = m.last
		case n == 0:
			t.lost++
		}
		if m.doubtful {
			t.doubtful++
			t.example = m.last
		}
		switch {
		case n > 1 && m.doubtful:
			t.doubtfulDoubled++
		case n > 1:
			t.doubled++
		}
	}
	return t
}

// subject returns the id of a message, which lies below the fields that the relay added.
func subject(octets []byte) string {
	for line := range strings.SplitSeq(string(octets[:min(len(octets), 2000)]), "\r\n") {
		if id, ok := strings.CutPrefix(line, "Subject: "); ok && strings.Contains(id, "-") {
			return id
		}
	}
	return ""
}

// String tells all that is not zero.
func (t tally) String() string {
	s := fmt.Sprintf("%d messages, %d lost, %d doubled, %d failed", t.messages, t.lost, t.doubled, t.failed+t.refused)
	if t.doubtful > 0 {
		s += fmt.Sprintf(", %d in doubt (%d of them doubled)", t.doubtful, t.doubtfulDoubled)
	}
	if t.retried > 0 {
		s += fmt.Sprintf(", %d retries", t.retried)
	}
	return s + fmt.Sprintf(", slowest %s", t.slowest.Round(time.Millisecond))
}

// err is what must never be.
func (t tally) err() error {
	if t.lost+t.doubled+t.failed+t.refused > 0 || t.messages == 0 {
		return errors.New("want none lost, doubled or failed: " + t.example)
	}
	return nil
}
