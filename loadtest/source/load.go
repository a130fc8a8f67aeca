package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Load is a bounded number of messages over a bounded number of sessions at a time.
type Load struct {
	Config   Config
	Sessions int     // at a time; 0: 1
	Messages int     // in all; 0: as many as fit until the context ends
	Message  Message // the same each time
	Reuse    bool    // a session carries message after message, instead of one
}

// A Report tells how a Load went. A message counts once: as accepted, refused (a 4yz or 5yz), or failed (no answer).
type Report struct {
	Accepted, Refused, Failed int
	// of accepted messages in microseconds: from MAIL, or the connection without Reuse, to the 2yz
	Latency *hdrhistogram.Histogram
	Took    time.Duration
	First   error // the first thing that went wrong, nil if nothing did
}

// Quantile returns the latency at q percent.
func (r *Report) Quantile(q float64) time.Duration {
	return time.Duration(r.Latency.ValueAtQuantile(q)) * time.Microsecond
}

// Run sends the messages and returns when all were answered or ctx ended.
func (l Load) Run(ctx context.Context) *Report {
	total := &Report{Latency: NewHistogram()}
	var (
		mu   sync.Mutex // over total and left
		wg   sync.WaitGroup
		left = l.Messages
	)
	take := func() bool {
		mu.Lock()
		defer mu.Unlock()
		if l.Messages == 0 {
			return ctx.Err() == nil
		}
		left--
		return left >= 0 && ctx.Err() == nil
	}
	begun := time.Now()
	for range max(1, l.Sessions) {
		wg.Go(func() { // ends when the messages are sent or ctx ends
			r := l.worker(ctx, take)
			mu.Lock()
			defer mu.Unlock()
			total.add(r)
		})
	}
	wg.Wait()
	total.Took = time.Since(begun)
	return total
}

func (r *Report) add(o *Report) {
	r.Accepted += o.Accepted
	r.Refused += o.Refused
	r.Failed += o.Failed
	r.Latency.Merge(o.Latency)
	if r.First == nil {
		r.First = o.First
	}
}

// worker is one session after another, until take says that there is nothing left.
func (l Load) worker(ctx context.Context, take func() bool) *Report {
	r := &Report{Latency: NewHistogram()}
	var s *Session
	for take() {
		begun := time.Now()
		var err error
		if s == nil {
			if s, err = Dial(ctx, l.Config); err != nil {
				r.count(ctx, Result{}, err)
				continue
			}
		}
		result, err := s.Send(l.Message)
		if r.count(ctx, result, err) {
			_ = r.Latency.RecordValue(time.Since(begun).Microseconds()) // the range is beyond every time-out
		}
		switch {
		case err != nil:
			s.Abort(false)
			s = nil
		case !l.Reuse:
			_ = s.Quit() // the message was answered
			s = nil
		case result.End.Class() != 2:
			if s.Reset() != nil {
				s.Abort(false)
				s = nil
			}
		}
	}
	if s != nil {
		_ = s.Quit() // likewise
	}
	return r
}

// count enters one message and reports whether it was accepted.
func (r *Report) count(ctx context.Context, result Result, err error) bool {
	var refused *RefusedError
	switch {
	case err != nil && ctx.Err() != nil:
		return false
	case errors.As(err, &refused), err == nil && result.End.Class() != 2:
		r.Refused++
		if err == nil {
			err = fmt.Errorf("refused: %s", result.End)
		}
	case err != nil:
		r.Failed++
	default:
		r.Accepted++
		return true
	}
	if r.First == nil {
		r.First = err
	}
	return false
}

// NewHistogram returns an empty one for times in microseconds, whose range is beyond every time-out.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, (10 * time.Minute).Microseconds(), 3)
}
