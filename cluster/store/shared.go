package store

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A shared is the Redis of a store: the client, the breaker before it, and how a stage's calls travel.
type shared struct {
	client    redis.UniversalClient
	clustered bool
	keyring
	scripts

	timeout time.Duration
	breaker breaker
	now     func() time.Time
	observe func(time.Duration, error)
	log     *slog.Logger

	head atomic.Value // string: that of the rules, as it was last seen

	foreign atomic.Int64 // when it was last logged that keys hold what is not ours, of now in nanoseconds

	trips, failures, skipped, crowded, reloads, refunds, opened atomic.Uint64
}

// newShared makes the client of a Config with defaults, nil without a URL. It connects to nothing yet.
func newShared(c Config) (*shared, error) {
	options, err := c.options()
	if options == nil {
		return nil, err
	}
	redis.SetLogger(libraryLog{c.Log})
	return &shared{
		client:    redis.NewUniversalClient(options),
		clustered: clustered(options),
		keyring:   keyring{c.Prefix},
		scripts:   newScripts(),
		timeout:   c.Timeout,
		breaker:   breaker{failures: c.Failures, pause: c.Pause},
		now:       c.Now,
		observe:   c.Observe,
		log:       c.Log,
	}, nil
}

// libraryLog takes what the Redis client would print, which is a line for every failed dial.
type libraryLog struct{ log *slog.Logger }

// Printf logs at level debug without making the text when nobody reads it.
func (l libraryLog) Printf(ctx context.Context, format string, v ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "redis client", "format", format, "args", v)
	}
}

// A call is one script with its keys and arguments, or one command.
type call struct {
	script script // zero for a command
	cmd    *redis.Cmd
}

// eval makes a call of a script.
func eval(ctx context.Context, s script, keys []string, args []any) call {
	line := make([]any, 0, 3+len(keys)+len(args))
	line = append(line, "EVALSHA", s.sha, len(keys))
	for _, k := range keys {
		line = append(line, k)
	}
	line = append(line, args...)
	return call{s, redis.NewCmd(ctx, line...)}
}

// command makes a call of a command whose first argument is its key.
func command(ctx context.Context, line ...any) call {
	return call{cmd: redis.NewCmd(ctx, line...)}
}

// run sends the calls in one round trip and tells whether all were answered; read, unless it is nil, then judges the
// answers. Whatever goes wrong is counted, and is the breaker's affair; the caller goes on with what it knows itself.
func (s *shared) run(ctx context.Context, calls []call, read func([]call) error) bool {
	began := s.now()
	if ctx.Err() != nil || !s.breaker.allow(began) {
		s.skipped.Add(1)
		return false
	}
	s.trips.Add(1)
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	err := s.send(bounded, calls)
	cancel()
	if err == nil && read != nil {
		if err = read(calls); err != nil {
			err = &nonsense{err}
		}
	}
	ended := s.now()
	if s.observe != nil {
		s.observe(ended.Sub(began), err)
	}
	s.judge(ctx, err, ended)
	return err == nil
}

// A nonsense is the error of an answer that cannot be read.
type nonsense struct{ error }

// oneKey tells whether an error is about the keys that were asked for rather than about Redis: something foreign lies
// there. That costs those who ask for them the twin's answer, and nobody else anything.
func oneKey(err error) bool {
	var n *nonsense
	return errors.As(err, &n) || redis.HasErrorPrefix(err, "WRONGTYPE")
}

// judge tells the breaker how a round trip ended, and the log when that changed something.
func (s *shared) judge(ctx context.Context, err error, now time.Time) {
	how := answered
	switch {
	case err == nil:
	case errors.Is(err, redis.ErrPoolTimeout):
		// Those who hold the connections know more about Redis.
		how = untold
		s.crowded.Add(1)
	case errors.Is(ctx.Err(), context.Canceled):
		how = untold
	case oneKey(err):
		how = answered
		s.failures.Add(1)
		s.tellForeign(err, now)
	default:
		how = failed
		s.failures.Add(1)
		// The library asks who owns a slot only when a server points elsewhere, which a dead one does not, and else
		// once a minute. It does so in the background, one at a time.
		if c, ok := s.client.(*redis.ClusterClient); ok {
			c.ReloadState(ctx)
		}
	}
	opened, closed := s.breaker.report(how, now)
	if opened {
		s.opened.Add(1)
		s.log.Warn("redis does not answer: this node goes on with what it knows itself", "cause", err)
	}
	if closed {
		s.log.Info("redis answers again")
	}
}

// foreignPause is how long nothing more is logged of keys that hold what is not ours: each client may meet one.
const foreignPause = time.Minute

// tellForeign logs that a key holds what is not ours, which stays so until somebody deletes it.
func (s *shared) tellForeign(err error, now time.Time) {
	last := s.foreign.Load()
	if at := now.UnixNano(); (last == 0 || at-last >= int64(foreignPause)) && s.foreign.CompareAndSwap(last, at) {
		s.log.Warn("redis holds what is not ours under a key of ours: this node goes on with what it knows itself",
			"prefix", s.prefix, "cause", err)
	}
}

// send does the round trip. Scripts that Redis does not have, because it is new or was restarted, are sent whole, which
// makes it keep them.
func (s *shared) send(ctx context.Context, calls []call) error {
	err := s.exchange(ctx, calls)
	if !redis.HasErrorPrefix(err, "NOSCRIPT") {
		return err
	}
	var lost []call
	for i := range calls {
		c := &calls[i]
		switch err := c.cmd.Err(); {
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			line := c.cmd.Args()
			line[0], line[1] = "EVAL", c.script.source
			c.cmd = redis.NewCmd(ctx, line...)
			lost = append(lost, *c)
		case err != nil:
			return err
		}
	}
	s.reloads.Add(1)
	return s.exchange(ctx, lost)
}

// exchange sends commands and waits for the answers. The error is that of the first command that has one.
func (s *shared) exchange(ctx context.Context, calls []call) error {
	if len(calls) == 1 {
		return s.client.Process(ctx, calls[0].cmd)
	}
	pipe := s.client.Pipeline()
	for i := range calls {
		_ = pipe.Process(ctx, calls[i].cmd) // queued; Exec has the error
	}
	_, err := pipe.Exec(ctx)
	return err
}

func (s *shared) close() error { return s.client.Close() }
