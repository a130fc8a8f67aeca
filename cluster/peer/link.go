package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// beat is how often a peer that is waited for has to give a sign of life, and lostBeats how many it may miss.
	// Answers themselves may take minutes: they are a destination's.
	beat      = time.Second
	lostBeats = 4
	// stallBeats is how many beats a write may make no progress though the peer lives. Its destination may be slow, and
	// has 120 s (SEMANTICS C7): the peer's own word on that comes first.
	stallBeats = 125
	// gather is what is copied into one write: TLS makes a record, and the kernel is called, for each.
	gather = 16 << 10
)

var (
	errSilent  = errors.New("no sign of life")
	errStalled = errors.New("takes nothing")
	errGoodbye = errors.New("is leaving, or full")
	errCut     = errors.New("cut at the end of the drain")
	errGone    = errors.New("connection closed")
)

// A link is one connection, as both sides have it. One goroutine at a time reads from it; frames are written under a
// lock, because who reads writes pongs. That lock guards the order of what is written and nothing else, so it is held
// while writing.
type link struct {
	conn  net.Conn // TLS over raw
	raw   *patient
	beat  time.Duration
	quiet func() error // called when a read met its deadline; the read goes on if it gives nil. Nil: it does not
	head  [frameHeader]byte

	writing sync.Mutex
	out     []byte // borrowed space for what is gathered; guarded by writing
}

// newLink makes a link over a socket. secure makes TLS of it; nil: none, which tests may do.
func newLink(socket net.Conn, beat time.Duration, secure func(net.Conn) *tls.Conn) *link {
	l := &link{raw: newPatient(socket, beat), beat: beat}
	l.conn = l.raw
	if secure != nil {
		l.conn = secure(l.raw)
	}
	return l
}

// heard counts what came from the peer. It is the sign of life: whoever waits compares it from beat to beat.
func (l *link) heard() uint64 { return l.raw.heard.Load() }

// send writes frames that build appends to borrowed space, in one write.
func (l *link) send(build func(b []byte) []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	b := build(l.out[:0])
	_, err := l.conn.Write(b)
	l.keep(b)
	return err
}

// keep keeps borrowed space for the next time, unless something large has grown it.
func (l *link) keep(b []byte) {
	if cap(b) <= gather {
		l.out = b[:0]
	}
}

// sign writes a frame that is nothing but its kind, if nobody is writing: to wait for the lock would stop the one
// goroutine that hears the peer, and what is being written is a sign of life itself.
func (l *link) sign(k kind) error {
	_, err := l.trySign(k)
	return err
}

// trySign is sign, and reports whether it was written.
func (l *link) trySign(k kind) (bool, error) {
	if !l.writing.TryLock() {
		return false, nil
	}
	defer l.writing.Unlock()
	var b [frameHeader]byte
	_, err := l.conn.Write(header(b[:0], k, 0))
	return err == nil, err
}

// sendPiece writes a piece of a message, in frames as large as they may be, of which the last is of kind k and the
// others are data. What is small is gathered, and the records that TLS makes of what is large leave together. An error
// means that the last frame did not go out whole.
func (l *link) sendPiece(k kind, p *piece) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if p.octets.Len() <= gather/2 { // is one record
		return l.frames(k, p)
	}
	l.raw.hold()
	return errors.Join(l.frames(k, p), l.raw.release())
}

// frames is sendPiece under the lock.
func (l *link) frames(k kind, p *piece) error {
	segments, dots, skip := p.octets.Segments, p.octets.Dots, 0
	for from, left := 0, p.octets.Len(); ; {
		n, here := cut(left, from, dots)
		this := k
		if n < left {
			this = data
		}
		b := l.out[:0]
		if cap(b) == 0 {
			b = make([]byte, 0, gather)
		}
		b = header(b, this, pieceHead+4*here+n)
		b = p.appendHead(b, dots[:here], from)
		dots, from, left = dots[here:], from+n, left-n
		for n > 0 {
			s := segments[0][skip:]
			if len(s) > n {
				s = s[:n]
				skip += n
			} else {
				segments, skip = segments[1:], 0
			}
			n -= len(s)
			fit := min(len(s), max(0, gather-len(b)))
			b = append(b, s[:fit]...)
			if fit == len(s) {
				continue
			}
			if _, err := l.conn.Write(b); err != nil {
				return err
			}
			b, s = b[:0], s[fit:]
			if len(s) < gather/2 {
				b = append(b, s...)
				continue
			}
			if _, err := l.conn.Write(s); err != nil {
				return err
			}
		}
		if len(b) > 0 {
			if _, err := l.conn.Write(b); err != nil {
				return err
			}
		}
		l.keep(b)
		if left == 0 {
			return nil
		}
	}
}

// next reads the header of a frame.
func (l *link) next() (kind, int, error) {
	if err := l.fill(l.head[:]); err != nil {
		return 0, 0, err
	}
	return parseHeader(&l.head)
}

// fill reads until b is full.
func (l *link) fill(b []byte) error {
	for len(b) > 0 {
		n, err := l.conn.Read(b)
		b = b[n:]
		if err == nil || len(b) == 0 {
			continue
		}
		if l.quiet == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := l.quiet(); err != nil {
			return err
		}
	}
	return nil
}

// The versions of the hop that are spoken here. A change that an older version would misread needs a new one, and the
// older is spoken for as long as nodes of it may stand beside: the highest that both know is spoken.
const (
	versionMin = 1
	versionMax = 1
)

// greet makes TLS and tells the other side our versions and hears its own, before anything else. It takes no longer
// than the deadline of ctx, and lostBeats. It gives what the other side said of itself.
func (l *link) greet(ctx context.Context, name string, leaving bool) (g greeting, err error) {
	deadline := time.Now().Add(lostBeats * l.beat)
	if at, ok := ctx.Deadline(); ok && at.Before(deadline) {
		deadline = at
	}
	if err := l.raw.SetReadDeadline(deadline); err != nil {
		return g, err
	}
	stop := context.AfterFunc(ctx, func() { l.raw.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if t, ok := l.conn.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil {
			return g, err
		}
	}
	if err := l.send(func(b []byte) []byte {
		return frame(b, hello, func(f fields) fields {
			return f.number(fVersionMin, versionMin).number(fVersionMax, versionMax).text(fNode, name).flag(fLeaving,
				leaving)
		})
	}); err != nil {
		return g, err
	}
	k, n, err := l.next()
	if err != nil {
		return g, err
	}
	if k != hello {
		return g, fmt.Errorf("%w: kind %d where hello is due", errFrame, k)
	}
	b := make([]byte, n)
	if err := l.fill(b); err != nil {
		return g, err
	}
	if g, err = parseGreeting(b); err != nil {
		return g, err
	}
	if t, ok := l.conn.(*tls.Conn); ok { // a node has no other name than the one in its certificate
		if err := t.ConnectionState().PeerCertificates[0].VerifyHostname(g.node); err != nil {
			return g, err
		}
	}
	if !stop() {
		return g, ctx.Err()
	}
	return g, l.raw.SetReadDeadline(time.Time{})
}

// A greeting is what hello says.
type greeting struct {
	node    string
	leaving bool
	version int64 // the highest that both sides know
}

// parseGreeting reads hello.
func parseGreeting(f fields) (g greeting, err error) {
	var lowest, highest int64
	for len(f) > 0 {
		var name byte
		var v []byte
		if name, v, f, err = f.next(); err != nil {
			return g, err
		}
		switch name {
		case fVersionMin:
			lowest = asNumber(v)
		case fVersionMax:
			highest = asNumber(v)
		case fNode:
			g.node = string(v)
		case fLeaving:
			g.leaving = true
		}
	}
	if g.version = min(highest, versionMax); g.version < max(lowest, versionMin) {
		return g,
			fmt.Errorf("speaks versions %d to %d of the hop, and we %d to %d", lowest, highest, versionMin, versionMax)
	}
	return g, nil
}

// A LostError says that the hop failed, and not the destination.
type LostError struct {
	Node string
	// Committed says that COMMIT may have reached the peer: the message may be delivered or not. If it is false,
	// nothing was and nothing will be.
	Committed bool
	Cause     error
}

// Error names the peer and what happened.
func (e *LostError) Error() string {
	if e.Committed {
		return fmt.Sprintf("node %s was lost after the end of data: %v", e.Node, e.Cause)
	}
	return fmt.Sprintf("node %s was lost: %v", e.Node, e.Cause)
}

// Unwrap gives the cause.
func (e *LostError) Unwrap() error { return e.Cause }

// Sent reports Committed; it is how others recognise a LostError.
func (e *LostError) Sent() bool { return e.Committed }

// refusal is what a transaction says that is lost.
func (e *LostError) refusal() *mail.Refusal {
	return mail.Refuse(451, 4, 2, "Connection lost on the way to the destination, try again", "peer lost", e)
}
