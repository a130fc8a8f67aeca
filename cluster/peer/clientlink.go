package peer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// A reply is an answer that came.
type reply struct {
	kind kind
	to   kind // what it answers
	body []byte
}

// A clientLink is a connection to a peer with the one goroutine that reads from it.
type clientLink struct {
	*link
	client  *Client
	node    string
	used    time.Time
	timer   *time.Timer   // of await
	answers chan reply    // what does not fit means that the peer talks out of turn
	ended   chan struct{} // closed when reading ended
	err     error         // why; set before ended is closed

	mu         sync.Mutex
	bye        bool // the peer said goodbye
	closed     bool
	wasCut     bool
	committing bool // COMMIT is being sent, or waits for its answer
}

// read takes frames off the connection until it ends.
func (l *clientLink) read() {
	defer close(l.ended)
	defer l.close()
	for l.err == nil {
		l.err = l.hear()
	}
}

// hear takes one frame off the connection.
func (l *clientLink) hear() error {
	k, n, err := l.next()
	if err != nil {
		return err
	}
	switch k {
	case goodbye:
		l.mu.Lock()
		l.bye = true
		l.mu.Unlock()
		l.client.goodbye(l.node)
		return nil
	case pong:
		return nil
	case ping:
		return l.sign(pong)
	case done, refused, outcomes:
	default:
		return errFrame
	}
	r := reply{kind: k, body: make([]byte, n)}
	if err := l.fill(r.body); err != nil {
		return err
	}
	if r.to = answers(r.body); r.to == 0 {
		return errFrame
	}
	select {
	case l.answers <- r:
		return nil
	default:
		return errFrame
	}
}

// answers gives the kind of the frame that an answer belongs to, which its first field tells.
func answers(f fields) kind {
	if len(f) == 0 {
		return 0
	}
	name, v, _, err := f.next()
	if err != nil || name != fAnswers || len(v) != 1 {
		return 0
	}
	return kind(v[0])
}

// alive reports whether an idle connection can be used: it did not end, the peer did not say goodbye, and nothing came
// unasked.
func (l *clientLink) alive() bool {
	select {
	case <-l.ended:
		return false
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.bye && !l.closed && len(l.answers) == 0
}

// why gives the reason for which the connection is of no more use, where there is a better one than that which the caller
// met.
func (l *clientLink) why(met error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.wasCut:
		return errCut
	case l.bye:
		return errGoodbye
	}
	return met
}

// close closes the socket without a word of TLS, which the peer might not take: frames tell what is whole.
func (l *clientLink) close() {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if first {
		l.raw.Close()
	}
}

// cut closes the socket unless COMMIT is out.
func (l *clientLink) cut() {
	l.mu.Lock()
	committing := l.committing
	if !committing {
		l.closed, l.wasCut = true, true
	}
	l.mu.Unlock()
	if !committing {
		l.raw.Close()
	}
}

// setCommitting notes that COMMIT goes out, or was answered. It reports whether the connection stands.
func (l *clientLink) setCommitting(v bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committing = v
	return !l.closed
}

// await waits for the next answer until a moment (zero: for ever) and for as long as ctx is not over, and asks for a sign of
// life when it takes long.
func (l *clientLink) await(ctx context.Context, until time.Time) (reply, error) {
	select {
	case r := <-l.answers:
		return r, nil
	default:
	}
	quiet := silence{heard: l.heard()}
	next := time.Now().Add(l.beat)
	defer l.timer.Stop()
	for {
		at := next
		if !until.IsZero() && until.Before(at) {
			at = until
		}
		l.timer.Reset(time.Until(at))
		select {
		case r := <-l.answers:
			return r, nil
		case <-l.ended:
			return l.last()
		case <-ctx.Done():
			return reply{}, ctx.Err()
		case <-l.timer.C:
		}
		now := time.Now()
		if !until.IsZero() && !now.Before(until) {
			return reply{}, context.DeadlineExceeded
		}
		if now.Before(next) {
			continue
		}
		next = now.Add(l.beat)
		if quiet.beat(l.heard()) {
			return reply{}, errSilent
		}
		if err := l.sign(ping); err != nil {
			return reply{}, err
		}
	}
}

// last gives an answer that came before the connection ended, or why it ended.
func (l *clientLink) last() (reply, error) {
	select {
	case r := <-l.answers:
		return r, nil
	default:
		return reply{}, l.err
	}
}

// ourOwn are errors of a hop that do not say that the peer cannot be reached.
func ourOwn(err error) bool {
	return slices.ContainsFunc([]error{context.DeadlineExceeded, context.Canceled, errGoodbye, errCut}, func(e error) bool { return errors.Is(err, e) })
}
