package rate

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/ingress/ingresstest"
	"github.com/millrace/millrace/router/mail"
)

// A counter is a store as mail.Rate has it: the generic cell rate algorithm, units drawn together or not at all.
type counter struct {
	ingresstest.Store
	mu      sync.Mutex
	now     time.Time
	arrival map[counted]time.Time
	calls   int
	entered chan struct{} // if set, has a token for each call that waits
	hold    chan struct{} // if set, a call waits until it is closed or its context ends
}

type counted struct {
	client      netip.Prefix
	group, name string
}

func newCounter() *counter {
	return &counter{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), arrival: map[counted]time.Time{}}
}

func (c *counter) Rates(ctx context.Context, rates []mail.Rate) ([]mail.RateResult, error) {
	if c.hold != nil {
		c.entered <- struct{}{}
		select {
		case <-c.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	results := make([]mail.RateResult, len(rates))
	for first := 0; first < len(rates); {
		last, fits := first, true
		moved := map[counted]time.Time{}
		for ; last < len(rates) && rates[last].Unit == rates[first].Unit; last++ {
			r := &rates[last]
			key := counted{r.Client, r.Group, r.Name}
			if _, twice := moved[key]; twice {
				panic("a counter stands twice in a unit: " + r.Name)
			}
			burst, cost := r.Burst, max(1, r.Cost)
			if burst == 0 {
				burst = r.Count
			}
			interval := r.Per / time.Duration(r.Count)
			at := c.arrival[key]
			if at.Before(c.now) {
				at = c.now
			}
			at = at.Add(interval * time.Duration(cost))
			wait := at.Sub(c.now) - interval*time.Duration(burst)
			if r.Happened && !r.Peek {
				wait = 0
			}
			results[last] = mail.RateResult{Allowed: wait <= 0, RetryAfter: max(0, wait)}
			fits = fits && wait <= 0
			if moved[key] = at; r.Peek {
				moved[key] = c.arrival[key]
			}
		}
		if fits {
			for key, at := range moved {
				c.arrival[key] = at
			}
		}
		first = last
	}
	return results, nil
}

// room is how many of a rate could be drawn now.
func (c *counter) room(r mail.Rate) int {
	r.Peek = true
	for n := 1; ; n++ {
		r.Cost = n
		if results, _ := c.Rates(context.Background(), []mail.Rate{r}); !results[0].Allowed {
			return n - 1
		}
	}
}

var (
	key    = []byte("a key of sixteen")
	sender = mail.Path{Local: "s", Domain: "s.test"}
)

func limits(t testing.TB, c Config) *Limits {
	t.Helper()
	c.Key = key
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func rcpts(t testing.TB, addresses ...string) []Rcpt {
	var list []Rcpt
	for _, a := range addresses {
		list = append(list, Rcpt{Forward: ingresstest.Path(a)})
	}
	return list
}

// send returns the reply to each recipient of a group as refusals does, and brings the message to those that it is not
// for.
func send(t testing.TB, c *counter, l *Limits, q RcptQuestion) []string {
	t.Helper()
	texts := refusals(t, c, l, q)
	took := q
	took.Rcpts, took.First = nil, false
	for i, text := range texts {
		if text == "" {
			took.Rcpts, took.First = append(took.Rcpts, q.Rcpts[i]), q.First
		}
	}
	draw(t, c, l.Ended(took, true))
	return texts
}

// draw draws rates as a Background does.
func draw(t testing.TB, c *counter, rates []mail.Rate) {
	t.Helper()
	for i := range rates {
		rates[i].Unit = i + 1
	}
	if _, err := c.Rates(context.Background(), rates); err != nil {
		t.Fatal(err)
	}
}

// refusals returns the reply to each recipient of a group, "" if it is within its rates.
func refusals(t testing.TB, c *counter, l *Limits, q RcptQuestion) []string {
	t.Helper()
	rates := l.Rcpt(q)
	results, err := c.Rates(context.Background(), rates)
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, len(q.Rcpts))
	for i := range q.Rcpts {
		if r := l.RcptRefusal(rates, results, i); r != nil {
			texts[i] = r.Reply.String()
		}
	}
	return texts
}

var client = netip.MustParseAddr("203.0.113.9")
