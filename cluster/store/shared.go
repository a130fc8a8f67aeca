package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/router/mail"
)

// A shared is the Redis of a store: its client and breaker, and the round trips to it.
type shared struct {
	client    redis.UniversalClient
	clustered bool
	keyring
	scripts

	timeout time.Duration
	breaker breaker
	wait    int     // replicas
	waits   breaker // for replicas
	now     func() time.Time
	observe func(time.Duration, error)
	emit    func(mail.Event)
	log     *slog.Logger

	rules, account shelf

	foreignLogged atomic.Int64 // when tellForeign last logged, in nanoseconds of now

	counters counters
}

// counters are those of Stats that concern Redis.
type counters struct {
	trips, failures, skipped, crowded, reloads, refunds, opened, unreplicated atomic.Uint64
}

// newShared returns the Redis of a Config with defaults, nil without a URL. It does not connect yet.
func newShared(c Config) (*shared, error) {
	options, err := c.options()
	switch {
	case err != nil: // a nil *FieldError must not become an error
		return nil, err
	case options == nil:
		return nil, nil
	}
	redis.SetLogger(libraryLog{c.Log})
	return &shared{
		client:    redis.NewUniversalClient(options),
		clustered: clustered(options),
		keyring:   keyring{c.Prefix},
		scripts:   newScripts(),
		timeout:   c.Timeout,
		breaker: breaker{
			failures: c.tune.failures, pause: c.tune.pause, outage: outage{tell: c.tune.tell},
		},
		wait: c.Wait,
		waits: breaker{
			failures: c.tune.failures, pause: c.tune.pause, outage: outage{tell: c.tune.tell},
		},
		rules:   shelf{group: groupRules},
		account: shelf{group: groupAccount},
		now:     c.Now,
		observe: c.Observe,
		emit:    c.Emit,
		log:     c.Log,
	}, nil
}

// libraryLog logs what the Redis client would print, which is a line for each failed dial.
type libraryLog struct{ log *slog.Logger }

// Printf logs at level debug. It does not format the text.
func (l libraryLog) Printf(ctx context.Context, format string, v ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "redis client", "format", format, "args", v)
	}
}

// A call is a call of a script with its keys and arguments, or of a command.
type call struct {
	script script // zero for a command
	cmd    *redis.Cmd
	waits  bool // for replicas to have what the calls before it wrote
}

// eval returns a call of a script.
func eval(ctx context.Context, s script, keys []string, args []any) call {
	line := make([]any, 0, 3+len(keys)+len(args))
	line = append(line, "EVALSHA", s.sha, len(keys))
	for _, k := range keys {
		line = append(line, k)
	}
	line = append(line, args...)
	return call{script: s, cmd: redis.NewCmd(ctx, line...)}
}

// command returns a call of a command whose first argument is its key.
func command(ctx context.Context, line ...any) call {
	return call{cmd: redis.NewCmd(ctx, line...)}
}

// run sends calls in one round trip and reports whether all were answered and read accepts the answers. nil accepts any
// answers. Errors are counted and reported to the breaker; the caller falls back to the local store.
func (s *shared) run(ctx context.Context, calls []call, read func([]call) error) bool {
	began := s.now()
	if ctx.Err() != nil || !s.breaker.allow(began) {
		s.counters.skipped.Add(1)
		return false
	}
	s.counters.trips.Add(1)
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	err := s.send(bounded, calls)
	cancel()
	if err == nil && read != nil {
		if err = read(calls); err != nil {
			err = &badAnswer{err}
		}
	}
	ended := s.now()
	if s.observe != nil {
		s.observe(ended.Sub(began), err)
	}
	s.record(ctx, err, ended)
	return err == nil
}

// A badAnswer is the error of an answer that cannot be read.
type badAnswer struct{ error }

// isForeign reports whether an error says that a key holds the value of another program. It concerns the queries of
// that key and not Redis as a whole.
func isForeign(err error) bool {
	var n *badAnswer
	return errors.As(err, &n) || redis.HasErrorPrefix(err, "WRONGTYPE")
}

// record counts the result of a round trip, reports it to the breaker and tells the administrator what there is to
// tell.
func (s *shared) record(ctx context.Context, err error, now time.Time) {
	how := answered
	switch {
	case err == nil:
	case errors.Is(err, redis.ErrPoolTimeout):
		// The round trips that hold the connections will report more about Redis.
		how = inconclusive
		s.counters.crowded.Add(1)
	case errors.Is(ctx.Err(), context.Canceled):
		how = inconclusive
	case isForeign(err):
		how = answered
		s.counters.failures.Add(1)
		s.tellForeign(err, now)
	default:
		how = failed
		s.counters.failures.Add(1)
		// The library asks which server owns a slot when a server redirects it, which a dead one does not, and else
		// once a minute. ReloadState does it in the background, one at a time.
		if c, ok := s.client.(*redis.ClusterClient); ok {
			c.ReloadState(ctx)
		}
	}
	opened, tell := s.breaker.report(how, now)
	if opened {
		s.counters.opened.Add(1)
	}
	switch tell {
	case begun:
		s.emit(mail.Event{Kind: mail.Anomaly, Time: now, Reason: reasonUnanswered, Cause: err})
	case over:
		s.log.Info("redis answers again")
	}
}

// The reasons of anomalies. With the first and the last the node goes on with what it knows itself.
const (
	reasonUnanswered = "redis does not answer"
	reasonReplicas   = "redis has too few replicas"
	reasonForeign    = "redis holds what is not ours under a key of ours"
)

// foreignPause is the minimum time between two events of tellForeign, because each client may cause one.
const foreignPause = time.Minute

// tellForeign tells that a key holds the value of another program, which stays so until an administrator deletes it.
func (s *shared) tellForeign(err error, now time.Time) {
	last, at := s.foreignLogged.Load(), now.UnixNano()
	if (last == 0 || at-last >= int64(foreignPause)) && s.foreignLogged.CompareAndSwap(last, at) {
		s.emit(mail.Event{
			Kind: mail.Anomaly, Time: now, Reason: reasonForeign, Cause: fmt.Errorf("prefix %s: %w", s.prefix, err),
		})
	}
}

// send does a round trip. Scripts that Redis does not have, because it is new or was restarted, are sent again with
// their source, which Redis keeps.
func (s *shared) send(ctx context.Context, calls []call) error {
	err := s.exchange(ctx, calls)
	if !redis.HasErrorPrefix(err, "NOSCRIPT") {
		return err
	}
	var missing []call
	for i := range calls {
		c := &calls[i]
		switch err := c.cmd.Err(); {
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			line := c.cmd.Args()
			line[0], line[1] = "EVAL", c.script.source
			c.cmd = redis.NewCmd(ctx, line...)
			missing = append(missing, *c)
		case c.waits && (err == nil || isRefusal(err)): // it waited for less than what is to be written
			c.cmd = redis.NewCmd(ctx, c.cmd.Args()...)
			missing = append(missing, *c)
		case err != nil:
			return err
		}
	}
	s.counters.reloads.Add(1)
	return s.exchange(ctx, missing)
}

// replicas returns the call that waits for replicas behind a write, unless the last ones waited in vain.
func (s *shared) replicas(ctx context.Context) (c call, waits bool) {
	if s.wait == 0 {
		return c, false
	}
	if !s.waits.allow(s.now()) {
		s.counters.unreplicated.Add(1)
		return c, false
	}
	c = command(ctx, "WAIT", s.wait, millis(s.timeout/3))
	c.waits = true
	return c, true
}

// replicated takes the answer to that call, which may have none.
func (s *shared) replicated(c *redis.Cmd) {
	how, refused := inconclusive, isRefusal(c.Err())
	switch n, ok := c.Val().(int64); {
	case ok && n >= int64(s.wait):
		how = answered
	case ok || refused:
		how = failed
		s.counters.unreplicated.Add(1)
	}
	now := s.now()
	switch _, tell := s.waits.report(how, now); tell {
	case begun:
		why := fmt.Sprintf("%d are wanted", s.wait)
		if refused {
			why = c.Err().Error()
		}
		s.emit(mail.Event{
			Kind: mail.Anomaly, Time: now, Reason: reasonReplicas,
			Cause: errors.New(why + ": what the ledger writes is lost with the master"),
		})
	case over:
		s.log.Info("redis has enough replicas again")
	}
}

// isRefusal reports whether an error is what a server has answered.
func isRefusal(err error) bool {
	var refusal redis.Error
	return errors.As(err, &refusal)
}

// exchange sends calls and waits for the answers. The error is that of the first call that has one. That a server does
// not wait for replicas, because its user may not or a proxy does not know how, is no error: the calls before that one
// are done.
func (s *shared) exchange(ctx context.Context, calls []call) error {
	if len(calls) == 1 {
		return s.client.Process(ctx, calls[0].cmd)
	}
	pipe := s.client.Pipeline()
	for i := range calls {
		_ = pipe.Process(ctx, calls[i].cmd) // queued; Exec has the error
	}
	_, err := pipe.Exec(ctx)
	if last := &calls[len(calls)-1]; last.waits && isRefusal(last.cmd.Err()) {
		for i := range calls[:len(calls)-1] {
			if err := calls[i].cmd.Err(); err != nil {
				return err
			}
		}
		return nil
	}
	return err
}

func (s *shared) close() error { return s.client.Close() }
