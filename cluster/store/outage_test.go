package store

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/cluster/logtest"
	"github.com/millrace/millrace/router/mail"
)

// A replying is the Redis of a Store whose replies a test makes up, at times of its own.
type replying struct {
	*Store
	now  time.Time
	seen []mail.Event
	log  logtest.Log
}

func newReplying(t *testing.T) *replying {
	r := &replying{now: time.Unix(1700000000, 0)}
	r.Store = open(t, Config{
		URL: "redis://127.0.0.1:1", Emit: func(e mail.Event) { r.seen = append(r.seen, e) },
		Log: slog.New(slog.NewTextHandler(&r.log, nil)), Now: func() time.Time { return r.now },
	})
	return r
}

// ask does n round trips, one each 10 ms as far as the breaker lets them, of which each that isSlow says has no reply.
func (r *replying) ask(t *testing.T, n int, isSlow func(i int) bool) {
	t.Helper()
	for i := range n {
		r.now = r.now.Add(10 * time.Millisecond)
		if !r.redis.breaker.allow(r.now) {
			continue
		}
		var err error
		if isSlow(i) {
			err = errors.New("i/o timeout")
		}
		r.redis.record(context.Background(), err, r.now)
	}
}

func always(int) bool { return true }
func never(int) bool  { return false }

// TestStore_BusyMoments: a busy node whose Redis takes too long now and then, so that it is skipped for a second more
// than a hundred times in ten minutes, tells nothing of it.
func TestStore_BusyMoments(t *testing.T) {
	r := newReplying(t)
	r.ask(t, 60000, func(i int) bool { return i%500 < 3 })
	if opened := r.Stats().Opened; opened < 110 || len(r.seen) != 0 || r.log.String() != "" {
		t.Errorf("skipped %d times, told %v, log %s", opened, r.seen, r.log.String())
	}
}

// TestStore_Outage: an outage is told once, after ten seconds, and its end once Redis has answered for as long.
func TestStore_Outage(t *testing.T) {
	r := newReplying(t)
	r.ask(t, 1000, never)
	r.ask(t, 900, always)
	if len(r.seen) != 0 {
		t.Errorf("told %v within nine seconds", r.seen)
	}
	r.ask(t, 20000, always)
	if len(r.seen) != 1 || r.seen[0].Reason != reasonUnanswered || r.seen[0].Cause == nil {
		t.Errorf("told %v", r.seen)
	}
	r.ask(t, 900, never)
	r.ask(t, 300, always) // once more
	r.ask(t, 300, never)
	if strings.Contains(r.log.String(), "again") {
		t.Error("it is over before ten seconds of answers")
	}
	r.ask(t, 600, never)
	if n := r.log.Count("redis answers again"); n != 1 || len(r.seen) != 1 {
		t.Errorf("its end was logged %d times, and told %v", n, r.seen)
	}
}

// TestStore_MostlySkipped: a Redis that answers, but is skipped most of the time, is told of.
func TestStore_MostlySkipped(t *testing.T) {
	r := newReplying(t)
	r.ask(t, 60000, func(i int) bool { return i%250 < 150 })
	if len(r.seen) != 1 {
		t.Errorf("told %v", r.seen)
	}
}
