package peer

import (
	"context"
	"errors"
	"os"
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

// A clientLink is a connection to a peer. Whoever waits for an answer reads it itself, because to be woken up by
// another one costs more than the rest of a small message. If that takes a beat, or nobody waits for a moment, a
// goroutine listens: it hears signs of life, goodbye and the end of the connection, and ends with the answer that it
// takes to whoever waits then.
type clientLink struct {
	*link
	client  *Client
	node    string
	used    time.Time
	timer   *time.Timer   // of await
	answers chan reply    // from who listens; what does not fit means that the peer talks out of turn
	ended   chan struct{} // closed when listening ended with err
	err     error

	// Of whoever reads.
	in    []byte    // read and not yet taken
	taken int       // of in, the frame taken last among that
	armed time.Time // the read deadline that is set; zero: none, or one that passed

	mu         sync.Mutex
	reading    bool   // somebody reads
	turns      uint64 // times that somebody who waited began to read, or ended
	seen       uint64 // turns when momentPassed looked last
	bye        bool   // the peer said goodbye
	closed     bool
	wasCut     bool
	committing bool // COMMIT is being sent, or waits for its answer
}

// momentsInBeat is how often in a beat it is looked whether somebody has to listen.
const momentsInBeat = 10

// momentPassed has somebody listen if nobody reads, and did not since it was called last.
func (l *clientLink) momentPassed() {
	l.mu.Lock()
	still := l.seen == l.turns
	l.seen = l.turns
	l.mu.Unlock()
	if still {
		l.watch(false)
	}
}

// watch has somebody listen, if nobody reads or the caller does and leaves it to him. It reports whether somebody
// reads: not any more on a connection that is closed.
func (l *clientLink) watch(own bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reading && !own {
		return true
	}
	if l.closed {
		return false
	}
	l.reading = true
	// ends with an answer or with the connection, which whoever holds it, the reaper or Close closes
	l.client.conns.Go(l.listen)
	return true
}

// listen takes frames off the connection until it was an answer, or the connection ends.
func (l *clientLink) listen() {
	l.in, l.taken = slices.Clone(l.in[l.taken:]), 0 // whoever read before may still look at an answer
	r, err := l.hear(true)
	if err == nil {
		l.mu.Lock()
		select {
		case l.answers <- r:
			l.reading = false
		default:
			err = errFrame
		}
		l.mu.Unlock()
	}
	if err != nil {
		l.err = err
		l.close()
		close(l.ended)
	}
}

// hear takes frames off the connection until it was an answer, whose body is good until the next one.
func (l *clientLink) hear(listening bool) (reply, error) {
	for {
		r, err := l.hearOne(listening)
		if err != nil || r.kind != 0 {
			return r, err
		}
	}
}

// hearOne takes a frame off the connection, and gives it if it is an answer.
func (l *clientLink) hearOne(listening bool) (reply, error) {
	k, body, err := l.take(listening)
	if err != nil {
		return reply{}, err
	}
	switch k {
	case goodbye:
		l.mu.Lock()
		l.bye = true
		l.mu.Unlock()
		l.client.goodbye(l.node)
		return reply{}, nil
	case pong:
		return reply{}, nil
	case ping:
		return reply{}, l.sign(pong)
	case done, refused, outcomes:
	default:
		return reply{}, errFrame
	}
	r := reply{kind: k, to: answers(body), body: body}
	if r.to == 0 {
		return reply{}, errFrame
	}
	return r, nil
}

// take takes a frame, whose body is good until the next one. Who listens goes on when a read meets its deadline; else
// that is the error, and nothing is lost of what came.
func (l *clientLink) take(listening bool) (kind, []byte, error) {
	for {
		have := l.in[l.taken:]
		need := frameHeader
		if len(have) >= frameHeader {
			k, n, err := parseHeader((*[frameHeader]byte)(have))
			if err != nil {
				return 0, nil, err
			}
			if need += n; len(have) >= need {
				l.taken += need
				return k, have[frameHeader:need], nil
			}
		}
		if cap(l.in) < need || cap(l.in) > smallIn && need <= smallIn { // or what held something large goes
			l.in = append(make([]byte, 0, max(need, smallIn)), have...)
		} else {
			l.in = append(l.in[:0], have...)
		}
		l.taken = 0
		n, err := l.conn.Read(l.in[len(l.in):cap(l.in)])
		if l.in = l.in[:len(l.in)+n]; n > 0 || err == nil {
			continue // an error comes again
		}
		if !listening || !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, nil, err
		}
		if err := l.raw.SetReadDeadline(time.Time{}); err != nil {
			return 0, nil, err
		}
		l.armed = time.Time{}
	}
}

// smallIn has room for almost every answer.
const smallIn = 1 << 10

// ready reports whether an idle connection can be used: if nobody listens, it is looked whether something came.
func (l *clientLink) ready() bool {
	l.mu.Lock()
	listening := l.reading
	l.reading = true
	l.mu.Unlock()
	if listening {
		return true
	}
	var err error
	for err == nil && l.raw.waits() {
		if err = l.arm(time.Now()); err == nil {
			var r reply
			if r, err = l.hearOne(false); r.kind != 0 {
				err = errFrame
			}
		}
	}
	l.mu.Lock()
	l.reading = false
	l.mu.Unlock()
	return err == nil && l.alive()
}

// arm sets the read deadline between half a beat and a beat ahead.
func (l *clientLink) arm(now time.Time) error {
	if l.armed.Sub(now) >= l.beat/2 {
		return nil
	}
	l.armed = now.Add(l.beat)
	return l.raw.SetReadDeadline(l.armed)
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

// why gives the reason for which the connection is of no more use, where there is a better one than that which the
// caller met.
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
		l.client.remove(l)
	}
}

// cut closes the socket unless COMMIT is out.
func (l *clientLink) cut() {
	l.mu.Lock()
	first := !l.closed && !l.committing
	if first {
		l.closed, l.wasCut = true, true
	}
	l.mu.Unlock()
	if first {
		l.raw.Close()
		l.client.remove(l)
	}
}

// setCommitting notes that COMMIT goes out, or was answered. It reports whether the connection stands.
func (l *clientLink) setCommitting(v bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committing = v
	return !l.closed
}

// await waits for the next answer until a moment (zero: for ever) and for as long as ctx is not over, and asks for a
// sign of life when it takes long. Its body is good until the next call.
func (l *clientLink) await(ctx context.Context, until time.Time) (reply, error) {
	quiet, now := silence{heard: l.heard()}, time.Now()
	next := now.Add(l.beat)
	if r, err := l.readSelf(ctx, now, until); err != nil || r.kind != 0 {
		return r, err
	}
	select {
	case r := <-l.answers:
		return r, nil
	default:
	}
	if !l.watch(false) {
		return reply{}, errGone
	}
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

// readSelf reads the next answer for a beat, if nobody else reads. It gives none if somebody does, and if the beat or
// ctx is over: then somebody listens.
func (l *clientLink) readSelf(ctx context.Context, now, until time.Time) (reply, error) {
	if !until.IsZero() && until.Before(now.Add(l.beat)) {
		return reply{}, nil
	}
	l.mu.Lock()
	free := !l.reading && len(l.answers) == 0
	if free {
		l.reading = true
		l.turns++
	}
	l.mu.Unlock()
	if !free {
		return reply{}, nil
	}
	if err := l.arm(now); err != nil {
		return reply{}, err
	}
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { l.raw.SetReadDeadline(time.Unix(1, 0)) })
	}
	r, err := l.hear(false)
	if !stop() {
		l.armed = time.Time{}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if !l.watch(true) {
			return reply{}, errGone
		}
		return reply{}, nil
	}
	l.mu.Lock()
	l.reading = err != nil
	l.turns++
	l.mu.Unlock()
	return r, err
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
	return slices.ContainsFunc([]error{context.DeadlineExceeded, context.Canceled, errGoodbye, errCut},
		func(e error) bool { return errors.Is(err, e) })
}
