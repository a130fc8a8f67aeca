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
)

// gatherSize is how many octets are copied into one write. TLS makes a record of each write, and each record is a
// system call unless it is held.
const gatherSize = 16 << 10

var (
	errSilent         = errors.New("no sign of life")
	errStalled        = errors.New("takes nothing")
	errGoodbye        = errors.New("is leaving, or full")
	errAbortedByDrain = errors.New("cut at the end of the drain")
	errGone           = errors.New("connection closed")
	errPlaces         = errors.New("too many connections of this address without a certificate")
	errNotAdmitted    = errors.New("a node that cluster.members does not name")
	errNotTaken       = errors.New("a next hop that is none of this node's own")
	errSmuggled       = fmt.Errorf("%w: octets that would end the message early", errFrame)
)

// A link is a connection of the hop, on either side. One goroutine at a time reads from it. Frames are written under a
// lock, because the reading goroutine writes pongs. The lock guards the order of what is written and nothing else, so
// it is held while writing.
type link struct {
	conn net.Conn // TLS over raw
	raw  *slowConn
	beat time.Duration
	// onTimeout is called when a read of fill meets its deadline. If it returns nil, fill goes on. nil makes fill end.
	onTimeout func() error
	shook     func(took time.Duration, err error) // told of the TLS handshake; nil: no one is
	head      [frameHeader]byte

	writing sync.Mutex
	out     []byte // the buffer that frames are gathered in; guarded by writing
}

// newLink returns a link over a socket. secure makes TLS of it; nil disables TLS, in tests.
func newLink(socket net.Conn, beat time.Duration, buffers *frameBuffers, secure func(net.Conn) *tls.Conn) *link {
	l := &link{raw: newSlowConn(socket, beat, buffers), beat: beat}
	l.conn = l.raw
	if secure != nil {
		l.conn = secure(l.raw)
	}
	return l
}

// heard returns a counter that changes with each sign of life. A waiting goroutine compares it from beat to beat.
func (l *link) heard() uint64 { return l.raw.heard.Load() }

// send writes in one write the frames that build appends to its argument.
func (l *link) send(build func(b []byte) []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	b := build(l.out[:0])
	_, err := l.conn.Write(b)
	l.keep(b)
	return err
}

// keep keeps a buffer for the next write, unless a large frame has grown it.
func (l *link) keep(b []byte) {
	if cap(b) <= gatherSize {
		l.out = b[:0]
	}
}

// trySend writes a frame without content, unless another goroutine is writing. To wait for that would stop the reading
// goroutine, and what is being written is a sign of life itself. It reports whether the frame was written.
func (l *link) trySend(k kind) (bool, error) {
	if !l.writing.TryLock() {
		return false, nil
	}
	defer l.writing.Unlock()
	var b [frameHeader]byte
	_, err := l.conn.Write(header(b[:0], k, 0))
	return err == nil, err
}

// sendPiece writes a piece of a message in frames of at most maxPiece octets. The last frame is of kind k, the others
// are data. Small segments are gathered, and the TLS records of a large piece leave together. An error means that the
// last frame was not written whole.
func (l *link) sendPiece(k kind, p *piece) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if p.octets.Len() <= gatherSize/2 { // one record
		return l.writePiece(k, p)
	}
	l.raw.hold()
	return errors.Join(l.writePiece(k, p), l.raw.release())
}

// writePiece writes the frames of a piece. writing is held.
func (l *link) writePiece(k kind, p *piece) error {
	segments, skip := p.octets.Segments, 0 // skip: octets of the first segment that are written
	from, dots := 0, 0                     // octets and dots that are written
	for left := p.octets.Len(); ; {
		n, here := p.nextFrame(from, left, dots)
		this := k
		if n < left {
			this = data
		}
		b := l.out[:0]
		if cap(b) == 0 {
			b = make([]byte, 0, gatherSize)
		}
		b = header(b, this, pieceHead+4*here+n)
		b = p.appendHead(b, p.octets.Dots[dots:dots+here], from)
		dots, from, left = dots+here, from+n, left-n
		for n > 0 {
			s := segments[0][skip:]
			if len(s) > n {
				s = s[:n]
				skip += n
			} else {
				segments, skip = segments[1:], 0
			}
			n -= len(s)
			var err error
			if b, err = l.gather(b, s); err != nil {
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

// gather appends s to b as far as gatherSize permits. What does not fit it writes, after b, or appends to the emptied b
// if it is small. It returns what is left to write.
func (l *link) gather(b, s []byte) ([]byte, error) {
	fit := min(len(s), max(0, gatherSize-len(b)))
	b = append(b, s[:fit]...)
	if fit == len(s) {
		return b, nil
	}
	if _, err := l.conn.Write(b); err != nil {
		return nil, err
	}
	b, s = b[:0], s[fit:]
	if len(s) < gatherSize/2 {
		return append(b, s...), nil
	}
	_, err := l.conn.Write(s)
	return b, err
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
		if l.onTimeout == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := l.onTimeout(); err != nil {
			return err
		}
	}
	return nil
}

// The versions of the hop that this node speaks. A change that an older version would misread needs a new number. The
// older version stays for as long as a cluster may have nodes of it. Two nodes speak the highest version that both
// know.
const (
	versionMin = 1
	versionMax = 4
)

// greet makes TLS, sends our versions and name and reads those of the other side, before any other frame. It takes
// until the deadline of ctx, and at most maxMissedBeats.
func (l *link) greet(ctx context.Context, name string, leaving bool) (g greeting, err error) {
	deadline := time.Now().Add(maxMissedBeats * l.beat)
	if at, ok := ctx.Deadline(); ok && at.Before(deadline) {
		deadline = at
	}
	if err := l.raw.SetReadDeadline(deadline); err != nil {
		return g, err
	}
	stop := context.AfterFunc(ctx, func() { l.raw.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if t, ok := l.conn.(*tls.Conn); ok {
		begun := time.Now()
		err := t.Handshake()
		if l.shook != nil {
			l.shook(time.Since(begun), err)
		}
		if err != nil {
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
	if t, ok := l.conn.(*tls.Conn); ok { // a node has no name but the one in its certificate
		if err := t.ConnectionState().PeerCertificates[0].VerifyHostname(g.node); err != nil {
			return g, err
		}
	}
	if !stop() {
		return g, ctx.Err()
	}
	return g, l.raw.SetReadDeadline(time.Time{})
}

// A greeting is the content of hello.
type greeting struct {
	node    string
	leaving bool
	version int64 // the highest that both sides know
}

// parseGreeting reads the content of hello.
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
