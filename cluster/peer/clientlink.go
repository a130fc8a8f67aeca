package peer

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"
)

// A reply is an answer that was received.
type reply struct {
	kind kind
	to   kind // the kind that it answers
	body []byte
}

// A clientLink is a connection to a peer. The goroutine that waits for an answer reads it itself, because to be woken
// up by another one costs more than the rest of a small message. A listener is started if the wait takes a beat, or if
// no goroutine has read for a tick. The listener hears signs of life, goodbye and the end of the connection, and ends
// with the first answer, which it hands to the goroutine that waits then.
type clientLink struct {
	*link
	client  *Client
	node    string
	version int64         // of the hop
	used    time.Time     // when it became idle
	timer   *time.Timer   // of await
	answers chan reply    // from the listener; an answer that does not fit is one that was not asked for
	ended   chan struct{} // closed when a listener ended with err
	err     error

	reader answerReader // of the goroutine that set reading

	mu      sync.Mutex // guards what follows
	state   linkState
	reading bool   // a goroutine reads
	bye     bool   // the peer said goodbye
	turns   uint64 // how often a waiting goroutine began or ended reading
	seen    uint64 // turns at the last tick
}

// A linkState says how a clientLink may end.
type linkState uint8

const (
	linkOpen       linkState = iota
	linkCommitting           // COMMIT is being sent or waits for its answer: the link is not aborted
	linkClosed
	linkAborted // closed by Client.Abort
)

func newClientLink(c *Client, node string, l *link) *clientLink {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &clientLink{
		link: l, reader: answerReader{link: l}, client: c, node: node, timer: timer,
		answers: make(chan reply, 4), ended: make(chan struct{}),
	}
}

// tick starts a listener if no goroutine reads and none did since the last tick.
func (l *clientLink) tick() {
	l.mu.Lock()
	still := l.seen == l.turns
	l.seen = l.turns
	l.mu.Unlock()
	if still {
		l.startListener()
	}
}

// startListener starts a listener unless a goroutine reads already. It reports whether one reads: not on a closed link.
func (l *clientLink) startListener() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reading || l.listenNext()
}

// listenInstead starts a listener in place of the caller, which reads no more. It reports false on a closed link.
func (l *clientLink) listenInstead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listenNext()
}

// listenNext starts a listener unless the link is closed. mu is held.
func (l *clientLink) listenNext() bool {
	if l.state >= linkClosed {
		return false
	}
	l.reading = true
	// It ends with an answer or with the connection, which its holder, the reaper or Close closes.
	l.client.conns.Go(l.listen)
	return true
}

// listen reads frames until one is an answer or the connection ends.
func (l *clientLink) listen() {
	l.reader.detach()
	r, err := l.readAnswer(true)
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

// readAnswer reads frames until one is an answer, whose body is valid until the next read.
func (l *clientLink) readAnswer(listening bool) (reply, error) {
	for {
		r, err := l.readFrame(listening)
		if err != nil || r.kind != 0 {
			return r, err
		}
	}
}

// readFrame reads a frame and returns it if it is an answer. Otherwise the reply is zero.
func (l *clientLink) readFrame(listening bool) (reply, error) {
	k, body, err := l.reader.next(listening)
	if err != nil {
		return reply{}, err
	}
	switch k {
	case goodbye:
		l.mu.Lock()
		l.bye = true
		l.mu.Unlock()
		l.client.heardGoodbye(l.node)
		return reply{}, nil
	case pong:
		return reply{}, nil
	case ping:
		_, err := l.trySend(pong)
		return reply{}, err
	case done, refused, outcomes:
	default:
		return reply{}, errFrame
	}
	r := reply{kind: k, to: answeredKind(body), body: body}
	if r.to == 0 {
		return reply{}, errFrame
	}
	return r, nil
}

// answeredKind returns the kind that an answer belongs to, which its first field states, or 0.
func answeredKind(f fields) kind {
	if len(f) == 0 {
		return 0
	}
	name, v, _, err := f.next()
	if err != nil || name != fAnswers || len(v) != 1 {
		return 0
	}
	return kind(v[0])
}

// ready reports whether an idle link can be used. If no listener reads, it reads what has arrived.
func (l *clientLink) ready() bool {
	l.mu.Lock()
	listening := l.reading
	l.reading = true
	l.mu.Unlock()
	if listening {
		return true
	}
	var err error
	for err == nil && l.raw.readable() {
		if err = l.reader.setDeadline(time.Now()); err == nil {
			var r reply
			if r, err = l.readFrame(false); r.kind != 0 {
				err = errFrame
			}
		}
	}
	l.mu.Lock()
	l.reading = false
	l.mu.Unlock()
	return err == nil && l.alive()
}

// alive reports whether an idle link can be used: it did not end, the peer did not say goodbye, and no answer arrived
// unasked.
func (l *clientLink) alive() bool {
	select {
	case <-l.ended:
		return false
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.bye && l.state < linkClosed && len(l.answers) == 0
}

// reason returns why the link failed: met, which the caller met, unless the link was aborted or the peer said goodbye.
func (l *clientLink) reason(met error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.state == linkAborted:
		return errAbortedByDrain
	case l.bye:
		return errGoodbye
	}
	return met
}

// close closes the socket. It sends no close_notify of TLS, for which a peer that reads nothing would have to wait:
// frames say what is whole.
func (l *clientLink) close() {
	l.mu.Lock()
	first := l.state < linkClosed
	if first {
		l.state = linkClosed
	}
	l.mu.Unlock()
	if first {
		l.raw.Close()
		l.client.remove(l)
	}
}

// abort closes the socket unless COMMIT is being sent or waits for its answer.
func (l *clientLink) abort() {
	l.mu.Lock()
	first := l.state == linkOpen
	if first {
		l.state = linkAborted
	}
	l.mu.Unlock()
	if first {
		l.raw.Close()
		l.client.remove(l)
	}
}

// setState sets linkOpen or linkCommitting. It reports false and changes nothing if the link is closed.
func (l *clientLink) setState(s linkState) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state >= linkClosed {
		return false
	}
	l.state = s
	return true
}

// await waits for the next answer, at most until a time (zero for no limit) and until ctx is done. If it takes long, it
// asks for signs of life. The answer's body is valid until the next call.
func (l *clientLink) await(ctx context.Context, until time.Time) (reply, error) {
	missed, now := missedBeats{heard: l.heard()}, time.Now()
	next := now.Add(l.beat)
	if r, err := l.readDirect(ctx, now, until); err != nil || r.kind != 0 {
		return r, err
	}
	select {
	case r := <-l.answers:
		return r, nil
	default:
	}
	if !l.startListener() {
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
		if missed.tooMany(l.heard()) {
			return reply{}, errSilent
		}
		if _, err := l.trySend(ping); err != nil {
			return reply{}, err
		}
	}
}

// readDirect reads the next answer in the calling goroutine, for at most a beat. The reply is zero if another goroutine
// reads, and if the beat or ctx is over: a listener then reads on.
func (l *clientLink) readDirect(ctx context.Context, now, until time.Time) (reply, error) {
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
	if err := l.reader.setDeadline(now); err != nil {
		return reply{}, err
	}
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { l.raw.SetReadDeadline(time.Unix(1, 0)) })
	}
	r, err := l.readAnswer(false)
	if !stop() {
		l.reader.deadline = time.Time{}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if !l.listenInstead() {
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

// last returns an answer that arrived before the connection ended, or the error that it ended with.
func (l *clientLink) last() (reply, error) {
	select {
	case r := <-l.answers:
		return r, nil
	default:
		return reply{}, l.err
	}
}

// An answerReader takes frames off a connection, for one goroutine at a time.
type answerReader struct {
	*link
	in       []byte    // what was read
	taken    int       // octets of in whose frames were returned
	deadline time.Time // the read deadline that is set; zero for none, or for one that has passed
}

// smallAnswer has room for almost every answer.
const smallAnswer = 1 << 10

// next returns a frame, whose body is valid until the next call. A listener goes on when a read meets its deadline. For
// others that is an error, after which next can be called again.
func (a *answerReader) next(listening bool) (kind, []byte, error) {
	for {
		have := a.in[a.taken:]
		need := frameHeader
		if len(have) >= frameHeader {
			k, n, err := parseHeader((*[frameHeader]byte)(have))
			if err != nil {
				return 0, nil, err
			}
			if need += n; len(have) >= need {
				a.taken += need
				return k, have[frameHeader:need], nil
			}
		}
		// A buffer that grew for a large answer is replaced by a small one.
		if cap(a.in) < need || cap(a.in) > smallAnswer && need <= smallAnswer {
			a.in = append(make([]byte, 0, max(need, smallAnswer)), have...)
		} else {
			a.in = append(a.in[:0], have...)
		}
		a.taken = 0
		n, err := a.conn.Read(a.in[len(a.in):cap(a.in)])
		if a.in = a.in[:len(a.in)+n]; n > 0 || err == nil {
			continue // the next Read returns the error again
		}
		if !listening || !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, nil, err
		}
		if err := a.raw.SetReadDeadline(time.Time{}); err != nil {
			return 0, nil, err
		}
		a.deadline = time.Time{}
	}
}

// detach moves the octets that were not returned to another buffer: the last goroutine that read may still use an
// answer in the old one.
func (a *answerReader) detach() { a.in, a.taken = slices.Clone(a.in[a.taken:]), 0 }

// setDeadline sets the read deadline to between half a beat and a beat from now.
func (a *answerReader) setDeadline(now time.Time) error {
	if a.deadline.Sub(now) >= a.beat/2 {
		return nil
	}
	a.deadline = now.Add(a.beat)
	return a.raw.SetReadDeadline(a.deadline)
}
