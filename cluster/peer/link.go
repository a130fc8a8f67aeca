package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/millrace/millrace/router/mail"
)

const (
	// beat is how long an answer is waited for before the peer is asked whether it is there, and lostAfter how long nothing
	// may come from it then. Answers themselves may take minutes: they are a destination's.
	beat      = time.Second
	lostAfter = 4 * time.Second
	// stall is how long a write may make no progress. The peer's destination may be slow, and has 120 s (SEMANTICS C7).
	stall = 118 * time.Second
	// gather is what is copied into one write: TLS makes a record, and the kernel a call, of each.
	gather = 16 << 10
)

// A link is one connection, as both sides have it: frames are written under a lock, because pongs are written by the reader.
type link struct {
	conn net.Conn // TLS over a patient over the socket
	in   *bufio.Reader

	writing sync.Mutex
	out     []byte // borrowed space for what is gathered; guarded by writing
}

func newLink(conn net.Conn) *link {
	return &link{conn: conn, in: bufio.NewReaderSize(conn, 16<<10)}
}

// send writes frames that were built in memory, in one write.
func (l *link) send(b []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.write(b)
}

// write is send under the lock. How long it may take is for the patient below.
func (l *link) write(b []byte) error {
	_, err := l.conn.Write(b)
	return err
}

// A patient is the socket below TLS. A write that makes no progress goes on for as long as the peer gives signs of life and
// at most for stall: its destination may be slow. A write of TLS that was broken off could not be taken up again, so this
// has to be below.
type patient struct {
	net.Conn
	heard func() time.Time // when the peer was heard last
}

// Write writes all of p.
func (c *patient) Write(p []byte) (int, error) {
	began, written := time.Now(), 0
	for {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(beat)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(p[written:])
		written += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
		now := time.Now()
		if n > 0 {
			began = now
		}
		if last := c.heard(); now.Sub(began) > stall || now.Sub(began) > lostAfter && now.Sub(last) > lostAfter {
			return written, err
		}
	}
}

// sendFields writes one frame of fields.
func (l *link) sendFields(k kind, f fields) error {
	return l.send(append(header(make([]byte, 0, frameHeader+len(f)), k, len(f)), f...))
}

// sendPiece writes a piece of a message, in frames of at most maxPiece octets, of which the last is of kind k and the others
// are data. What is small is gathered.
func (l *link) sendPiece(k kind, form mail.Form, budget time.Duration, o mail.Octets) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	left, from, dots, segments := o.Len(), 0, o.Dots, o.Segments
	skip := 0 // octets of segments[0] that went already
	for {
		n := min(left, maxPiece)
		here, thisKind := 0, k
		if n < left {
			thisKind = data
		}
		for here < len(dots) && int(dots[here]) < from+n {
			here++
		}
		b := header(l.out[:0], thisKind, pieceHead+4*here+n)
		at := len(b)
		b = appendPieceHead(b, form, budget, dots[:here])
		if from > 0 { // offsets count from the first octet of the frame
			shiftDots(b[at+pieceHead:], uint32(from))
		}
		for want := n; want > 0; {
			s := segments[0][skip:]
			s = s[:min(len(s), want)]
			want -= len(s)
			if skip += len(s); skip == len(segments[0]) {
				segments, skip = segments[1:], 0
			}
			if len(b)+len(s) <= gather {
				b = append(b, s...)
				continue
			}
			if len(b) > 0 {
				if err := l.write(b); err != nil {
					return err
				}
				b = b[:0]
			}
			if len(s) <= gather/2 {
				b = append(b, s...)
				continue
			}
			if err := l.write(s); err != nil {
				return err
			}
		}
		if len(b) > 0 {
			if err := l.write(b); err != nil {
				return err
			}
		}
		l.out = b[:0]
		dots, from, left = dots[here:], from+n, left-n
		if left == 0 {
			if cap(l.out) > 2*gather {
				l.out = nil // after a flood of dots
			}
			return nil
		}
	}
}

// shiftDots takes by off each offset in b.
func shiftDots(b []byte, by uint32) {
	for i := 0; i+4 <= len(b); i += 4 {
		v := uint32(b[i])<<24 | uint32(b[i+1])<<16 | uint32(b[i+2])<<8 | uint32(b[i+3])
		v -= by
		b[i], b[i+1], b[i+2], b[i+3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
	}
}

// receive reads one frame. Its content lies in room, which is grown where it must, and is good until the next call.
func (l *link) receive(room []byte) (kind, []byte, error) {
	var h [frameHeader]byte
	k, n, err := readHeader(l.in, &h)
	if err != nil {
		return 0, room, err
	}
	if cap(room) < n {
		room = make([]byte, n+n/4)
	}
	room = room[:n]
	if _, err := io.ReadFull(l.in, room); err != nil {
		return 0, room, err
	}
	return k, room, nil
}

// greet tells the other side our versions and hears its own, before anything else.
func (l *link) greet(ctx context.Context, name string) (node string, err error) {
	deadline := time.Now().Add(lostAfter)
	if at, ok := ctx.Deadline(); ok && at.Before(deadline) {
		deadline = at
	}
	if err := l.conn.SetReadDeadline(deadline); err != nil {
		return "", err
	}
	if t, ok := l.conn.(*tls.Conn); ok {
		if err := t.HandshakeContext(ctx); err != nil {
			return "", err
		}
	}
	f := fields(nil).number(fVersionMin, versionMin).number(fVersionMax, versionMax).text(fNode, name)
	if err := l.sendFields(hello, f); err != nil {
		return "", err
	}
	k, b, err := l.receive(nil)
	if err != nil {
		return "", err
	}
	if k != hello {
		return "", fmt.Errorf("%w: kind %d where hello is due", errFrame, k)
	}
	var lo, hi int64
	if err := fields(b).each(func(name byte, v []byte) {
		switch name {
		case fVersionMin:
			lo = asNumber(v)
		case fVersionMax:
			hi = asNumber(v)
		case fNode:
			node = string(v)
		}
	}); err != nil {
		return "", err
	}
	if lo > versionMax || hi < versionMin {
		return "", fmt.Errorf("speaks versions %d to %d of the hop, and we %d to %d", lo, hi, versionMin, versionMax)
	}
	return node, l.conn.SetReadDeadline(time.Time{})
}

// The versions of the hop that are spoken here. A change that an older version would misread needs a new one, and the older
// is spoken for as long as nodes of it may stand beside: the highest that both know is spoken.
const (
	versionMin = 1
	versionMax = 1
)

// A LostError says that the hop failed, and not the destination.
type LostError struct {
	Node string
	// Committed says that COMMIT may have reached the peer: the message may be delivered or not. If it is false, nothing was
	// and nothing will be.
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

var (
	errSilent  = errors.New("no sign of life")
	errGoodbye = errors.New("is draining")
	errGone    = errors.New("connection closed")
)
