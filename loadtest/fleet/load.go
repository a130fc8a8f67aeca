package fleet

import (
	"bytes"
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

// A Load is senders that behave as real ones do: what was not accepted stays with them and is tried again, at whatever
// address takes the connection, until it was accepted or refused for good. The reverse-path of a message begins with
// its id, by which the log of a node names it.
type Load struct {
	Name     string             // of the messages, unique in a run
	Addrs    func() []string    // in the order to try, asked for each connection
	Forward  func(i int) string // the forward-path of message i
	Octets   int                // of a message, at most; 0: a few
	Size     func(i int) int    // of message i in octets, less what its last line lacks; nil: Octets
	Fresh    bool               // a connection for each message
	Clients  int                // at a time
	Messages int                // 0: until Stop is closed
	Stop     <-chan struct{}    // may be nil
	Every    time.Duration      // the pause of a client between two messages; 0: none
	Rate     float64            // an open loop: so many messages a second are due, each at its time, whatever became of
	// those before; what is late because all clients were busy has taken so much longer. 0: as fast as it goes
	Backoff  time.Duration        // before a message is tried again; 0: 50 ms
	Patience time.Duration        // until a message is given up; 0: 20 s
	Timeout  time.Duration        // of each reply; 0: that of a source.Session
	Pace     source.Pace          // how fast the octets of a message are sent
	Watch    func(source.Result)  // sees every answer; may be nil
	Networks int                  // how many the clients come from; 0: one
	Dial     func(*source.Config) // changes how a connection is made and what is spoken on it; may be nil

	next    atomic.Int64 // the number of the next message
	padding []byte       // behind the header section
}

// A Sent is what became of one message.
type Sent struct {
	ID       string
	Accepted bool
	Refused  string // the 5yz
	Last     string // the last thing that went wrong
	Retries  int
	Deferred int  // replies of 4yz
	Doubtful bool // an attempt ended after the end of data and without a word of the destination
	// DoubtAt are the addresses at which an attempt ended so
	DoubtAt []string
	Begun   time.Time     // the first attempt
	Took    time.Duration // from the first attempt, or when it was due, to the answer that ended it
}

// Run sends and returns when all is answered.
func (l *Load) Run(ctx context.Context) []Sent {
	if l.Octets > 0 {
		l.padding = source.Body(l.Octets)
	}
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex // over all
		all []Sent
	)
	begun := time.Now()
	for range l.Clients {
		wg.Go(func() { // ends when there are no more messages, or with ctx
			own := l.client(ctx, begun)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	return all
}

func (l *Load) ended(ctx context.Context) bool {
	select {
	case <-l.Stop:
		return true
	default:
		return ctx.Err() != nil
	}
}

func (l *Load) client(ctx context.Context, begun time.Time) []Sent {
	var all []Sent
	var s *source.Session
	defer func() {
		if s != nil {
			_ = s.Quit() // everything was answered
		}
	}()
	for !l.ended(ctx) {
		i := int(l.next.Add(1) - 1)
		if l.Messages > 0 && i >= l.Messages {
			break
		}
		due := l.await(ctx, begun, i)
		var m Sent
		m, s = l.deliver(ctx, s, i, due)
		all = append(all, m)
		if l.Fresh && s != nil {
			_ = s.Quit() // everything was answered
			s = nil
		}
		if l.Every > 0 {
			time.Sleep(l.Every)
		}
	}
	return all
}

// await waits until message i is due, and returns from when on it takes time.
func (l *Load) await(ctx context.Context, begun time.Time, i int) time.Time {
	if l.Rate == 0 {
		return time.Now()
	}
	due := begun.Add(time.Duration(float64(i) / l.Rate * float64(time.Second)))
	if wait := time.Until(due); wait > 0 {
		Rest(ctx, wait)
	}
	return due
}

// deliver tries one message until it is accepted, refused for good, or patience has ended.
func (l *Load) deliver(ctx context.Context, s *source.Session, i int, begun time.Time) (Sent, *source.Session) {
	m := Sent{ID: fmt.Sprintf("%s-%d", l.Name, i), Begun: time.Now()}
	padding := l.padding
	if l.Size != nil {
		padding = padding[:min(l.Size(i), len(padding))]
		padding = padding[:1+bytes.LastIndexByte(padding, '\n')]
	}
	octets := append([]byte("Subject: "+m.ID+"\r\n\r\nhi\r\n"), padding...)
	letter := source.Message{Reverse: m.ID + "@client.example", Forward: []string{l.Forward(i)}, Octets: octets}
	patience := l.Patience
	if patience == 0 {
		patience = 20 * time.Second
	}
	for ; ctx.Err() == nil && time.Since(begun) < patience; m.Retries++ {
		if m.Retries > 0 {
			time.Sleep(max(l.Backoff, 50*time.Millisecond))
		}
		if s == nil {
			if s = l.dial(ctx, &m); s == nil {
				continue
			}
		}
		r, err := s.Send(letter)
		if err != nil {
			m.Last = err.Error()
			if r.Data.Code == 354 {
				m.doubt(s)
			}
			s.Abort(false)
			s = nil
			continue
		}
		if l.Watch != nil {
			l.Watch(r)
		}
		switch r.End.Class() {
		case 2:
			m.Accepted, m.Took = true, time.Since(begun)
			return m, s
		case 4:
			m.Deferred++
		case 5:
			m.Refused = r.End.String()
			return m, l.reset(s)
		}
		if m.Last = r.End.String(); r.Data.Code == 354 && strings.HasPrefix(r.End.Text, "4.4.2") {
			m.doubt(s)
		}
		if s = l.reset(s); r.End.Code == 421 && s != nil {
			s.Abort(false)
			s = nil
		}
	}
	m.Took = time.Since(begun)
	return m, s
}

// doubt notes that the message may have been delivered.
func (m *Sent) doubt(s *source.Session) { m.Doubtful, m.DoubtAt = true, append(m.DoubtAt, s.Addr()) }

func (l *Load) reset(s *source.Session) *source.Session {
	if s.Reset() != nil {
		s.Abort(false)
		return nil
	}
	return s
}

func (l *Load) dial(ctx context.Context, m *Sent) *source.Session {
	for _, addr := range l.Addrs() {
		c := source.Config{Addr: addr, Timeout: l.Timeout, Pace: l.Pace}
		if l.Networks > 0 {
			c.Local = netip.AddrFrom4([4]byte{127, 0, byte(100 + rand.IntN(l.Networks)), 1})
		}
		if l.Dial != nil {
			l.Dial(&c)
		}
		s, err := source.Dial(ctx, c)
		if err == nil {
			return s
		}
		m.Last = err.Error()
	}
	return nil
}

// AnyOf returns the addresses of nodes in a random order, as the MX hosts of one preference are tried.
func AnyOf(nodes []*Member) func() []string {
	return func() []string {
		var addrs []string
		for _, i := range rand.Perm(len(nodes)) {
			addrs = append(addrs, nodes[i].SMTP)
		}
		return addrs
	}
}

// Only is one address.
func Only(addr string) func() []string { return func() []string { return []string{addr} } }

// Always is one forward-path.
func Always(forward string) func(int) string { return func(int) string { return forward } }

// A Tally is what came of a load when both ends are asked.
type Tally struct {
	Messages, Failed, Refused, Retried int
	Lost                               int // accepted and not at the destination
	Doubled                            int // at the destination more than once, and no attempt had been in doubt
	Doubtful, DoubtfulDoubled          int // where one had been: RFC 1047's case, which no relay can exclude
	Slowest                            time.Duration
	Example                            string
}

// Count asks the destination for what was sent.
func Count(all []Sent, d *smtptest.Server) Tally {
	there := make(map[string]int, len(all))
	for _, m := range d.Messages() {
		there[ID(m.Octets)]++
	}
	return Compare(all, there)
}

// Compare holds what was sent to how often each message is there.
func Compare(all []Sent, there map[string]int) Tally {
	var t Tally
	for _, m := range all {
		t.Messages++
		t.Retried += m.Retries
		t.Slowest = max(t.Slowest, m.Took)
		n := there[m.ID]
		switch {
		case m.Refused != "":
			t.Refused++
			t.Example = m.Refused
		case !m.Accepted:
			t.Failed++
			t.Example = m.Last
		case n == 0:
			t.Lost++
		}
		if m.Doubtful {
			t.Doubtful++
			t.Example = m.Last
		}
		switch {
		case n > 1 && m.Doubtful:
			t.DoubtfulDoubled++
		case n > 1:
			t.Doubled++
		}
	}
	return t
}

// ID returns the id of a message, which lies below the fields that the relay added.
func ID(octets []byte) string {
	for line := range strings.SplitSeq(string(octets[:min(len(octets), 2000)]), "\r\n") {
		if id, ok := strings.CutPrefix(line, "Subject: "); ok && strings.Contains(id, "-") {
			return id
		}
	}
	return ""
}

// String tells all that is not zero.
func (t Tally) String() string {
	s := fmt.Sprintf("%d messages, %d lost, %d doubled, %d failed", t.Messages, t.Lost, t.Doubled, t.Failed+t.Refused)
	if t.Doubtful > 0 {
		s += fmt.Sprintf(", %d in doubt (%d of them doubled)", t.Doubtful, t.DoubtfulDoubled)
	}
	if t.Retried > 0 {
		s += fmt.Sprintf(", %d retries", t.Retried)
	}
	return s + fmt.Sprintf(", slowest %s", t.Slowest.Round(time.Millisecond))
}

// Err is what must never be.
func (t Tally) Err() error {
	if t.Lost+t.Doubled+t.Failed+t.Refused > 0 || t.Messages == 0 {
		return errors.New("want none lost, doubled or failed: " + t.Example)
	}
	return nil
}
